"""Rows that begin anew while others go on: a row after its reset reads as a fresh model does."""

import dataclasses

import pytest
import torch
from tiny import TINY, tiny_config
from torch.testing import assert_close

from infmem.models.layers import hide_unseen
from infmem.presets import build_model, model_config

BATCH, SEGMENT = 3, 5

MODELS = {
    "window": tiny_config("window").model,
    "transformer-xl": tiny_config("transformer-xl").model,
    "compressive-transformer": model_config("compressive-transformer", TINY, memory_options={"length": 3, "rate": 5}),
    "waiting": model_config("compressive-transformer", TINY, memory_options={"length": 2, "rate": 5}),
    "most_used": model_config(
        "compressive-transformer", TINY, memory_options={"length": 3, "rate": 5, "compression": "most_used"}
    ),
    "infinite-former": tiny_config("infinite-former").model,
    "many_functions": tiny_config("many_functions").model,
    "sampled": tiny_config("sampled").model,
    "fixed": model_config("infinite-former", TINY, "paper"),
}


def build(name: str) -> torch.nn.Module:
    return build_model(dataclasses.replace(MODELS[name], dropout=0.0), seed=5).double().eval()


def read(model, segments, resets=None) -> list[torch.Tensor]:
    """The logits of each segment; `resets` tells which rows begin anew before which segment."""
    state, logits = model.empty(segments.shape[1]), []
    with torch.no_grad():
        for index, segment in enumerate(segments):
            if resets is not None:
                state = state.reset(resets[index])
            scores, state = model(segment, state)
            logits.append(scores)
    return logits


@pytest.mark.parametrize("first", [1, 6])
@pytest.mark.parametrize("name", MODELS)
def test_a_row_after_its_reset_reads_as_a_fresh_one(name, first, generator):
    model = build(name)
    segments = torch.randint(22, (11, BATCH, SEGMENT), generator=generator)
    resets = torch.zeros(11, BATCH, dtype=torch.bool)
    resets[first, 1] = True
    resets[4, 2] = resets[7, 2] = True  # another row goes its own way meanwhile
    found = torch.stack(read(model, segments, resets))
    untouched, fresh = torch.stack(read(model, segments)), torch.stack(read(model, segments[first:, 1:2]))
    assert_close(found[:, 0], untouched[:, 0])
    assert_close(found[:first, 1], untouched[:first, 1])
    assert_close(found[first:, 1], fresh[:, 0])
    assert_close(found[7:, 2], torch.stack(read(model, segments[7:, 2:]))[:, 0])


@pytest.mark.parametrize("name", ["transformer-xl", "compressive-transformer", "infinite-former"])
def test_without_a_reset_a_row_reads_otherwise(name, generator):
    """What the test above finds equal is not equal anyway."""
    model = build(name)
    segments = torch.randint(22, (6, BATCH, SEGMENT), generator=generator)
    fresh = torch.stack(read(model, segments[3:, 1:2]))
    assert (torch.stack(read(model, segments))[3:, 1] - fresh[:, 0]).abs().max() > 1e-3


def test_sticky_memories_of_a_reset_row_are_empty(generator):
    config = model_config("infinite-former", TINY, "paper", {"sticky": "stratified", "num_bins": 7})
    model = build_model(config, seed=5).eval()
    segments, state = torch.randint(22, (7, BATCH, SEGMENT), generator=generator), model.empty(BATCH)
    for index, segment in enumerate(segments):
        state = state.reset(torch.tensor([False, index == 4, False]))
        _, state = model(segment, state, generator=generator)
    assert state.long_term[1].num_tokens.tolist() == [25, 5, 25]  # of 35, and of 15; ten have not left yet
    assert state.num_seen[1] == 15


def test_gradient_does_not_reach_what_was_read_before_the_reset(generator):
    model = build("infinite-former")
    segments, state = torch.randint(21, (5, BATCH, SEGMENT), generator=generator), model.empty(BATCH)
    segments[:3, 1] = 21  # a token of its own
    loss = 0.0
    for index, segment in enumerate(segments):
        state = state.reset(torch.tensor([False, index == 3, False]))
        logits, state = model(segment, state, keep_graph=True)
        loss = loss + (logits[1].sum() if index >= 3 else 0.0)
    loss.backward()
    assert (model.embedding.weight.grad[21] == 0).all()
    assert (model.embedding.weight.grad[:21] != 0).any()


def test_a_reset_within_what_leaves_together_is_refused(generator):
    model = build("infinite-former")
    state = model.empty(1)
    with pytest.raises(ValueError, match="use segments whose length divides memory_length"):
        for _ in range(9):
            _, state = model(torch.zeros(1, 3, dtype=torch.int64), state)
            state = state.reset(torch.tensor([state.num_seen is None]))


def test_counts_of_another_batch_are_refused():
    model = build("transformer-xl")
    state = model.empty(2).reset(torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"state\.num_seen must hold 2 counts"):
        model(torch.zeros(2, 3, dtype=torch.int64), state._replace(num_seen=torch.zeros(3, dtype=torch.int64)))


def test_unseen_scores_are_those_beyond_the_first_token():
    hidden = hide_unseen(torch.zeros(2, 3, 4, 6), torch.tensor([0, 1])) != 0
    for row, seen in enumerate([0, 1]):
        for query in range(4):
            for column in range(6):
                assert bool(hidden[row, 1, query, column]) is (5 - column > query + seen)


@pytest.mark.parametrize("name", ["infinite-former", "many_functions", "sampled"])
def test_a_batch_without_rows_is_written_too(name):
    memory = build(name).long_term_memories[0]
    state = memory.write(torch.ones(0, 5, 12, dtype=torch.float64), memory.empty(0))
    assert state.coefficients.shape[0] == 0 and state.num_tokens.shape == (0,)
