"""The recall task: streams read by a plain loop, the age of what is asked, and nothing that a GPU must wait for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from infmem.tasks import recall
from infmem.tasks.recall import (
    EARLY,
    FIRST_NOISE,
    FIRST_QUESTION,
    NUM_FACTS,
    NUM_KEYS,
    NUM_VALUES,
    NUM_WANTED,
    SHORTEST,
    VOCAB_SIZE,
)
from infmem.tasks.sorting import IGNORE


def read(tokens: list[int]) -> tuple[dict[int, tuple[int, int]], list[tuple[int, int]]]:
    """Facts by key, as token and place, and questions, as place and key."""
    facts, questions = {}, []
    for place, token in enumerate(tokens):
        assert 0 <= token < VOCAB_SIZE
        if token >= FIRST_QUESTION:
            questions.append((place, token - FIRST_QUESTION))
        elif token < FIRST_NOISE:
            key = next(key for key in range(NUM_KEYS) if token in range(key * NUM_VALUES, (key + 1) * NUM_VALUES))
            assert key not in facts, "no key has two values"
            facts[key] = token, place
    return facts, questions


@given(batch=st.integers(1, 5), length=st.integers(SHORTEST, SHORTEST + 211), seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_a_plain_loop_that_remembers_all_facts_knows_all_answers(batch: int, length: int, seed: int) -> None:
    tokens, targets = recall.sample(batch, length, torch.Generator().manual_seed(seed))
    assert tokens.shape == targets.shape == (batch, length)
    assert tokens.dtype == targets.dtype == torch.int64
    for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
        facts, questions = read(row)
        assert len(facts) == NUM_FACTS
        assert all(place < EARLY for _, place in facts.values())
        answers = {place: facts[key][0] for place, key in questions}
        assert all(facts[key][1] < place for place, key in questions), "no fact is asked for before it is stated"
        assert wanted == [answers.get(place, IGNORE) for place in range(length)]
        assert len({key for _, key in questions}) <= NUM_WANTED
        assert questions[-1][0] == length - 1
        assert min(answers) >= recall.first_answer(length)


def test_sizes_fit_together() -> None:
    assert VOCAB_SIZE == 2 * NUM_KEYS * NUM_VALUES + NUM_KEYS and recall.CHANCE == 1 / NUM_VALUES
    assert NUM_WANTED < NUM_FACTS <= min(EARLY, NUM_KEYS)


def test_half_of_the_later_tokens_ask_and_noise_is_drawn_like_facts(generator) -> None:
    tokens = recall.sample(503, 307, generator)[0]
    late = tokens[:, EARLY:-1]
    assert_close((late >= FIRST_QUESTION).double().mean().item(), recall.QUESTION_SHARE, atol=0.02, rtol=0)
    facts = tokens[tokens < FIRST_NOISE]
    noise = tokens[(tokens >= FIRST_NOISE) & (tokens < FIRST_QUESTION)] - FIRST_NOISE
    for found, tolerance in ((facts, 0.01), (noise, 0.002)):
        shares = torch.bincount(found, minlength=FIRST_NOISE) / len(found)
        assert_close(shares, torch.full((FIRST_NOISE,), 1 / FIRST_NOISE), atol=tolerance, rtol=0)


def test_wanted_facts_are_asked_for_alike_wherever_they_stand(generator) -> None:
    tokens, _ = recall.sample(211, 199, generator)
    orders = []
    for row in tokens.tolist():
        facts, questions = read(row)
        by_age = sorted(facts, key=lambda key: facts[key][1])
        asked = [by_age.index(key) for key in {key for place, key in questions if place >= EARLY}]
        assert len(asked) == NUM_WANTED
        orders += asked
    shares = torch.bincount(torch.tensor(orders), minlength=NUM_FACTS) / len(orders)
    assert_close(shares, torch.full((NUM_FACTS,), 1 / NUM_FACTS), atol=0.08, rtol=0)


@pytest.mark.parametrize("unit", [1, 7, 32, 1000])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_ages_are_those_of_a_plain_loop(unit: int, dtype: torch.dtype, generator) -> None:
    tokens, targets = recall.sample(5, 211, generator)
    places, ages = recall.stated_at(tokens.to(dtype)), recall.ages(tokens.to(dtype), unit)
    for row, (stream, found, age) in enumerate(zip(tokens.tolist(), places.tolist(), ages.tolist(), strict=True)):
        facts, questions = read(stream)
        expected_places, expected_ages = [-1] * 211, [-1] * 211
        for place, key in questions:
            expected_places[place] = facts[key][1]
            expected_ages[place] = place // unit - facts[key][1] // unit
        assert (found, age) == (expected_places, expected_ages)
        assert [value >= 0 for value in age] == [target != IGNORE for target in targets[row].tolist()]


def test_the_same_seed_gives_the_same_data() -> None:
    first, again, other = (recall.sample(3, 203, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert_close(first, again, rtol=0, atol=0)
    assert (first[0] != other[0]).any()


def test_sampling_leaves_the_global_generator_alone(generator) -> None:
    before = torch.random.get_rng_state()
    recall.sample(2, SHORTEST, generator)
    assert_close(torch.random.get_rng_state(), before)


class Operations(TorchDispatchMode):
    """Notes the name of every operation."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        if function.overloadpacket.__name__ == "index":
            assert all(index is None or index.dtype != torch.bool for index in args[1])
        return function(*args, **(kwargs or {}))


WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal", "repeat_interleave"}


def test_no_operation_waits_for_a_gpu(generator) -> None:
    """Sizes that depend on values, and values in Python, would: then the step could not be recorded."""
    with Operations() as operations:
        recall.sample(3, 203, generator)
    assert "scatter" in operations.names and not operations.names & WAITING
    with Operations() as operations:
        torch.arange(3).max().item()
    assert operations.names & WAITING, "has the search for them stopped working?"


def bad_calls() -> list[tuple[str, dict[str, int]]]:
    return [
        ("batch must be at least 1 sequence, got 0", {"batch": 0, "length": 200}),
        (f"length must be at least {SHORTEST} tokens, .* got {SHORTEST - 1}", {"batch": 1, "length": SHORTEST - 1}),
    ]


@pytest.mark.parametrize(("message", "sizes"), bad_calls())
def test_sizes_that_are_too_small_are_named(message: str, sizes: dict[str, int], generator) -> None:
    with pytest.raises(ValueError, match=message):
        recall.sample(generator=generator, **sizes)


def test_a_unit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="unit must be at least 1 token, got 0"):
        recall.ages(torch.tensor([[0, FIRST_QUESTION]]), unit=0)


def test_a_question_without_a_fact_has_no_age() -> None:
    stream = torch.tensor([[FIRST_QUESTION, NUM_VALUES + 2, FIRST_QUESTION, FIRST_QUESTION + 1]])
    assert recall.stated_at(stream).tolist() == [[-1, -1, -1, 1]]
    assert recall.ages(stream).tolist() == [[-1, -1, -1, 2]]
