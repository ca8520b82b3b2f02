"""A soak: read for so long that whatever grows, drifts or breaks slowly would show.

Every model reads an endless stream of tokens, and every memory an endless stationary signal. What they keep must stay
as large, what they read must stay the same on average, and no number may stop being one.
"""

import copy
import dataclasses
import gc
import os
import statistics
import time
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from infmem.benchmark.stream import PRECISION, bytes_of, tensors_of
from infmem.benchmark.timing import between, mark, wait
from infmem.memory import LongTermMemory, MemoryConfig
from infmem.models.transformer_xl import TransformerXL
from infmem.presets import MODEL_NAMES, ModelConfig, Preset, build_model, model_config
from infmem.training import autocast
from infmem.validation import require

# Updates that an average is taken over, and how far it may be off after any number of further updates.
WINDOW, TOLERANCE = 100, 0.01
# What a process may grow by without anything leaking, the allocator's own play: a million tokens have taken 3 MiB.
# What a GPU has allocated is exact.
PLAY_MIB, PLAY_GPU_MIB = 16.0, 1.0
# Segments between two looks at the clock, the fewest looks for a median, and how much longer a segment may take.
TOGETHER, LOOKS, LONGER = 8, 16, 1.25

# Rows that are averaged over: what independent draws make of few rows differs by 1 % by chance.
ROWS = {"sticky, iid": 256}
STICKY = {
    "sticky, stratified": {"sticky": "stratified"},
    "sticky, iid": {"sticky": "iid"},
    "sticky, even": {"sticky": "stratified", "placement": "even"},
}


def memory_configs(num_basis: int = 12, num_samples: int = 32) -> dict[str, MemoryConfig]:
    """Every preset of a long-term memory, and sticky ones, of small size.

    Example:
        >>> list(memory_configs())
        ['paper', 'released', 'best', 'sampled', 'sticky, stratified', 'sticky, iid', 'sticky, even']
    """
    sizes = {"num_basis": num_basis, "sigmas": (1 / num_basis,), "num_samples": num_samples, "num_bins": 16}
    presets = {name: getattr(MemoryConfig, name)(**sizes) for name in ("paper", "released")}
    changes = {"sampled": {}} | STICKY
    sampled = {name: MemoryConfig.best(**sizes, contraction="sampled", **how) for name, how in changes.items()}
    return presets | {"best": MemoryConfig.best(num_basis=num_basis)} | sampled


def model_configs(sizes: Preset) -> dict[str, ModelConfig]:
    """Every model at a preset's sizes, and an infinite-former with the sticky memory that `MemoryConfig.best` names.

    That one gets two samples for each function at least: with as many as functions, updates of a long past are
    unstable.

    Example:
        >>> from infmem.presets import preset
        >>> len(model_configs(preset("classroom")))
        5
    """
    num_samples = max(sizes.memory["num_samples"], 2 * sizes.memory["num_basis"])
    changes = {"contraction": "sampled", "num_samples": num_samples} | STICKY["sticky, even"]
    sticky = model_config("infinite-former", sizes, "best", changes)
    return {name: model_config(name, sizes) for name in MODEL_NAMES.values()} | {"sticky infinite-former": sticky}


