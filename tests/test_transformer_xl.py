"""Transformer-XL and the memoryless model: against loops with the public layout of weights, and what memory may do."""

import math

import numpy as np
import oracles
import pytest
import torch
from test_memory import randomize
from torch import Tensor, nn
from torch.testing import assert_close

from infmem import TransformerXL, TransformerXLConfig, WindowTransformer, WindowTransformerConfig
from infmem.models.public_weights import from_public_weights
from infmem.models.transformer_xl import ModelState, initialize, remember
from infmem.tasks.sorting import first_visible

SIZES = {"vocab_size": 23, "d_model": 12, "num_heads": 3, "num_layers": 2, "d_ff": 17}
BATCH, POS, MEM_POS = 2, 5, 7


def make_model(generator: torch.Generator, memory_length: int = MEM_POS, **changes: int) -> TransformerXL:
    config = TransformerXLConfig(**SIZES | changes, memory_length=memory_length)
    return randomize(TransformerXL(config).double(), generator)


def random_tokens(generator: torch.Generator, length: int, batch: int = BATCH) -> Tensor:
    return torch.randint(SIZES["vocab_size"], (batch, length), generator=generator)


def read_segments(
    model: TransformerXL, tokens: Tensor, segment_length: int = POS, **options: bool
) -> tuple[Tensor, ModelState]:
    """Logits of all segments, side by side, and the last state."""
    logits, state = [], None
    for segment in tokens.split(segment_length, dim=1):
        segment_logits, state = model(segment, state, **options)
        logits.append(segment_logits)
    return torch.cat(logits, dim=1), state


def public_weights(normal) -> dict[str, Tensor]:
    """Random weights with the names and shapes of the public implementation."""
    d_model, d_ff, heads = SIZES["d_model"], SIZES["d_ff"], (SIZES["num_heads"], SIZES["d_model"] // SIZES["num_heads"])
    shapes = {"word_emb.emb_layers.0.weight": (SIZES["vocab_size"], d_model), "r_w_bias": heads, "r_r_bias": heads}
    for layer in range(SIZES["num_layers"]):
        parts = {
            "dec_attn.qkv_net.weight": (3 * d_model, d_model),
            "dec_attn.r_net.weight": (d_model, d_model),
            "dec_attn.o_net.weight": (d_model, d_model),
            "dec_attn.layer_norm.weight": (d_model,),
            "dec_attn.layer_norm.bias": (d_model,),
            "pos_ff.CoreNet.0.weight": (d_ff, d_model),
            "pos_ff.CoreNet.0.bias": (d_ff,),
            "pos_ff.CoreNet.3.weight": (d_model, d_ff),
            "pos_ff.CoreNet.3.bias": (d_model,),
            "pos_ff.layer_norm.weight": (d_model,),
            "pos_ff.layer_norm.bias": (d_model,),
        }
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in parts.items()}
    return {name: 0.4 * normal(*shape) for name, shape in shapes.items()}


