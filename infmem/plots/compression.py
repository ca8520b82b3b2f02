"""Compression: where every token lies, what each function gives back, and how a learned one gets better."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator
from torch import Tensor

from infmem.plots.style import BLUE, CYCLE, GREEN, GREY, ORANGE, SKY, VERMILION, blank, tidy

GONE = "0.88"
QUESTIONS = ("how often?", "was there?", "up or down?")
DASHES = ("-", "--", "-.", ":")


def _strip(axes: Axes, left: int, cells: Sequence[tuple[int, str]], row: int) -> None:
    """Cells side by side from `left` on, each with its width and colour: one collection for each colour."""
    starts = left + np.cumsum([0, *(width for width, _ in cells)])
    for color in dict.fromkeys(color for _, color in cells):
        spans = [(start, width) for start, (width, shown) in zip(starts, cells, strict=False) if shown == color]
        axes.broken_barh(spans, (row - 0.35, 0.7), facecolors=color, edgecolors="white", linewidth=0.8)


def draw_two_memories(
    before: Sequence[tuple[int, int, int]], segment: int, rate: int, figure: Figure | None = None
) -> Figure:
    """Where each token lies when a segment is read, a row for each segment; a compressed state is one cell.

    Args:
        before: for each segment how many earlier tokens are gone, compressed and in short-term memory.
        segment: tokens in each.
        rate: tokens in a compressed state.
        figure: drawn into again; None makes a new one.

    Example:
        >>> len(draw_two_memories([(0, 0, 0), (0, 2, 0)], segment=2, rate=2).axes[0].collections)
        3
    """
    figure = blank(figure, 7.5, 0.9 + 0.32 * len(before))
    axes = figure.add_subplot()
    for row, (gone, compressed, short_term) in enumerate(before, start=1):
        cells = [(1, GONE)] * gone
        cells += [(rate, (BLUE, SKY)[(gone // rate + k) % 2]) for k in range(compressed // rate)]
        _strip(axes, 0, [*cells, *[(1, ORANGE)] * short_term, *[(1, GREEN)] * segment], row)
    total = sum(before[-1]) + segment
    axes.set_xticks(np.arange(total) + 0.5, range(1, total + 1))
    axes.set_yticks(range(1, len(before) + 1))
    axes.set(xlabel="token", ylabel="segment", xlim=(0, total))
    axes.invert_yaxis()
    axes.tick_params(length=0)
    tidy(axes)
    names = {"gone": GONE, "compressed memory": BLUE, "short-term memory": ORANGE, "the segment": GREEN}
    handles = [Line2D([], [], marker="s", linestyle="", color=color, label=name) for name, color in names.items()]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
    return figure


def draw_given_back(
    signal: Float[Tensor, "pos 3"], given_back: Mapping[str, Float[Tensor, "pos 3"]], figure: Figure | None = None
) -> Figure:
    """What several compressions say of the same signal: a column for each, a row for each of its numbers.

    Args:
        signal: what was compressed.
        given_back: by compression, what it says of each token; NaN where it says nothing.
        figure: drawn into again; None makes a new one.

    Example:
        >>> import torch
        >>> len(draw_given_back(torch.zeros(4, 3), {"mean": torch.zeros(4, 3), "max": torch.ones(4, 3)}).axes)
        6
    """
    figure = blank(figure, 7.5, 4)
    panels = figure.subplots(3, len(given_back), sharex=True, sharey="row", squeeze=False)
    tokens = np.arange(1, len(signal) + 1)
    for column, (name, said) in zip(panels.T, given_back.items(), strict=True):
        column[0].set_title(name, fontsize="medium")
        for axes, true, back in zip(column, signal.T, said.T, strict=True):
            axes.plot(tokens, true.numpy(), "o", color=GREY, markersize=3.5, label="signal")
            _given(axes, tokens, back.numpy())
            axes.margins(y=0.15)
            axes.set_xticks([1, len(tokens)])
            tidy(axes)
        column[-1].set_xlabel("token")
    for axes, question in zip(panels[:, 0], QUESTIONS, strict=True):
        axes.set_ylabel(question)
    figure.align_ylabels(panels[:, 0])
    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=3.5, color=GREY, label="the signal"),
        Line2D([], [], color=VERMILION, linewidth=2, label="given back"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return figure


def _given(axes: Axes, tokens: np.ndarray, said: np.ndarray) -> None:
    """A short line over each token of which something is said."""
    there = ~np.isnan(said)
    axes.hlines(said[there], tokens[there] - 0.5, tokens[there] + 0.5, color=VERMILION, linewidth=2)


def draw_compressed_view(
    signal: Float[Tensor, "pos 3"],
    given_back: Float[Tensor, "read 3"],
    places: tuple[int, int, int, int],
    rate: int,
    figure: Figure | None = None,
) -> Figure:
    """Tokens at their age, the keys that attention meets, and below them what the compressed memory gives back.

    Args:
        signal: of all tokens, read or not.
        given_back: what the compressed memory says of each token read; NaN where it says nothing.
        places: how many tokens are gone, compressed, in short-term memory and in the segment.
        rate: tokens in a compressed state.
        figure: drawn into again; None makes a new one.

    Example:
        >>> import torch
        >>> figure = draw_compressed_view(torch.zeros(8, 3), torch.zeros(6, 3), (0, 4, 2, 2), rate=2)
        >>> len(figure.axes)
        4
    """
    figure = blank(figure, 8, 5.2)
    top, *panels = figure.subplots(4, 1, height_ratios=(1.5, 1, 1, 1))
    gone, compressed, short_term, segment = places
    num_read, num_groups = gone + compressed + short_term, compressed // rate
    speaks = ~given_back[:, 0].isnan().numpy()
    groups = {token: (BLUE, SKY)[(token // rate) % 2] for token in range(num_read)}
    cells = [(1, groups[token] if speaks[token] else GONE) for token in range(gone + compressed)]
    _strip(top, 0, [*cells, *[(1, ORANGE)] * short_term, *[(1, GREEN)] * segment], row=1)
    start = num_read + segment - (num_groups + short_term + segment)
    colors = [(BLUE, SKY)[(gone // rate + k) % 2] for k in range(num_groups)]
    _strip(top, start, [*[(1, c) for c in colors], *[(1, ORANGE)] * short_term, *[(1, GREEN)] * segment], row=0)
    if num_groups:
        for upper, lower in [(gone, start), (gone + compressed, start + num_groups)]:
            top.plot([upper, lower], [0.65, 0.35], color=BLUE, linewidth=1)
    top.set_yticks([1, 0], ["tokens", "keys"])
    top.set_ylim(-0.45, 1.45)
    top.tick_params(axis="y", length=0)
    top.spines[:].set_visible(False)
    ages = np.arange(0, num_read + 1, 16)
    top.xaxis.tick_top()
    top.xaxis.set_label_position("top")
    top.set_xticks(num_read - ages, ages)
    top.set(xlabel="age, in tokens (grey: gone, blue: compressed, orange: short-term memory, green: segment)")
    top.set_xlim(0, len(signal))
    place = np.arange(len(signal)) + 0.5
    for axes, question, true, said in zip(panels, QUESTIONS, signal.T, given_back.T, strict=True):
        axes.plot(place[:num_read], true[:num_read].numpy(), "o", color=GREY, markersize=3)
        _given(axes, place[:num_read], said.numpy())
        axes.set_ylabel(question)
        low, high = float(true.min()), float(true.max())
        margin = 0.35 * (high - low) or 0.5
        axes.set_ylim(low - margin, high + margin)
        axes.set_yticks(sorted({low, high}))
        axes.set_xlim(0, len(signal))
        axes.set_xticks([0.5, *np.arange(16, len(signal) + 1, 16) - 0.5], labels=[])
        tidy(axes)
    panels[-1].set_xlabel("token (grey dots: what it was; lines: what the compressed memory says)")
    figure.align_ylabels(panels)
    panels[-1].set_xticks(panels[-1].get_xticks(), [1, *range(16, len(signal) + 1, 16)])
    return figure


def draw_compression_learning(
    errors: Mapping[str, Sequence[float]], strengths: Mapping[str, Sequence[float]], figure: Figure | None = None
) -> Figure:
    """How the error of reading falls while a compression is learned, and what the learned one looks at.

    Args:
        errors: by compression, after each step.
        strengths: by compression, the size of the matrix that it has for each place in a group.
        figure: drawn into again; None makes a new one.

    Example:
        >>> figure = draw_compression_learning({"learned": [1.0, 0.5]}, {"learned": [1.0, 0.0]})
        >>> [len(axes.lines) for axes in figure.axes]
        [1, 0]
    """
    figure = blank(figure, 7.5, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    names = dict.fromkeys([*errors, *strengths])
    colors = {name: CYCLE[number % len(CYCLE)] for number, name in enumerate(names)}
    for number, (name, line) in enumerate(errors.items()):
        left.plot(line, DASHES[number % 4], color=colors[name], linewidth=2, label=name)
    left.set(yscale="log", xlabel="training step", ylabel="error of reading")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    left.yaxis.set_major_formatter("{x:g}")
    left.minorticks_off()
    width = 0.8 / len(strengths)
    for number, (name, values) in enumerate(strengths.items()):
        place = np.arange(1, len(values) + 1) + (number - (len(strengths) - 1) / 2) * width
        hatch = ("", "//", "..")[number % 3]
        right.bar(place, values, width, color=colors[name], hatch=hatch, edgecolor="white", label=name)
    right.set_xticks(range(1, len(next(iter(strengths.values()))) + 1))
    right.set(xlabel="place in the group", ylabel="size of its matrix")
    for axes, columns in ((left, 2), (right, 1)):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize="small")
        tidy(axes)
    return figure
