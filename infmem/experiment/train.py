"""How cells are trained: side by side, on one GPU or several, and recorded one by one as they end."""

import dataclasses
import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch

from infmem.checkpoint import load_checkpoint, write_text
from infmem.evaluation import AgeScore, RecallEvaluation, SortingEvaluation, evaluate
from infmem.experiment.cells import RECALL_LONGER, Cell
from infmem.experiment.results import AGE_FIELDS, FIELDS, LONGER_FIELDS, read_rows, row_key
from infmem.presets import PRESETS, build_model
from infmem.run import DivergenceError, Run, read_metrics
from infmem.tables import write_curve, write_table
from infmem.tasks import find_task
from infmem.tasks.sorting import first_visible
from infmem.training import derive_seed

# Training has converged if the last fifth of its steps has gained less than this in accuracy.
SMALLEST_GAIN = 0.01


def train_cells(
    cells: Sequence[Cell],
    path: Path,
    runs: Path,
    *,
    device: str = "cpu",
    workers: int = 1,
    until: float | None = None,
    sequences: int = 1024,
) -> Iterator[dict]:
    """Train what is not recorded yet, several trainings side by side, and record each as it ends.

    Several GPUs are shared out among the workers in turn.

    Args:
        cells: what to train, the most wanted first.
        path: CSV file that rows are appended to; learning curves go into a folder beside it.
        runs: folder for the runs.
        device: where to train.
        workers: trainings side by side.
        until: time (as of `time.time`) at which trainings are saved and left for another call.
        sequences: sequences of each evaluation.

    Yields:
        The rows, as they are recorded.
    """
    done = {row_key(row) for row in read_rows(path)}
    missing = [cell for cell in cells if cell.key not in done]
    if not missing:
        return
    threads = max(1, torch.get_num_threads() // workers)
    # Fresh processes: a forked one must not use a GPU that its parent has touched.
    context = multiprocessing.get_context("spawn")
    seats = (context.Value("i", 0), visible_gpus() if device == "cuda" else [])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=take_gpu, initargs=seats) as pool:
        trainings: dict[Future, Cell] = {}
        try:
            while missing or trainings:
                waiting = {*missing, *trainings.values()}
                ready = [cell for cell in missing if cell.start not in waiting]
                for cell in ready[: workers - len(trainings)]:
                    trainings[pool.submit(train_cell, cell, runs, device, threads, until, sequences)] = cell
                    missing.remove(cell)
                for training in wait(trainings, return_when=FIRST_COMPLETED).done:
                    cell = trainings.pop(training)
                    row = training.result()
                    if row is not None:
                        _record(row, path, runs / cell.name)
                        yield row
        except BaseException:
            pool.shutdown(cancel_futures=True)  # those in progress have got the same Ctrl-C, and save
            raise


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def take_gpu(taken: Synchronized, gpus: Sequence[str]) -> None:
    """Let this process see one GPU only, the next in turn, before it has touched any.

    Args:
        taken: how many processes have one already.
        gpus: their names; none if there is nothing to share.
    """
    with taken.get_lock():
        number, taken.value = taken.value, taken.value + 1
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]


def _record(row: Mapping[str, Any], path: Path, run: Path) -> None:
    """Append a row, and put the learning curve of its run beside the file."""
    curve = (run / "curve.csv").read_text(encoding="utf-8")
    write_text(path.parent / f"{path.stem}_curves" / f"{run.name}.csv", curve)
    if (run / "ages.csv").exists():
        ages = (run / "ages.csv").read_text(encoding="utf-8")
        write_text(path.parent / f"{path.stem}_ages" / f"{run.name}.csv", ages)
    write_table(path, FIELDS, [*read_rows(path), row])


