import math

import pytest
import torch
from tiny import tiny_language_config, tiny_tokens
from torch.nn import functional
from torch.testing import assert_close

from infmem.language.evaluation import (
    EDGES,
    Costs,
    by_position,
    evaluate_language,
    load_costs,
    perplexity_interval,
    perplexity_ratio,
    position_range,
    save_costs,
    with_memory,
)
from infmem.presets import build_model

TOKENS = tiny_tokens()
DOCUMENTS = TOKENS.splits["train"]
OPTIONS = {"segment_length": 4, "document_token": TOKENS.document_token}


def build(name: str = "infinite-former") -> torch.nn.Module:
    """A model whose memory is heard, as it is once it was trained."""
    model = build_model(tiny_language_config(name).model, seed=5)
    if name == "infinite-former":
        for memory in model.long_term_memories:
            torch.nn.init.ones_(memory.head_scale)
    return model


def costs_alone(model, without_memory: bool = False) -> torch.Tensor:
    """What each document costs when it is read by itself, segment by segment."""
    nats, model = [], model.eval()
    with torch.no_grad():
        for start, end in zip(DOCUMENTS.starts[:-1], DOCUMENTS.starts[1:], strict=True):
            targets = DOCUMENTS.tokens[start:end].long()[None]
            tokens = torch.cat([torch.full((1, 1), TOKENS.document_token), targets[:, :-1]], dim=1)
            state, total = None, 0.0
            for segment, asked in zip(tokens.split(4, 1), targets.split(4, 1), strict=True):
                given = with_memory(model, state, "off") if without_memory and state else state
                total += functional.cross_entropy(model(segment, given)[0][0], asked[0], reduction="sum").item()
                state = model(segment, state)[1]
            nats.append(total)
    return torch.tensor(nats, dtype=torch.float64)


@pytest.mark.parametrize("name", ["window", "transformer-xl", "compressive-transformer", "infinite-former"])
def test_costs_are_those_of_each_document_read_alone(name):
    model = build(name)
    costs = evaluate_language(model, DOCUMENTS, batch_size=5, **OPTIONS)["on"]
    assert model.training, "the model is left as it was"
    alone = costs_alone(model)
    assert_close(costs.nats.sum(1), alone, rtol=1e-4, atol=1e-4)
    assert torch.equal(costs.num_tokens.sum(1), DOCUMENTS.lengths.double())
    assert costs.perplexity == pytest.approx(math.exp(alone.sum() / DOCUMENTS.lengths.sum()), rel=1e-4)
    assert costs.bits_per_byte == pytest.approx(
        (alone.sum() / DOCUMENTS.num_bytes.sum()).item() / math.log(2), rel=1e-4
    )


@pytest.mark.parametrize("name", ["compressive-transformer", "infinite-former"])
def test_memory_that_is_off_or_shuffled_changes_what_is_far_from_the_start_alone(name):
    model = build(name)
    costs = evaluate_language(model, DOCUMENTS, batch_size=5, memories=("off", "on", "shuffled"), **OPTIONS)
    assert_close(costs["off"].nats.sum(1), costs_alone(model, without_memory=True), rtol=1e-4, atol=1e-4)
    short = DOCUMENTS.lengths <= 8  # two segments: nothing has left the short-term memory
    for use in ("off", "shuffled"):
        assert_close(costs[use].nats[short], costs["on"].nats[short])
        assert (costs[use].nats[~short] - costs["on"].nats[~short]).abs().max() > 1e-3


def test_shuffled_memory_holds_nothing_of_the_row_itself(generator):
    """What a row reads does not depend on its own distant past, but on that of the row before."""
    model = build().eval()
    segments, state = torch.randint(30, (7, 2, 4), generator=generator), model.empty(2)
    for segment in segments[:-1]:
        state = model(segment, state)[1]
    shuffled = with_memory(model, state, "shuffled")
    with torch.no_grad():
        wanted = model(segments[-1], shuffled)[0]
        for row, follows in ((0, 1), (1, 0)):
            changed = tuple(
                memory._replace(coefficients=memory.coefficients.index_fill(0, torch.tensor([row]), 7.0))
                for memory in state.long_term
            )
            leaving = tuple(memory.clone() for memory in state.short_term)
            for memory in leaving:
                memory[row, :4] = 7.0
            other = state._replace(long_term=changed, short_term=leaving)
            found = model(segments[-1], with_memory(model, other, "shuffled"))[0]
            assert torch.equal(found[row], wanted[row])
            assert not torch.allclose(found[follows], wanted[follows])


def test_a_model_without_long_term_memory_or_one_row_is_refused():
    model = build("transformer-xl")
    with pytest.raises(ValueError, match="this model has no long-term memory"):
        with_memory(model, model.empty(2), "off")
    model = build()
    with pytest.raises(ValueError, match="one row has nobody to change its memory with"):
        with_memory(model, model.empty(1), "shuffled")
    with pytest.raises(ValueError, match="at least 2 documents"):
        evaluate_language(model, DOCUMENTS.some([3]), **OPTIONS)


def test_ranges_double_and_the_last_has_no_end():
    assert position_range(torch.tensor([0, 63, 64, EDGES[-1] - 1, EDGES[-1]])).tolist() == [0, 0, 1, 10, 11]


def made_up_costs(factor: float = 1.0) -> Costs:
    num_tokens = torch.zeros(7, len(EDGES) + 1, dtype=torch.float64)
    num_tokens[:, 0], num_tokens[::2, 1] = 64, torch.tensor([5.0, 7.0, 11.0, 13.0])
    each = torch.linspace(1, 2, 7, dtype=torch.float64)[:, None] + math.log(factor)
    return Costs(each * num_tokens, num_tokens, torch.full((7,), 99.0, dtype=torch.float64), tuple("abcdefg"))


def test_ratios_are_paired_and_intervals_hold_what_they_are_of():
    """A model that is worse by the same factor everywhere is so in each draw; its own interval is far wider."""
    costs, worse = made_up_costs(), made_up_costs(1.1)
    assert perplexity_ratio(worse, costs) == pytest.approx((1.1, 1.1, 1.1))
    low, high = perplexity_interval(costs)
    assert low < costs.perplexity < high and high / low > 1.3
    with pytest.raises(ValueError, match="evaluated on other documents"):
        perplexity_ratio(costs, Costs(costs.nats, costs.num_tokens, costs.num_bytes, tuple("abcdefx")))


def test_positions_are_those_that_a_document_reaches():
    rows = by_position(made_up_costs())
    assert [(row["start"], row["end"], row["num_documents"], row["num_tokens"]) for row in rows] == [
        (0, 64, 7, 448),
        (64, 128, 4, 36),
    ]
    wanted = (5 * 1 + 7 * (4 / 3) + 11 * (5 / 3) + 13 * 2) / 36
    assert rows[1]["ppl"] == pytest.approx(math.exp(wanted))
    assert all(row["low"] <= row["ppl"] <= row["high"] for row in rows)


def test_costs_can_be_kept(tmp_path):
    save_costs(tmp_path / "costs", made_up_costs())
    found = load_costs(tmp_path / "costs")
    assert found.names == tuple("abcdefg") and torch.equal(found.nats, made_up_costs().nats)
    with pytest.raises(ValueError, match="there are no costs at"):
        load_costs(tmp_path / "nothing")
