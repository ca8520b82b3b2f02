"""Accuracy while training, beside what counting by hand would score."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from infmem.plots.style import CYCLE, MODEL_COLORS, blank, tidy
from infmem.tasks.sorting import ReferenceLines

LINE_NAMES = {
    "exact_counts": "counting everything",
    "receptive_field": "counting what a Transformer-XL can see",
    "last_segment": "counting the last segment",
    "chance": "chance",
}
LINE_STYLES = {"exact_counts": "-", "receptive_field": "--", "last_segment": "-.", "chance": ":"}
VARIANTS = (
    "fixed-tau", "few-basis", "few-samples", "gate", "padding", "sticky", "sticky-iid", "sampled", "sticky-even",
)  # fmt: skip
VARIANT_COLORS = [color for color in CYCLE if color not in MODEL_COLORS.values()]


def model_style(name: str, index: int) -> dict[str, str | float]:
    """How a model's line is drawn: the same in every picture for a model that comes with the package.

    Args:
        name: of the model.
        index: its place among those drawn, which decides for other models.

    Example:
        >>> model_style("window", 0)["linestyle"], model_style("gate", 1)["linestyle"]
        ('-', '--')
    """
    if name in MODEL_COLORS:
        return {"color": MODEL_COLORS[name], "linestyle": "-", "linewidth": 2.0}
    place = VARIANTS.index(name) if name in VARIANTS else index
    dashes = ("--", "-.", ":")[place % 3]
    return {"color": VARIANT_COLORS[place % len(VARIANT_COLORS)], "linestyle": dashes, "linewidth": 2.0}


def draw_learning_curves(
    metrics: Mapping[str, Sequence[Mapping[str, int | float]]],
    lines: ReferenceLines,
    window: int = 50,
    figure: Figure | None = None,
) -> Figure:
    """Accuracy while training, for each model, beside the reference lines.

    Args:
        metrics: for each model, the rows of its `metrics.csv`.
        lines: the reference lines of the task.
        window: rows to average over.
        figure: drawn into again; None makes a new one.

    Example:
        >>> rows = [{"step": step, "accuracy": 0.5} for step in range(100)]
        >>> lines = ReferenceLines(chance=0.18, last_segment=0.23, receptive_field=0.36, exact_counts=0.87)
        >>> len(draw_learning_curves({"transformer-xl": rows}, lines).axes)
        1
    """
    figure = blank(figure, width=8, height=4.5)
    axes = figure.add_subplot()
    for index, (name, rows) in enumerate(metrics.items()):
        steps, accuracy = moving_average([row["step"] for row in rows], [row["accuracy"] for row in rows], window)
        axes.plot(steps, accuracy, **model_style(name, index), label=name)
    for name, style in LINE_STYLES.items():
        axes.axhline(getattr(lines, name), color="0.35", linewidth=1, linestyle=style, label=LINE_NAMES[name])
    axes.set(xlabel="training step", ylabel="teacher-forced accuracy", ylim=(0, 1), title="Who remembers?")
    tidy(axes, legend=True)
    return figure


def moving_average(
    steps: Sequence[int | float], values: Sequence[int | float], window: int
) -> tuple[np.ndarray, np.ndarray]:
    """Means over full windows, each at its last step; shorter series are averaged over what there is.

    Example:
        >>> steps, means = moving_average([1, 2, 3], [0.0, 1.0, 2.0], window=2)
        >>> steps.tolist(), means.tolist()
        ([2, 3], [0.5, 1.5])
    """
    window = min(window, len(values))
    if window == 0:
        return np.array([]), np.array([])
    means = np.convolve(np.asarray(values, dtype=float), np.full(window, 1 / window), mode="valid")
    return np.asarray(steps)[window - 1 :], means
