"""The sorting task: targets and their rules, drifting data, the metric, and the lines that counting by hand draws."""

import math

import oracles
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from infmem.tasks import sorting
from infmem.tasks.sorting import IGNORE, NUM_SYMBOLS, SEPARATOR


def drawn(generator: torch.Generator, batch: int, length: int) -> Tensor:
    return sorting.sample(batch, length, generator)[0][:, :length]


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 3, 11, 61, 997])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_sorted_symbols_equal_repeated_selection(length, dtype, generator) -> None:
    symbols = torch.randint(NUM_SYMBOLS, (23, length), generator=generator, dtype=dtype)  # if short: many ties and gaps
    expected = torch.tensor([oracles.sorting_target(row) for row in symbols])
    assert_close(sorting.sorted_symbols(symbols), expected)


@pytest.mark.parametrize(
    "symbols, first",
    [
        ([7, 2, 2, 7, 5], [7, 2, 5, 0, 1]),  # a tie goes to the first occurrence, not to the smaller symbol
        ([2, 7, 7, 2, 5], [2, 7, 5, 0, 1]),
        ([19, 0], [19, 0, 1, 2, 3]),
        ([19], [19, 0, 1, 2, 3]),  # absent symbols come in numeric order
        ([1, 3, 3, 3, 1], [3, 1, 0, 2, 4]),
    ],
)
def test_ties_and_absent_symbols(symbols, first) -> None:
    assert sorting.sorted_symbols(torch.tensor([symbols]))[0, :5].tolist() == first


@pytest.mark.parametrize("length", [1, 7, 101])
def test_tokens_and_targets_are_teacher_forced(length, generator) -> None:
    tokens, targets = sorting.sample(3, length, generator)
    assert tokens.shape == targets.shape == (3, length + NUM_SYMBOLS)
    assert tokens.dtype == targets.dtype == torch.int64
    answer = torch.tensor([oracles.sorting_target(row) for row in tokens[:, :length]])
    assert (tokens[:, :length] < NUM_SYMBOLS).all() and (tokens[:, :length] >= 0).all()
    assert (tokens[:, length] == SEPARATOR).all() and (targets[:, :length] == IGNORE).all()
    assert_close(targets[:, length:], answer)
    assert_close(tokens[:, length + 1 :], answer[:, :-1])
    assert SEPARATOR == 20 and sorting.PADDING == 21 and sorting.VOCAB_SIZE == 22


def test_counts_leave_out_what_is_no_symbol(generator) -> None:
    tokens = torch.randint(-3, 25, (5, 211), generator=generator)
    expected = [[row.count(symbol) for symbol in range(NUM_SYMBOLS)] for row in tokens.tolist()]
    assert sorting.count_symbols(tokens).tolist() == expected


# --- data -------------------------------------------------------------------------------------------------------------


