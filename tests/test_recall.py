"""The recall task: streams read by a plain loop, the age of what is asked, and nothing that a GPU must wait for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from infmem.tasks import recall
from infmem.tasks.recall import (
    ASK,
    BLANK,
    EARLY_SLOTS,
    FACT,
    FIRST_KEY,
    FIRST_VALUE,
    NOISE,
    NUM_FACTS,
    NUM_KEYS,
    NUM_VALUES,
    NUM_WANTED,
    SHORTEST,
    VOCAB_SIZE,
)
from infmem.tasks.sorting import IGNORE


def read(tokens: list[int]) -> tuple[dict[int, tuple[int, int]], list[tuple[int, int]]]:
    """Facts by key, as value and position of the key, and questions, as position of the key and key."""
    facts, questions = {}, []
    for start in range(0, len(tokens), 3):
        marker, *rest = tokens[start : start + 3]
        assert marker in (FACT, ASK, NOISE)
        if rest:
            assert FIRST_KEY <= rest[0] < FIRST_VALUE
        if rest[1:]:
            assert rest[1] == BLANK if marker == ASK else FIRST_VALUE <= rest[1] < VOCAB_SIZE
        if marker == FACT:
            assert rest[0] not in facts, "no key has two values"
            facts[rest[0]] = rest[1], start + 1
        if marker == ASK and rest:
            questions.append((start + 1, rest[0]))
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
        assert all(place < 3 * EARLY_SLOTS for _, place in facts.values())
        answers = {place: facts[key][0] for place, key in questions}
        assert all(facts[key][1] < place for place, key in questions), "no fact is asked for before it is stated"
        assert wanted == [answers.get(place, IGNORE) for place in range(length)]
        assert len({key for _, key in questions}) <= NUM_WANTED
        assert questions[-1][0] == (length - 2) // 3 * 3 + 1, "the last slot with room for it asks"
        assert min(answers) >= recall.first_answer(length)


def test_sizes_are_those_of_the_vocabulary() -> None:
    assert VOCAB_SIZE == 4 + NUM_KEYS + NUM_VALUES and recall.CHANCE == 1 / NUM_VALUES
    assert len({FACT, ASK, NOISE, BLANK}) == 4 and max(FACT, ASK, NOISE, BLANK) < FIRST_KEY
    assert NUM_WANTED <= NUM_FACTS <= min(EARLY_SLOTS, NUM_KEYS)


def test_half_of_the_later_slots_ask_and_noise_looks_like_facts(generator) -> None:
    slots = recall.sample(101, 3 * 307, generator)[0].reshape(101, 307, 3)
    late = slots[:, EARLY_SLOTS:-1]
    assert_close((late[..., 0] == ASK).double().mean().item(), recall.ASK_SHARE, atol=0.02, rtol=0)
    noise, facts = (slots[slots[..., 0] == marker] for marker in (NOISE, FACT))
    for part, first, number in ((1, FIRST_KEY, NUM_KEYS), (2, FIRST_VALUE, NUM_VALUES)):
        for found, tolerance in ((noise, 0.02), (facts, 0.06)):
            shares = torch.bincount(found[:, part] - first, minlength=number) / len(found)
            assert_close(shares, torch.full((number,), 1 / number), atol=tolerance, rtol=0)


def test_wanted_facts_are_asked_for_alike_wherever_they_stand(generator) -> None:
    tokens, _ = recall.sample(211, 3 * 103, generator)
    orders = []
    for row in tokens.tolist():
        facts, questions = read(row)
        by_age = sorted(facts, key=lambda key: facts[key][1])
        asked = [by_age.index(key) for key in {key for place, key in questions if place > 3 * EARLY_SLOTS}]
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
        assert found == [facts.get(token, (0, -1))[1] for token in stream]
        expected = [-1] * 211
        for place, key in questions:
            expected[place] = place // unit - facts[key][1] // unit
        assert age == expected
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
    stream: Tensor = torch.tensor([[FACT, FIRST_KEY, FIRST_VALUE]])
    with pytest.raises(ValueError, match="unit must be at least 1 token, got 0"):
        recall.ages(stream, unit=0)
