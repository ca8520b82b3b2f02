"""Experiments on the sorting task, cell by cell: accuracy against length, and what each choice of a memory is worth.

A cell is one training: a model at a length, with a seed and a learning rate. What is recorded is not trained again, and
what was begun is gone on with, so the experiment can be stopped and called again until it is complete.
"""

import dataclasses
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from infmem.checkpoint import load_checkpoint, write_text
from infmem.demo import demo_config
from infmem.evaluation import evaluate
from infmem.microscope import MemoryErrors, memory_errors
from infmem.optimizer import OptimizerName
from infmem.presets import PRESETS, MemoryName, ModelName, PresetName, build_model, model_config
from infmem.run import DivergenceError, Run, default_folder, read_metrics
from infmem.tables import read_table, write_curve, write_table
from infmem.tasks.sorting import NUM_SYMBOLS, ReferenceLines, first_visible, reference_lines
from infmem.training import TrainingConfig, derive_seed, generator_for
from infmem.validation import require

VariantName = Literal[
    "transformer-xl",
    "compressive-transformer",
    "infinite-former-paper",
    "infinite-former-exact",
    "infinite-former-best",
    "window",
    "infinite-former-sticky",
]
# Model, preset of its memory, and what is changed in that. Sticky memories are drawn as in the paper.
VARIANTS: dict[VariantName, tuple[ModelName, MemoryName, dict[str, Any]]] = {
    "transformer-xl": ("transformer-xl", "best", {}),
    "compressive-transformer": ("compressive-transformer", "best", {}),
    "infinite-former-paper": ("infinite-former", "paper", {}),
    "infinite-former-exact": ("infinite-former", "exact", {}),
    "infinite-former-best": ("infinite-former", "best", {}),
    "window": ("window", "best", {}),
    "infinite-former-sticky": ("infinite-former", "paper", {"sticky": "iid"}),
}
FIRST: tuple[VariantName, ...] = tuple(VARIANTS)[:4]

# What is changed in the memory `exact`, one choice at a time. Sampling the old signal instead of refitting all of it is
# what sticky memories need, so they are changes of that one.
SAMPLED: dict[str, Any] = {"contraction": "sampled", "num_samples": 128}
ABLATIONS: dict[str, dict[str, Any]] = {
    "exact": {},
    "tau .5": {"schedule": "fixed", "tau": 0.5},
    "tau .75": {"schedule": "fixed", "tau": 0.75},
    "tau .9": {"schedule": "fixed", "tau": 0.9},
    "128 samples": SAMPLED,
    "512 samples": SAMPLED | {"num_samples": 512},
    "zero padding": {"padding": True},
    "whole line": {"interval": "line"},
    "end points": {"positions": "end_points"},
    "ridge .01": {"ridge": 0.01},
    "ridge 1": {"ridge": 1.0},
    "half the width": {"sigmas": (1 / 384,)},
    "twice the width": {"sigmas": (1 / 96,)},
    "two widths": {"sigmas": (0.01, 0.05)},
    "32 functions": {"num_basis": 32, "sigmas": (1 / 48,)},
    "64 functions": {"num_basis": 64, "sigmas": (1 / 96,)},
    "256 functions": {"num_basis": 256, "sigmas": (1 / 384,)},
    "gate": {"gate": True},
    "no bias": {"bias": False},
    "the layer's query": {"own_query": False},
    "no regulariser": {"kl_weight": 0.0},
    "strong regulariser": {"kl_weight": 1e-3},
    "sticky, stratified": SAMPLED | {"sticky": "stratified"},
    "sticky, stratified, even": SAMPLED | {"sticky": "stratified", "placement": "even"},
    "sticky, iid": SAMPLED | {"sticky": "iid"},
}
ABLATION_RATE, ABLATION_STEPS, ABLATION_SEEDS = 2e-3, 1500, (0, 1, 2)

