"""Relative attention, its encoding and its shift, feed-forward and block, each against loops over single numbers."""

import math
from itertools import product

import oracles
import pytest
import torch
from test_memory import arrays, randomize
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from infmem.models.layers import Block, FeedForward, RelativeAttention, relative_shift, sinusoids

D_MODEL, NUM_HEADS, D_FF, BATCH, QUERY_POS, MEM_POS = 12, 3, 17, 2, 5, 7


def attention_inputs(normal, mem_pos: int = MEM_POS) -> list[Tensor]:
    """x, memory, u and v."""
    shapes = (BATCH, QUERY_POS, D_MODEL), (BATCH, mem_pos, D_MODEL), *[(NUM_HEADS, D_MODEL // NUM_HEADS)] * 2
    return [normal(*shape) for shape in shapes]


def make_attention(generator) -> RelativeAttention:
    return randomize(RelativeAttention(D_MODEL, NUM_HEADS).double(), generator)


# --- positions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d_model", [2, 12])
def test_sinusoids_equal_single_sines(d_model) -> None:
    distances = torch.tensor([0.0, 1.0, 2.0, 17.0, 4099.0], dtype=torch.float64)
    expected = [torch.from_numpy(oracles.sinusoid(distance.item(), d_model)) for distance in distances]
    assert_close(sinusoids(distances, d_model), torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_agreement_of_two_sinusoids_depends_on_their_difference_alone() -> None:
    encoded = sinusoids(torch.arange(31, dtype=torch.float64), D_MODEL)
    products = encoded @ encoded.T
    for offset in range(31):
        assert_close(products.diagonal(offset), products[0, offset].expand(31 - offset))
    assert_close(products.diagonal(), torch.full((31,), D_MODEL / 2, dtype=torch.float64))


@pytest.mark.parametrize("mem_pos", [0, 1, MEM_POS])
def test_relative_shift_finds_the_distance_of_every_pair(mem_pos, normal) -> None:
    key_pos = QUERY_POS + mem_pos
    by_distance = normal(BATCH, NUM_HEADS, QUERY_POS, 1 + key_pos)
    shifted = relative_shift(by_distance)
    assert shifted.shape == (BATCH, NUM_HEADS, QUERY_POS, key_pos)
    for query, key in product(range(QUERY_POS), range(key_pos)):
        distance = mem_pos + query - key
        if distance >= 0:
            assert_close(shifted[..., query, key], by_distance[..., query, key_pos - distance], rtol=0, atol=0)


def test_relative_shift_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"by_distance must have the axes .* got 3 axes"):
        relative_shift(torch.zeros(2, 3, 5))


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mem_pos", [0, 1, MEM_POS])
def test_relative_attention_equals_loops(mem_pos, generator, normal) -> None:
    attention = make_attention(generator)
    x, memory, u, v = attention_inputs(normal, mem_pos)
    output, query = attention(x, memory, u, v)
    weights = arrays(attention)
    key_weight, value_weight = weights["key_value.weight"].reshape(2, D_MODEL, D_MODEL)
    expected = oracles.relative_attention_by_loops(
        x.numpy(),
        memory.numpy(),
        weights["query.weight"],
        key_weight,
        value_weight,
        weights["relative.weight"],
        weights["out.weight"],
        u.numpy(),
        v.numpy(),
    )
    assert_close(output, torch.from_numpy(expected), rtol=1e-10, atol=1e-10)
    assert_close(query, x @ attention.query.weight.T)


def test_attention_sees_memory_and_past_but_not_the_future(generator, normal) -> None:
    attention = make_attention(generator)
    inputs = attention_inputs(normal)
    x, memory = inputs[0].requires_grad_(), inputs[1].requires_grad_()
    output = attention(*inputs).output
    for query in range(QUERY_POS):
        by_x, by_memory = torch.autograd.grad(output[:, query].square().sum(), [x, memory], retain_graph=True)
        assert by_memory.abs().amin(dim=(0, 2)).gt(0).all()
        assert by_x.abs().amax(dim=(0, 2)).gt(0).tolist() == [key <= query for key in range(QUERY_POS)]


def test_attention_weights_sum_to_one(generator, normal) -> None:
    attention = make_attention(generator)
    x, memory, u, v = attention_inputs(normal)
    constant = x[:, :1]
    output = attention(constant.expand_as(x), constant.expand_as(memory), u, v).output
    value_weight = attention.key_value.weight[D_MODEL:]
    assert_close(output, (constant @ value_weight.T @ attention.out.weight.T).expand_as(x))


def test_attention_knows_the_order_of_its_memory(generator, normal) -> None:
    attention = make_attention(generator)
    x, memory, u, v = attention_inputs(normal)
    assert (attention(x, memory.flip(1), u, v).output - attention(x, memory, u, v).output).abs().max() > 1e-3


def test_attention_gradients_equal_finite_differences(generator, normal) -> None:
    attention = make_attention(generator)
    inputs = [tensor.requires_grad_() for tensor in attention_inputs(normal, 2)]
    assert gradcheck(lambda *tensors: attention(*tensors).output, inputs, fast_mode=True)
    attention(*inputs).output.square().sum().backward()
    assert all(bool(parameter.grad.abs().gt(0).any(dim=1).all()) for parameter in attention.parameters())


def test_attention_can_be_trained_after_inference_mode() -> None:
    attention, x, bias = RelativeAttention(D_MODEL, NUM_HEADS), torch.ones(1, 37, D_MODEL), torch.zeros(NUM_HEADS, 4)
    with torch.inference_mode():  # 37: a length that no other test has, so that it is first encoded here
        attention(x, x[:, :0], bias, bias)
    attention(x, x[:, :0], bias, bias).output.sum().backward()
    assert attention.relative.weight.grad is not None


def test_attention_runs_in_bfloat16_under_autocast(generator, normal) -> None:
    attention, inputs = make_attention(generator), attention_inputs(normal)
    expected = attention(*inputs).output
    with torch.autocast("cpu", torch.bfloat16):
        output = attention.float()(*(tensor.float() for tensor in inputs)).output
    assert output.dtype == torch.bfloat16
    assert_close(output.double(), expected, rtol=0.1, atol=0.1)


X, MEMORY, BIAS = (2, 5, D_MODEL), (2, 7, D_MODEL), (NUM_HEADS, 4)
BAD_ATTENTION_INPUTS = [
    ([(2, D_MODEL), MEMORY, BIAS, BIAS], "x must have the axes .* got 2 axes"),
    ([(2, 5, 10), MEMORY, BIAS, BIAS], "x must have the axes .* d_model = 12, got d_model = 10"),
    ([X, (3, 7, D_MODEL), BIAS, BIAS], "memory must have the axes .* batch = 2, got batch = 3"),
    ([X, (2, 7, 10), BIAS, BIAS], "memory must have the axes .* d_model = 12, got d_model = 10"),
    ([X, MEMORY, BIAS, (2, 4)], "position_bias must have the axes .* head = 3, got head = 2"),
    ([X, MEMORY, (12,), BIAS], "content_bias must have the axes .* got 1 axes"),
]


@pytest.mark.parametrize("shapes, message", BAD_ATTENTION_INPUTS, ids=[message for _, message in BAD_ATTENTION_INPUTS])
def test_attention_refuses_tensors_that_do_not_fit(shapes, message) -> None:
    with pytest.raises(ValueError, match=message):
        RelativeAttention(D_MODEL, NUM_HEADS)(*(torch.ones(shape) for shape in shapes))


def test_attention_refuses_integers() -> None:
    with pytest.raises(ValueError, match=r"x must be a tensor of type float, got torch.int64"):
        RelativeAttention(D_MODEL, NUM_HEADS)(torch.ones(X, dtype=torch.int64), *map(torch.ones, (MEMORY, BIAS, BIAS)))


# --- feed-forward and block -------------------------------------------------------------------------------------------


def feed_forward_by_loops(x: Tensor, layer: FeedForward) -> Tensor:
    """Every position alone: max(0, W1 x + b1), and a weighted sum of its entries."""
    output = torch.zeros_like(x)
    for row, pos in product(range(x.shape[0]), range(x.shape[1])):
        inner = [
            max(0.0, (layer.inner.weight[unit] @ x[row, pos] + layer.inner.bias[unit]).item()) for unit in range(D_FF)
        ]
        outer = sum(value * layer.outer.weight[:, unit] for unit, value in enumerate(inner))
        output[row, pos] = layer.outer.bias + outer
    return output


@torch.no_grad()
def test_feed_forward_equals_loops(generator, normal) -> None:
    layer = randomize(FeedForward(D_MODEL, D_FF).double(), generator)
    x = normal(BATCH, QUERY_POS, D_MODEL)
    assert_close(layer(x), feed_forward_by_loops(x, layer))


@torch.no_grad()
def test_block_adds_and_normalises_after_each_part(generator, normal) -> None:
    block = randomize(Block(D_MODEL, NUM_HEADS, D_FF).double(), generator)
    x, attended = (normal(BATCH, QUERY_POS, D_MODEL) for _ in range(2))
    weights = arrays(block)

    def normalized(tensor, name):
        parameters = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return torch.from_numpy(oracles.layer_norm(tensor.numpy(), *parameters))

    after_attention = normalized(x + attended, "attention_norm")
    inner = feed_forward_by_loops(after_attention, block.feed_forward)
    assert_close(block(x, attended), normalized(after_attention + inner, "feed_forward_norm"))


def test_block_drops_out_in_training_only(generator, normal) -> None:
    x = normal(BATCH, QUERY_POS, D_MODEL)
    block = randomize(Block(D_MODEL, NUM_HEADS, D_FF, dropout=0.5).double(), generator)
    plain = Block(D_MODEL, NUM_HEADS, D_FF).double()
    plain.load_state_dict(block.state_dict())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = block.dropout(torch.ones(1000))
        assert set(dropped.tolist()) == {0.0, 2.0} and math.isclose(dropped.mean(), 1.0, abs_tol=0.2)
        for module, others in ((block, block.feed_forward), (block.feed_forward, block)):
            module.dropout.p, others.dropout.p = 0.5, 0.0
            assert (block(x, x) - plain(x, x)).abs().max() > 1e-3
    assert_close(block.eval()(x, x), plain(x, x), rtol=0, atol=0)


def test_block_drops_out_no_attention_weights(normal, generator) -> None:
    block, inputs = (
        randomize(Block(D_MODEL, NUM_HEADS, D_FF, dropout=0.5).double(), generator),
        attention_inputs(normal),
    )
    training = block.attention(*inputs)
    assert_close(training, block.eval().attention(*inputs), rtol=0, atol=0)


def test_feed_forward_refuses_another_width() -> None:
    layer = FeedForward(D_MODEL, D_FF)
    with pytest.raises(ValueError, match=r"x must have the axes .* got 2 axes"):
        layer(torch.ones(BATCH, D_MODEL))
