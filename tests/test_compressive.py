"""The Compressive Transformer: one step from its parts, no token lost or counted twice, what each loss trains."""

import dataclasses
from functools import partial

import pytest
import torch
from test_memory import randomize
from test_transformer_xl import BATCH, POS, SIZES, random_tokens, read_segments
from torch.nn import functional
from torch.testing import assert_close

from infmem import (
    CompressedMemoryConfig,
    CompressiveTransformer,
    CompressiveTransformerConfig,
    TransformerXL,
    TransformerXLConfig,
)
from infmem.compression import content_attention
from infmem.memory import CompressedMemory

COMPRESSIONS = ["mean_pool", "max_pool", "convolution", "dilated_convolution", "most_used"]
LEARNED = ["convolution", "dilated_convolution"]
MEMORY = CompressedMemoryConfig(length=4, rate=3, loss="none")


def make_model(generator, memory=MEMORY, memory_length: int = 7, **changes) -> CompressiveTransformer:
    config = CompressiveTransformerConfig(**SIZES | changes, memory_length=memory_length, memory=memory)
    return randomize(CompressiveTransformer(config).double(), generator)


def compressed_by_hand(memory: CompressedMemory, old, usage):
    """Groups one after another; `usage` only matters to most_used."""
    if memory.config.compression == "most_used":
        kept = [sorted(sorted(range(old.shape[1]), key=lambda i: -row[i])[: old.shape[1] // 3]) for row in usage]
        return torch.stack([states[chosen] for states, chosen in zip(old, kept, strict=True)])
    if memory.config.compression == "dilated_convolution":
        return memory.function(old)
    groups = old.split(3, dim=1)
    if memory.config.compression == "convolution":
        weight, bias = memory.function.convolution.weight, memory.function.convolution.bias
        return torch.stack([torch.einsum("bid,oid->bo", g, weight.permute(0, 2, 1)) + bias for g in groups], dim=1)
    return torch.stack([g.mean(1) if memory.config.compression == "mean_pool" else g.amax(1) for g in groups], dim=1)


# --- from its parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_length", [0, 3, 5, 7, 12])
@pytest.mark.parametrize("compression", COMPRESSIONS)
@torch.no_grad()
def test_every_step_equals_its_parts(compression, memory_length, generator) -> None:
    """Layer by layer: all inputs of a layer are on a list, and what has left the short-term memory is compressed."""
    memory = dataclasses.replace(MEMORY, compression=compression)
    model, tokens = make_model(generator, memory, memory_length), random_tokens(generator, 26)
    num_layers, embedding = model.config.num_layers, model.embedding.weight
    inputs = [embedding[tokens[:, :0]]] * num_layers
    compressed, usage = [inputs[0]] * num_layers, [torch.zeros(BATCH, 0, dtype=torch.float64)] * num_layers
    left, state = 0, None
    for segment in tokens.split([5, 5, 2, 5, 1, 3, 5], dim=1):
        hidden, start = embedding[segment] * model.d_model**0.5, inputs[0].shape[1]
        leaves = max(0, start - memory_length) // 3 * 3
        for layer, block in enumerate(model.blocks):
            if leaves > left:
                old, old_usage = inputs[layer][:, left:leaves], usage[layer][:, left:leaves]
                new = compressed_by_hand(model.long_term_memories[layer], old, old_usage)
                compressed[layer] = torch.cat([compressed[layer], new], dim=1)[:, -4:]
            keys = torch.cat([compressed[layer], inputs[layer][:, leaves:]], dim=1)
            arguments = (hidden, keys, model.content_bias, model.position_bias)
            attention = block.attention.weights(*arguments).mean(dim=(1, 2))
            read = attention[:, compressed[layer].shape[1] : keys.shape[1]]
            usage[layer] = torch.cat(
                [usage[layer][:, :leaves], usage[layer][:, leaves:] + read, torch.zeros_like(hidden[..., 0])], dim=1
            )
            inputs[layer] = torch.cat([inputs[layer], hidden], dim=1)
            x = block.attention_norm(hidden + block.attention(*arguments).output)
            hidden = block.feed_forward_norm(x + block.feed_forward(x))
        left = leaves
        actual, state = model(segment, state)
        assert_close(actual, model.output(hidden), rtol=1e-9, atol=1e-9)
        for layer in range(num_layers):
            assert_close(state.short_term[layer], inputs[layer][:, left:], rtol=1e-9, atol=1e-9)
            assert_close(state.long_term[layer].compressed, compressed[layer], rtol=1e-9, atol=1e-9)
            if compression == "most_used":
                assert_close(state.long_term[layer].usage, usage[layer][:, left:], rtol=1e-9, atol=1e-9)
    assert memory_length == 12 or compressed[0].shape[1] == 4  # it was full: something left it for good


@pytest.mark.parametrize("rate", [1, 2, 3, 5])
@pytest.mark.parametrize("memory_length", [0, 3, 5, 7, 12])
@torch.no_grad()
def test_no_token_is_lost_or_counted_twice(memory_length, rate, generator) -> None:
    memory = CompressedMemoryConfig(length=47, rate=rate, compression="mean_pool")
    model = make_model(generator, memory, memory_length, vocab_size=47)
    tokens = torch.randperm(47, generator=generator)[None]  # all different: the first layer's inputs tell them apart
    state, num_read = None, 0
    for segment in tokens.split([5] * 5 + [1, 7, 2, 12], dim=1):
        _, state = model(segment, state)
        num_read += segment.shape[1]
        fine, coarse = state.short_term[0], state.long_term[0].compressed
        assert rate * coarse.shape[1] + fine.shape[1] == num_read
        embedded = model.embed(tokens[:, :num_read])
        old, recent = embedded[:, : rate * coarse.shape[1]], embedded[:, rate * coarse.shape[1] :]
        assert_close(fine, recent)
        assert_close(
            coarse,
            torch.stack([group.mean(1) for group in old.split(rate, dim=1)], dim=1)
            if rate * coarse.shape[1]
            else coarse,
        )
        before = num_read - segment.shape[1]  # what this segment could read of what came before it
        assert fine.shape[1] - segment.shape[1] in range(min(before, memory_length), memory_length + rate)


@torch.no_grad()
def test_rate_one_with_an_identity_convolution_is_a_longer_transformer_xl(generator) -> None:
    memory = CompressedMemoryConfig(length=6, rate=1)
    model = make_model(generator, memory, memory_length=5)
    for long_term in model.long_term_memories:
        convolution = long_term.function.convolution
        convolution.weight.copy_(torch.eye(model.d_model, dtype=torch.float64)[..., None])
        convolution.bias.zero_()
    xl = TransformerXL(TransformerXLConfig(**SIZES, memory_length=11)).double()
    xl.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "long_term" not in name})
    tokens = random_tokens(generator, 8 * POS)
    assert_close(read_segments(model, tokens)[0], read_segments(xl, tokens)[0], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_the_reach_is_exact(generator) -> None:
    memory = CompressedMemoryConfig(length=2, rate=3, compression="mean_pool")
    model = make_model(generator, memory, memory_length=POS + 1, num_layers=2)
    assert model.config.reach == POS + 1 + 6
    tokens = random_tokens(generator, 8 * POS)
    other = (tokens + 1) % model.config.vocab_size
    logits = read_segments(model, tokens)[0][:, -POS:]
    # The earliest position that the last segment can see: one layer after another, through segments and whole groups.
    first = 7 * POS
    for _ in range(2):
        first = first // POS * POS
        first = max(0, (first - POS - 1) // 3 * 3 - 6)
    for position, is_seen in [(first - 1, False), (first, True)]:
        changed = torch.where(torch.arange(8 * POS) == position, other, tokens)
        assert bool((read_segments(model, changed)[0][:, -POS:] != logits).any()) == is_seen
    assert first > 1


# --- what the losses train --------------------------------------------------------------------------------------------


def state_before_a_read(model, generator):
    tokens, state = random_tokens(generator, 5 * POS), None
    for segment in tokens[:, : 4 * POS].split(POS, dim=1):
        _, state = model(segment, state)
    return tokens[:, 4 * POS :], state


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("compression", LEARNED)
@pytest.mark.parametrize("loss", ["attention_reconstruction", "auto_encoding"])
def test_the_auxiliary_loss_trains_the_compression_and_nothing_else(loss, compression, generator) -> None:
    model = make_model(generator, dataclasses.replace(MEMORY, compression=compression, loss=loss))
    segment, state = state_before_a_read(model, generator)
    requires_grad = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    logits, after = model(segment, state)
    task, auxiliary = logits.square().mean(), after.auxiliary_loss
    assert auxiliary > 0
    alone = gradients(model, task)
    logits, after = model(segment, state)
    together = gradients(model, logits.square().mean() + after.auxiliary_loss)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == requires_grad
    for name, gradient in together.items():
        if name.startswith("long_term_memories"):
            assert alone[name] is None and gradient.abs().max() > 0, name
        else:
            assert torch.equal(gradient, alone[name]), name


@pytest.mark.parametrize("compression", LEARNED)
def test_without_an_auxiliary_loss_the_task_trains_the_compression(compression, generator) -> None:
    model = make_model(generator, dataclasses.replace(MEMORY, compression=compression))
    segment, state = state_before_a_read(model, generator)
    logits, after = model(segment, state)
    assert after.auxiliary_loss == 0
    assert all(gradient.abs().max() > 0 for gradient in gradients(model, logits.square().mean()).values())


def keep_first_argument(record, module, arguments):
    """A hook that notes what entered a module."""
    record[module] = arguments[0]


def test_the_losses_are_what_they_say(generator) -> None:
    for loss in ("attention_reconstruction", "auto_encoding"):
        model = make_model(generator, dataclasses.replace(MEMORY, loss=loss))
        segment, state = state_before_a_read(model, generator)
        entered = {}
        for block in model.blocks:
            block.attention.register_forward_pre_hook(partial(keep_first_argument, entered))
        _, after = model(segment, state)
        expected, num_leaving = 0.0, model.num_leaving(state.short_term[0].shape[1])
        assert num_leaving == 6
        for layer, (block, memory) in enumerate(zip(model.blocks, model.long_term_memories, strict=True)):
            old = state.short_term[layer][:, :num_leaving]
            compressed = memory.function(old)
            if loss == "auto_encoding":
                rebuilt = functional.conv_transpose1d(
                    compressed.mT, memory.decoder.weight, memory.decoder.bias, stride=3
                )
                expected += ((rebuilt.mT - old) ** 2).mean()
                continue
            query, heads = block.attention.query(entered[block.attention]), model.config.num_heads
            wanted, found = (content_attention(query, block.attention.key_value(x), heads) for x in (old, compressed))
            expected += ((wanted - found) ** 2).mean()
        assert_close(after.auxiliary_loss, expected)


def test_a_learning_compression_reconstructs_better(generator) -> None:
    """The loss goes down when only the compression is trained on it."""
    model = make_model(generator, dataclasses.replace(MEMORY, loss="attention_reconstruction"))
    segment, state = state_before_a_read(model, generator)
    optimizer = torch.optim.Adam(model.long_term_memories.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        _, after = model(segment, state)
        optimizer.zero_grad()
        after.auxiliary_loss.backward()
        optimizer.step()
        losses.append(after.auxiliary_loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_gradient_goes_through_time_when_asked(generator) -> None:
    model = make_model(generator, memory_length=POS)
    tokens, state, reached = random_tokens(generator, 4 * POS), None, []
    for segment in tokens.split(POS, dim=1):
        logits, state = model(segment, state, keep_graph=True)
        if not reached:
            state.short_term[0].retain_grad()
            reached.append(state.short_term[0])
    logits.sum().backward()
    assert reached[0].grad.abs().max() > 0


# --- state and errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("segment_length", [2, 5, 6])
@torch.no_grad()
def test_the_state_stays_within_its_bytes(compression, segment_length, generator) -> None:
    memory = dataclasses.replace(MEMORY, compression=compression)
    model, state, most = make_model(generator, memory, memory_length=7).float(), None, 0
    for segment in random_tokens(generator, segment_length * 13).split(segment_length, dim=1):
        _, state = model(segment, state)
        parts = (*state.short_term, *(part for memory in state.long_term for part in memory))
        most = max(most, sum(part.nbytes for part in parts))
    assert most == model.state_bytes(BATCH, segment_length)


def test_bad_input_is_refused(generator) -> None:
    model, tokens = make_model(generator), random_tokens(generator, POS)
    _, state = TransformerXL(TransformerXLConfig(**SIZES)).double()(tokens)
    with pytest.raises(ValueError, match="must hold 2 long-term memories, got 0"):
        model(tokens, state)
