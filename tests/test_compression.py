"""Compression functions and losses against loops in float64, and the memory that they fill."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from infmem.compression import (
    Convolution,
    DilatedConvolution,
    attention_reconstruction_loss,
    content_attention,
    max_pool,
    mean_pool,
    most_used,
)
from infmem.memory import CompressedMemory, CompressedMemoryConfig

BATCH, GROUP, RATE, D_MODEL, QUERY_POS, HEAD = 2, 5, 3, 14, 11, 7
POS = GROUP * RATE
COMPRESSIONS = ["mean_pool", "max_pool", "convolution", "dilated_convolution", "most_used"]


def draw(generator, *sizes):
    return torch.randn(*sizes, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", ["mean_pool", "max_pool"])
def test_pooling_equals_a_loop_over_groups(name, generator) -> None:
    old = draw(generator, BATCH, POS, D_MODEL)
    function, summary = {"mean_pool": (mean_pool, torch.mean), "max_pool": (max_pool, torch.amax)}[name]
    expected = [summary(old[:, start : start + RATE], dim=1) for start in range(0, POS, RATE)]
    assert_close(function(old, RATE), torch.stack(expected, dim=1))


def test_most_used_keeps_the_most_attended_in_their_order(generator) -> None:
    old, usage = draw(generator, BATCH, POS, D_MODEL), torch.rand(BATCH, POS, generator=generator, dtype=torch.float64)
    kept = most_used(old, usage, RATE)
    for row in range(BATCH):
        chosen = sorted(sorted(range(POS), key=lambda pos: -usage[row, pos])[:GROUP])
        assert_close(kept[row], old[row, chosen])
    assert_close(most_used(old, torch.zeros(BATCH, POS), RATE), old[:, :GROUP])  # all alike: the oldest


def test_convolution_is_a_sum_over_each_group(generator) -> None:
    convolution, old = Convolution(D_MODEL, RATE).double(), draw(generator, BATCH, POS, D_MODEL)
    assert_close(convolution(old), mean_pool(old, RATE))  # before training
    nn.init.normal_(convolution.convolution.weight, generator=generator)
    nn.init.normal_(convolution.convolution.bias, generator=generator)
    weight, bias = convolution.convolution.weight, convolution.convolution.bias
    expected = torch.zeros(BATCH, GROUP, D_MODEL, dtype=torch.float64) + bias
    for group in range(GROUP):
        for offset in range(RATE):
            expected[:, group] += old[:, group * RATE + offset] @ weight[:, :, offset].T
    assert_close(convolution(old), expected)


def test_dilated_convolution_is_its_stack(generator) -> None:
    function, old = DilatedConvolution(D_MODEL, RATE).double(), draw(generator, BATCH, POS, D_MODEL)
    x = old
    for convolution, dilation in zip(function.dilated, (1, 2, 4), strict=True):
        padded = functional.pad(x, (0, 0, dilation, dilation))
        taps = [padded[:, tap * dilation : tap * dilation + POS] @ convolution.weight[:, :, tap].T for tap in range(3)]
        x = x + (sum(taps) + convolution.bias).clamp(min=0)
    assert_close(function(old), mean_pool(x, RATE))


def test_groups_see_their_neighbours_only_if_dilated(generator) -> None:
    old = draw(generator, BATCH, POS, D_MODEL).requires_grad_()
    for function, reaches in [(Convolution(D_MODEL, RATE), False), (DilatedConvolution(D_MODEL, RATE), True)]:
        (gradient,) = torch.autograd.grad(function.double()(old)[:, 2].sum(), old)
        seen = gradient.abs().sum(dim=(0, 2)) > 0
        assert seen[2 * RATE : 3 * RATE].all()
        assert bool(seen[: 2 * RATE].any() or seen[3 * RATE :].any()) == reaches


@pytest.mark.parametrize("function", [mean_pool, max_pool, Convolution(D_MODEL, RATE).double()])
def test_a_rest_is_refused(function, generator) -> None:
    old = draw(generator, BATCH, POS + 1, D_MODEL)
    with pytest.raises(ValueError, match="the 16 hidden states must be whole groups of rate=3"):
        function(old) if isinstance(function, nn.Module) else function(old, RATE)


def test_content_attention_is_a_softmax_over_contents(generator) -> None:
    query, keys_values = draw(generator, BATCH, QUERY_POS, D_MODEL), draw(generator, BATCH, POS, 2 * D_MODEL)
    read, d_head = content_attention(query, keys_values, HEAD), D_MODEL // HEAD
    assert read.shape == (BATCH, HEAD, QUERY_POS, d_head)
    for head in range(HEAD):
        here = slice(head * d_head, (head + 1) * d_head)
        scores = query[..., here] @ keys_values[..., here].mT / math.sqrt(d_head)
        assert_close(read[:, head], scores.softmax(-1) @ keys_values[..., D_MODEL:][..., here])


def test_attention_reconstruction_trains_the_compression_alone(generator) -> None:
    query, old = draw(generator, BATCH, QUERY_POS, D_MODEL), draw(generator, BATCH, POS, D_MODEL)
    compressed, weight = draw(generator, BATCH, GROUP, D_MODEL), draw(generator, 2 * D_MODEL, D_MODEL)
    inputs = [tensor.requires_grad_() for tensor in (query, old, compressed, weight)]
    loss = attention_reconstruction_loss(*inputs, HEAD)
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    assert [gradient is not None for gradient in gradients] == [False, False, True, False]
    wanted, found = (content_attention(query, states @ weight.T, HEAD) for states in (old, compressed))
    expected = ((wanted - found) ** 2).mean()
    assert_close(loss, expected)
    assert_close(gradients[2], torch.autograd.grad(expected, compressed)[0])
    assert all(tensor.requires_grad for tensor in inputs)


# --- the memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 4, 7, 20])
@pytest.mark.parametrize("compression", COMPRESSIONS)
@torch.no_grad()
def test_the_memory_is_first_in_first_out(compression, length, generator) -> None:
    config = CompressedMemoryConfig(length=length, rate=RATE, compression=compression)
    memory = CompressedMemory(D_MODEL, config).double()
    state, history = memory.empty(BATCH), []
    for num_groups in (1, 5, 2, 3):
        new = draw(generator, BATCH, num_groups * RATE, D_MODEL)
        usage = torch.rand(BATCH, num_groups * RATE + 2, generator=generator, dtype=torch.float64)
        state = state._replace(usage=usage)
        history.append(memory.compress(new, usage))
        state = memory.write(new, state)
        kept = torch.cat(history, dim=1)
        assert_close(state.compressed, kept[:, max(0, kept.shape[1] - length) :])
        assert_close(state.usage, usage[:, -2:])  # of what stays in the short-term memory
        assert state.compressed.untyped_storage().nbytes() == state.compressed.nbytes <= memory.state_bytes(BATCH)


def test_the_decoder_rebuilds_every_hidden_state(generator) -> None:
    memory = CompressedMemory(D_MODEL, CompressedMemoryConfig(rate=RATE, loss="auto_encoding")).double()
    compressed, weight = draw(generator, BATCH, GROUP, D_MODEL), memory.decoder.weight
    rebuilt = memory.decode(compressed)
    for pos in range(POS):
        expected = compressed[:, pos // RATE] @ weight[:, :, pos % RATE] + memory.decoder.bias
        assert_close(rebuilt[:, pos], expected)
    assert memory.decode(compressed[:, :0]).shape == (BATCH, 0, D_MODEL)
    with pytest.raises(ValueError, match='only a learned compression with loss="auto_encoding" has a decoder'):
        CompressedMemory(D_MODEL, CompressedMemoryConfig(loss="none")).decode(compressed.float())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"length": -1}, "length must be >= 0, got -1"),
        ({"rate": 0}, "rate must be at least 1, got 0"),
    ],
)
def test_the_configuration_refuses(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        CompressedMemoryConfig(**changes)
