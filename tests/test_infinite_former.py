"""The infinite-former: one step from its parts, no token lost on its way to the long-term memory, what it learns."""

import dataclasses

import pytest
import torch
from test_memory import PAPER, randomize
from test_transformer_xl import BATCH, POS, SIZES, random_tokens, read_segments
from torch import Tensor
from torch.testing import assert_close

from infmem import (
    InfiniteFormer,
    InfiniteFormerConfig,
    LongTermMemory,
    MemoryConfig,
    TransformerXL,
    TransformerXLConfig,
)
from infmem.memory import Projections
from infmem.models.transformer_xl import ModelState

MEMORY_SIZES = {"num_basis": 14, "sigmas": (0.05, 0.1), "num_samples": 13, "num_bins": 7}
PRESETS = {name: getattr(MemoryConfig, name)(**MEMORY_SIZES) for name in ("paper", "released", "best")}
PRESETS["sampled"] = MemoryConfig.paper(**MEMORY_SIZES, schedule="scaled", ridge=0.1, gate=False)
PRESETS["shared"] = MemoryConfig.best(**MEMORY_SIZES, own_query=False, projections="shared")
STICKY = MemoryConfig.paper(**MEMORY_SIZES, sticky="stratified")


def make_model(
    generator: torch.Generator, memory: MemoryConfig = PRESETS["paper"], memory_length: int = 7, **changes: int
) -> InfiniteFormer:
    config = InfiniteFormerConfig(**SIZES | changes, memory_length=memory_length, memory=memory)
    return randomize(InfiniteFormer(config).double(), generator)


def from_parts(
    model: InfiniteFormer, segments: list[Tensor], generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor], list[list[Tensor]], list[LongTermMemory]]:
    """Logits and auxiliary loss of every segment, all inputs of every layer, and the long-term memories.

    Layer by layer: every input of a layer so far is on a list; the last `memory_length` before the segment are the
    short-term memory, and what has left it since the last segment is written to the long-term memory in one go.
    """
    num_layers, embedding = model.config.num_layers, model.embedding.weight
    inputs, memories = [embedding[segments[0][:, :0]]] * num_layers, [m.empty(BATCH) for m in model.long_term_memories]
    all_logits, losses, written = [], [], 0
    for segment in segments:
        hidden, divergence = embedding[segment] * model.d_model**0.5, torch.zeros((), dtype=torch.float64)
        start = inputs[0].shape[1]
        outside = max(0, start - model.memory_length)
        for layer, (block, long_term) in enumerate(zip(model.blocks, model.long_term_memories, strict=True)):
            attended = block.attention(hidden, inputs[layer][:, outside:], model.content_bias, model.position_bias)
            together = attended.output
            if outside > written:
                memories[layer] = long_term.write(
                    inputs[layer][:, written:outside], memories[layer], generator=generator
                )
            if outside > 0:
                query = hidden if model.config.memory.own_query else block.attention.query(hidden)
                (key, value), out = block.attention.key_value.weight.view(2, 12, 12), block.attention.out.weight
                shared = Projections(key, value, out) if long_term.head_scale is not None else None
                read, memories[layer], reading = long_term(query, None, memories[layer], projections=shared)
                together, divergence = together + read, divergence + reading.kl.mean()
            inputs[layer] = torch.cat([inputs[layer], hidden], dim=1)
            hidden = block.feed_forward_norm((x := block.attention_norm(hidden + together)) + block.feed_forward(x))
        written = outside
        all_logits.append(model.output(hidden))
        losses.append(model.config.memory.kl_weight * divergence)
    return all_logits, losses, inputs, memories


