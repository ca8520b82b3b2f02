"""The sorting task: a sequence and what is seen of it, answers beside the truth, and scores beside reference lines."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from infmem.plots.learning_curves import LINE_NAMES, LINE_STYLES, model_style
from infmem.plots.style import BLUE, COLORMAP, GREY, VERMILION, blank, tidy
from infmem.tasks.sorting import NUM_SYMBOLS, PADDING, ReferenceLines, count_symbols, sorted_symbols


def draw_sequence(
    symbols: Int[Tensor, " pos"], first_seen: int, num_parts: int = 12, figure: Figure | None = None
) -> Figure:
    """A sequence's symbols part by part, what of it is seen, and the counts of both, in the order of the true answer.

    Args:
        symbols: the sequence.
        first_seen: position of the first symbol that is seen; all later ones are.
        num_parts: parts that the sequence is cut into for the shares.
        figure: drawn into again; None makes a new one.

    Example:
        >>> figure = draw_sequence(torch.arange(40) % 20, first_seen=30, num_parts=4)
        >>> figure.axes[0].images[0].get_array().shape
        (20, 4)
    """
    figure = blank(figure, width=8, height=4)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    length, order = len(symbols), sorted_symbols(symbols[None])[0]
    shares = torch.stack([count_symbols(part[None])[0] / len(part) for part in symbols.tensor_split(num_parts)], dim=1)
    extent = (0, length, NUM_SYMBOLS - 0.5, -0.5)
    image = left.imshow(
        (100 * shares[order]).numpy(), aspect="auto", cmap=COLORMAP, extent=extent, interpolation="nearest"
    )
    left.axvspan(0, first_seen, facecolor="white", alpha=0.5, hatch="//", edgecolor="0.6", linewidth=0)
    left.axvline(first_seen, color=VERMILION, linewidth=2)
    left.set(
        xlabel="position in the sequence; hatched: not seen",
        ylabel="symbol, most frequent first",
        yticks=range(NUM_SYMBOLS),
        yticklabels=[str(symbol) for symbol in order.tolist()],
    )
    left.tick_params(axis="y", labelsize="x-small")
    figure.colorbar(image, ax=left, label="share of the part (%)")
    seen = symbols.clone()
    seen[:first_seen] = PADDING
    rank = np.arange(NUM_SYMBOLS)
    right.barh(rank - 0.2, count_symbols(symbols[None])[0][order].numpy(), height=0.4, color=GREY, label="in all")
    right.barh(rank + 0.2, count_symbols(seen[None])[0][order].numpy(), height=0.4, color=VERMILION, label="seen")
    right.set(xlabel="count", yticks=[], ylim=(NUM_SYMBOLS - 0.5, -0.5))
    right.legend(loc="lower right", frameon=False, fontsize="small")
    tidy(right)
    return figure


def draw_answers(
    truth: Int[Tensor, " rank"], answers: Mapping[str, Int[Tensor, " rank"]], figure: Figure | None = None
) -> Figure:
    """The true order of the symbols, and below it what each model answered: right on blue, wrong crossed out.

    Args:
        truth: the sorted symbols.
        answers: for each model its answer at every rank.
        figure: drawn into again; None makes a new one.

    Example:
        >>> figure = draw_answers(torch.arange(20), {"a model": torch.zeros(20, dtype=torch.int64)})
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['truth', 'a model: 1 of 20']
    """
    figure = blank(figure, width=8, height=0.9 + 0.42 * (1 + len(answers)))
    axes = figure.add_subplot()
    labels = ["truth"]
    for row, (name, given) in enumerate([("truth", truth), *answers.items()]):
        right = given == truth
        for rank, symbol in enumerate(given.tolist()):
            color = "0.85" if row == 0 else "#9CC9E8" if right[rank] else "white"
            axes.barh(row, 0.94, height=0.86, left=rank + 0.53, color=color, edgecolor="0.7", linewidth=0.5)
            axes.text(rank + 1, row, str(symbol), ha="center", va="center", fontsize="small")
            if not right[rank]:
                axes.plot([rank + 0.62, rank + 1.38], [row + 0.33, row - 0.33], color=VERMILION, linewidth=1)
        if row:
            labels.append(f"{name}: {int(right.sum())} of {len(truth)}")
    axes.set(
        yticks=range(len(labels)), yticklabels=labels, xticks=range(1, len(truth) + 1), xlim=(0.4, len(truth) + 0.6)
    )
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel("rank: 1 is the most frequent symbol")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def draw_accuracy_by_length(
    scores: Sequence[Mapping],
    lines: Mapping[int, ReferenceLines],
    title: str = "",
    trained_at: int | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Accuracy against the length of the sequence, for each model, beside the reference lines.

    Args:
        scores: rows with `name`, `length`, `accuracy` and `ci95`.
        lines: reference lines by length; none draws none.
        title: above the picture.
        trained_at: a length to mark, where one model is read at many.
        figure: drawn into again; None makes a new one.

    Example:
        >>> scores = [{"name": "window", "length": n, "accuracy": 0.2, "ci95": 0.01} for n in (100, 200)]
        >>> lines = ReferenceLines(chance=0.18, last_segment=0.23, receptive_field=0.36, exact_counts=0.87)
        >>> len(draw_accuracy_by_length(scores, {100: lines, 200: lines}).axes)
        1
    """
    figure = blank(figure, width=7.5, height=3.4)
    axes = figure.add_subplot()
    for index, name in enumerate(dict.fromkeys(row["name"] for row in scores)):
        rows = sorted((row for row in scores if row["name"] == name), key=lambda row: row["length"])
        x, y, error = ([row[key] for row in rows] for key in ("length", "accuracy", "ci95"))
        axes.errorbar(x, y, error, **model_style(name, index), marker="os^Dv"[index % 5], markersize=5, label=name)
    lengths = sorted(lines)
    for line, style in LINE_STYLES.items() if lines else ():
        values = [getattr(lines[length], line) for length in lengths]
        axes.plot(lengths, values, color="0.35", linewidth=1, linestyle=style, label=LINE_NAMES[line])
    axes.set(xscale="log", ylim=(0, 1), ylabel="teacher-forced accuracy", xlabel="symbols in the sequence", title=title)
    shown = lengths or sorted({row["length"] for row in scores})
    axes.set_xticks(shown, [f"{length:,}" for length in shown])
    axes.minorticks_off()
    if trained_at is not None:
        axes.axvline(trained_at, color=GREY, linewidth=0.8, label=f"trained at {trained_at}", zorder=0)
    tidy(axes, legend=True)
    return figure