# --- against the oracle -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("memory_length", [3, MEM_POS])
def test_model_with_public_weights_equals_loops(dtype, tolerance, memory_length, generator, normal) -> None:
    weights = public_weights(normal)
    model = make_model(generator, memory_length).to(dtype)
    loaded = model.load_state_dict(from_public_weights(weights), strict=False)
    assert set(loaded.missing_keys) == {"output.weight", "output.bias"} and not loaded.unexpected_keys
    state, memories = None, None
    for segment in random_tokens(generator, 3 * POS).split(POS, dim=1):
        logits, state = model(segment, state)
        hidden, inputs = oracles.transformer_xl_by_loops(segment, memories, weights)
        before = memories or [entered[:, :0] for entered in inputs]
        memories = [np.concatenate(parts, axis=1)[:, -memory_length:] for parts in zip(before, inputs, strict=True)]
        expected = torch.from_numpy(hidden) @ model.output.weight.double().T + model.output.bias.double()
        assert_close(logits.double(), expected, rtol=tolerance, atol=tolerance)
        for actual, memory in zip(state.short_term, memories, strict=True):
            assert_close(actual.double(), torch.from_numpy(memory), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("missing", ["r_w_bias", "layers.1.pos_ff.CoreNet.3.bias"])
def test_public_weights_must_be_complete(missing, normal) -> None:
    weights = {name: tensor for name, tensor in public_weights(normal).items() if name != missing}
    with pytest.raises(ValueError, match=f"the weights lack .*{missing}"):
        from_public_weights(weights)


def test_public_weights_must_have_layers(normal) -> None:
    weights = {name: tensor for name, tensor in public_weights(normal).items() if "layers" not in name.split(".")}
    with pytest.raises(ValueError, match=r"the weights lack .*layers.0.dec_attn.qkv_net.weight"):
        from_public_weights(weights)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segment_length", [1, 5, 8, 15])
def test_a_long_segment_equals_short_ones_with_enough_memory(segment_length, generator) -> None:
    model, tokens = make_model(generator, memory_length=23), random_tokens(generator, 23)
    whole, _ = model(tokens)
    parts, _ = read_segments(model, tokens, segment_length)
    assert_close(parts, whole)


def test_each_layer_remembers_its_last_inputs(generator) -> None:
    model, tokens = make_model(generator), random_tokens(generator, 4 * POS)
    _, state = read_segments(model, tokens)
    assert [memory.shape for memory in state.short_term] == [(BATCH, MEM_POS, SIZES["d_model"])] * SIZES["num_layers"]
    embedded = model.embedding.weight[tokens] * math.sqrt(SIZES["d_model"])
    assert_close(state.short_term[0], embedded[:, -MEM_POS:].detach())


@pytest.mark.parametrize("length", [0, 1, 3, 8, 11])
def test_remember_keeps_the_last(length) -> None:
    memory, hidden = torch.arange(3.0).reshape(1, 3, 1), torch.arange(3.0, 8.0).reshape(1, 5, 1)
    kept = list(range(8))[max(0, 8 - length) :] if length else []
    assert remember(memory, hidden, length).flatten().tolist() == kept


def test_later_tokens_change_nothing_before_them(generator) -> None:
    model, tokens = make_model(generator), random_tokens(generator, 3 * POS)
    logits, _ = read_segments(model, tokens)
    for changed in (1, POS, 2 * POS + 3):
        other = tokens.clone()
        other[:, changed] = (other[:, changed] + 1) % SIZES["vocab_size"]
        difference = (read_segments(model, other)[0] - logits).abs().amax(dim=(0, 2))
        assert (difference[:changed] == 0).all() and difference[changed] > 1e-3


@pytest.mark.parametrize("num_layers, memory_length", [(1, 3), (2, 5), (2, 7), (3, 2), (2, 0)])
def test_tokens_beyond_the_receptive_field_change_nothing(num_layers, memory_length, generator) -> None:
    num_tokens = 23  # tokens are all different, so that a token's embedding is its own
    model = make_model(generator, memory_length, vocab_size=num_tokens, num_layers=num_layers)
    logits, _ = read_segments(model, torch.arange(num_tokens)[None], keep_graph=True)
    # A token that is first seen by an answer at position `length` of a sorting task of that length.
    first = first_visible(num_tokens - 1, POS, num_layers, memory_length)[0].item()
    (gradient,) = torch.autograd.grad(logits[:, -1].square().sum(), model.embedding.weight)
    assert gradient.abs().amax(dim=1).gt(0).tolist() == [token >= first for token in range(num_tokens)]
    assert 0 < first < num_tokens - 1


@pytest.mark.parametrize("keep_graph", [False, True])
def test_gradient_reaches_earlier_segments_on_request_only(keep_graph, generator) -> None:
    model = make_model(generator)
    first, second = torch.arange(POS)[None], torch.arange(POS, 2 * POS)[None]  # no token is in both
    _, state = model(first, keep_graph=keep_graph)
    assert [memory.requires_grad for memory in state.short_term] == [keep_graph] * SIZES["num_layers"]
    logits, _ = model(second, state)
    (gradient,) = torch.autograd.grad(logits.square().sum(), model.embedding.weight)
    assert gradient[:POS].abs().amax(dim=1).gt(0).tolist() == [keep_graph] * POS
    assert gradient[POS : 2 * POS].abs().amax(dim=1).gt(0).all()


def test_detached_state_is_the_same_without_gradient(generator) -> None:
    _, state = make_model(generator)(random_tokens(generator, POS), keep_graph=True)
    detached = state.detach()
    assert_close(detached.short_term, tuple(memory.detach() for memory in state.short_term), rtol=0, atol=0)
    assert not any(tensor.requires_grad for tensor in (*detached.short_term, detached.auxiliary_loss))


def test_every_parameter_learns(generator) -> None:
    model = make_model(generator)
    _, state = model(random_tokens(generator, POS))
    model(random_tokens(generator, POS), state)[0].square().sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in model.parameters())


