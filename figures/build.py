"""Draw the figures of the README from the numbers in figures/data: `make figures`."""

import csv
import json
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from infmem.demo import MODELS
from infmem.experiment import VARIANTS, mean_scores, read_lines
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


def sorting_table(preset: str) -> str:
    """The same as a table in Markdown, with the number of seeds; a dash where a cell is not recorded yet."""
    scores = {(row["name"], row["length"]): row for row in mean_scores(HERE / "data" / "sorting.csv", preset)}
    lengths = sorted({length for _, length in scores})
    lines = ["| | " + " | ".join(f"{length:,} symbols" for length in lengths) + " |", "|---" * (1 + len(lengths)) + "|"]
    for name in sorted({name for name, _ in scores}, key=list(VARIANTS).index):
        cells = [scores.get((name, length)) for length in lengths]
        words = [f"{cell['accuracy']:.3f} ({cell['seeds']})" if cell else "–" for cell in cells]
        lines.append(f"| {name} | " + " | ".join(words) + " |")
    return "\n".join(lines)


def depth_table() -> str:
    """The Transformer-XL of the small preset at 1,000 symbols, with two, three and four layers."""
    with (HERE / "data" / "sorting_depth.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kinds = {"counting all that can reach the answer": "receptive_field", "even attention": "even_attention"}
    lines = ["| | " + " | ".join(f"{row['num_layers']} layers" for row in rows) + " |", "|---" * (1 + len(rows)) + "|"]
    for words, column in ({"the trained model": "accuracy"} | kinds).items():
        lines.append(f"| {words} | " + " | ".join(f"{float(row[column]):.3f}" for row in rows) + " |")
    return "\n".join(lines)


def sorting(preset: str, title: str) -> Figure:
    """Accuracy against length, from what `infmem experiment sorting` has recorded."""
    lines = read_lines(HERE / "data" / "sorting_lines.csv", preset)
    return draw_accuracy_by_length(mean_scores(HERE / "data" / "sorting.csv", preset), lines, title)


FIGURES = {
    "learning_curves.png": learning_curves, "sorting.png": partial(sorting, "full", "sorting, at the paper's sizes"),
    "sorting_small.png": partial(sorting, "small", "sorting, an eighth of the paper's sizes"),
}


def main() -> None:
    """Write every figure."""
    for name, draw in FIGURES.items():
        draw().savefig(HERE / name, dpi=DOTS_PER_INCH)
        print(f"figures/{name}")


if __name__ == "__main__":
    main()
