"""Whole models: what reaches a layer, the relative shift, the memories of a segment, and what reading costs."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from infmem.plots.style import BLUE, COLORMAP, CYCLE, GREEN, GREY, MODEL_COLORS, ORANGE, VERMILION, blank, tidy

UNSEEN = "0.9"
DASHES = ("-", "--", "-.", ":")


def draw_reach(rooms: Mapping[str, Float[Tensor, "level pos"]], figure: Figure | None = None) -> Figure:
    """For each model a grid of levels and positions: what of the sequence can reach the last token.

    Args:
        rooms: by model, for each level (0: the tokens; k: what leaves layer k) the basis functions that each position
            has in the memory through which it is read: 1 or more where it is there as it is, 0 where it cannot reach.
        figure: drawn into again; None makes a new one.

    Example:
        >>> len(draw_reach({"window": torch.tensor([[0.0, 1.0], [0.0, 1.0]])}).axes)  # the grid and the colour bar
        2
    """
    figure = blank(figure, 7.5, 1.5 + 1.2 * len(rooms))
    panels = figure.subplots(len(rooms), sharex=True, squeeze=False)[:, 0]
    for axes, (name, room) in zip(panels, rooms.items(), strict=True):
        levels, length = room.shape
        shown = np.ma.masked_less_equal(room.numpy(), 0)
        image = axes.imshow(
            shown,
            cmap=COLORMAP,
            norm=LogNorm(1e-3, 1, clip=True),
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            extent=(0.5, length + 0.5, -0.5, levels - 0.5),
        )
        axes.set_facecolor(UNSEEN)
        axes.hlines(np.arange(levels - 1) + 0.5, 0.5, length + 0.5, color="white", linewidth=2)
        names = ["tokens"] + [f"after layer {level}" for level in range(1, levels)]
        axes.set_yticks(range(levels), names, fontsize="x-small" if levels > 4 else "small")
        axes.set_title(name, loc="left", fontsize="medium")
        axes.tick_params(axis="y", length=0)
        axes.spines[:].set_visible(False)
    panels[-1].set_xlabel("token (grey: cannot reach the last one)")
    bar = figure.colorbar(image, ax=list(panels), label="basis functions per token\n(1: there as it is)")
    bar.set_ticks([0.001, 0.01, 0.1, 1], labels=["0.001", "0.01", "0.1", "1 or more"])
    bar.minorticks_off()
    return figure


def draw_sinusoids(encodings: Float[Tensor, "distance d_model"], figure: Figure | None = None) -> Figure:
    """Encodings of the distances 0, 1, 2, ... as a heat map, a column for each distance.

    Args:
        encodings: `sinusoids` of these distances.
        figure: drawn into again; None makes a new one.

    Example:
        >>> draw_sinusoids(torch.zeros(5, 4)).axes[0].images[0].get_array().shape
        (4, 5)
    """
    figure = blank(figure, 7.5, 2.8)
    axes = figure.add_subplot()
    image = axes.imshow(encodings.mT.numpy(), cmap=COLORMAP, aspect="auto", vmin=-1, vmax=1, interpolation="nearest")
    axes.set(xlabel="distance to the key, in tokens", ylabel="component")
    half = encodings.shape[1] // 2
    axes.axhline(half - 0.5, color="white", linewidth=1.5)
    axes.set_yticks([(half - 1) / 2, half + (half - 1) / 2], ["sines,\nfast to slow", "cosines,\nfast to slow"])
    axes.tick_params(axis="y", length=0)
    figure.colorbar(image, ax=axes, label="value")
    return figure


def draw_relative_shift(
    before: Float[Tensor, "query_pos key_pos_and_one"],
    after: Float[Tensor, "query_pos key_pos"],
    figure: Figure | None = None,
) -> Figure:
    """Scores by distance and the same scores by key, with each number in its cell; later keys are hatched.

    Args:
        before: by distance; the first column is not used.
        after: what `relative_shift` makes of it.
        figure: drawn into again; None makes a new one.

    Example:
        >>> figure = draw_relative_shift(torch.zeros(2, 4), torch.zeros(2, 3))
        >>> [text.get_text() for text in figure.axes[1].texts]
        ['0', '0', '', '0', '0', '0']
    """
    figure = blank(figure, 7.5, 2.6)
    queries, keys = after.shape
    highest = float(torch.cat([before, after], dim=1).max())
    panels = figure.subplots(1, 2, width_ratios=(keys + 1, keys))
    for axes, matrix, offset in zip(panels, (before, after), (-1, keys - queries), strict=True):
        is_used = torch.ones_like(matrix, dtype=torch.bool)
        is_used = is_used.tril(offset) if offset >= 0 else is_used & (torch.arange(matrix.shape[1]) > 0)
        shown = np.ma.masked_where(~is_used.numpy(), matrix.numpy())
        axes.imshow(shown, cmap=COLORMAP, vmin=0, vmax=max(highest, 1.0), aspect="auto")
        axes.set_facecolor(UNSEEN)
        for i in range(queries):
            for j in range(matrix.shape[1]):
                color = "white" if matrix[i, j] < 0.6 * highest else "black"
                text = f"{matrix[i, j]:g}" if is_used[i, j] else ""
                axes.text(j, i, text, ha="center", va="center", color=color)
        axes.set_yticks(range(queries), [f"query {i + 1}" for i in range(queries)])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    panels[0].set_title("before: a column for each distance", fontsize="medium")
    panels[0].set_xticks(range(keys + 1), ["unused", *(str(keys - 1 - j) for j in range(keys))])
    panels[1].set_title("after: a column for each key", fontsize="medium")
    panels[1].set_xticks(range(keys), [str(j + 1) for j in range(keys)])
    panels[0].set_xlabel("distance")
    panels[1].set_xlabel("key (grey: later than the query)")
    return figure


def draw_distance_scores(scores: Float[Tensor, "head distance"], figure: Figure | None = None) -> Figure:
    """What each head adds to a score for the distance alone.

    Args:
        scores: for each head, one for every distance 0, 1, 2, ...
        figure: drawn into again; None makes a new one.

    Example:
        >>> len(draw_distance_scores(torch.zeros(3, 7)).axes[0].lines)
        3
    """
    figure = blank(figure, 7.5, 2.8)
    axes = figure.add_subplot()
    for head, line in enumerate(scores.numpy()):
        dashes = DASHES[head % len(DASHES)]
        axes.plot(line, dashes, color=CYCLE[head % len(CYCLE)], label=f"head {head + 1}")
    axes.set(xlabel="distance to the key, in tokens", ylabel="score for the distance")
    tidy(axes, legend=True)
    return figure


def draw_memories(
    segments: Sequence[int], short_term: Sequence[int], long_term: Sequence[int], figure: Figure | None = None
) -> Figure:
    """How many tokens a layer has before it at every segment, and where they are.

    Args:
        segments: tokens of each segment.
        short_term: tokens in the short-term memory when it is read.
        long_term: tokens in the long-term memory.
        figure: drawn into again; None makes a new one.

    Example:
        >>> [len(bars) for bars in draw_memories([4, 4], [0, 4], [0, 0]).axes[0].containers]
        [2, 2, 2]
    """
    figure = blank(figure, 7.5, 3.2)
    axes = figure.add_subplot()
    numbers, left = np.arange(1, len(segments) + 1), np.zeros(len(segments))
    parts = [("long-term memory", long_term, BLUE, "//"), ("short-term memory", short_term, ORANGE, "..")]
    for name, counts, color, hatch in [*parts, ("the segment", segments, GREEN, "")]:
        axes.barh(numbers, counts, left=left, color=color, hatch=hatch, edgecolor="white", label=name)
        left = left + np.asarray(counts)
    axes.set(xlabel="token", ylabel="segment")
    axes.set_yticks(numbers)
    axes.invert_yaxis()
    tidy(axes, legend=True)
    return figure


def draw_layer(shapes: Mapping[str, tuple[int, ...]], figure: Figure | None = None) -> Figure:
    """One layer of the infinite-former as a diagram, with the shapes that its tensors have.

    Args:
        shapes: of `segment`, `short_term`, `leaving`, `long_term`, `read_short`, `read_long` and `output`.
        figure: drawn into again; None makes a new one.

    Example:
        >>> names = ("segment", "short_term", "leaving", "long_term", "read_short", "read_long", "output")
        >>> figure = draw_layer({name: (1, 32, 64) for name in names})
        >>> len(figure.axes[0].patches) >= 7
        True
    """
    figure = blank(figure, 7.5, 3.9)
    axes = figure.add_subplot()
    boxes = {  # centre, lower edge, width, text, colour
        "segment": (3.0, 0.3, 2.6, "segment: hidden states $h$", GREEN),
        "short_term": (0.9, 1.6, 2.3, "short-term memory", ORANGE),
        "leaving": (5.1, 1.6, 2.3, "what left it", ORANGE),
        "long_term": (5.1, 2.8, 2.3, "long-term memory $B$", BLUE),
        "read_short": (0.9, 4.0, 2.7, "relative attention: $Z_{STM}$", ORANGE),
        "read_long": (5.1, 4.0, 2.7, "continuous attention: $Z_{LTM}$", BLUE),
        "output": (3.0, 5.6, 3.4, "add & norm, feed forward, add & norm", GREY),
    }
    for name, (x, y, width, text, color) in boxes.items():
        style = {"boxstyle": "round,pad=0.02,rounding_size=0.12", "facecolor": "white", "edgecolor": color}
        axes.add_patch(FancyBboxPatch((x - width / 2, y), width, 0.8, linewidth=1.6, **style))
        label = f"{text}\n{' × '.join(str(size) for size in shapes[name])}"
        axes.text(x, y + 0.4, label, ha="center", va="center", fontsize="small")
    arrows = [  # from, to, what flows and where it is written
        ((0.9, 2.4), (0.9, 4.0), "keys, values", (0.98, 3.2)),
        ((2.55, 1.1), (2.1, 4.0), "queries, keys, values", (1.2, 1.34)),
        ((3.0, 1.1), (3.0, 5.6), "residual", (3.06, 3.3)),
        ((3.45, 1.1), (3.86, 4.0), "queries", (3.62, 1.32)),
        ((5.1, 2.4), (5.1, 2.8), "write", (5.18, 2.6)),
        ((5.1, 3.6), (5.1, 4.0), "read", (5.18, 3.8)),
        ((0.9, 4.8), (2.0, 5.6), "", (0, 0)),
        ((5.1, 4.8), (4.0, 5.6), "", (0, 0)),
    ]
    for start, end, text, (x, y) in arrows:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "0.3", "shrinkA": 0, "shrinkB": 0})
        axes.text(x, y, text, fontsize="x-small", va="center")
    axes.set(xlim=(-0.6, 6.6), ylim=(0.1, 6.6))
    axes.axis("off")
    return figure


def draw_segment_reading(
    weights: Float[Tensor, " key_pos"],
    first_token: int,
    num_short: int,
    density: Float[Tensor, " t"] | None,
    token_marks: Mapping[float, int],
    figure: Figure | None = None,
) -> Figure:
    """What one head reads for one token: weights in short-term memory and segment, a density over the long-term memory.

    Args:
        weights: of attention, on short-term memory and segment.
        first_token: number of the first token that they are about.
        num_short: how many of them lie in the short-term memory.
        density: on an even grid over [0, 1] of the long-term memory; None while nothing is written.
        token_marks: which token sits at a few positions t.
        figure: drawn into again; None makes a new one.

    Example:
        >>> figure = draw_segment_reading(torch.ones(4) / 4, 33, 2, torch.ones(11), {0.0: 1, 1.0: 32})
        >>> len(figure.axes)
        2
    """
    figure = blank(figure, 7.5, 3.6)
    left, right = figure.subplots(1, 2)
    tokens = np.arange(first_token, first_token + len(weights))
    right.bar(tokens[:num_short], weights[:num_short].numpy(), color=ORANGE, hatch="..", edgecolor="white", width=1.0)
    right.bar(tokens[num_short:], weights[num_short:].numpy(), color=GREEN, width=0.8)
    right.set(xlabel="token", ylabel="attention weight", xlim=(tokens[0] - 0.5, tokens[-1] + 0.5))
    right.set_title("short-term memory (dotted), segment (plain)", fontsize="medium")
    left.set_title("long-term memory", fontsize="medium")
    left.set(xlim=(0, 1), xlabel="position t: 0 oldest, 1 newest (token below)", ylabel="density")
    if density is None:
        left.text(0.5, 0.5, "nothing is written yet", ha="center", va="center", transform=left.transAxes, color=GREY)
        left.set_yticks([])
        left.set_xticks([0, 0.5, 1])
    else:
        t = np.linspace(0, 1, len(density))
        left.plot(t, density.numpy(), color=BLUE, linewidth=2)
        left.fill_between(t, 0, density.numpy(), color=BLUE, alpha=0.2)
        left.set_ylim(bottom=0)
        left.set_xticks(list(token_marks), [f"{t:g}\n({token})" for t, token in token_marks.items()])
    tidy(left)
    tidy(right)
    return figure


def draw_costs(
    lengths: Int[Tensor, " length"], costs: Mapping[str, Float[Tensor, " length"]], figure: Figure | None = None
) -> Figure:
    """Multiplications per new token against the tokens that were read before, on logarithmic axes.

    Args:
        lengths: tokens read before.
        costs: by model, for each length.
        figure: drawn into again; None makes a new one.

    Example:
        >>> figure = draw_costs(torch.tensor([10, 100]), {"infinite-former": torch.tensor([5.0, 5.0])})
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [5.0, 5.0]
    """
    figure = blank(figure)
    axes = figure.add_subplot()
    for number, (name, cost) in enumerate(costs.items()):
        color = MODEL_COLORS.get(name, (VERMILION, BLUE, GREY)[number % 3])
        axes.plot(lengths.numpy(), cost.numpy(), DASHES[number % 4], color=color, linewidth=2, label=name)
    axes.set(xscale="log", yscale="log", xlabel="tokens read before", ylabel="multiplications per token")
    tidy(axes, legend=True)
    return figure