def test_rows_do_not_touch_each_other(generator) -> None:
    model, tokens = make_model(generator), random_tokens(generator, 2 * POS, batch=3)
    together, _ = read_segments(model, tokens)
    for row in range(3):
        assert_close(read_segments(model, tokens[row : row + 1])[0], together[row : row + 1])


def test_window_transformer_keeps_nothing(generator) -> None:
    window = randomize(WindowTransformer(WindowTransformerConfig(**SIZES)).double(), generator)
    tokens = random_tokens(generator, 2 * POS)
    _, state = window(tokens[:, :POS])
    assert [memory.numel() for memory in state.short_term] == [0] * SIZES["num_layers"]
    assert state.long_term == () and window.state_bytes(BATCH) == 0
    assert_close(window(tokens[:, POS:], state)[0], window(tokens[:, POS:])[0], rtol=0, atol=0)
    xl = make_model(generator)
    xl.load_state_dict(window.state_dict())
    assert_close(window(tokens)[0], xl(tokens)[0], rtol=0, atol=0)


# --- sizes, weights, dropout ------------------------------------------------------------------------------------------


def test_number_of_parameters(generator) -> None:
    vocab, d_model, layers, d_ff = (SIZES[name] for name in ("vocab_size", "d_model", "num_layers", "d_ff"))
    attention = 5 * d_model**2  # query, key, value, positions, output
    norms, feed_forward = 2 * 2 * d_model, d_model * d_ff + d_ff + d_ff * d_model + d_model
    outside = vocab * d_model + 2 * d_model + d_model * vocab + vocab  # embedding, u and v, output
    assert make_model(generator).num_parameters == outside + layers * (attention + norms + feed_forward)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_bytes_are_those_of_a_full_state(dtype, generator) -> None:
    model = make_model(generator).to(dtype)
    _, state = read_segments(model, random_tokens(generator, 4 * POS))
    assert sum(memory.nbytes for memory in state.short_term) == model.state_bytes(BATCH)
    assert model.state_bytes(BATCH) == BATCH * SIZES["num_layers"] * MEM_POS * SIZES["d_model"] * dtype.itemsize


def test_a_state_holds_on_to_no_more_bytes_than_it_says(generator) -> None:
    model = make_model(generator)
    _, state = read_segments(model, random_tokens(generator, 4 * POS))
    assert sum(memory.untyped_storage().nbytes() for memory in state.short_term) == model.state_bytes(BATCH)


def test_initial_weights_keep_the_size_of_what_they_map() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TransformerXL(TransformerXLConfig(vocab_size=311, d_model=96, num_heads=3, num_layers=1, d_ff=401))
    for name, module in model.requires_grad_(False).named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            assert math.isclose(module.weight.std() * module.weight.shape[1] ** 0.5, 1.0, abs_tol=0.03), name
            assert abs(module.weight.mean()) * module.weight.shape[1] ** 0.5 < 0.03, name
        if isinstance(module, nn.Linear) and module.bias is not None:
            assert not module.bias.any(), name
    assert not model.content_bias.any() and not model.position_bias.any()
    convolution = nn.Conv1d(2, 2, 3)
    before = convolution.weight.clone()
    initialize(convolution)
    assert_close(convolution.weight, before, rtol=0, atol=0)


def test_dropout_acts_in_training_only(generator) -> None:
    tokens, plain = random_tokens(generator, POS), make_model(generator)
    model = TransformerXL(TransformerXLConfig(**SIZES, memory_length=MEM_POS, dropout=0.5)).double()
    model.load_state_dict(plain.state_dict())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert (model(tokens)[0] - plain(tokens)[0]).abs().max() > 1e-3
        assert (model.embed(tokens) == 0).any()
        dropped = []
        model.dropout.register_forward_hook(lambda *arguments: dropped.append(arguments[-1]))
        logits, _ = model(tokens)
    assert len(dropped) == 2  # what enters the first layer and what leaves the last
    assert_close(logits, model.output(dropped[1]))
    assert_close(model.eval()(tokens), plain(tokens), rtol=0, atol=0)


