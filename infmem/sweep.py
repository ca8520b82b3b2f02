"""A learning-rate sweep: the same rates for every model, several trainings side by side, each recorded as it ends."""

import contextlib
import csv
import dataclasses
import itertools
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from infmem.evaluation import evaluate
from infmem.run import DivergenceError, Run
from infmem.tables import read_table
from infmem.training import TrainingConfig, derive_seed

FIELDS = (
    "model",
    "learning_rate",
    "seed",
    "accuracy",
    "ci95",
    "final_loss",
    "length",
    "segment_length",
    "steps",
    "batch_size",
    "seconds",
    "device",
    "torch",
)

KEY = ("model", "learning_rate", "seed", "length", "segment_length", "steps", "batch_size")


def _key(config: TrainingConfig) -> tuple[str, ...]:
    """What tells one cell from another, as its row in the file has it."""
    return (config.model_name, *(str(getattr(config, name)) for name in KEY[1:]))


def sweep(
    configs: Sequence[TrainingConfig],
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    path: Path,
    *,
    device: str = "cpu",
    workers: int = 1,
    sequences: int = 512,
    fast: bool | None = None,
) -> Iterator[dict]:
    """Train every configuration with every learning rate and seed; skip what the file has already.

    Args:
        configs: one per model; their learning rate and seed are replaced.
        learning_rates: the rates.
        seeds: the seeds.
        path: CSV file that a row is appended to as each training ends.
        device: where to train.
        workers: trainings side by side.
        sequences: sequences of each evaluation.
        fast: as in `Run`.

    Yields:
        The rows, as they are recorded.
    """
    done = {tuple(row[name] for name in KEY) for row in read_sweep(path)}
    grid = itertools.product(configs, learning_rates, seeds)
    cells = [dataclasses.replace(config, learning_rate=rate, seed=seed) for config, rate, seed in grid]
    cells = [cell for cell in cells if _key(cell) not in done]
    if not cells:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(",".join(FIELDS) + "\n", encoding="utf-8")
    # Fresh processes: a forked one must not use a GPU that its parent has touched.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        threads = max(1, torch.get_num_threads() // workers)
        futures = [pool.submit(_train_cell, cell, device, threads, sequences, fast) for cell in cells]
        for future in as_completed(futures):
            row = future.result()
            with path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, FIELDS, lineterminator="\n").writerow(row)
            yield row


def read_sweep(path: Path) -> list[dict[str, str]]:
    """Rows of a sweep's file; none if there is no file yet.

    Example:
        >>> read_sweep(Path("there-is-no-such-file.csv"))
        []
    """
    return read_table(path, FIELDS, "the file of a sweep")


def _train_cell(config: TrainingConfig, device: str, threads: int, sequences: int, fast: bool | None) -> dict:
    torch.set_num_threads(threads)
    run = Run(config, None, device, fast=fast)
    accuracy = ci95 = final_loss = math.nan  # stays so if the loss overflows: the rate was too high
    with contextlib.suppress(DivergenceError):
        run.train(progress=False)
        score = evaluate(
            run.model,
            config.length,
            config.segment_length,
            task=config.task,
            sequences=sequences,
            seed=derive_seed(config.seed, "sweep"),
            precision=config.precision,
        )
        accuracy, ci95, last = score.accuracy, score.ci95, run.rows[-50:]
        final_loss = sum(row["loss"] for row in last) / len(last)
    return {
        "model": config.model_name,
        "learning_rate": config.learning_rate,
        "seed": config.seed,
        "accuracy": round(accuracy, 4),
        "ci95": round(ci95, 4),
        "final_loss": round(final_loss, 4),
        "length": config.length,
        "segment_length": config.segment_length,
        "steps": config.steps,
        "batch_size": config.batch_size,
        "seconds": round(run.seconds, 1),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
    }
