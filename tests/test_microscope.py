"""The microscope changes nothing, its weights are those of the read, and what it decodes is what was written."""

import pytest
import torch
from test_infinite_former import make_model
from test_transformer_xl import random_tokens, read_segments
from torch.nn import functional
from torch.testing import assert_close

from infmem import MemoryConfig, TransformerXL, TransformerXLConfig, trained
from infmem.contraction import age_map, scaled_tau
from infmem.microscope import (
    answer_accuracy,
    decode_symbols,
    local_shares,
    next_update,
    segment_edges,
    segment_retention,
    settle,
    token_operator,
    token_weights,
    trace,
)
from infmem.models import memorize
from infmem.tasks import sorting

SIZES = {"num_basis": 14, "sigmas": (0.05, 0.1), "num_samples": 13, "num_bins": 7}
CONFIGS = {
    "scaled": MemoryConfig.paper(**SIZES, schedule="scaled", ridge=0.1, gate=False),
    "fixed": MemoryConfig.paper(**SIZES, tau=0.6, ridge=0.1, gate=False),
    "sampled": MemoryConfig.best(**SIZES, contraction="sampled"),
    "best": MemoryConfig.best(**SIZES),
    "released": MemoryConfig.released(**SIZES, gate=False),
}
FIXED_OR_SCALED = ["infinite-former", "fixed-tau"]


def written_in_chunks(memory, x, chunks):
    state = memory.empty(len(x))
    for chunk in x.split(chunks, dim=1):
        state = memory.write(chunk, state)
    return state


# --- the trace --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_length", [0, 3, 5, 12])
@pytest.mark.parametrize("name", ["scaled", "fixed", "released"])
@torch.no_grad()
def test_the_trace_changes_nothing(name, memory_length, generator):
    model, tokens = make_model(generator, CONFIGS[name], memory_length), random_tokens(generator, 23)
    segments, state = trace(model, tokens, segment_length=5), None
    assert [step.start for step in segments] == [0, 5, 10, 15, 20]
    for step, segment in zip(segments, tokens.split(5, dim=1), strict=True):
        before = 0 if state is None else state.short_term[0].shape[1]
        logits, state = model(segment, state)
        assert_close(step.logits, logits, rtol=0, atol=0)
        assert_close(step.state, state, rtol=0, atol=0)
        assert step.short_term_length == min(before, memory_length)
        assert step.num_written == state.long_term[0].num_tokens[0] == step.start - step.short_term_length
    assert not any(hooks for module in model.modules() for hooks in (module._forward_hooks, module._forward_pre_hooks))


@torch.no_grad()
def test_the_trace_says_what_each_layer_read(generator):
    model, tokens = make_model(generator, CONFIGS["scaled"], 3), random_tokens(generator, 20)
    for step, segment in zip(trace(model, tokens, 5), tokens.split(5, dim=1), strict=True):
        assert_close(step.layers[0].hidden, model.embed(segment))
        for layer, memory in zip(step.layers, model.long_term_memories, strict=True):
            if step.num_written == 0:
                assert layer.mu is None and layer.sigma_sq is None
                continue
            _, reading = memory.read(layer.hidden, layer.memory)
            assert_close((layer.mu, layer.sigma_sq), (reading.mu, reading.sigma_sq), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["scaled", "fixed"])
@torch.no_grad()
def test_the_updates_of_the_trace_are_those_of_the_memory(name, generator):
    config = CONFIGS[name]
    model = make_model(generator, config, 3)
    last = trace(model, random_tokens(generator, 25), 5)[-1]
    assert last.num_first == 2 and [step.num_new for step in last.updates] == [5, 5, 5]
    taus = [scaled_tau(num_past, 5, config.tau_max) if name == "scaled" else 0.6 for num_past in (2, 7, 12)]
    assert [step.tau for step in last.updates] == taus


def test_hooks_are_gone_after_an_error(generator):
    model = make_model(generator)
    with pytest.raises(IndexError):
        trace(model, torch.full((1, 5), 1000), 5)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_without_memory_has_nothing_to_trace():
    model = TransformerXL(TransformerXLConfig(d_model=12, num_heads=3, num_layers=2))
    with pytest.raises(Exception, match="InfiniteFormer"):
        trace(model, torch.zeros(1, 5, dtype=torch.int64), 5)


@pytest.mark.parametrize("name", ["scaled", "fixed"])
def test_edges_are_where_the_age_map_changes_its_segment(name):
    config = CONFIGS[name]
    updates = [next_update(config, 11 * k, 11) for k in range(1, 5)]
    edges = segment_edges(updates)
    t = (edges[:-1] + edges[1:]) / 2
    assert age_map(t, 11, updates)[1].tolist() == [4, 3, 2, 1, 0]
    assert_close(age_map(edges[1:], 11, updates)[0], 11.0 * torch.arange(1, 6, dtype=torch.float64))


