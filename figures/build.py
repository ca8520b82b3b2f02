"""Draw the figures of the README from the numbers in figures/data: `make figures`."""

import csv
import dataclasses
import json
from pathlib import Path

from matplotlib.figure import Figure

from infmem.demo import MODELS
from infmem.experiment import FIELDS, LINE_FIELDS, VARIANTS, read_rows
from infmem.plots import draw_accuracy_by_length, draw_learning_curves
from infmem.tasks.sorting import ReferenceLines

HERE = Path(__file__).resolve().parent
DOTS_PER_INCH = 150


def recorded(path: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics that were kept."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def learning_curves() -> Figure:
    """What `make run` draws, from the run that is recorded in figures/data/demo."""
    demo = HERE / "data" / "demo"
    lines = json.loads((demo / "summary.json").read_text(encoding="utf-8"))["lines"]
    return draw_learning_curves({model: recorded(demo / f"{model}.csv") for model in MODELS}, ReferenceLines(**lines))


def sorting_scores(preset: str) -> list[dict]:
    """Each model at each length: the mean over seeds, and a bar that holds the interval of every seed."""
    cells = {}
    for row in read_rows(HERE / "data" / "sorting.csv", FIELDS):
        if row["preset"] == preset:
            score = float(row["accuracy"]), float(row["ci95"])
            cells.setdefault((row["model"], int(row["length"])), []).append(score)
    scores = []
    for (name, length), seeds in cells.items():
        mean = sum(accuracy for accuracy, _ in seeds) / len(seeds)
        bar = max(abs(accuracy - mean) + ci95 for accuracy, ci95 in seeds)
        scores.append({"name": name, "length": length, "accuracy": mean, "ci95": bar, "seeds": len(seeds)})
    return scores


def sorting_table(preset: str) -> str:
    """The same as a table in Markdown, with the number of seeds; a dash where a cell is not recorded yet."""
    scores = {(row["name"], row["length"]): row for row in sorting_scores(preset)}
    lengths = sorted({length for _, length in scores})
    lines = ["| | " + " | ".join(f"{length:,} symbols" for length in lengths) + " |", "|---" * (1 + len(lengths)) + "|"]
    for name in sorted({name for name, _ in scores}, key=list(VARIANTS).index):
        cells = [scores.get((name, length)) for length in lengths]
        words = [f"{cell['accuracy']:.3f} ({cell['seeds']})" if cell else "–" for cell in cells]
        lines.append(f"| {name} | " + " | ".join(words) + " |")
    return "\n".join(lines)


def sorting() -> Figure:
    """Accuracy against length at small scale, from what `infmem experiment sorting` has recorded."""
    rows = read_rows(HERE / "data" / "sorting_lines.csv", LINE_FIELDS)
    names = [field.name for field in dataclasses.fields(ReferenceLines)]
    lines = {
        int(row["length"]): ReferenceLines(**{name: float(row[name]) for name in names})
        for row in rows
        if row["preset"] == "small"
    }
    return draw_accuracy_by_length(sorting_scores("small"), lines, "sorting, an eighth of the paper's sizes")


FIGURES = {"learning_curves.png": learning_curves, "sorting.png": sorting}


def main() -> None:
    """Write every figure."""
    for name, draw in FIGURES.items():
        draw().savefig(HERE / name, dpi=DOTS_PER_INCH)
        print(f"figures/{name}")


if __name__ == "__main__":
    main()
