"""What each choice of a memory is worth, and how wrong the memory is before anything is trained."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from infmem.plots.style import BLACK, CYCLE, blank, tidy

MARKERS, DASHES = "osD^vP*X", ("-", "--", "-.", ":")


def draw_ablation(
    scores: Sequence[Mapping],
    errors: Mapping[str, Sequence[float]],
    *,
    marked: int = 0,
    what: str = "error",
    figure: Figure | None = None,
) -> Figure:
    """Accuracy of changed memories, with intervals; beside it their errors by age. The first one is not changed.

    Args:
        scores: rows with `name`, `accuracy` and `ci95`.
        errors: by the same names, an error for each age in updates.
        marked: an age to point at.
        what: words for the error.
        figure: drawn into again; None makes a new one.

    Example:
        >>> scores = [{"name": name, "accuracy": 0.9, "ci95": 0.01} for name in ("best", "gate")]
        >>> figure = draw_ablation(scores, {"best": [0.1, 0.2], "gate": [0.1, 0.2]})
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['best', 'gate']
    """
    figure = blank(figure, width=8.5, height=3.2)
    left, right = figure.subplots(1, 2)
    names = [row["name"] for row in scores]
    for place, row in enumerate(scores):
        look = {"color": BLACK if place == 0 else CYCLE[(place - 1) % 6], "marker": MARKERS[place % len(MARKERS)]}
        top = {"zorder": 5 if place == 0 else 2}  # what is not changed stays in view
        left.errorbar(row["accuracy"], place, xerr=row["ci95"], capsize=3, linestyle="none", markersize=5, **look)
        values = errors[row["name"]]
        right.plot(range(len(values)), values, linestyle=DASHES[place % 4], linewidth=1.3, markersize=3, **look, **top)
    first = scores[0]
    left.axvspan(first["accuracy"] - first["ci95"], first["accuracy"] + first["ci95"], color="0.88", zorder=0)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_xlabel("accuracy, with the interval of every seed")
    right.axvline(marked, color="0.6", linewidth=1, zorder=0)
    right.set(yscale="log", xlabel="age in updates", title=what)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.minorticks_off()  # a logarithmic axis has many, and each takes time
    for axes in (left, right):
        tidy(axes)
    return figure