def soak_memory(
    config: MemoryConfig,
    updates: int = 10_000,
    *,
    settled: int = 500,
    length: int = 16,
    batch: int = 256,
    d_model: int = 4,
    device: torch.device | str = "cpu",
    mixed: bool = False,
) -> dict[str, Any]:
    """What a memory reads of a stationary signal, averaged over many updates: once it has settled, and at the end.

    The signal is 1 with a little noise, and the queries are always the same: what is read may not depend on when.

    Args:
        config: of the memory.
        updates: how many in all.
        settled: updates at whose middle the first window lies.
        length: tokens of each update.
        batch: rows side by side, to average over: the fewer, the more of a drift is chance.
        d_model: size of the vectors.
        device: where to read.
        mixed: whether to compute in bfloat16.

    Returns:
        `settled` and `final`, the length of the mean vector that is read, and `drift`, how far they are apart.

    Raises:
        ValueError: if there is no room for two windows.

    Example:
        >>> soak_memory(memory_configs()["paper"], updates=300, settled=100)["drift"] < 0.01
        True
    """
    starts = settled - WINDOW // 2, updates - WINDOW
    require(
        0 <= starts[0] and starts[0] + WINDOW <= starts[1], f"updates must be at least {settled + 1.5 * WINDOW:.0f}"
    )
    device = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        memory = LongTermMemory(d_model, 2, config).to(device)
    generator = torch.Generator(device).manual_seed(0)

    def noise(pos: int) -> Tensor:
        return torch.randn(batch, pos, d_model, generator=generator, device=device)

    query, state, means = noise(5), memory.empty(batch), []
    with torch.no_grad(), autocast(device, PRECISION[mixed]):
        for update in _watched(range(updates), "update"):
            state = memory.write(1 + 0.1 * noise(length), state, generator=generator)
            is_counted = any(start <= update < start + WINDOW for start in starts)
            if is_counted or config.sticky != "none":  # a sticky memory writes where it was read
                read, state, _ = memory(query, None, state)
                means += [read.double().mean((0, 1)).cpu()] if is_counted else []
    first, last = (torch.stack(part).mean(0) for part in (means[:WINDOW], means[WINDOW:]))
    numbers = {"settled": first.norm().item(), "final": last.norm().item()}
    return numbers | {"updates": updates, "drift": ((last - first).norm() / first.norm()).item()}


def soak_model(
    model: TransformerXL, tokens: int, *, segment_length: int, batch: int = 1, mixed: bool = False
) -> dict[str, Any]:
    """Read an endless stream with a model; what is told is measured over the first and the last quarter.

    A segment's time is that of the processor, and is held against that of a copy of the model which begins anew each
    time: what other work on the machine costs, it costs both.

    Args:
        model: any model of this package, on any device.
        tokens: how many to read in each row; rounded up to four times as many whole segments.
        segment_length: tokens per segment.
        batch: rows side by side.
        mixed: whether to compute in bfloat16.

    Returns:
        `finite`: whether everything was; and for both quarters `state_bytes`, the largest, `milliseconds` of a segment
        and `relative`, the same in segments of the copy, both None in a short stream; `tensors` that this process
        holds, `process_mib` and `gpu_mib`, its memory, None where the system does not tell.

    Raises:
        ValueError: if there are fewer than four segments.
    """
    device, quarter = model.embedding.weight.device, -(-tokens // (4 * segment_length))
    require(tokens >= 4 * segment_length, f"tokens must be at least {4 * segment_length}, four segments, got {tokens}")
    generator, another = (torch.Generator(device).manual_seed(0) for _ in range(2))
    fresh, state = copy.deepcopy(model), None
    finite, rows = torch.tensor(True, device=device), []
    with torch.no_grad(), autocast(device, PRECISION[mixed]):
        for part in range(4):
            marks, largest = [], 0
            for number in _watched(range(quarter), "segment", part):
                segment = torch.randint(0, 20, (batch, segment_length), generator=generator, device=device)
                if number % TOGETHER == 0:
                    began = _clock(device)
                logits, state = model(segment, state, generator=generator)
                finite &= logits.isfinite().all()
                largest = max(largest, bytes_of(state))  # a rest that waits to be compressed comes and goes
                if number % TOGETHER == TOGETHER - 1:
                    ended = _clock(device)
                    fresh(segment, None, generator=another)
                    marks.append((began, ended, _clock(device)))
            wait(device)
            if part in (0, 3):
                rows.append({"state_bytes": largest} | _times(marks) | _held(device))
    numbers = {name: [row[name] for row in rows] for name in rows[0]}
    return {"tokens": 4 * quarter * segment_length, "finite": bool(finite & _finite(state))} | numbers


def _clock(device: torch.device) -> torch.cuda.Event | float:
    return mark(device) if device.type == "cuda" else time.process_time()


def _times(marks: list[tuple]) -> dict[str, float | None]:
    """Medians of a segment's time: in milliseconds, and held against that of a copy which begins anew."""
    if len(marks) < LOOKS:
        return {"milliseconds": None, "relative": None}
    segments = [between(began, ended) / TOGETHER for began, ended, _ in marks]
    ratios = [segment / between(*pair[1:]) for segment, pair in zip(segments, marks, strict=True)]
    return {"milliseconds": round(statistics.median(segments), 4), "relative": round(statistics.median(ratios), 4)}


def _watched(numbers: range, unit: str, part: int | None = None) -> tqdm:
    """The numbers, with a bar where somebody looks."""
    words = None if part is None else f"quarter {part + 1}"
    return tqdm(numbers, desc=words, unit=unit, leave=False, disable=None)


def _held(device: torch.device) -> dict[str, Any]:
    gc.collect()
    tensors = sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())  # by type: some warn when asked
    on_gpu = torch.cuda.memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {"tensors": tensors, "process_mib": process_mib(), "gpu_mib": on_gpu}


