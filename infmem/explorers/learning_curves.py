"""How the trained models learnt, and the recorded scores of all of them."""

import csv
from functools import cache
from pathlib import Path

import torch
from matplotlib.figure import Figure

from infmem import trained
from infmem.explorers.base import Explorer, choice, int_slider
from infmem.plots.learning_curves import LINE_NAMES, draw_learning_curves, moving_average
from infmem.tasks.sorting import ReferenceLines, reference_lines
from infmem.training import generator_for
from infmem.validation import require

GROUPS = {
    "three models": ("infinite-former", "transformer-xl", "window"),
    "how to forget": ("infinite-former", "fixed-tau"),
    "how much to keep": ("infinite-former", "few-basis", "sampled", "few-samples"),
    "what is written": ("infinite-former", "gate", "padding"),
    "sticky memories": ("infinite-former", "sampled", "sticky", "sticky-even", "sticky-iid"),
}
STEPS_PER_ROW = 10
COLUMNS = ("name", "length", "seed", "accuracy", "ci95", "free_running", *LINE_NAMES, "seconds")


@cache
def classroom_lines() -> ReferenceLines:
    """The reference lines of the classroom's task, over the same 1,000 sequences as `infmem demo`'s.

    Example:
        >>> round(classroom_lines().exact_counts, 3)
        0.866
    """
    generator = generator_for(torch.device("cpu"), 0, "lines")
    return reference_lines(396, 32, num_layers=2, memory_length=80, generator=generator, num_sequences=1000)


def recorded_scores(path: Path | str) -> list[dict]:
    """The recorded scores of the classroom's models, a row for each training.

    A row's `receptive_field` counts what that model's short-term memory can reach.

    Args:
        path: of `classroom_variants.csv`.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    path = Path(path)
    require(path.is_file(), f"there are no recorded scores at {path}: `make models` measures them anew")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    columns = set(reader.fieldnames or ())
    require(columns >= set(COLUMNS), f"{path} must have the columns {', '.join(COLUMNS)}: `make models` makes it anew")
    kinds = dict.fromkeys(COLUMNS, float) | {"name": str, "length": int, "seed": int}
    return [{name: kind(row[name]) for name, kind in kinds.items()} for row in rows]


def recorded_lines(rows: list[dict]) -> dict[int, ReferenceLines]:
    """Reference lines by length, from rows of `recorded_scores`; the receptive field is the Transformer-XL's.

    Example:
        >>> row = {"name": "transformer-xl", "length": 100} | dict.fromkeys(LINE_NAMES, 0.5)
        >>> recorded_lines([row])[100].chance
        0.5
    """
    rows = [row for row in rows if row["name"] == "transformer-xl"]
    return {row["length"]: ReferenceLines(**{line: row[line] for line in LINE_NAMES}) for row in rows}


def accuracies(rows: list[dict]) -> dict[tuple[str, int], list[float]]:
    """The accuracy of every seed, by name and length, from rows of `recorded_scores`.

    Example:
        >>> row = {"name": "window", "length": 100}
        >>> accuracies([row | {"accuracy": 0.25}, row | {"accuracy": 0.5}])
        {('window', 100): [0.25, 0.5]}
    """
    found: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        found.setdefault((row["name"], row["length"]), []).append(row["accuracy"])
    return found


def learning_curves() -> Explorer:
    """Learning curves of the trained models, and which reference lines they end above."""
    lines = classroom_lines()

    def show(figure: Figure, group: str, smoothing: int) -> str:
        curves = {name: trained.learning_curve(name) for name in GROUPS[group] if name in trained.names()}
        require(bool(curves), f"none of {', '.join(GROUPS[group])} is here: `make models` trains them")
        draw_learning_curves(curves, lines, window=smoothing // STEPS_PER_ROW, figure=figure)
        return " ".join(_outcome(name, rows, smoothing, lines) for name, rows in curves.items())

    controls = {
        "group": choice("compare", next(iter(GROUPS)), list(GROUPS)),
        "smoothing": int_slider("steps averaged over", 50, 10, 490, STEPS_PER_ROW),
    }
    return Explorer("How the trained models learnt", show, controls, size=(8, 4))


def _outcome(name: str, rows: list[dict], smoothing: int, lines: ReferenceLines) -> str:
    """Final score of a model, the highest line below it, and when its curve passed what a Transformer-XL can see."""
    score = trained.card(name)
    passed = [line for line in LINE_NAMES if score["accuracy"] - score["ci95"] > getattr(lines, line)]
    best = f"above {LINE_NAMES[passed[0]]} ({getattr(lines, passed[0]):.3f})" if passed else "above no line"
    steps, accuracy = moving_average(
        [row["step"] for row in rows], [row["accuracy"] for row in rows], smoothing // STEPS_PER_ROW
    )
    above = steps[accuracy > lines.receptive_field]
    when = f"its curve passed what a Transformer-XL can count at step {above[0]:.0f}" if len(above) else (
        f"its curve ends at {round(accuracy[-1], 9):.3f}"
    )  # fmt: skip
    return f"{name} scores {score['accuracy']:.3f} ± {score['ci95']:.3f} on fresh sequences, {best}; {when}."