# --- from its parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_length", [0, 3, 5, 7, 12])
@pytest.mark.parametrize("memory", [*PRESETS.values(), STICKY], ids=[*PRESETS, "sticky"])
@torch.no_grad()
def test_every_step_equals_its_parts(memory_length, memory, generator) -> None:
    memory, draws = dataclasses.replace(memory, kl_weight=0.5), torch.Generator()
    model, tokens = make_model(generator, memory, memory_length), random_tokens(generator, 26)
    segments = list(tokens.split([5, 5, 2, 5, 1, 3, 5], dim=1))
    logits, losses, inputs, memories = from_parts(model, segments, draws.manual_seed(1))
    state, num_read, read_long_term = None, 0, False
    draws.manual_seed(1)
    for segment, expected_logits, expected_loss in zip(segments, logits, losses, strict=True):
        actual, state = model(segment, state, generator=draws)
        assert_close(actual, expected_logits, rtol=1e-9, atol=1e-9)
        assert_close(state.auxiliary_loss, expected_loss, rtol=1e-9, atol=1e-9)
        num_read += segment.shape[1]
        for short, long in zip(state.short_term, state.long_term, strict=True):
            assert (long.num_tokens + short.shape[1]).tolist() == [num_read] * BATCH
            assert short.shape[1] <= memory_length + segment.shape[1]
        read_long_term = read_long_term or bool(state.long_term[0].num_tokens.any())
        assert bool(state.auxiliary_loss > 0) == read_long_term
    assert read_long_term
    for actual, expected in zip(state.long_term, memories, strict=True):
        assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    for short, entered in zip(state.short_term, inputs, strict=True):
        assert_close(short, entered[:, num_read - short.shape[1] :], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("memory_length", [0, 3, 5, 7, 12])
@torch.no_grad()
def test_every_token_is_written_once_and_in_order(memory_length, generator, monkeypatch) -> None:
    written, write = {}, LongTermMemory.write

    def recording(memory, new, *args, **options):
        written.setdefault(memory, []).append(new)
        return write(memory, new, *args, **options)

    monkeypatch.setattr(LongTermMemory, "write", recording)
    model = make_model(generator, memory_length=memory_length, vocab_size=47)
    tokens = torch.randperm(47, generator=generator)[None]  # all different: the first layer's inputs tell them apart
    state = None
    for segment in tokens.split([5] * 5 + [1, 7, 2, 12], dim=1):
        _, state = model(segment, state)
    chunks = written[model.long_term_memories[0]]
    assert_close(torch.cat([*chunks, state.short_term[0]], dim=1), model.embed(tokens))
    assert all(len(written[memory]) == len(chunks) for memory in model.long_term_memories)
    assert state.short_term[0].shape[1] == memory_length + 12


@torch.no_grad()
def test_until_something_leaves_the_short_term_memory_it_is_a_transformer_xl(generator) -> None:
    model = make_model(generator, memory_length=10)
    xl = TransformerXL(TransformerXLConfig(**SIZES, memory_length=10)).double()
    xl.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "long_term" not in name})
    tokens = random_tokens(generator, 4 * POS)
    actual, expected = (read_segments(each, tokens)[0].split(POS, dim=1) for each in (model, xl))
    assert_close(actual[:3], expected[:3], rtol=0, atol=0)
    assert (actual[3] - expected[3]).abs().max() > 1e-3


@pytest.mark.parametrize("projections", ["own", "shared"])
def test_a_silent_start_is_the_transformer_xl_inside_which_its_memory_learns_to_leave(projections, generator) -> None:
    memory = dataclasses.replace(PRESETS["best"], own_query=False, projections=projections, silent_start=True)
    model = make_model(generator, memory, memory_length=3)
    for long_term in model.long_term_memories:
        long_term.begin_as_configured()
    xl = TransformerXL(TransformerXLConfig(**SIZES, memory_length=3)).double()
    xl.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "long_term" not in name})
    tokens = random_tokens(generator, 4 * POS)
    (actual, state), (expected, _) = (read_segments(each, tokens) for each in (model, xl))
    assert_close(actual, expected, rtol=0, atol=0)
    assert all(memory.coefficients.any() for memory in state.long_term)
    model(tokens[:, :POS], state)[0].square().sum().backward()
    for long_term in model.long_term_memories:
        silent = long_term.out.weight if projections == "own" else long_term.head_scale
        assert silent.grad.abs().min() > 0


# --- what it can see --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_it_sees_beyond_the_receptive_field_of_a_transformer_xl(generator) -> None:
    model = make_model(generator, memory_length=5)
    xl = TransformerXL(TransformerXLConfig(**SIZES, memory_length=5)).double()
    xl.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "long_term" not in name})
    tokens = random_tokens(generator, 6 * POS)
    other = tokens.clone()
    other[:, 0] = (other[:, 0] + 1) % SIZES["vocab_size"]
    for each, sees in ((xl, False), (model, True)):
        before, after = (read_segments(each, version)[0][:, -POS:] for version in (tokens, other))
        assert bool((before != after).any()) == sees