def _finite(state: Any) -> Tensor:
    parts = [part.isfinite().all() for part in tensors_of(state)]
    return torch.stack([part.to(parts[0].device) for part in parts]).all()


def process_mib() -> float | None:
    """Memory that this process has at the moment, in MiB; None where the system does not tell.

    Example:
        >>> process_mib() is None or process_mib() > 1
        True
    """
    path = Path("/proc/self/statm")
    if not path.exists():
        return None
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def benchmark_soak(
    sizes: Preset,
    *,
    tokens: int,
    updates: int,
    batch: int = 1,
    segment_length: int | None = None,
    device: torch.device | str = "cpu",
    done: Collection[tuple[str, str, str]] = (),
) -> Iterator[dict[str, Any]]:
    """Soak every memory, then every model, each in float32 and bfloat16.

    Args:
        sizes: of the models.
        tokens: how many each model reads.
        updates: how many each memory takes.
        batch: sequences side by side.
        segment_length: tokens of a segment; by default as many as at these sizes in training.
        device: where to read.
        done: what is left out, by `what`, `name` and `precision`.

    Yields:
        A row each, with what is wrong in it as a list of sentences, `problems`.
    """
    length = sizes.segment_length if segment_length is None else segment_length
    sizes = dataclasses.replace(sizes, segment_length=length)
    configs = {"memory": memory_configs(), "model": model_configs(sizes)}
    cells = [(what, name) for what, named in configs.items() for name in named]
    for (what, name), mixed in product(cells, PRECISION):
        about = {"what": what, "name": name, "precision": PRECISION[mixed]}
        if tuple(about.values()) in done:
            continue
        config = configs[what][name]
        if what == "memory":
            row = soak_memory(config, updates, batch=ROWS.get(name, 32), device=device, mixed=mixed)
        else:
            model = build_model(config).to(device).eval()
            row = soak_model(model, tokens, segment_length=length, batch=batch, mixed=mixed)
        yield about | row | {"problems": problems(row)}


def problems(row: Mapping[str, Any]) -> list[str]:
    """What is wrong with a row of a soak, in sentences.

    Example:
        >>> problems({"drift": 0.2, "updates": 1000})
        ['what it reads has drifted by 20.00 % after 1,000 updates']
    """
    found = []
    if not row.get("drift", 0.0) <= TOLERANCE:
        found.append(
            f"what it reads has drifted by {row['drift']:.2%} after {row['updates']:,} updates".replace("%", " %")
        )
    if not row.get("finite", True):
        found.append("a number has become NaN or infinite")
    first, last = row.get("state_bytes", (0, 0))
    if first != last:
        found.append(f"state_bytes has {'grown' if last > first else 'shrunk'} from {first:,} to {last:,} bytes")
    for name, play in (("tensors", 0), ("process_mib", PLAY_MIB), ("gpu_mib", PLAY_GPU_MIB)):
        first, last = row.get(name, (None, None))
        if first is not None and last > first + play:
            found.append(f"{name} has grown from {first:,} to {last:,}{' MiB' * name.endswith('mib')}")
    first, last = row.get("relative", (None, None))
    if first is not None and not last <= LONGER * first:
        found.append(f"a segment takes {last / first:.2f} times as long as it did")
    return found