def train_cell(
    cell: Cell, runs: Path, device: str, threads: int, until: float | None, sequences: int
) -> dict[str, Any] | None:
    """Train a cell to its end and score it; None if its time was up before.

    Args:
        cell: what to train.
        runs: folder for the runs.
        device: where to train.
        threads: of the CPU.
        until: time at which the training is saved and left.
        sequences: sequences of the evaluation.
    """
    if until is not None and time.time() >= until:
        return None
    torch.set_num_threads(threads)
    folder, config = runs / cell.name, cell.config
    try:
        run = _trained(cell, runs, device, until)
    except DivergenceError:
        write_curve(folder / "curve.csv", read_metrics(folder))
        return _row(cell, Run(config, None, device, fast=False), {}, converged=False)
    if run is None:
        return None
    rows = read_metrics(folder)
    write_curve(folder / "curve.csv", rows)
    score = _score(run, cell, cell.length, sequences)
    if isinstance(score, RecallEvaluation):
        longer = _score(run, cell, RECALL_LONGER * cell.length, max(2, sequences // 4))
        lines = [_age_line(found.length, age) for found in (score, longer) for age in found.by_age]
        write_table(folder / "ages.csv", AGE_FIELDS, lines)
    return _row(cell, run, dataclasses.asdict(score), has_converged([row["accuracy"] for row in rows]))


def _score(run: Run, cell: Cell, length: int, sequences: int) -> SortingEvaluation | RecallEvaluation:
    """A cell's run on fresh sequences of some length."""
    config = run.config
    return evaluate(
        run.model,
        length,
        config.segment_length,
        sequences=sequences,
        batch_size=config.batch_size,
        seed=derive_seed(cell.seed, "experiment"),
        precision=config.precision,
        task=config.task,
    )


def _trained(cell: Cell, runs: Path, device: str, until: float | None) -> Run | None:
    """A cell's run at its end; None if the time was up before. What it begins with is trained first if need be."""
    folder, start = runs / cell.name, None
    begun = (folder / "checkpoint.safetensors").exists()
    if cell.start is not None and not begun:
        if _trained(cell.start, runs, device, until) is None:
            return None
        start = load_checkpoint(runs / cell.start.name / "checkpoint.safetensors")
    run = Run(cell.config, folder, device, resume=begun, start=start)
    return run if run.train(progress=False, until=until) else None


def _age_line(length: int, score: AgeScore) -> dict[str, str]:
    exact = {"length": length} | dataclasses.asdict(score)
    return {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in exact.items()}


def _row(cell: Cell, run: Run, score: Mapping[str, int | float], converged: bool) -> dict[str, Any]:
    config, sizes = run.config, run.config.model
    first = first_visible(cell.length, config.segment_length, sizes.num_layers, sizes.reach)[0].item()
    tokens = find_task(config.task).sample(1, config.length, torch.Generator())[0].shape[1]
    symbols = config.steps * config.batch_size * tokens
    scores = ("accuracy", "ci95", "free_running", "free_running_ci95")
    row = _row_of(cell) | {
        **{name: f"{score.get(name, math.nan):.4f}" for name in scores},
        "sequences": score.get("sequences", 0),
        "converged": converged,
        "train_seconds": f"{run.seconds:.1f}",
        "tokens_per_second": round(symbols / run.seconds) if run.seconds else 0,
        "device": _recorded_device(run.device.type),
        "torch": torch.__version__,
        "parameters": run.model.num_parameters,
        "state_bytes": run.model.state_bytes(1),
        "receptive_field": "all" if config.model_name == "infinite-former" else cell.length - first,
        "start": cell.start.name if cell.start else "",
    }
    return {name: row[name] for name in FIELDS}


def _row_of(cell: Cell) -> dict[str, Any]:
    """What a row says of the training itself."""
    return {
        "model": cell.variant,
        "preset": cell.preset,
        "length": cell.length,
        "segment": PRESETS[cell.preset].segment_length,
        "seed": cell.seed,
        "optimizer": cell.optimizer,
        "learning_rate": f"{cell.learning_rate:g}",
        "steps": cell.steps,
        "command": cell.command,
    }


def _recorded_device(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def has_converged(accuracy: Sequence[float]) -> bool:
    """Whether the last fifth of the steps has gained little, each end averaged over a twentieth of the steps.

    Args:
        accuracy: of every step.

    Example:
        >>> has_converged([0.5] * 100), has_converged([step / 100 for step in range(100)])
        (True, False)
    """
    part, end = max(1, len(accuracy) // 20), len(accuracy) * 4 // 5
    before, after = accuracy[max(0, end - part) : max(1, end)], accuracy[-part:]
    return sum(after) / len(after) - sum(before) / len(before) < SMALLEST_GAIN


def record_longer(
    cells: Sequence[Cell], lengths: Sequence[int], path: Path, runs: Path, *, device: str = "cpu", sequences: int = 512
) -> Iterator[dict]:
    """Score what was trained at one length on others, and record each score.

    Args:
        cells: trainings that are complete; those whose run is not in `runs` are left out.
        lengths: symbols per sequence.
        path: CSV file that rows are appended to.
        runs: folder of the runs.
        device: where to read.
        sequences: sequences of each evaluation.

    Yields:
        The rows, as they are recorded.
    """
    for cell in cells:
        done = {_longer_key(row) for row in read_rows(path, LONGER_FIELDS)}
        checkpoint, config = runs / cell.name / "checkpoint.safetensors", cell.config
        about = {name: value for name, value in _row_of(cell).items() if name in LONGER_FIELDS}
        about |= {"trained_length": cell.length, "device": _recorded_device(device), "torch": torch.__version__}
        missing = [length for length in lengths if _longer_key(about | {"length": length}) not in done]
        if not missing or not checkpoint.is_file():
            continue
        model = build_model(config.model).to(device)
        load_checkpoint(checkpoint).load_into(model)
        for length in missing:
            score = evaluate(
                model,
                length,
                config.segment_length,
                sequences=sequences,
                batch_size=config.batch_size,
                seed=derive_seed(cell.seed, "longer"),
                precision=config.precision,
            )
            scores = {"accuracy": f"{score.accuracy:.4f}", "ci95": f"{score.ci95:.4f}", "sequences": sequences}
            command = f"{cell.command} && infmem evaluate {cell.folder} --length {length}"
            row = about | {"length": length, "command": command} | scores
            write_table(path, LONGER_FIELDS, [*read_rows(path, LONGER_FIELDS), row])
            yield row


def _longer_key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        str(row[name]) for name in ("model", "preset", "trained_length", "length", "seed", "optimizer", "steps")
    )
