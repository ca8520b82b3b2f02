"""Draw the figures of the README from the numbers in figures/data: `make figures`."""

import csv
import json
from pathlib import Path

from matplotlib.figure import Figure

from infmem.demo import MODELS
from infmem.plots import draw_learning_curves
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


FIGURES = {"learning_curves.png": learning_curves}


def main() -> None:
    """Write every figure."""
    for name, draw in FIGURES.items():
        draw().savefig(HERE / name, dpi=DOTS_PER_INCH)
        print(f"figures/{name}")


if __name__ == "__main__":
    main()
