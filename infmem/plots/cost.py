"""What reading costs: time and operations against the number of tokens that were read before."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from infmem.benchmark.attention import in_precision_of
from infmem.plots.style import BLACK, BLUE, GREY, ORANGE, SKY, VERMILION, blank, tidy

MODEL_STYLES = {
    "infinite-former": {"color": BLUE, "linestyle": "-"},
    "compressive-transformer": {"color": ORANGE, "linestyle": "-."},
    "transformer-xl": {"color": VERMILION, "linestyle": "--"},
    "full attention": {"color": BLACK, "linestyle": ":"},
}
TIMED_STYLES = {
    "attention": {"color": GREY, "linestyle": ":", "marker": "o"},
    "attention step": {"color": BLACK, "linestyle": "-", "marker": "o"},
    "memory read": {"color": SKY, "linestyle": "--"},
    "memory step": {"color": BLUE, "linestyle": "-"},
}
UNITS = ("", "k", "M", "G")


def short(number: int | float) -> str:
    """A count in few letters; one of whole groups of 1,024 in such groups.

    Example:
        >>> [short(number) for number in (512, 65536, 2**20, 10_000_000)]
        ['512', '64k', '1M', '10M']
    """
    power, thousand = 0, 1000 if number % 1000 == 0 or number % 1024 else 1024
    while number >= thousand and power < len(UNITS) - 1:
        number, power = number / thousand, power + 1
    return f"{number:.0f}{UNITS[power]}"


def draw_crossover(
    rows: Sequence[Mapping], title: str = "", precision: str | None = None, figure: Figure | None = None
) -> Figure:
    """Milliseconds of full attention against the number of its keys, and of a memory that never has more to look at.

    Args:
        rows: of `benchmark.benchmark_attention`.
        title: above the picture.
        precision: in which the memory's step computes; None takes that of full attention.
        figure: drawn into again; None makes a new one.

    Example:
        >>> row = {"pass": "forward", "precision": "float32"}
        >>> rows = [row | {"what": "memory read", "key_pos": None, "milliseconds": 3.0}]
        >>> rows += [row | {"what": "attention", "key_pos": n, "milliseconds": n / 500} for n in (1000, 2000, 4000)]
        >>> [line.get_label() for line in draw_crossover(rows).axes[0].lines]
        ['memory read', 'attention']
    """
    figure = blank(figure, 8, 3.4)
    names = list(dict.fromkeys(row["pass"] for row in rows))
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    contexts = sorted({row["key_pos"] for row in rows if row["key_pos"] is not None})
    for axes, name in zip(panels, names, strict=True):
        for what in dict.fromkeys(row["what"] for row in rows):
            kept = [row for row in rows if (row["what"], row["pass"]) == (what, name)]
            style = TIMED_STYLES[what] | {"linewidth": 2, "markersize": 3.5, "label": what}
            if kept[0]["key_pos"] is None:
                row = in_precision_of(kept, rows, precision)
                time = row["milliseconds"]
                others = {other["precision"] for other in rows if other["key_pos"] is not None}
                style["label"] = what if {row["precision"]} == others else f"{what}, {row['precision']}"
                axes.plot([contexts[0], contexts[-1]], [time, time], **style)
            else:
                kept.sort(key=lambda row: row["key_pos"])
                axes.plot([row["key_pos"] for row in kept], [row["milliseconds"] for row in kept], **style)
        axes.set(xscale="log", yscale="log", xlabel="keys", title=name)
        _ticks(axes, contexts[:: max(1, len(contexts) // 5)])
        tidy(axes, legend=axes is panels[-1])
    panels[0].set_ylabel("milliseconds")
    figure.suptitle(title, fontsize="medium")
    return figure


def draw_stream(
    tokens_seen: Sequence[int],
    times: Mapping[str, Sequence[int | float | None]],
    states: Mapping[str, Sequence[int | float]],
    ylabel: str = "operations a segment",
    marked: int | None = None,
    figure: Figure | None = None,
) -> Figure:
    """What a segment costs and what has to be kept, against the tokens that were read before it, for each model.

    Args:
        tokens_seen: tokens read before.
        times: by model, the cost of a segment after each number of them; None where it was not possible.
        states: by model, bytes of what it keeps.
        ylabel: what the costs are.
        marked: a number of tokens to mark.
        figure: drawn into again; None makes a new one.

    Example:
        >>> figure = draw_stream([10, 100], {"full attention": [1, None]}, {"full attention": [40, 400]}, marked=50)
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['operations a segment', 'bytes of state']
    """
    figure = blank(figure, 8, 3.2)
    panels = figure.subplots(1, 2)
    for axes, costs, name in zip(panels, (times, states), (ylabel, "bytes of state"), strict=True):
        for model, cost in costs.items():
            points = [(seen, value) for seen, value in zip(tokens_seen, cost, strict=True) if value]
            marker = "o" if len(tokens_seen) < 10 else ""
            axes.plot(*zip(*points, strict=True), **MODEL_STYLES[model], linewidth=2, marker=marker, label=model)
        if marked is not None:
            axes.axvline(marked, color=GREY, linewidth=0.8, zorder=0)
        axes.set(xscale="log", yscale="log", xlabel="tokens read before", ylabel=name)
        _ticks(axes, [n for n in (10**power for power in range(1, 9)) if tokens_seen[0] <= n <= tokens_seen[-1]])
        tidy(axes, legend=axes is panels[-1])
    return figure


def _ticks(axes: Axes, values: Sequence[int]) -> None:
    axes.set_xticks(values, [short(value) for value in values])
    axes.minorticks_off()
