"""Reading many segments at once leaves the same state as reading them one after another."""

import dataclasses

import pytest
import torch
from test_compressive import COMPRESSIONS
from test_compressive import MEMORY as COMPRESSED
from test_compressive import make_model as make_compressive
from test_infinite_former import PRESETS
from test_infinite_former import make_model as make_infinite_former
from test_memory import randomize
from test_transformer_xl import BATCH, POS, SIZES, random_tokens
from test_transformer_xl import make_model as make_transformer_xl
from tiny import tiny_config
from torch.testing import assert_close

from infmem import CompressedMemoryConfig, TransformerXL, WindowTransformer, WindowTransformerConfig
from infmem.models import parallel
from infmem.models.parallel import memorize
from infmem.models.transformer_xl import ModelState
from infmem.presets import build_model

SHARED_QUERY = dataclasses.replace(PRESETS["best"], own_query=False)
CASES = [
    *((f"transformer-xl-{length}", length, None) for length in (0, 3, POS, 7, 2 * POS, 13)),
    *((f"infinite-former-{length}", length, PRESETS["best"]) for length in (0, 3, POS, 7, 2 * POS, 13)),
    *((f"infinite-former-{name}", 7, PRESETS[name]) for name in ("paper", "released", "sampled", "shared")),
    ("infinite-former-shared-query", POS, SHARED_QUERY),
    *((f"compressive-{length}", length, COMPRESSED) for length in (0, 3, POS, 7, 2 * POS, 13)),
    *((f"compressive-{name}", 7, dataclasses.replace(COMPRESSED, compression=name)) for name in COMPRESSIONS),
    *((f"compressive-rate-{rate}", 7, dataclasses.replace(COMPRESSED, rate=rate)) for rate in (1, POS, 7)),
    ("compressive-without-room", 7, dataclasses.replace(COMPRESSED, length=0)),
    ("compressive-reconstructing", 7, dataclasses.replace(COMPRESSED, loss="attention_reconstruction")),
    ("window", 0, "window"),
]


def make_model(memory_length, memory, generator: torch.Generator) -> TransformerXL:
    if memory is None:
        return make_transformer_xl(generator, memory_length, num_layers=3)
    if memory == "window":
        return randomize(WindowTransformer(WindowTransformerConfig(**SIZES)).double(), generator)
    if isinstance(memory, CompressedMemoryConfig):
        return make_compressive(generator, memory, memory_length, num_layers=3)
    return make_infinite_former(generator, memory, memory_length, num_layers=3)


def assert_same_state(actual: ModelState, expected: ModelState) -> None:
    """The same memories; the auxiliary loss of the last segment is not carried further."""
    for actual_part, expected_part in zip(actual[:2], expected[:2], strict=True):
        assert_close(actual_part, expected_part, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("memory_length, memory", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@torch.no_grad()
def test_memorize_equals_the_loop_over_segments(memory_length, memory, generator) -> None:
    model, tokens = make_model(memory_length, memory, generator), random_tokens(generator, 8 * POS)
    state = model.empty(BATCH)
    for num_segments in range(8):
        assert_same_state(memorize(model, tokens[:, : num_segments * POS], POS), state)
        _, state = model(tokens[:, num_segments * POS : (num_segments + 1) * POS], state)


@pytest.mark.parametrize("segment_length", [1, 2, 12])
@torch.no_grad()
def test_memorize_equals_the_loop_for_other_segments(segment_length, generator) -> None:
    model, tokens = make_model(7, PRESETS["best"], generator), random_tokens(generator, 24)
    state = None
    for segment in tokens.split(segment_length, dim=1):
        _, state = model(segment, state)
    assert_same_state(memorize(model, tokens, segment_length), state)


@pytest.mark.parametrize("method", ["stratified", "iid"])
@torch.no_grad()
def test_memorize_reads_a_sticky_memory_in_order(method, generator) -> None:
    model = make_model(7, dataclasses.replace(PRESETS["paper"], sticky=method), generator)
    tokens, state, same_draws = random_tokens(generator, 6 * POS), None, torch.Generator().manual_seed(1)
    for segment in tokens.split(POS, dim=1):
        _, state = model(segment, state, generator=same_draws)
    memorized = memorize(model, tokens, POS, generator=torch.Generator().manual_seed(1))
    assert_same_state(memorized, state)
    other = memorize(model, tokens, POS, generator=torch.Generator().manual_seed(2))
    assert (other.long_term[0].coefficients - memorized.long_term[0].coefficients).abs().max() > 1e-6


@pytest.mark.parametrize(
    "memory", [None, PRESETS["best"], COMPRESSED], ids=["transformer-xl", "infinite-former", "compressive"]
)
def test_memorize_leaves_no_gradient(memory, generator) -> None:
    model = make_model(3, memory, generator)
    state = memorize(model, random_tokens(generator, 4 * POS), POS)
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in state.short_term)
    tensors = [*state.short_term, state.auxiliary_loss, *(memory[0] for memory in state.long_term)]
    assert not any(tensor.requires_grad for tensor in tensors)
    model(random_tokens(generator, POS), state)[0].sum().backward()
    assert model.embedding.weight.grad.any()


@pytest.mark.parametrize("segment_length, num_tokens", [(5, 12), (5, 3), (0, 10), (-5, 10)])
def test_memorize_refuses_anything_but_whole_segments(segment_length, num_tokens, generator) -> None:
    message = f"a whole number of segments of segment_length={segment_length}, got {num_tokens}"
    with pytest.raises(ValueError, match=message):
        memorize(make_model(3, None, generator), random_tokens(generator, num_tokens), segment_length)


def test_memorize_refuses_bad_tokens(generator) -> None:
    tokens = random_tokens(generator, 2 * POS)
    for bad, message in [
        (tokens.float(), "tokens must be a tensor of type int, got torch.float32"),
        (tokens[0], "tokens must have the axes .* got 1 axes"),
    ]:
        with pytest.raises(ValueError, match=message):
            memorize(make_model(3, None, generator), bad, POS)


@pytest.mark.parametrize("model", ["infinite-former", "compressive-transformer", "transformer-xl"])
def test_rows_are_read_a_few_at_a_time_when_there_is_too_much(model, monkeypatch, generator) -> None:
    built = build_model(tiny_config(model).model).double().eval()
    tokens = torch.randint(0, 22, (5, 4 * 7), generator=generator)
    whole = memorize(built, tokens, 7)
    monkeypatch.setattr(parallel, "MOST_TOKENS", 2 * 4 * 7)  # two rows
    parts = memorize(built, tokens, 7)
    assert_close(parts.short_term, whole.short_term, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(parts.long_term, whole.long_term, strict=True):
        assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
