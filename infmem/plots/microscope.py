"""A trained memory, opened up: where heads look, what the memory holds, and what each token weighs."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from infmem.basis import gaussian_density
from infmem.plots.style import BLUE, COLORMAP, CYCLE, GREY, VERMILION, blank, tidy

DASHES = ("-", "--", "-.", ":")
MARKERS = "os^Dv"
ON_MEMORY = "position t on the memory: 0 oldest, 1 newest"


def draw_densities(
    densities: Mapping[str, tuple[Float[Tensor, "head query_pos"], Float[Tensor, "head query_pos"]]],
    edges: Mapping[str, Float[Tensor, " edge"]],
    figure: Figure | None = None,
) -> Figure:
    """Where each head looks: the mean of its queries' densities, a panel for each model, with the writes marked.

    Args:
        densities: by name of the model, means and variances of the densities of some queries.
        edges: by the same names, where each write begins and ends on the memory (`segment_edges`).
        figure: drawn into again; None makes a new one.

    Example:
        >>> mu, sigma_sq = torch.full((2, 3), 0.4), torch.full((2, 3), 0.01)
        >>> len(draw_densities({"a": (mu, sigma_sq)}, {"a": torch.tensor([0.0, 0.5, 1.0])}).axes)
        1
    """
    figure = blank(figure, 7.5, 2.8)
    panels = figure.subplots(1, len(densities), squeeze=False)[0]
    for axes, (name, (mu, sigma_sq)) in zip(panels, densities.items(), strict=True):
        for head, (means, variances) in enumerate(zip(mu, sigma_sq, strict=True)):
            t, density = mean_density(means, variances)
            style = {"color": CYCLE[head % 7], "linestyle": DASHES[head % 4], "linewidth": 2}
            axes.plot(t, density, label=f"head {head + 1}", **style)
        _mark_segments(axes, edges[name])
        axes.set(xlim=(-0.1, 1.1), xlabel="position t: 0 oldest, 1 newest", title=name)
        axes.set_ylim(bottom=0)
        tidy(axes, legend=axes is panels[-1])
    panels[0].set_ylabel("density")
    return figure


def mean_density(
    mu: Float[Tensor, " query_pos"], sigma_sq: Float[Tensor, " query_pos"]
) -> tuple[Float[Tensor, " t"], Float[Tensor, " t"]]:
    """The mean of several Gaussian densities, on a grid over [-0.1, 1.1].

    Example:
        >>> t, density = mean_density(torch.tensor([0.5]), torch.tensor([0.01]))
        >>> round(t[density.argmax()].item(), 2)
        0.5
    """
    t = torch.linspace(-0.1, 1.1, 241, dtype=torch.float64)
    return t, gaussian_density(t[:, None], mu.double(), sigma_sq.double()).mean(-1)


def draw_symbols(
    pictures: Mapping[str, Mapping[str, Float[Tensor, "t symbol"]]],
    edges: Mapping[str, Float[Tensor, " edge"]],
    figure: Figure | None = None,
) -> Figure:
    """Shares of the symbols along the memory: a column of heat maps for each model, all in the same colours.

    Args:
        pictures: by name of the model, by title, shares at even positions from t = 0 to t = 1.
        edges: by the same names, where each write begins and ends.
        figure: drawn into again; None makes a new one.

    Example:
        >>> shares = {"truth": torch.rand(7, 20), "decoded": torch.rand(7, 20)}
        >>> len(draw_symbols({"a": shares}, {"a": torch.tensor([0.0, 1.0])}).axes)
        3
    """
    num_rows = len(next(iter(pictures.values())))
    figure = blank(figure, 8, 0.8 + 1.5 * num_rows)
    panels = figure.subplots(num_rows, len(pictures), sharex=True, sharey=True, squeeze=False)
    top = max(float(shares.max()) for column in pictures.values() for shares in column.values())
    for column, (name, rows) in zip(panels.T, pictures.items(), strict=True):
        for axes, (title, shares) in zip(column, rows.items(), strict=True):
            image = _heat_map(axes, shares, edges[name], top)
            axes.set_title(f"{name}: {title}", fontsize="medium")
        column[-1].set_xlabel("position t: 0 oldest, 1 newest")
    for axes in panels[:, 0]:
        axes.set_ylabel("symbol")
    figure.colorbar(image, ax=panels, label="share")
    return figure


def draw_retention(retained: Mapping[str, Float[Tensor, " segment"]], figure: Figure | None = None) -> Figure:
    """How much of each segment's counts is left, for each model.

    Args:
        retained: by name, one number per segment, oldest first (`segment_retention`).
        figure: drawn into again; None makes a new one.

    Example:
        >>> len(draw_retention({"scaled": torch.ones(5)}).axes[0].lines)
        1
    """
    figure = blank(figure)
    axes = figure.add_subplot()
    for index, (name, values) in enumerate(retained.items()):
        axes.plot(
            range(1, len(values) + 1),
            values,
            color=CYCLE[index % 7],
            linestyle=DASHES[index % 4],
            marker=MARKERS[index % 5],
            label=name,
        )
    axes.set(ylim=(0, 1.02), xlabel="segment: 1 is the oldest", ylabel="explained share of the counts")
    tidy(axes, legend=True)
    return figure


def draw_token_weights(
    weights: Mapping[str, Float[Tensor, " pos"]], segment_length: int, figure: Figure | None = None
) -> Figure:
    """What each past token weighs in a read, as a multiple of the even weight.

    Args:
        weights: by name, one weight per token, oldest first; all of the same length.
        segment_length: tokens per segment, for the marks on the axis.
        figure: drawn into again; None makes a new one.

    Example:
        >>> figure = draw_token_weights({"head 1": torch.tensor([1.0, 3.0])}, segment_length=1)
        >>> figure.axes[0].lines[0].get_ydata().tolist()
        [0.5, 1.5]
    """
    figure = blank(figure)
    axes = figure.add_subplot()
    for index, (name, values) in enumerate(weights.items()):
        _weights(axes, values, CYCLE[index % 7], DASHES[index % 4], name)
    _finish_weights(axes, segment_length, len(next(iter(weights.values()))))
    tidy(axes, legend=True)
    return figure


def draw_microscope(
    density: tuple[Float[Tensor, " query_pos"], Float[Tensor, " query_pos"]],
    pictures: Mapping[str, Float[Tensor, "t symbol"]],
    weights: Float[Tensor, " pos"],
    edges: Float[Tensor, " edge"],
    segment_length: int,
    figure: Figure | None = None,
) -> Figure:
    """One head and its memory: density and symbols above each other on the left, the weight of each token on the right.

    Args:
        density: means and variances of the head's densities.
        pictures: two shares of the symbols by title, at even positions from t = 0 to t = 1.
        weights: what each past token weighs.
        edges: where each write begins and ends.
        segment_length: tokens per segment.
        figure: drawn into again; None makes a new one.

    Example:
        >>> pictures = {"truth": torch.rand(7, 20), "decoded": torch.rand(7, 20)}
        >>> density = torch.tensor([0.5]), torch.tensor([0.1])
        >>> len(draw_microscope(density, pictures, torch.ones(6), torch.tensor([0.0, 0.5, 1.0]), 3).axes)
        5
    """
    figure = blank(figure, 8, 4)
    figure.set_layout_engine("none")  # the axes have fixed places: finding them anew would double the time of a redraw
    heights = (0.735, 0.43, 0.125)
    panels = [figure.add_axes((0.075, bottom, 0.44, 0.2)) for bottom in heights]
    t, values = mean_density(*density)
    panels[0].plot(t, values, color=BLUE, linewidth=2)
    panels[0].set(xlim=(0, 1), ylabel="density")
    panels[0].set_title("where the head looks", fontsize="medium")
    panels[0].set_ylim(bottom=0)
    panels[0].tick_params(labelbottom=False)
    tidy(panels[0])
    _mark_segments(panels[0], edges)
    top = max(float(shares.max()) for shares in pictures.values())
    for axes, (title, shares) in zip(panels[1:], pictures.items(), strict=True):
        image = _heat_map(axes, shares, edges, top)
        axes.set_title(title, fontsize="medium")
        axes.set_ylabel("symbol")
    figure.colorbar(image, cax=figure.add_axes((0.53, 0.125, 0.012, 0.505)), label="share")
    panels[1].tick_params(labelbottom=False)
    panels[2].set_xlabel(ON_MEMORY)
    axes = figure.add_axes((0.7, 0.125, 0.285, 0.81))
    _weights(axes, weights, VERMILION, "-", "weight")
    _finish_weights(axes, segment_length, len(weights))
    axes.set_title("what each token weighs", fontsize="medium")
    tidy(axes)
    return figure


def _mark_segments(axes: Axes, edges: Float[Tensor, " edge"]) -> None:
    """A thin line at every edge between two writes, and the area beside the memory in grey."""
    _verticals(axes, edges, "0.8", 0.8)
    axes.axvspan(-0.1, 0, color="0.93", zorder=0)
    axes.axvspan(1, 1.1, color="0.93", zorder=0)


def _verticals(axes: Axes, edges: Float[Tensor, " edge"], color: str, width: float) -> None:
    """All inner edges as one artist, which is drawn much faster than a line each."""
    axes.vlines(np.asarray(edges[1:-1]), 0, 1, color=color, linewidth=width, transform=axes.get_xaxis_transform())


def _heat_map(axes: Axes, shares: Float[Tensor, "t symbol"], edges: Float[Tensor, " edge"], top: float) -> AxesImage:
    num_t, num_symbols = shares.shape
    half = 0.5 / max(num_t - 1, 1)  # pixels are centred on the positions that were read
    image = axes.imshow(
        np.asarray(shares).T,
        aspect="auto",
        origin="lower",
        cmap=COLORMAP,
        vmin=0,
        vmax=top,
        extent=(-half, 1 + half, -0.5, num_symbols - 0.5),
        interpolation="nearest",
    )
    _verticals(axes, edges, "white", 0.4)
    axes.set(xlim=(0, 1))
    return image


def _weights(axes: Axes, values: Float[Tensor, " pos"], color: str, dash: str, name: str) -> None:
    """Weights as multiples of their mean."""
    relative = np.asarray(values / values.mean())
    number = range(1, len(values) + 1)
    # Steps, since between two tokens there is nothing; upright lines also make smaller files.
    axes.plot(number, relative, color=color, linestyle=dash, linewidth=1.4, drawstyle="steps-mid", label=name)


def _finish_weights(axes: Axes, segment_length: int, num_tokens: int) -> None:
    axes.axhline(1, color=GREY, linewidth=1, linestyle=(0, (1, 2)), label="even: counting")
    axes.set_xticks(range(0, num_tokens + 1, max(segment_length, num_tokens // segment_length // 4 * segment_length)))
    axes.set_xlim(0, num_tokens + 1)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.set(xlabel="token: 1 is the oldest", ylabel="weight, 1 = even")