def test_model_runs_in_bfloat16_under_autocast(generator) -> None:
    model, tokens = make_model(generator).float(), random_tokens(generator, 3 * POS)
    expected, _ = read_segments(model, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = read_segments(model, tokens)
    assert_close(logits.float(), expected, rtol=0.1, atol=0.1)
    assert all(memory.dtype == torch.float32 for memory in state.short_term)


# --- errors -----------------------------------------------------------------------------------------------------------

BAD_FIELDS = [
    *(({name: 0}, f"{name} must be at least 1, got 0") for name in SIZES),
    ({"d_model": 33}, "d_model must be even, got 33"),
    ({"num_heads": 5}, r"num_heads must be a divisor of d_model \(12\), got 5"),
    ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
    ({"memory_length": -1}, "memory_length must be >= 0, got -1"),
]


@pytest.mark.parametrize("changes, message", BAD_FIELDS, ids=str)
def test_bad_configurations_are_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerXLConfig(**SIZES | changes)


TOKENS = torch.zeros(BATCH, POS, dtype=torch.int64)
BAD_TOKENS = [
    (TOKENS.float(), False, "tokens must be a tensor of type int, got torch.float32"),
    (TOKENS.bool(), False, "tokens must be a tensor of type int, got torch.bool"),
    (TOKENS[0], False, "tokens must have the axes .* got 1 axes"),
    (TOKENS[:, :0], False, "tokens must hold at least one position, got an empty segment"),
    (TOKENS.to("meta"), False, "tokens must be on the model's device cpu, got meta"),
    (TOKENS - 1, True, "tokens must be from 0 to 22, got values from -1 to -1"),
    (TOKENS + torch.arange(POS) + 19, True, "tokens must be from 0 to 22, got values from 19 to 23"),
    ([[0, 1]], False, "tokens must be a tensor, got list"),
]


@pytest.mark.parametrize("tokens, validate, message", BAD_TOKENS, ids=[message for *_, message in BAD_TOKENS])
def test_bad_tokens_are_refused(tokens, validate, message, generator) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(generator)(tokens, validate=validate)


def test_the_last_token_of_the_vocabulary_is_valid(generator) -> None:
    assert make_model(generator)(TOKENS + SIZES["vocab_size"] - 1, validate=True)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
def test_short_integers_are_read(dtype, generator) -> None:
    model = make_model(generator)
    assert_close(model(TOKENS.to(dtype)), model(TOKENS), rtol=0, atol=0)


@pytest.mark.parametrize("changes, batch", [({}, 3), ({"d_model": 18}, BATCH), ({"num_layers": 3}, BATCH)])
def test_a_state_of_another_model_or_batch_is_refused(changes, batch, generator) -> None:
    model, other = make_model(generator), make_model(generator, **changes)
    _, state = other(random_tokens(generator, POS, batch))
    with pytest.raises(ValueError, match="the state must hold 2 layers of 2 rows with d_model 12"):
        model(TOKENS, state)


def test_a_state_must_be_one(generator, without_type_checker) -> None:
    model = make_model(generator)
    with pytest.raises(ValueError, match="state must be the ModelState of the last call, or None, got tuple"):
        model(TOKENS, model.empty(BATCH).short_term)
    flat = tuple(memory[0] for memory in model(TOKENS)[1].short_term)
    with pytest.raises(ValueError, match=r"the state must hold 2 layers of 2 rows .* got \[\(5, 12\), \(5, 12\)\]"):
        model(TOKENS, model.empty(BATCH)._replace(short_term=flat))


def test_a_state_on_another_device_is_refused(generator) -> None:
    model = make_model(generator)
    _, state = model(TOKENS)
    with pytest.raises(ValueError, match="the state must be on the model's device cpu"):
        model(TOKENS, state._replace(short_term=tuple(memory.to("meta") for memory in state.short_term)))


def test_a_state_that_remembers_too_much_is_refused(generator) -> None:
    _, state = make_model(generator)(TOKENS)
    with pytest.raises(ValueError, match=r"2 layers of 2 rows .* and at most 0 hidden states, got"):
        WindowTransformer(WindowTransformerConfig(**SIZES)).double()(TOKENS, state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_of_the_state_are_checked_on_request_only(bad, generator) -> None:
    model = make_model(generator)
    _, state = model(TOKENS)
    state.short_term[1][1, 2, 3] = bad
    model(TOKENS, state)
    with pytest.raises(ValueError, match="the state holds NaN or infinity"):
        model(TOKENS, state, validate=True)


def test_a_state_of_another_type_is_refused(generator, without_type_checker) -> None:
    model = make_model(generator)
    _, state = model(TOKENS)
    narrow = state._replace(short_term=tuple(memory.float() for memory in state.short_term))
    with pytest.raises(ValueError, match=r"of its type torch\.float64, got"):
        model(TOKENS, narrow)
    with pytest.raises(ValueError, match="state must be the ModelState"):
        model(TOKENS, state.short_term)


def test_a_window_transformer_takes_the_sizes_of_any_configuration() -> None:
    model = WindowTransformer(TransformerXLConfig(**SIZES, memory_length=7))
    assert model.config.memory_length == 0
