"""What an exercise asks for, as a picture."""

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from infmem.plots.style import BLUE, COLORMAP, blank, tidy


def draw_target(target: Any, figure: Figure | None = None) -> Figure:
    """The right answer of an exercise to its first arguments: a number in words, a row as stems, a table as a heat map.

    Args:
        target: the answer, a number or a tensor of up to four axes: all but the last two are cut to their first entry.
        figure: drawn into again; None makes a new one.

    Example:
        >>> draw_target(torch.eye(3)).axes[0].get_title()
        'the target: a tensor of shape (3, 3)'
        >>> draw_target(torch.ones(2, 5, 3)).axes[0].get_ylabel()
        'second index'
    """
    values = torch.as_tensor(target).detach().double()
    kind = f"a tensor of shape {tuple(values.shape)}" if isinstance(target, Tensor) else f"one {type(target).__name__}"
    cut = max(0, values.dim() - 2)
    if cut:
        kind += f"\n(shown: the first of {math.prod(values.shape[:cut])})"
        values = values[(0,) * cut]
    figure = blank(figure, width=4.5, height=(0.8, 1.8, 2.2)[values.dim()])
    axes = figure.subplots()
    axes.set_title(f"the target: {kind}", fontsize="medium")
    if values.dim() == 0:
        axes.text(0.5, 0.5, f"{values.item():.4g}", ha="center", va="center", fontsize="x-large")
        axes.set_axis_off()
    elif values.dim() == 1:
        axes.vlines(range(len(values)), 0, values.numpy(), color=BLUE)
        axes.plot(values.numpy(), "o", color=BLUE, markersize=4)
        axes.set_xlabel("index")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes)
    else:
        shown = axes.imshow(values.numpy(), cmap=COLORMAP, aspect="auto", interpolation="nearest")
        first, second = (f"{word} index" for word in ("first", "second", "third", "fourth")[cut : cut + 2])
        axes.set(xlabel=second, ylabel=first)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        figure.colorbar(shown)
    return figure
