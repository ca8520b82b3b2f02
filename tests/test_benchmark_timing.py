import os
import time

import pytest
import torch

from infmem.benchmark import timing
from infmem.cost import Cost

CPU = torch.device("cpu")


def test_calls_are_timed_one_by_one(monkeypatch):
    seconds = iter([0.0, 0.004, 0.005, 0.014, 0.016, 0.019])
    monkeypatch.setattr(timing, "mark", lambda device: next(seconds))
    called = []
    assert timing.durations(lambda: called.append(1), CPU, calls=5) == pytest.approx([4, 1, 9, 2, 3])
    assert len(called) == 5


def test_what_takes_long_is_called_less_often(monkeypatch):
    monkeypatch.setattr(timing, "ENOUGH", 0.0)
    assert len(timing.durations(lambda: None, CPU, calls=50)) == 2


def test_a_row_has_the_median_of_timed_calls_only():
    calls = []

    def slower_at_first():
        calls.append(1)
        time.sleep(0.05 if len(calls) <= timing.WARM_UP + 1 else 0.002)

    row = timing.measure(slower_at_first, CPU, calls=3)
    assert len(calls) == timing.WARM_UP + 1 + 3
    lower, upper = row["middle_half"]
    assert 2 <= lower <= row["milliseconds"] <= upper < 40
    assert row["called_milliseconds"] == row["milliseconds"]


def test_one_call_has_no_median():
    with pytest.raises(ValueError, match="calls must be at least 2 for a median and its range, got 1"):
        timing.measure(lambda: None, CPU, calls=1)


def test_the_peak_is_what_lives_at_once_and_nothing_from_before():
    before = torch.ones(1000)

    def one_after_the_other():
        for _ in range(5):
            torch.ones(1000) + before

    def all_at_once():
        return [torch.ones(1000) for _ in range(5)]

    assert timing.peak_bytes(one_after_the_other, CPU) == 2 * before.nbytes
    assert timing.peak_bytes(all_at_once, CPU) == 5 * before.nbytes
    assert timing.peak_bytes(lambda: None, CPU) == 0


def test_measuring_memory_leaves_the_standard_error_as_it_was(capfd):
    timing.peak_bytes(lambda: torch.ones(3), CPU)
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


def test_a_floor_is_the_slowest_part_and_what_is_unknown_is_left_out():
    rates = Cost(products=1000, exponentials=100, bytes=10)
    assert timing.floor_milliseconds(Cost(2000, 300, 10), rates) == 3000
    assert timing.floor_milliseconds(Cost(2000, 300, 10), rates._replace(exponentials=0)) == 2000
    assert timing.floor_milliseconds(Cost(2000, 300, 50), rates) == 5000


def test_rates_of_this_machine_are_those_of_a_machine():
    rates = timing.device_rates(CPU)
    assert rates.products > 1e8 and rates.bytes > 1e8 and rates.exponentials == 0


class Replayed:
    """Stands in for a recording on a machine without a GPU."""

    warm_up, made = 3, []

    def __init__(self, function):
        self.function, self.calls = function, 0
        self.made.append(self)

    def __call__(self):
        self.calls += 1
        self.function()


@pytest.mark.parametrize(("milliseconds", "in_a_row"), [(1.0, 4), (0.01, 20), (10.0, 1), (25.0, None)])
def test_short_work_on_a_gpu_is_recorded_several_times_in_a_row_and_told_for_one(monkeypatch, milliseconds, in_a_row):
    clock, calls = [0.0], []

    def work():
        clock[0] += milliseconds / 1000
        calls.append(1)

    monkeypatch.setattr(Replayed, "made", [])
    for name, stand_in in {
        "Recorded": Replayed,
        "mark": lambda device: clock[0],
        "wait": lambda device: None,
        "peak_bytes": lambda function, device: 3 * 2**20,
        "free_memory": lambda device: None,
    }.items():
        monkeypatch.setattr(timing, name, stand_in)
    row = timing.measure(work, torch.device("cuda"), calls=5)
    assert row["milliseconds"] == row["called_milliseconds"] == pytest.approx(milliseconds)
    assert row["peak_mib"] == 3
    if in_a_row is None:
        assert not Replayed.made and len(calls) == timing.WARM_UP + 5
    else:
        (recorded,) = Replayed.made
        assert recorded.calls == 3 + 1 + timing.WARM_UP + 5
        assert len(calls) == timing.WARM_UP + 5 + recorded.calls * in_a_row
