"""One signal, read back under several conventions."""

from collections.abc import Mapping

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from infmem.plots.style import BLUE, GREY, blank, tidy


def draw_readings(
    t: Float[Tensor, " query_pos"],
    wanted: Float[Tensor, " query_pos"],
    readings: Mapping[str, Float[Tensor, " query_pos"]],
    figure: Figure | None = None,
) -> Figure:
    """What should be read as a dashed line, and what is read as a full one: a panel for each convention.

    Args:
        t: where both are read.
        wanted: what should be read.
        readings: what is read, by the convention's name.
        figure: drawn into again; None makes a new one.

    Example:
        >>> import torch
        >>> t = torch.linspace(0, 1, 5)
        >>> len(draw_readings(t, torch.sin(t), {"exact": torch.sin(t), "flat": 0 * t}).axes)
        2
    """
    figure = blank(figure, height=0.6 + 1.15 * len(readings))
    panels = figure.subplots(len(readings), sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, readings.items(), strict=True):
        axes.plot(t, wanted, color=GREY, linestyle="--", linewidth=1.2, label="what was written")
        axes.plot(t, values, color=BLUE, linewidth=1.6, label="what is read")
        axes.set_title(name, loc="left", fontsize="small")
        axes.set_ylabel("value")
        tidy(axes, legend=axes is panels[0])
    panels[-1].set(xlim=(float(t.min()), float(t.max())), xlabel="position t on the memory: 0 oldest, 1 newest")
    return figure
