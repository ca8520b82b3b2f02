"""How long a training step takes: the plain step beside the fast one, in one process, on the same sequences."""

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch

from infmem.benchmark.timing import between, mark, spread, wait
from infmem.distributed import Workers
from infmem.run import Run
from infmem.tasks import sorting
from infmem.training import TrainingConfig
from infmem.validation import require

StepKind = Literal["eager", "fast"]


def benchmark_training(
    configs: Sequence[TrainingConfig], workers: Workers, *, steps: int = 50, warm_up: int = 15
) -> Iterator[dict]:
    """Time the steps of several trainings, each without and with the fast step.

    Args:
        configs: what to train; each worker reads its share of the batch.
        workers: who trains.
        steps: steps that are timed.
        warm_up: steps before, in which layers are compiled and the step is recorded.

    Yields:
        A row for each training and path: the median time of a step and the range that holds the middle half of them,
        symbols read per second, the time of the warm-up, the largest memory of a GPU, and the loss of every step.

    Raises:
        ValueError: if there is nothing to time, or a model's step can't be fast.
    """
    require(steps >= 2, f"steps must be at least 2 for a median and its range, got {steps}")
    require(warm_up >= 0, f"warm_up must be >= 0, got {warm_up}")
    for config in configs:
        for path in ("eager", "fast"):
            yield _time_steps(config, workers, path, steps, warm_up)


def _time_steps(config: TrainingConfig, workers: Workers, path: StepKind, steps: int, warm_up: int) -> dict:
    if workers.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run = Run(config, None, workers.device, fast=path == "fast", workers=workers)
    run.model.train()
    began, losses = time.perf_counter(), []
    for _ in range(warm_up):
        losses.append(run.train_step()["loss"])
    wait(workers.device)
    warm_up_seconds = time.perf_counter() - began
    marks = [mark(workers.device)]
    for _ in range(steps):
        losses.append(run.train_step()["loss"])
        marks.append(mark(workers.device))
    wait(workers.device)
    timed = spread([between(*pair) for pair in pairwise(marks)])
    tokens = config.batch_size * (config.length + sorting.NUM_SYMBOLS)
    return {
        "model": config.model_name,
        "path": path,
        **timed,
        "tokens_per_second": round(tokens / timed["milliseconds"] * 1000),
        "warm_up_seconds": round(warm_up_seconds, 1),
        "gpu_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if run.device.type == "cuda" else None,
        "length": config.length,
        "segment_length": config.segment_length,
        "batch_size": config.batch_size,
        "workers": workers.size,
        "losses": [round(float(loss), 5) for loss in losses],
    }