def test_symbols_drift_from_the_first_probabilities_to_the_second() -> None:
    length, batch, seed = 40_000, 3, 5
    weights = torch.randint(1, 10, (2, batch, NUM_SYMBOLS), generator=torch.Generator().manual_seed(seed)).double()
    first, last = weights / weights.sum(-1, keepdim=True)  # the first that `sample` draws
    symbols = drawn(torch.Generator().manual_seed(seed), batch, length)
    assert weights.unique().tolist() == list(range(1, 10))
    for number in range(5):  # fifths of the sequence; the middle of one is at (number + 1/2) / 5
        part = symbols[:, number * length // 5 : (number + 1) * length // 5]
        share = (number + 0.5) / 5
        frequencies = sorting.count_symbols(part) / part.shape[1]
        assert_close(frequencies.double(), (1 - share) * first + share * last, rtol=0, atol=0.01)
    assert (first - last).abs().max() > 0.03


def test_the_first_symbol_is_always_from_the_start() -> None:
    batch, seed = 5000, 7
    weights = torch.randint(1, 10, (2, batch, NUM_SYMBOLS), generator=torch.Generator().manual_seed(seed)).double()
    first, last = weights / weights.sum(-1, keepdim=True)
    symbols = drawn(torch.Generator().manual_seed(seed), batch, 2)
    likely = first.gather(1, symbols).mean(dim=0)  # higher where symbols follow these probabilities
    expected = torch.stack([(first * first).sum(-1), ((first + last) / 2 * first).sum(-1)]).mean(dim=1)
    assert_close(likely, expected, rtol=0, atol=0.0015)
    assert expected[0] - expected[1] > 0.005


def test_the_same_seed_gives_the_same_data() -> None:
    first, again, other = (sorting.sample(2, 101, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert_close(first, again, rtol=0, atol=0)
    assert (first[0] != other[0]).any()


def test_sampling_leaves_the_global_generator_alone(generator) -> None:
    before = torch.random.get_rng_state()
    sorting.sample(2, 11, generator)
    assert_close(torch.random.get_rng_state(), before)


# --- metric -----------------------------------------------------------------------------------------------------------


def test_accuracy_counts_the_targets_that_there_are(generator) -> None:
    targets = torch.randint(7, (5, 13), generator=generator)
    targets[:, :6] = IGNORE
    guesses = torch.where(torch.rand(5, 13, generator=generator) < 0.5, targets.clamp(min=0), (targets + 1).clamp(0, 6))
    logits = torch.nn.functional.one_hot(guesses, 7).float() + 0.1 * torch.rand(5, 13, 7, generator=generator)
    expected = [
        sum(guess == target for guess, target in zip(row, truth, strict=True) if target != IGNORE) / 7
        for row, truth in zip(guesses.tolist(), targets.tolist(), strict=True)
    ]
    assert_close(sorting.accuracy(logits, targets), torch.tensor(expected))


def test_accuracy_of_the_answer_is_one(generator) -> None:
    _, targets = sorting.sample(3, 11, generator)
    logits = torch.nn.functional.one_hot(targets.clamp(min=0), sorting.VOCAB_SIZE).float()
    assert sorting.accuracy(logits, targets).tolist() == [1.0] * 3


@pytest.mark.parametrize("window", [None, 1, 17, 60, 101])
def test_counting_accuracy_equals_the_expectation_by_hand(window, generator) -> None:
    length = 101
    symbols = drawn(generator, 7, length)
    first_seen = torch.full((NUM_SYMBOLS,), 0 if window is None else length - window)
    each = sorting.counting_accuracy(symbols, first_seen)
    for row, actual in zip(symbols, each, strict=True):
        assert math.isclose(actual.item(), oracles.reference_accuracy([row], window), abs_tol=1e-6)


def test_counting_accuracy_of_answers_that_see_different_windows(generator) -> None:
    length, symbols = 53, drawn(generator, 3, 53)
    seen_from = torch.tensor([0] * 7 + [30] * 11 + [length] * 2)
    expected = torch.zeros(3)
    for row, symbol_row in enumerate(symbols.tolist()):
        answer = oracles.sorting_target(symbol_row)
        for step, start in enumerate(seen_from.tolist()):
            counts = {symbol: symbol_row[start:].count(symbol) for symbol in answer[step:]}
            candidates = [symbol for symbol in counts if counts[symbol] == max(counts.values())]
            expected[row] += (answer[step] in candidates) / len(candidates) / NUM_SYMBOLS
    assert_close(sorting.counting_accuracy(symbols, seen_from), expected)


def test_chance_is_known_exactly(generator) -> None:
    chance = sorting.counting_accuracy(drawn(generator, 3, 97), torch.full((NUM_SYMBOLS,), 97))
    assert_close(chance, torch.full((3,), sum(1 / k for k in range(1, NUM_SYMBOLS + 1)) / NUM_SYMBOLS))


@pytest.mark.parametrize(
    "length, window, expected",
    [
        (1000, 1000, 0.941),
        (2000, 2000, 0.969),
        (4000, 4000, 0.983),
        (1000, 900, 0.699),
        (2000, 900, 0.425),
        (4000, 1024, 0.362),
        (4000, 2048, 0.4485),
        (4000, 3072, 0.602),
        (4000, 2000, 0.451),
        (8000, 1024, 0.341),
    ],
)
def test_reference_lines_of_windows(length, window, expected) -> None:
    symbols = drawn(torch.Generator().manual_seed(0), 400, length)  # their own noise is about 0.004
    line = sorting.counting_accuracy(symbols, torch.full((NUM_SYMBOLS,), length - window)).mean().item()
    assert math.isclose(line, expected, abs_tol=0.015)


@pytest.mark.parametrize(
    "length, memory_length, last_segment, receptive_field, exact_counts",
    [(4000, 1024, 0.366, 0.986, 0.983), (8000, 1024, 0.337, 0.451, 0.992)],
)
def test_reference_lines_of_segments(length, memory_length, last_segment, receptive_field, exact_counts) -> None:
    same_draws = torch.Generator().manual_seed(0)
    lines = sorting.reference_lines(length, 1024, 3, memory_length, same_draws, num_sequences=300)
    assert math.isclose(lines.chance, 0.18, abs_tol=0.001)
    assert math.isclose(lines.last_segment, last_segment, abs_tol=0.015)
    assert math.isclose(lines.receptive_field, receptive_field, abs_tol=0.015)
    assert math.isclose(lines.exact_counts, exact_counts, abs_tol=0.015)


def test_reference_lines_follow_their_definitions() -> None:
    lines = sorting.reference_lines(131, 17, 2, 11, torch.Generator().manual_seed(2), num_sequences=5)
    symbols = drawn(torch.Generator().manual_seed(2), 5, 131)
    for actual, first_seen in [
        (lines.last_segment, sorting.first_visible(131, 17, 1, 0)),
        (lines.receptive_field, sorting.first_visible(131, 17, 2, 11)),
        (lines.exact_counts, torch.zeros(NUM_SYMBOLS, dtype=torch.int64)),
    ]:
        assert math.isclose(actual, sorting.counting_accuracy(symbols, first_seen).mean().item(), abs_tol=1e-7)


# --- what can be seen -------------------------------------------------------------------------------------------------


def first_visible_by_search(length: int, segment: int, num_layers: int, memory: int, answer: int) -> int:
    """Follow every connection back from an answer, layer by layer, and take the earliest token that is reached."""
    reached = {length + answer}
    for _ in range(num_layers):
        # A position sees its segment up to itself, and the `memory` positions before the segment.
        reached = {key for pos in reached for key in range(max(0, pos - pos % segment - memory), pos + 1)}
    return min(min(reached), length)


@pytest.mark.parametrize("segment", [1, 4, 5, 13, 64])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_first_visible_equals_a_search(segment, num_layers) -> None:
    for length in (1, 10, 31, 32, 45):
        for memory in (0, 1, 3, 5, 7, 12, 100):
            expected = [first_visible_by_search(length, segment, num_layers, memory, answer) for answer in range(20)]
            actual = sorting.first_visible(length, segment, num_layers, memory)
            assert actual.tolist() == expected, (length, memory)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch, length, message",
    [(0, 5, "batch must be at least 1 sequence, got 0"), (2, 0, "length must be at least 1 symbol, got 0")],
)
def test_empty_data_are_refused(batch, length, message, generator) -> None:
    with pytest.raises(ValueError, match=message):
        sorting.sample(batch, length, generator)


BAD_TENSORS = [
    (sorting.sorted_symbols, (torch.zeros(2, 0, dtype=torch.int64),), "symbols must hold at least one position"),
    (sorting.sorted_symbols, (torch.zeros(5, dtype=torch.int64),), "symbols must have the axes .* got 1 axes"),
    (sorting.sorted_symbols, (torch.zeros(2, 5),), "symbols must be a tensor of type int, got torch.float32"),
    (sorting.count_symbols, (torch.zeros(2, 5),), "symbols must be a tensor of type int, got torch.float32"),
    (
        sorting.accuracy,
        (torch.zeros(2, 5, 3), torch.zeros(2, 7, dtype=torch.int64)),
        "targets must have the axes .* with pos = 5, got pos = 7",
    ),
    (
        sorting.accuracy,
        (torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.int64)),
        "logits must be a tensor of type float",
    ),
    (
        sorting.counting_accuracy,
        (torch.zeros(2, 5, dtype=torch.int64), torch.zeros(20, 1, dtype=torch.int64)),
        "first_seen must have the axes .* got 2 axes",
    ),
]


@pytest.mark.parametrize("function, tensors, message", BAD_TENSORS, ids=[message for *_, message in BAD_TENSORS])
def test_bad_tensors_are_refused(function, tensors, message) -> None:
    with pytest.raises(ValueError, match=message):
        function(*tensors)


def test_segments_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="segment_length must be at least 1 token, got 0"):
        sorting.first_visible(10, 0, 3, 5)


@pytest.mark.parametrize(("num_layers", "memory_length"), [(1, 0), (1, 5), (3, 5), (2, 17)])
def test_even_attention_counts_by_products_of_attention_matrices(num_layers, memory_length):
    length, segment_length = 23, 7
    attention = torch.zeros(length + 20, length + 20, dtype=torch.float64)
    for position in range(length + 20):
        seen = range(max(0, position // segment_length * segment_length - memory_length), position + 1)
        for other in seen:
            attention[position, other] = 1 / len(seen)
    expected = torch.linalg.matrix_power(attention, num_layers)[length:, :length]
    found = sorting.even_attention_weights(length, segment_length, num_layers, memory_length)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_equal_weights_count_as_counting_does(generator):
    symbols = drawn(generator, 11, 131)
    first_seen = torch.arange(20) * 5
    weights = (torch.arange(131) >= first_seen[:, None]).double()
    assert_close(sorting.weighted_counting_accuracy(symbols, weights), sorting.counting_accuracy(symbols, first_seen))
    everything = sorting.counting_accuracy(symbols, first_seen * 0)
    assert not torch.equal(sorting.weighted_counting_accuracy(symbols, weights), everything)