@torch.no_grad()
def test_later_tokens_change_nothing_before_them(generator) -> None:
    model, tokens = make_model(generator, memory_length=3), random_tokens(generator, 5 * POS)
    logits, _ = read_segments(model, tokens)
    for changed in (1, 2 * POS, 4 * POS - 2):
        other = tokens.clone()
        other[:, changed] = (other[:, changed] + 1) % SIZES["vocab_size"]
        difference = (read_segments(model, other)[0] - logits).abs().amax(dim=(0, 2))
        assert (difference[:changed] == 0).all() and difference[changed] > 1e-3


@pytest.mark.parametrize("num_leaving", [0, POS])
@torch.no_grad()
def test_rows_emptied_alone_do_not_touch_the_others(num_leaving, generator) -> None:
    model, tokens = make_model(generator, memory_length=2), random_tokens(generator, 4 * POS, batch=3)
    _, state = read_segments(model, tokens[:, : 3 * POS])
    recent = tuple(memory[:, POS - num_leaving :] for memory in state.short_term)
    state = state._replace(short_term=recent)
    rows = torch.tensor([False, True, False])
    reset = state._replace(long_term=tuple(memory.reset(rows) for memory in state.long_term))
    (expected, kept), (actual, after) = (model(tokens[:, 3 * POS :], each) for each in (state, reset))
    assert_close(actual[~rows], expected[~rows])
    assert (actual[rows] - expected[rows]).abs().max() > 1e-3
    others = 2 * POS - 2 + num_leaving
    assert after.long_term[0].num_tokens.tolist() == [others, num_leaving, others]
    fresh = model.empty(1)._replace(short_term=tuple(memory[rows] for memory in state.short_term))
    assert_close(actual[rows], model(tokens[rows, 3 * POS :], fresh)[0])
    assert_close(after.long_term[1].coefficients[~rows], kept.long_term[1].coefficients[~rows])


# --- what it learns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_learns_from_a_later_segment(preset, generator) -> None:
    model, tokens = make_model(generator, PRESETS[preset], memory_length=3), random_tokens(generator, 4 * POS)
    _, state = read_segments(model, tokens[:, : 3 * POS])
    model(tokens[:, 3 * POS :], state)[0].square().sum().backward()
    assert {name for name, parameter in model.named_parameters() if not parameter.grad.abs().max() > 1e-8} == set()


def test_auxiliary_loss_teaches_the_densities(generator) -> None:
    memory = dataclasses.replace(PRESETS["paper"], kl_weight=0.5)
    model, tokens = make_model(generator, memory, memory_length=3), random_tokens(generator, 4 * POS)
    _, state = read_segments(model, tokens[:, : 3 * POS])
    _, state = model(tokens[:, 3 * POS :], state, keep_graph=True)
    state.auxiliary_loss.backward()
    for long_term in model.long_term_memories:
        assert long_term.to_sigma_sq.weight.grad.any() and long_term.key.weight.grad.any()
        assert long_term.to_mu.weight.grad is None or not model.long_term_memories[-1].to_mu.weight.grad.any()


def test_auxiliary_loss_has_a_gradient_without_keep_graph_too(generator) -> None:
    model = make_model(generator, memory_length=0)
    _, state = model(random_tokens(generator, POS), full_state(model))
    assert state.auxiliary_loss.requires_grad
    assert not any(memory.coefficients.requires_grad for memory in state.long_term)
    assert not any(memory.requires_grad for memory in state.short_term)


@pytest.mark.parametrize("keep_graph", [False, True])
def test_gradient_passes_the_long_term_memory_on_request_only(keep_graph, generator) -> None:
    model = make_model(generator, memory_length=0, num_layers=1, vocab_size=4 * POS)  # only the long-term memory links
    tokens = torch.arange(4 * POS)[None]  # no token is in two segments
    _, state = read_segments(model, tokens[:, : 3 * POS], keep_graph=keep_graph)
    tensors = [*state.short_term, *(memory.coefficients for memory in state.long_term)]
    assert [tensor.requires_grad for tensor in tensors] == [keep_graph] * 2
    logits, _ = model(tokens[:, 3 * POS :], state)
    (gradient,) = torch.autograd.grad(logits.square().sum(), model.embedding.weight)
    assert gradient.abs().amax(dim=1).gt(0).tolist() == [keep_graph] * (3 * POS) + [True] * POS