# --- the weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_weights_times_tokens_are_what_every_head_reads(name, generator):
    config = CONFIGS[name]
    model = make_model(generator, config, 3)
    tokens = random_tokens(generator, 24)
    last = trace(model, tokens, 5)[-1]
    for layer, memory in zip(range(2), model.long_term_memories, strict=True):
        entered = torch.cat([step.layers[layer].hidden for step in trace(model, tokens, 5)], dim=1)
        past, seen = entered[:, : last.num_written], last.layers[layer]
        weights = token_weights(config, last.num_first, last.updates, seen.mu, seen.sigma_sq)
        sums = torch.einsum("bhqp,bpd->bhqd", weights, past)
        values = memory.value.weight.unflatten(0, (memory.num_heads, -1))
        heads = torch.einsum("hed,bhqd->bqhe", values, sums).flatten(-2)
        query = seen.hidden if config.own_query else model.blocks[layer].attention.query(seen.hidden)
        assert_close(memory.out(heads), memory.read(query, seen.memory)[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", CONFIGS)
def test_one_row_of_the_operator_is_the_answer_to_one_token(name, generator):
    config = CONFIGS[name]
    memory = make_model(generator, config).long_term_memories[0]
    updates = []
    for num_past in (5, 10):
        updates.append(next_update(config, num_past, 5))
    operator = token_operator(config, 5, updates)
    assert operator.shape == (15, 14)
    for token in (0, 4, 5, 14):
        x = torch.zeros(1, 15, 12, dtype=torch.float64)
        x[0, token, 7] = 1
        written = written_in_chunks(memory, x, 5).coefficients[0]
        assert_close(written[:, 7], operator[token], rtol=1e-9, atol=1e-9)
        assert not written[:, :7].any()


def test_sticky_memories_and_empty_ones_have_no_operator():
    with pytest.raises(ValueError, match="sticky='iid'"):
        token_operator(MemoryConfig.best(**SIZES, contraction="sampled", sticky="iid"), 5, [])
    with pytest.raises(ValueError, match="num_first must be at least 1 token, got 0"):
        token_operator(CONFIGS["scaled"], 0, [])


def test_the_scaled_model_counts_and_the_fixed_one_favours_what_is_recent():
    tokens, _ = sorting.sample(16, 396, torch.Generator().manual_seed(0))
    shares, wide = {}, {}
    for name in FIXED_OR_SCALED:
        model = trained.load(name).model
        last = trace(model, tokens, 32)[-1]
        seen = last.layers[0]
        weights = token_weights(model.config.memory, last.num_first, last.updates, seen.mu, seen.sigma_sq)
        by_segment = weights[:, :, 12:].mean((0, 2)).unflatten(-1, (11, 32)).sum(-1)
        shares[name] = by_segment / by_segment.sum(-1, keepdim=True)
        wide[name] = seen.sigma_sq.sqrt().mean((0, 2)) > 0.5
    assert (shares["infinite-former"] - 1 / 11).abs().max() < 0.01 and wide["infinite-former"].all()
    # Where the past is squeezed, a head that looks everywhere sees the newest most. Two others have learned to look at
    # the old end alone, which does not make a count of all either.
    recent, narrow = shares["fixed-tau"][wide["fixed-tau"]], shares["fixed-tau"][~wide["fixed-tau"]]
    assert (recent[:, -1] > 1.5 * recent[:, 1]).all() and (recent[:, -1] > 1.5 / 11).all()
    assert len(recent) == len(narrow) == 2 and (narrow[:, -1] < 0.5 / 11).all() and (narrow[:, 0] > 1.5 / 11).all()


# --- the symbols ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIXED_OR_SCALED)
def test_decoding_finds_the_weights_of_each_symbol_s_tokens(name, generator):
    model = trained.load(name).model
    memory, symbols = model.long_term_memories[0], torch.randint(20, (3, 96), generator=generator)
    state = written_in_chunks(memory, model.embed(symbols), 32)
    t = torch.linspace(0, 1, 17, dtype=torch.float64)
    decoded = decode_symbols(model, state.coefficients, memory.basis, t)
    operator = token_operator(memory.config, 32, [next_update(memory.config, past, 32) for past in (32, 64)])
    weights = memory.basis.to(torch.float64).evaluate(t) @ operator.mT
    assert_close(decoded, weights @ functional.one_hot(symbols, 20).double(), rtol=1e-4, atol=1e-4)


def test_a_gate_cannot_be_decoded(generator):
    model = make_model(generator, MemoryConfig.paper(**SIZES))
    memory = model.long_term_memories[0]
    with pytest.raises(ValueError, match="this memory has a gate"):
        decode_symbols(model, memory.empty(1).coefficients, memory.basis, torch.zeros(1))


@pytest.mark.parametrize("window", [1, 2, 5, 40])
def test_local_shares_against_a_loop(window, generator):
    symbols = torch.randint(22, (3, 19), generator=generator)
    token = torch.tensor([-1.0, 1.0, 1.4, 7.0, 12.6, 19.0, 30.0], dtype=torch.float64)
    shares = local_shares(symbols, token, window)
    for row in range(3):
        for place, middle in enumerate(token.clamp(1, 19).tolist()):
            inside = [symbols[row, i - 1].item() for i in range(1, 20) if abs(i - middle) <= window / 2]
            expected = [inside.count(symbol) / len(inside) for symbol in range(20)]
            assert_close(shares[row, place].tolist(), expected)


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("name", FIXED_OR_SCALED)
def test_retention_is_what_the_weights_of_independent_tokens_foretell(name, parts):
    """Of independent tokens with weights u, a sum over S explains (sum of u over S)^2 / (|S| sum of u^2)."""
    model = trained.load(name).model
    config = model.config.memory
    symbols = torch.randint(20, (400, 160), generator=torch.Generator().manual_seed(1))
    updates = [next_update(config, 32 * k, 32) for k in range(1, 5)]
    operator, edges = token_operator(config, 32, updates), segment_edges(updates)
    size, expected = 32 // parts, []
    for part in range(5 * parts):
        low, high = edges[part // parts], edges[part // parts + 1]
        t = low + (high - low) * (part % parts + (torch.arange(16, dtype=torch.float64) + 0.5) / 16) / parts
        centers = torch.linspace(0, 1, 48, dtype=torch.float64)
        (width,) = config.sigmas
        u = torch.exp(-0.5 * ((t[:, None] - centers) / width) ** 2).mean(0) @ operator.mT
        expected.append(u[part * size : (part + 1) * size].sum() ** 2 / (size * u.square().sum()))
    expected = torch.stack(expected).unflatten(0, (5, parts)).mean(-1)
    assert_close(segment_retention(model, symbols, 32, parts), expected, rtol=0, atol=0.02)


def test_retention_asks_for_whole_segments_and_parts():
    model = trained.load("infinite-former").model
    symbols = torch.zeros(2, 96, dtype=torch.int64)
    with pytest.raises(ValueError, match="whole number of segments of segment_length=36, got 96 tokens"):
        segment_retention(model, symbols, 36)
    with pytest.raises(ValueError, match="parts must be a divisor of segment_length=32, got 5"):
        segment_retention(model, symbols, 32, parts=5)


# --- the ablation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_length", [0, 3, 5, 12])
@torch.no_grad()
def test_a_settled_state_gives_the_same(memory_length, generator):
    model, tokens = make_model(generator, CONFIGS["scaled"], memory_length), random_tokens(generator, 20)
    _, state = read_segments(model, tokens[:, :15])
    settled = settle(model, state)
    assert settled.short_term[0].shape[1] == min(memory_length, 15)
    assert (settled.long_term[0].num_tokens + settled.short_term[0].shape[1]).tolist() == [15] * len(tokens)
    assert_close(model(tokens[:, 15:], settled)[0], model(tokens[:, 15:], state)[0], rtol=0, atol=0)


def test_ablation_against_runs_by_hand():
    model = trained.load("infinite-former").model
    tokens, targets = sorting.sample(5, 204, torch.Generator().manual_seed(2))
    state = settle(model, memorize(model, tokens[:, :192], 32))
    rows = torch.tensor([4, 0, 1, 2, 3])
    others = memorize(model, tokens[rows, :192], 32)
    changed = {
        "own": state,
        "empty": state._replace(long_term=tuple(m.empty(5) for m in model.long_term_memories)),
        "other": state._replace(long_term=settle(model, others).long_term),
    }
    scores = {}
    with torch.no_grad():
        for name, each in changed.items():
            logits, _ = model(tokens[:, 192:], each)
            scores[name] = sorting.accuracy(logits, targets[:, 192:])
            assert_close(answer_accuracy(model, tokens, targets, 32, name), scores[name], rtol=0, atol=1e-6)
    assert scores["own"].mean() > scores["empty"].mean() + 0.2 > scores["other"].mean()
    none = answer_accuracy(model, tokens, targets, 32, "empty", layers=[])
    assert_close(none, scores["own"], rtol=0, atol=1e-6)


def test_answers_must_lie_in_the_last_segment():
    model = trained.load("infinite-former").model
    tokens, targets = sorting.sample(2, 90, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="all answers must lie in the last segment, which starts at token 96"):
        answer_accuracy(model, tokens, targets, 32)


def test_ablation_knows_three_words(without_type_checker):
    model = trained.load("fixed-tau").model
    tokens, targets = sorting.sample(2, 108, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="memory must be 'own', 'empty' or 'other', got 'none'"):
        answer_accuracy(model, tokens, targets, 32, memory="none")