def draw_scores(scores: Sequence[Mapping], lines: ReferenceLines, figure: Figure | None = None) -> Figure:
    """Accuracy of models at one length as bars with 95 % intervals, the best above, beside the reference lines.

    Args:
        scores: rows with `name`, `accuracy` and `ci95`.
        lines: the reference lines.
        figure: drawn into again; None makes a new one.

    Example:
        >>> lines = ReferenceLines(chance=0.18, last_segment=0.23, receptive_field=0.36, exact_counts=0.87)
        >>> scores = [{"name": name, "accuracy": 0.5, "ci95": 0.01} for name in ("gate", "sticky")]
        >>> len(draw_scores(scores, lines).axes[0].patches)
        2
    """
    figure = blank(figure, width=8, height=1.4 + 0.26 * len(scores))
    axes = figure.add_subplot()
    rows = sorted(scores, key=lambda row: row["accuracy"])
    axes.barh(
        [row["name"] for row in rows],
        [row["accuracy"] for row in rows],
        xerr=[row["ci95"] for row in rows],
        height=0.6,
        color=BLUE,
        ecolor="black",
    )
    _vertical_lines(axes, lines)
    for place, row in enumerate(rows):
        axes.text(0.01, place, f"{row['accuracy']:.3f}", color="white", va="center", fontsize="small")
    axes.set(xlim=(0, 1), xlabel="teacher-forced accuracy, with 95 % interval over sequences")
    tidy(axes, legend=True)
    return figure


def _vertical_lines(axes: Axes, lines: ReferenceLines) -> None:
    for line, style in LINE_STYLES.items():
        axes.axvline(getattr(lines, line), color="0.35", linewidth=1, linestyle=style, label=LINE_NAMES[line], zorder=3)