def test_own_query_is_of_the_hidden_states_and_a_shared_one_of_attention(generator) -> None:
    own, shared = (make_model(generator, PRESETS[name], 0, num_layers=1) for name in ("paper", "released"))
    assert own.long_term_memories[0].query is not None and shared.long_term_memories[0].query is None
    seen = []
    for model in (own, shared):
        tokens = random_tokens(generator, 2 * POS)
        _, state = model(tokens[:, :POS])
        hook = model.long_term_memories[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(tokens[:, POS:], state)
        hook.remove()
        hidden = model.embed(tokens[:, POS:])
        assert_close(seen[-1], hidden if model is own else model.blocks[0].attention.query(hidden))


# --- sticky memories, sizes, precision --------------------------------------------------------------------------------


@torch.no_grad()
def test_sticky_memory_follows_the_generator(generator) -> None:
    model = make_model(generator, STICKY, memory_length=3)
    tokens = random_tokens(generator, 5 * POS)
    same, again, other = (
        read_segments(model, tokens, generator=torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)
    )
    assert_close(same, again, rtol=0, atol=0)
    assert (same - other).abs().max() > 1e-6


@pytest.mark.parametrize("segment_length, memory_length", [(7, 7), (5, 7), (5, 3), (5, 0)])
@torch.no_grad()
def test_state_bytes_are_those_of_a_full_state(segment_length, memory_length, generator) -> None:
    model = make_model(generator, memory_length=memory_length)
    state, sizes = None, []
    for segment in random_tokens(generator, 6 * segment_length).split(segment_length, dim=1):
        _, state = model(segment, state)
        parts = [*state.short_term, *(part for memory in state.long_term for part in memory)]
        sizes.append(sum(part.untyped_storage().nbytes() for part in parts))
    expected = model.state_bytes(BATCH, segment_length)
    assert sizes[-2:] == [expected, expected] and max(sizes) == expected
    if segment_length == memory_length:
        assert model.state_bytes(BATCH) == expected


def test_parameters_are_those_of_a_transformer_xl_and_its_memories(generator) -> None:
    model = make_model(generator)
    memory = LongTermMemory(SIZES["d_model"], SIZES["num_heads"], PRESETS["paper"])
    xl = TransformerXL(TransformerXLConfig(**SIZES))
    own = sum(parameter.numel() for parameter in memory.parameters())
    assert model.num_parameters == xl.num_parameters + SIZES["num_layers"] * own
    assert own == 4 * 12**2 + 2 * (14 + 1) + 3 * 12**2 + 12


def test_shared_projections_cost_a_factor_a_head_and_the_two_maps(generator) -> None:
    model, xl = make_model(generator, PRESETS["shared"]), TransformerXL(TransformerXLConfig(**SIZES))
    assert model.num_parameters == xl.num_parameters + SIZES["num_layers"] * (SIZES["num_heads"] + 2 * (14 + 1))
    assert model.shared_projections(1).out is model.blocks[1].attention.out.weight
    assert make_model(generator).shared_projections(1) is None


@pytest.mark.parametrize("preset", ["paper", "shared"])
@torch.no_grad()
def test_model_runs_in_bfloat16_under_autocast(preset, generator) -> None:
    model, tokens = make_model(generator, PRESETS[preset], memory_length=3).float(), random_tokens(generator, 4 * POS)
    expected, _ = read_segments(model, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = read_segments(model, tokens)
    assert_close(logits.float(), expected, rtol=0.15, atol=0.15)
    assert all(memory.coefficients.dtype == torch.float32 for memory in state.long_term)
    assert state.auxiliary_loss.dtype == torch.float32


def test_detached_state_keeps_its_values(generator) -> None:
    model = make_model(generator, memory_length=3)
    _, state = read_segments(model, random_tokens(generator, 3 * POS), keep_graph=True)
    detached = state.detach()
    assert_close([*detached.short_term], [memory.detach() for memory in state.short_term], rtol=0, atol=0)
    for actual, expected in zip(detached.long_term, state.long_term, strict=True):
        assert expected.coefficients.requires_grad and not actual.coefficients.requires_grad
        assert_close(list(actual), [part.detach() for part in expected], rtol=0, atol=0)
    assert_close(detached.auxiliary_loss, state.auxiliary_loss.detach())


def test_initial_long_term_weights_keep_the_size_of_what_they_map() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = InfiniteFormerConfig(**SIZES | {"d_model": 96}, memory=MemoryConfig.paper(num_basis=512))
        (memory, _) = InfiniteFormer(config).requires_grad_(False).long_term_memories
    for linear in (memory.key, memory.value, memory.out, memory.query, memory.to_mu, memory.to_sigma_sq):
        assert abs(linear.weight.std() * linear.weight.shape[1] ** 0.5 - 1) < 0.1
    assert not memory.to_mu.bias.any() and not memory.to_sigma_sq.bias.any()


# --- errors -----------------------------------------------------------------------------------------------------------

TOKENS = torch.zeros(BATCH, POS, dtype=torch.int64)


def full_state(model: InfiniteFormer, batch: int = BATCH) -> ModelState:
    return read_segments(model, torch.zeros(batch, 3 * POS, dtype=torch.int64))[1]


def test_a_state_without_long_term_memories_is_refused(generator) -> None:
    model = make_model(generator)
    _, state = TransformerXL(TransformerXLConfig(**SIZES, memory_length=7)).double()(TOKENS)
    with pytest.raises(ValueError, match="the state must hold 2 long-term memories, got 0"):
        model(TOKENS, state)


@pytest.mark.parametrize("changes, batch", [({}, 3), ({"d_model": 18}, BATCH), ({"num_layers": 3}, BATCH)])
def test_a_state_of_another_model_or_batch_is_refused(changes, batch, generator) -> None:
    state = full_state(make_model(generator, **changes), batch)
    with pytest.raises(ValueError, match="the state must hold 2 layers of 2 rows with d_model 12"):
        make_model(generator)(TOKENS, state)


def test_a_long_term_memory_of_another_configuration_is_refused(generator) -> None:
    state = full_state(make_model(generator, PAPER, memory_length=3))
    with pytest.raises(ValueError, match=r"coefficients of sizes \(2, 14, 12\) .*, got \(2, 10, 12\)"):
        make_model(generator, memory_length=3)(TOKENS, state)


def test_bad_tokens_are_refused(generator) -> None:
    model = make_model(generator)
    for tokens, message in [
        (TOKENS.float(), "tokens must be a tensor of type int, got torch.float32"),
        (TOKENS[:, :0], "tokens must hold at least one position"),
        (TOKENS + SIZES["vocab_size"], "tokens must be from 0 to 22, got values from 23 to 23"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(tokens, validate=True)


def test_values_of_the_long_term_memory_are_checked_on_request(generator) -> None:
    model = make_model(generator, memory_length=3)
    state = full_state(model)
    state.long_term[1].coefficients[1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinit"):
        model(TOKENS, state, validate=True)


def test_a_transformer_xl_refuses_the_state_of_an_infinite_former(generator) -> None:
    state = full_state(make_model(generator))
    with pytest.raises(ValueError, match="the state must hold 0 long-term memories, got 2"):
        TransformerXL(TransformerXLConfig(**SIZES, memory_length=12)).double()(TOKENS, state)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="memory_length must be >= 0, got -1"):
        InfiniteFormerConfig(**SIZES, memory_length=-1)
    with pytest.raises(ValueError, match="d_model must be even, got 33"):
        InfiniteFormerConfig(**SIZES | {"d_model": 33})
    assert InfiniteFormerConfig().memory == MemoryConfig.best()


def test_random_state_of_rows_is_finite(generator, normal) -> None:
    model = make_model(generator, PRESETS["best"], memory_length=3)
    state = full_state(model)
    noisy = state._replace(short_term=tuple(normal(*memory.shape) for memory in state.short_term))
    assert model(TOKENS, noisy, validate=True)[0].isfinite().all()
