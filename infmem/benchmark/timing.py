"""Timing work that a device may do later than it is asked for: medians of many calls, and the memory that one needs."""

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch

from infmem.cost import Cost
from infmem.fast import Recorded
from infmem.validation import require

# Calls before the timed ones: they compile, fill caches of operators, and let PyTorch settle its memory.
WARM_UP = 3
# Above so many milliseconds the time between two kernels no longer matters, so nothing is recorded.
LONG = 20.0
# Milliseconds that one replay of a recording should take, of a function that is shorter.
REPLAY = 4.0
# Seconds after which no further call of the same function is begun.
ENOUGH = 4.0


@contextmanager
def tensor_float_32() -> Iterator[None]:
    """Products of float32 numbers with 10 bits after the first digit, which GPUs are several times faster at.

    Example:
        >>> with tensor_float_32():
        ...     print(torch.get_float32_matmul_precision())
        high
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def mark(device: torch.device) -> torch.cuda.Event | float:
    """A point in time: on a GPU, in the order of its work, so that nothing has to be waited for."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(earlier: torch.cuda.Event | float, later: torch.cuda.Event | float) -> float:
    """Milliseconds from one mark to the next."""
    return (later - earlier) * 1000 if isinstance(earlier, float) else earlier.elapsed_time(later)


def wait(device: torch.device) -> None:
    """Until the device has done everything that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(milliseconds: Sequence[float]) -> dict[str, float | list[float]]:
    """The median and the range that holds the middle half.

    Example:
        >>> spread([4.0, 1.0, 9.0, 2.0, 3.0])
        {'milliseconds': 3.0, 'middle_half': [1.5, 6.5]}
    """
    lower, median, upper = statistics.quantiles(milliseconds, n=4)
    return {"milliseconds": round(median, 5), "middle_half": [round(lower, 5), round(upper, 5)]}


def durations(function: Callable[[], Any], device: torch.device, calls: int) -> list[float]:
    """Milliseconds of each of some calls; fewer, but two at least, where they take long."""
    began, marks = time.perf_counter(), [mark(device)]
    while len(marks) <= 2 or (len(marks) <= calls and time.perf_counter() - began < ENOUGH):
        function()
        marks.append(mark(device))
        if len(marks) % 8 == 0:
            wait(device)  # else a slow device is asked for far more than it has done
    wait(device)
    return [between(*pair) for pair in pairwise(marks)]


def measure(function: Callable[[], Any], device: torch.device, calls: int = 50) -> dict[str, Any]:
    """Time a function that always does the same, and what memory it needs besides its inputs.

    On a GPU a short function is recorded as a CUDA graph and replayed several times in a row, so that what is timed is
    the work and not the time between two launches. What it reads then stays in the GPU's cache where it fits there.

    Args:
        function: what to time; on a GPU it must not wait for the device.
        device: where it works.
        calls: how many are timed.

    Returns:
        `milliseconds` of a call, the median, and its `middle_half`; `called_milliseconds`, the median when it is called
        from Python each time, which on a CPU is the same; `peak_mib`, the largest memory beyond what was there before.

    Raises:
        ValueError: if there is nothing to take a median of.

    Example:
        >>> row = measure(lambda: torch.ones(2**18).exp(), torch.device("cpu"), calls=3)
        >>> row["peak_mib"], row["milliseconds"] > 0
        (2.0, True)
    """
    require(calls >= 2, f"calls must be at least 2 for a median and its range, got {calls}")
    for _ in range(WARM_UP):
        function()
    peak = peak_bytes(function, device)
    timed = called = spread(durations(function, device, calls))
    if device.type == "cuda" and called["milliseconds"] < LONG:
        in_a_row = max(1, min(20, round(REPLAY / max(called["milliseconds"], 1e-3))))
        recorded = Recorded(partial(_repeated, function, in_a_row))
        for _ in range(recorded.warm_up + 1 + WARM_UP):
            recorded()
        timed = spread([duration / in_a_row for duration in durations(recorded, device, calls)])
        del recorded
    free_memory(device)
    return timed | {"called_milliseconds": called["milliseconds"], "peak_mib": round(peak / 2**20, 2)}


def _repeated(function: Callable[[], Any], count: int) -> Any:
    for _ in range(count - 1):
        function()
    return function()


def free_memory(device: torch.device) -> None:
    """Give back what nothing refers to any more; a CPU's memory goes back by itself."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def peak_bytes(function: Callable[[], Any], device: torch.device) -> int:
    """Largest memory that a call holds beyond what was held before, its result included.

    Example:
        >>> peak_bytes(lambda: torch.ones(1000) + torch.ones(1000), torch.device("cpu")) // 4000
        3
    """
    if device.type == "cuda":
        wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    on_cpu = [torch.profiler.ProfilerActivity.CPU]
    with _silenced(), torch.profiler.profile(activities=on_cpu, profile_memory=True) as profile:
        function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes), default=0)


@contextmanager
def _silenced() -> Iterator[None]:
    """Nothing on the standard error: PyTorch's profiler tells there when it starts and stops."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def device_rates(device: torch.device) -> Cost:
    """What the device does in a second at its best, measured: the yardstick of every floor.

    Returns:
        Operations of a large product in bfloat16 on a GPU and float32 on a CPU; exponentials as many as the special
        function units of a GPU make (0, unknown, on a CPU); bytes of a large copy, read and written.
    """
    on_gpu = device.type == "cuda"
    size, dtype = (8192, torch.bfloat16) if on_gpu else (1024, torch.float32)
    matrix, block = (
        torch.ones(size, size, device=device, dtype=dtype),
        torch.ones(2**28 if on_gpu else 2**24, device=device),
    )
    target, exponentials = torch.empty_like(block), 0
    product = min(durations(lambda: matrix @ matrix, device, 10)) / 1000
    copy = min(durations(lambda: target.copy_(block), device, 10)) / 1000
    if on_gpu:
        properties = torch.cuda.get_device_properties(device)
        hertz = 1000 * getattr(properties, "clock_rate", 0)  # the largest, in kHz; older versions of PyTorch do not say
        exponentials = (
            16 * properties.multi_processor_count * hertz
        )  # CUDA C++ Programming Guide, arithmetic throughput
    return Cost(round(2 * size**3 / product), exponentials, round(2 * block.nbytes / copy))


def floor_milliseconds(cost: Cost, rates: Cost) -> float:
    """The time below which nothing that does this work can go: its slowest part at the device's best.

    Example:
        >>> rates = Cost(products=1000, exponentials=0, bytes=2000)
        >>> floor_milliseconds(Cost(products=10, exponentials=7, bytes=40), rates)
        20.0
    """
    return round(1000 * max(work / rate for work, rate in zip(cost, rates, strict=True) if rate), 5)