FIELDS = (
    "model", "preset", "length", "segment", "seed", "optimizer", "learning_rate", "accuracy", "ci95", "free_running",
    "free_running_ci95", "sequences", "steps", "converged", "train_seconds", "tokens_per_second", "device", "torch",
    "parameters", "state_bytes", "receptive_field", "start", "command",
)  # fmt: skip
KEY = ("model", "preset", "length", "seed", "optimizer", "learning_rate", "steps", "start")
ERROR_FIELDS = ("change", "age", *MemoryErrors._fields)
LONGER_FIELDS = (
    "model", "preset", "trained_length", "length", "segment", "seed", "optimizer", "learning_rate", "steps", "accuracy",
    "ci95", "sequences", "device", "torch", "command",
)  # fmt: skip
LINE_FIELDS = ("preset", "length", "segment", "chance", "last_segment", "receptive_field", "exact_counts", "sequences")

# Training has converged if the last fifth of its steps has gained less than this in accuracy.
SMALLEST_GAIN = 0.01

# A training that begins with the weights of another takes this part of its steps.
CONTINUED_PART = 5


def _chosen(variant: str) -> tuple[ModelName, MemoryName, dict[str, Any]]:
    """Model, preset of its memory, and what is changed in that."""
    return VARIANTS[variant] if variant in VARIANTS else ("infinite-former", "exact", ABLATIONS[variant])


@dataclass(frozen=True)
class Scale:
    """The sizes of an experiment.

    Args:
        preset: of models and task.
        lengths: symbols per sequence.
        seeds: of weights and data.
        optimizer: what takes the steps.
        continued: whether a model of each length but the shortest begins with the weights of the length before, and
            takes a fifth of the steps. What a step costs grows with the length.
    """

    preset: PresetName
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    optimizer: OptimizerName = "adam"
    continued: bool = False


ScaleName = Literal["small", "full"]
SCALES: dict[ScaleName, Scale] = {
    "small": Scale("small", (500, 1000, 2000), (0, 1, 2), "muon"),
    "full": Scale("full", (4000, 8000, 16000), (0, 1), "muon", continued=True),
}
# What is trained at one length is read at others too.
LONGER: dict[ScaleName, tuple[int, ...]] = {
    "small": (1000, 2000, 4000, 8000, 16000),
    "full": (4000, 8000, 16000, 32000, 64000),
}
# Every model is tried with the same learning rates, at small scale. At full scale each gets its best one times the
# ratio of the presets' rates.
SWEEP_PRESET, SWEEP_LENGTH, SWEEP_RATES = "small", 1000, (5e-4, 1e-3, 2e-3, 4e-3)


@dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        variant: which model, of `VARIANTS` or `ABLATIONS`.
        preset: its sizes.
        length: symbols per sequence.
        seed: of weights and data.
        learning_rate: the largest one.
        steps: optimiser steps.
        optimizer: what takes them.
        start: the training whose weights it begins with, or None.

    Example:
        >>> Cell("window", "small", 500, 0, 0.002, 2500).command
        'infmem train --model window --preset small --length 500 --learning-rate 0.002 --steps 2500 --seed 0'
    """

    variant: str
    preset: PresetName
    length: int
    seed: int
    learning_rate: float
    steps: int
    optimizer: OptimizerName = "adam"
    start: "Cell | None" = None

    @property
    def config(self) -> TrainingConfig:
        """How it is trained."""
        model, memory, options = _chosen(self.variant)
        sizes = PRESETS[self.preset]
        return dataclasses.replace(
            demo_config(model, sizes, self.seed),
            model=model_config(model, sizes, memory, options),
            length=self.length,
            learning_rate=self.learning_rate,
            steps=self.steps,
            optimizer=self.optimizer,
        )

    @property
    def command(self) -> str:
        """What trains it by itself."""
        model, memory, options = _chosen(self.variant)
        words = ["infmem train", "--model", model, "--preset", self.preset]
        words += ["--memory", memory] if memory != "best" else []
        typed = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]
        words += ["--memory-options", *(word.replace(" ", "") for word in typed)] if options else []
        words += ["--length", self.length, "--learning-rate", f"{self.learning_rate:g}", "--steps", self.steps]
        words += ["--optimizer", self.optimizer] if self.optimizer != "adam" else []
        words += ["--start", self.start._default_folder] if self.start else []
        return " ".join(map(str, [*words, "--seed", self.seed]))

    @property
    def name(self) -> str:
        """The name of its folder."""
        variant = self.variant.replace(",", "").replace(" ", "-")
        name = f"{variant}-{self.preset}-{self.length}-rate{self.learning_rate:g}-seed{self.seed}-{self.steps}"
        name += f"-{self.optimizer}" if self.optimizer != "adam" else ""
        return name + (f"-from{self.start.length}" if self.start else "")

    @property
    def _default_folder(self) -> Path:
        return default_folder(_chosen(self.variant)[0], self.preset, self.length, self.seed)

    @property
    def key(self) -> tuple[str, ...]:
        """What tells its row from the others."""
        start = self.start.name if self.start else ""
        numbers = (self.length, self.seed, self.optimizer, f"{self.learning_rate:g}", self.steps, start)
        return tuple(map(str, (self.variant, self.preset, *numbers)))


def sweep_cells(
    variants: Iterable[VariantName], optimizer: OptimizerName = "adam", steps: int | None = None
) -> list[Cell]:
    """Every model with every learning rate.

    Args:
        variants: the models.
        optimizer: what takes the steps.
        steps: optimiser steps; None takes the preset's.

    Example:
        >>> len(sweep_cells(["window"]))
        4
    """
    steps = PRESETS[SWEEP_PRESET].steps if steps is None else steps
    return [
        Cell(variant, SWEEP_PRESET, SWEEP_LENGTH, 0, rate, steps, optimizer)
        for variant in variants
        for rate in SWEEP_RATES
    ]


def ablation_cells(seeds: Iterable[int], steps: int = ABLATION_STEPS) -> list[Cell]:
    """The memory `exact` with one choice changed at a time, each with every seed; the first seed of all comes first.

    Args:
        seeds: of weights and data.
        steps: optimiser steps.

    Example:
        >>> len(ablation_cells([0])) == len(ABLATIONS)
        True
    """
    return [
        Cell(change, SWEEP_PRESET, SWEEP_LENGTH, seed, ABLATION_RATE, steps, "muon")
        for seed in seeds
        for change in ABLATIONS
    ]


def record_errors(path: Path, num_updates: int = 16) -> None:
    """Write how wrong each of these memories is by age, before anything is trained.

    Args:
        path: CSV file.
        num_updates: of a memory that is written in segments of the preset.
    """
    sizes, rows = PRESETS[SWEEP_PRESET], []
    for change in ABLATIONS:
        model, memory, options = _chosen(change)
        config = model_config(model, sizes, memory, options).memory
        generator = generator_for(torch.device("cpu"), 0, "errors", change)
        errors = memory_errors(config, sizes.segment_length, num_updates, generator)
        for age, values in enumerate(zip(*errors, strict=True)):
            rows.append({"change": change, "age": age} | dict(zip(ERROR_FIELDS[2:], map(_digits, values), strict=True)))
    write_table(path, ERROR_FIELDS, rows)


def _digits(value: Tensor) -> str:
    return f"{value.item():.4g}"


def result_cells(
    scale: Scale, variants: Sequence[VariantName], rates: Mapping[str, float], steps: int | None = None
) -> list[Cell]:
    """Every model at every length with every seed, those first that the claim is about.

    Args:
        scale: the sizes.
        variants: the models.
        rates: the learning rate of each.
        steps: optimiser steps, of the shortest sequences if others begin with their weights; None takes the preset's.
    """
    steps = PRESETS[scale.preset].steps if steps is None else steps
    cells = []
    for variant in variants:
        for seed in scale.seeds:
            before = None
            for length in sorted(scale.lengths):
                some = steps if before is None else max(1, steps // CONTINUED_PART)
                cells.append(Cell(variant, scale.preset, length, seed, rates[variant], some, scale.optimizer, before))
                before = cells[-1] if scale.continued else None
    # The first two seeds of the first models come before the rest of either.
    return sorted(cells, key=lambda cell: (cell.variant not in FIRST or cell.seed > 1, cell.seed, cell.length))


def chosen_rates(rows: Iterable[Mapping[str, str]], cells: Sequence[Cell], preset: PresetName) -> dict[str, float]:
    """The learning rate of each model's best cell, for a preset's sizes.

    Args:
        rows: what is recorded.
        cells: of the sweep.
        preset: the sizes that the rates are for.

    Raises:
        ValueError: if a cell has no row.
    """
    scores = {_row_key(row): float(row["accuracy"]) for row in rows}
    missing = [cell.command for cell in cells if cell.key not in scores]
    require(not missing, f"the sweep of learning rates is not complete: {len(missing)} left, the first: {missing[:1]}")
    ratio = PRESETS[preset].learning_rate / PRESETS[SWEEP_PRESET].learning_rate
    # A training that diverged has no number for a score, and is no better than any other.
    ranked = sorted(cells, key=lambda cell: (not math.isnan(scores[cell.key]), scores[cell.key]))
    return {cell.variant: cell.learning_rate * ratio for cell in ranked}


def read_rows(path: Path, fields: Sequence[str] = FIELDS) -> list[dict[str, str]]:
    """The rows of a file of this module; none if there is no file yet.

    Raises:
        ValueError: if it has other columns.

    Example:
        >>> read_rows(Path("there-is-no-such-file.csv"))
        []
    """
    return read_table(path, fields, "the file of an experiment")


def num_missing(cells: Iterable[Cell], path: Path) -> int:
    """How many cells are not recorded yet.

    Args:
        cells: the cells.
        path: CSV file.
    """
    done = {_row_key(row) for row in read_rows(path)}
    return sum(cell.key not in done for cell in cells)


def record_lines(scale: Scale, path: Path, num_sequences: int = 2000) -> None:
    """Write what counting by hand scores at each length, where that is not recorded yet.

    Args:
        scale: the sizes.
        path: CSV file.
        num_sequences: how many to average over.
    """
    sizes, rows = PRESETS[scale.preset], read_rows(path, LINE_FIELDS)
    reach = model_config("transformer-xl", sizes).reach
    for length in scale.lengths:
        if any((row["preset"], row["length"]) == (scale.preset, str(length)) for row in rows):
            continue
        generator = generator_for(torch.device("cpu"), 0, "lines", length)
        lines = reference_lines(
            length, sizes.segment_length, sizes.sizes.num_layers, reach, generator, num_sequences=num_sequences
        )
        scores = {name: f"{score:.4f}" for name, score in dataclasses.asdict(lines).items()}
        about = {"preset": scale.preset, "length": length, "segment": sizes.segment_length, "sequences": num_sequences}
        rows.append(about | scores)
    write_table(path, LINE_FIELDS, rows)


def mean_scores(path: Path, preset: PresetName) -> list[dict[str, Any]]:
    """Each model at each length: the mean over seeds, and a bar that holds the interval of every seed.

    Args:
        path: a file of results.
        preset: the sizes; trainings with another optimiser or more steps than those of its scale are left out.

    Returns:
        Rows with `name`, `length`, `accuracy`, `ci95` and the number of `seeds`.

    Example:
        >>> mean_scores(Path("there-is-no-such-file.csv"), "small")
        []
    """
    steps = PRESETS[preset].steps
    budgets = {False: steps, True: steps // CONTINUED_PART}
    return _over_seeds(
        row
        for row in read_rows(path)
        if (row["preset"], row["optimizer"]) == (preset, SCALES[preset].optimizer)
        and int(row["steps"]) == budgets[bool(row["start"])]
    )


def ablation_scores(path: Path) -> list[dict[str, Any]]:
    """Each change of the memory: rows as those of `mean_scores`, the memory without a change first.

    Example:
        >>> ablation_scores(Path("there-is-no-such-file.csv"))
        []
    """
    scores = _over_seeds(row for row in read_rows(path) if int(row["steps"]) == ABLATION_STEPS)
    return sorted(scores, key=lambda row: list(ABLATIONS).index(row["name"]))


def longer_scores(path: Path, preset: PresetName) -> list[dict[str, Any]]:
    """Each model of a preset at lengths that it was not trained at: rows as those of `mean_scores`.

    Example:
        >>> longer_scores(Path("there-is-no-such-file.csv"), "small")
        []
    """
    return _over_seeds(row for row in read_rows(path, LONGER_FIELDS) if row["preset"] == preset)


def _over_seeds(rows: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    cells: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for row in rows:
        cells.setdefault((row["model"], int(row["length"])), []).append((float(row["accuracy"]), float(row["ci95"])))
    scores = []
    for (name, length), seeds in cells.items():
        mean = sum(accuracy for accuracy, _ in seeds) / len(seeds)
        bar = max(abs(accuracy - mean) + ci95 for accuracy, ci95 in seeds)
        scores.append({"name": name, "length": length, "accuracy": mean, "ci95": bar, "seeds": len(seeds)})
    return scores


def read_lines(path: Path, preset: PresetName) -> dict[int, ReferenceLines]:
    """The reference lines that are recorded for a preset, by length.

    Example:
        >>> read_lines(Path("there-is-no-such-file.csv"), "small")
        {}
    """
    names = [field.name for field in dataclasses.fields(ReferenceLines)]
    return {
        int(row["length"]): ReferenceLines(**{name: float(row[name]) for name in names})
        for row in read_rows(path, LINE_FIELDS)
        if row["preset"] == preset
    }


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
    done = {_row_key(row) for row in read_rows(path)}
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
        row = {name: value for name, value in _row_of(cell).items() if name in LONGER_FIELDS}
        row |= {"trained_length": cell.length, "device": _device_name(device), "torch": torch.__version__}
        missing = [length for length in lengths if _longer_key(row | {"length": length}) not in done]
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
            command = f"{cell.command} && infmem evaluate {cell._default_folder} --length {length}"
            row |= {"length": length, "command": command} | scores
            write_table(path, LONGER_FIELDS, [*read_rows(path, LONGER_FIELDS), row])
            yield row


def _longer_key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        str(row[name]) for name in ("model", "preset", "trained_length", "length", "seed", "optimizer", "steps")
    )


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
    score = evaluate(
        run.model,
        cell.length,
        config.segment_length,
        sequences=sequences,
        batch_size=config.batch_size,
        seed=derive_seed(cell.seed, "experiment"),
        precision=config.precision,
    )
    return _row(cell, run, dataclasses.asdict(score), has_converged([row["accuracy"] for row in rows]))


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


def _row(cell: Cell, run: Run, score: Mapping[str, int | float], converged: bool) -> dict[str, Any]:
    config, sizes = run.config, run.config.model
    first = first_visible(cell.length, config.segment_length, sizes.num_layers, sizes.reach)[0].item()
    symbols = config.steps * config.batch_size * (config.length + NUM_SYMBOLS)
    scores = ("accuracy", "ci95", "free_running", "free_running_ci95")
    row = _row_of(cell) | {
        **{name: f"{score.get(name, math.nan):.4f}" for name in scores},
        "sequences": score.get("sequences", 0),
        "converged": converged,
        "train_seconds": f"{run.seconds:.1f}",
        "tokens_per_second": round(symbols / run.seconds) if run.seconds else 0,
        "device": _device_name(run.device.type),
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


def _device_name(device: str) -> str:
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


def _row_key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in KEY)
