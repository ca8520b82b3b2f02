"""What is recorded: the columns of each file, what is still missing, and scores over seeds."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infmem.evaluation import AgeScore
from infmem.experiment.cells import (
    ABLATION_STEPS,
    ABLATIONS,
    CONTINUED_PART,
    SCALES,
    SWEEP_PRESET,
    Cell,
    Scale,
    choice,
)
from infmem.microscope import MemoryErrors, memory_errors
from infmem.presets import PRESETS, PresetName, model_config
from infmem.tables import read_table, write_table
from infmem.tasks.sorting import ReferenceLines, reference_lines
from infmem.training import generator_for
from infmem.validation import require

FIELDS = (
    "model", "preset", "length", "segment", "seed", "optimizer", "learning_rate", "accuracy", "ci95", "free_running",
    "free_running_ci95", "sequences", "steps", "converged", "train_seconds", "tokens_per_second", "device", "torch",
    "parameters", "state_bytes", "receptive_field", "start", "command",
)  # fmt: skip
KEY = ("model", "preset", "length", "seed", "optimizer", "learning_rate", "steps", "start")
AGE_FIELDS = ("length", *(field.name for field in dataclasses.fields(AgeScore)))
ERROR_FIELDS = ("change", "age", *MemoryErrors._fields)
LONGER_FIELDS = (
    "model", "preset", "trained_length", "length", "segment", "seed", "optimizer", "learning_rate", "steps", "accuracy",
    "ci95", "sequences", "device", "torch", "command",
)  # fmt: skip
LINE_FIELDS = ("preset", "length", "segment", "chance", "last_segment", "receptive_field", "exact_counts", "sequences")


def row_key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in KEY)


def chosen_rates(rows: Iterable[Mapping[str, str]], cells: Sequence[Cell], preset: PresetName) -> dict[str, float]:
    """The learning rate of each model's best cell, for a preset's sizes.

    Args:
        rows: what is recorded.
        cells: of the sweep.
        preset: the sizes that the rates are for.

    Raises:
        ValueError: if a cell has no row.
    """
    scores = {row_key(row): float(row["accuracy"]) for row in rows}
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
    done = {row_key(row) for row in read_rows(path)}
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


def record_errors(path: Path, num_updates: int = 16) -> None:
    """Write how wrong each of these memories is by age, before anything is trained.

    Args:
        path: CSV file.
        num_updates: of a memory that is written in segments of the preset.
    """
    sizes, rows = PRESETS[SWEEP_PRESET], []
    for change in ABLATIONS:
        model, memory, options = choice(change)
        config = model_config(model, sizes, memory, options).memory
        generator = generator_for(torch.device("cpu"), 0, "errors", change)
        errors = memory_errors(config, sizes.segment_length, num_updates, generator)
        for age, values in enumerate(zip(*errors, strict=True)):
            rows.append({"change": change, "age": age} | dict(zip(ERROR_FIELDS[2:], map(_digits, values), strict=True)))
    write_table(path, ERROR_FIELDS, rows)


def read_errors(path: Path) -> dict[str, MemoryErrors]:
    """What `record_errors` has written: by the name of each change, its errors by age.

    Example:
        >>> read_errors(Path("there-is-no-such-file.csv"))
        {}
    """
    errors: dict[str, list[list[float]]] = {}
    for row in read_table(path, ERROR_FIELDS, "the file of errors of an experiment"):
        errors.setdefault(row["change"], []).append([float(row[name]) for name in MemoryErrors._fields])
    return {name: MemoryErrors(*torch.tensor(rows, dtype=torch.float64).mT) for name, rows in errors.items()}


def _digits(value: Tensor) -> str:
    return f"{value.item():.4g}"


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
    return _over_seeds(row for row in read_rows(path) if row["preset"] == preset and has_usual_budget(row))


def has_usual_budget(row: Mapping[str, str]) -> bool:
    """Whether a training was made by its scale's optimiser, in as many steps as the others of its scale."""
    steps = PRESETS[row["preset"]].steps
    usual = steps // CONTINUED_PART if row["start"] else steps
    return (row["optimizer"], int(row["steps"])) == (SCALES[row["preset"]].optimizer, usual)


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


def age_scores(path: Path, times: int = 1) -> dict[str, dict[int, list[float]]]:
    """Accuracy by age of the fact, of each who has to recall facts: for each age in segments the score of every seed.

    Args:
        path: the CSV file of the experiment; the ages lie beside it.
        times: how many times as long the sequences are as those of the training: 1, or `RECALL_LONGER`.

    Example:
        >>> age_scores(Path("there-is-no-such-file.csv"))
        {}
    """
    scores: dict[str, dict[int, list[float]]] = {}
    for row in read_rows(path):
        sizes, rate = (int(row["length"]), int(row["seed"])), float(row["learning_rate"])
        cell = Cell(row["model"], row["preset"], *sizes, rate, int(row["steps"]), row["optimizer"], task="recall")
        ages = path.parent / f"{path.stem}_ages" / f"{cell.name}.csv"
        for line in read_table(ages, AGE_FIELDS, "the file of ages of an experiment"):
            if int(line["length"]) != times * int(row["length"]):
                continue
            scores.setdefault(row["model"], {}).setdefault(int(line["age"]), []).append(float(line["accuracy"]))
    return scores


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
