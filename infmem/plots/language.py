"""Language models: perplexity by position in the document, and the text where a memory looked."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from torch import Tensor

from infmem.plots.learning_curves import model_style
from infmem.plots.style import BLUE, GREY, VERMILION, blank, tidy

LINES, COLUMNS = 3, 96  # of an excerpt
EXCERPT_LINES = LINES + 1.7  # with its title and a gap
# A font whose letters are all equally wide, at a size at which that is a whole number of pixels: so boxes meet letters.
FONT, LETTER_PIXELS = "DejaVu Sans Mono", 7
FONT_POINTS = 0.72 * LETTER_PIXELS / 0.60205


def draw_perplexity_by_position(
    curves: Mapping[str, Sequence[Mapping[str, int | float]]],
    baseline: str | None = None,
    title: str = "",
    figure: Figure | None = None,
) -> Figure:
    """Perplexity against the position in the document with its interval, and beside it relative to a baseline.

    Args:
        curves: by name, rows with `start`, `end`, `ppl`, `low` and `high` (`by_position`, or `Results.curves`).
        baseline: one of the names, by which the others are divided on the right; None draws the left panel alone.
        title: above the picture.
        figure: drawn into again; None makes a new one.

    Example:
        >>> rows = [{"start": 0, "end": 64, "ppl": 90.0, "low": 80.0, "high": 99.0}]
        >>> len(draw_perplexity_by_position({"window": rows}).axes)
        1
    """
    figure = blank(figure, width=8, height=3.6)
    if not curves:
        axes = figure.add_subplot()
        axes.axis("off")
        axes.text(0.5, 0.5, "Nothing is recorded yet.", ha="center", va="center", color=GREY)
        return figure
    shown = baseline is not None and baseline in curves
    panels = figure.subplots(1, 2 if shown else 1, squeeze=False)[0]
    divided_by = {row["start"]: row["ppl"] for row in curves[baseline]} if shown else {}
    for index, (name, rows) in enumerate(curves.items()):
        x, style = [middle_of(row["start"]) for row in rows], model_style(name, index)
        ppl, low, high = (np.array([row[part] for row in rows]) for part in ("ppl", "low", "high"))
        marker = {"marker": "os^Dv"[index % 5], "markersize": 4}
        panels[0].plot(x, ppl, label=name, **style, **marker)
        panels[0].fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
        if shown:
            ratio = [row["ppl"] / divided_by.get(row["start"], math.nan) for row in rows]
            panels[1].plot(x, ratio, label=name, **style, **marker)
    for axes in panels:
        axes.set(xscale="log", xlabel="position in the document (tokens)")
        tidy(axes, legend=axes is panels[-1])
    panels[0].set_ylabel("perplexity, 95 % over documents")
    if shown:
        panels[1].set_ylabel(f"perplexity / that of {baseline}")
    if title:
        figure.suptitle(title)
    return figure


def middle_of(start: int | float) -> float:
    """Where a range of positions that goes from `start` to its double is drawn; the first one has no start.

    Example:
        >>> round(middle_of(64)), round(middle_of(0))
        (91, 45)
    """
    return max(start, 32) * math.sqrt(2)


class Excerpt(NamedTuple):
    """A few lines of a text, with tokens in shades of a colour and a frame around one.

    Args:
        title: what it is, above the lines.
        texts: of the tokens; joined they are the text.
        center: number of the token that is framed, with lines around it.
        shades: of each token, from 0, which is white, to 1.
        color: of the tokens.
    """

    title: str
    texts: Sequence[str]
    center: int
    shades: Float[np.ndarray, " token"]
    color: str = BLUE


def draw_places(
    density: tuple[Float[Tensor, " t"], Float[Tensor, " t"]],
    marks: Mapping[str, int | float],
    edges: Float[Tensor, " edge"],
    excerpts: Sequence[Excerpt],
    figure: Figure | None = None,
) -> Figure:
    """A density over the memory, and the text that is there.

    Args:
        density: positions from 0 to 1, and the density there.
        marks: places to mark, by the word that stands there.
        edges: where each write begins and ends.
        excerpts: of the text, one below the other.
        figure: drawn into again; None makes a new one.

    Example:
        >>> import torch
        >>> t, edges = torch.linspace(0, 1, 5), torch.tensor([0.0, 0.5, 1.0])
        >>> excerpt = Excerpt("here", ["one ", "two"], 1, np.array([0.0, 1.0]))
        >>> len(draw_places((t, 2 * t), {"a": 0.5}, edges, [excerpt, excerpt]).axes)
        2
    """
    line, width = 0.15, COLUMNS * LETTER_PIXELS / 100  # inches; figures have 100 dots an inch
    below = line * EXCERPT_LINES * len(excerpts)
    height = below + 1.85
    figure = blank(figure, 8, height)
    figure.set_layout_engine("none")  # the axes have fixed places: finding them anew would double the time of a redraw
    left = (8 - width) / 2
    axes = figure.add_axes((left / 8, (below + 0.55) / height, width / 8, 1.1 / height))
    _draw_density(axes, density, marks, edges)
    axes = figure.add_axes((left / 8, 0.05 / height, width / 8, below / height))
    axes.set(xlim=(0, COLUMNS), ylim=(EXCERPT_LINES * len(excerpts), 0))
    axes.axis("off")
    boxes, colors, frames = [], [], []
    for number, excerpt in enumerate(excerpts):
        top = EXCERPT_LINES * number + 1
        axes.text(0, top - 0.5, excerpt.title, fontsize="small", color=GREY, va="center", parse_math=False)
        rows: dict[int, str] = {}
        for row, column, text, token in lines_around(excerpt.texts, excerpt.center):
            rows[row] = rows.get(row, "") + text
            x, y = (column, column + len(text)), (top + row, top + row + 1)
            boxes.append([(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])])
            colors.append((excerpt.color, min(1.0, 0.6 * float(excerpt.shades[token]))))
            frames.append(VERMILION if token == excerpt.center else "none")
        for row, text in rows.items():
            axes.text(
                0, top + row + 0.5, text, family=FONT, fontsize=FONT_POINTS, va="center_baseline", parse_math=False
            )
    # All boxes are one artist, which is drawn much faster than one each.
    axes.add_collection(PolyCollection(boxes, facecolors=colors, edgecolors=frames))
    return figure


def _draw_density(axes: Axes, density: tuple[Tensor, Tensor], marks: Mapping[str, int | float], edges: Tensor) -> None:
    t, values = (np.asarray(part) for part in density)
    axes.fill_between(t, values, color=BLUE, alpha=0.25, linewidth=0)
    axes.vlines(np.asarray(edges[1:-1]), 0, 1, color="0.85", linewidth=0.5, transform=axes.get_xaxis_transform())
    top = float(values.max())
    for word, place in marks.items():
        axes.plot([place, place], [0, float(np.interp(place, t, values))], color=VERMILION, linewidth=1.5)
        axes.text(place, 1.06 * top, word, color=VERMILION, ha="center", fontsize="small")
    axes.set(xlim=(0, 1), ylim=(0, 1.35 * top), ylabel="density")
    axes.set_xlabel("position t on the memory: 0 oldest, 1 newest; thin lines between writes", fontsize="small")
    tidy(axes)


def lines_around(
    texts: Sequence[str], center: int, lines: int = LINES, columns: int = COLUMNS
) -> Iterator[tuple[int, int, str, int]]:
    """The pieces of some lines of a text, with the line of one token in the middle where there are lines around it.

    Args:
        texts: of the tokens.
        center: number of a token.
        lines: how many.
        columns: letters of a line; longer ones are broken.

    Yields:
        Line from 0, column, piece of text, and number of its token.

    Example:
        >>> list(lines_around(["one\\n", "two", " three\\n", "four"], center=1, lines=2))
        [(0, 0, 'one', 0), (1, 0, 'two', 1), (1, 3, ' three', 2)]
    """
    pieces, row, column, middle = [], 0, 0, 0
    first = max(0, center - lines * columns)
    for token in range(first, min(len(texts), center + lines * columns)):
        if token == center:
            middle = row
        text = printable(texts[token])
        text = text.replace("\n", "↵\n") if token == center else text  # so that it can be seen
        for index, part in enumerate(text.split("\n")):
            if index:
                row, column = row + 1, 0
            while part:
                if column == columns:
                    row, column = row + 1, 0
                piece, part = part[: columns - column], part[columns - column :]
                pieces.append((row, column, piece, token))
                column += len(piece)
    start = max(0, min(middle - lines // 2, row - lines + 1))
    return ((row - start, column, piece, token) for row, column, piece, token in pieces if 0 <= row - start < lines)


def printable(text: str) -> str:
    """A text in letters that the font has and that are all equally wide; a dot for any other.

    Example:
        >>> printable("a\\tb") + printable("né\\u6f22")
        'a    bné·'
    """
    text = text.replace("\t", "    ").replace("\r", "")
    return "".join(letter if letter == "\n" or (letter.isprintable() and letter < "\u0250") else "·" for letter in text)
