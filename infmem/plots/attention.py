"""Reading a signal under a Gaussian: densities, what they read, and where the heads of a memory look."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from infmem.basis import gaussian_density
from infmem.plots.style import BLUE, COLORMAP, CYCLE, GREY, ORANGE, VERMILION, blank, tidy

POSITION = "position t on the memory: 0 oldest, 1 newest"
DASHES, MARKERS = ("-", "--", "-.", ":"), "osD^"


def _shade_outside(axes: Axes, low: int | float, high: int | float) -> None:
    """Grey where there is no memory."""
    axes.axvspan(low, 0, color="0.93", zorder=0)
    axes.axvspan(1, high, color="0.93", zorder=0)
    axes.set_xlim(low, high)


def draw_list_and_line(
    positions: Float[Tensor, " pos"],
    x: Float[Tensor, " pos"],
    weights: Float[Tensor, " pos"],
    t: Float[Tensor, " t"],
    signal: Float[Tensor, " t"],
    density: Float[Tensor, " t"],
    figure: Figure | None = None,
) -> Figure:
    """Left, tokens and the weight that each gets; right, a signal and a density over it.

    Args:
        positions: where the tokens sit.
        x: one component of the tokens.
        weights: their attention weights.
        t: where signal and density are given.
        signal: the same component of the signal.
        density: the density at `t`.
        figure: drawn into again; None makes a new one.

    Example:
        >>> three, five = torch.linspace(0, 1, 3), torch.linspace(0, 1, 5)
        >>> len(draw_list_and_line(three, three, three, five, five, five).axes)
        4
    """
    figure = blank(figure, height=3.6)
    (tokens, line), (bars, curve) = figure.subplots(2, 2, sharex=True)
    tokens.plot(positions, x, "o", color=VERMILION)
    bars.bar(positions.numpy(), weights.numpy(), width=0.05, color=BLUE)
    line.plot(t, signal, color=VERMILION, linewidth=2)
    curve.plot(t, density, color=BLUE)
    curve.fill_between(t, density, color=BLUE, alpha=0.3, linewidth=0)
    largest = 1.15 * max(float(x.abs().max()), float(signal.abs().max()), 1e-9)
    tokens.set(title="a list: tokens and weights", ylabel="value", ylim=(-largest, largest))
    line.set(title="a line: signal and density", ylabel="value", ylim=(-largest, largest))
    bars.set(ylabel="weight", xlabel="position of the token")
    curve.set(ylabel="density", xlabel="position t on the memory", ylim=(0, None))
    for axes in (tokens, line, bars, curve):
        _shade_outside(axes, min(-0.1, float(t.min())), max(1.1, float(t.max())))
        tidy(axes)
    return figure


def draw_gaussian_reads(
    t: Float[Tensor, " t"],
    signal: Float[Tensor, "t component"],
    densities: Float[Tensor, "t density"],
    mu: Float[Tensor, " density"],
    values: Float[Tensor, "density component"],
    names: Sequence[str] = ("signal",),
    figure: Figure | None = None,
) -> Figure:
    """Above, a signal, and what each density reads of it, as a marker at the density's mean; below, the densities.

    Args:
        t: where signal and densities are given.
        signal: its components.
        densities: one or more densities.
        mu: where each density has its mean.
        values: what each reads of each component.
        names: of the components.
        figure: drawn into again; None makes a new one.

    Example:
        >>> t = torch.linspace(0, 1, 5)
        >>> figure = draw_gaussian_reads(t, torch.ones(5, 1), torch.ones(5, 2), torch.ones(2), torch.ones(2, 1))
        >>> [len(axes.lines) for axes in figure.axes]
        [3, 2]
    """
    figure = blank(figure, height=4)
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for component, name in enumerate(names):
        color = CYCLE[component % len(CYCLE)]
        above.plot(t, signal[:, component], DASHES[component % len(DASHES)], color=color, label=name)
    for density in range(densities.shape[1]):
        marker, dashes = MARKERS[density % len(MARKERS)], DASHES[density % len(DASHES)]
        for component in range(signal.shape[1]):
            color = CYCLE[component % len(CYCLE)]
            above.plot(mu[density], values[density, component], marker, color=color, markersize=9, mec="black")
        below.plot(t, densities[:, density], dashes, color=GREY)
        below.fill_between(t, densities[:, density], color=GREY, alpha=0.15, linewidth=0)
        above.scatter([], [], marker=marker, color="white", edgecolor="black", s=60, label=_read_by(density, mu))
    above.set(ylabel="value")
    below.set(xlabel=POSITION, ylabel="density", ylim=(0, None))
    for axes in (above, below):
        _shade_outside(axes, float(t.min()), float(t.max()))
    tidy(above, legend=True)
    tidy(below)
    return figure


def _read_by(density: int, mu: Tensor) -> str:
    return "value read" if len(mu) == 1 else f"read by density {density + 1}"


def draw_reading_map(
    mu: Float[Tensor, " mu"],
    sigmas: Float[Tensor, " sigma"],
    values: Float[Tensor, "sigma mu"],
    paths: Sequence[Float[Tensor, "step 2"]] = (),
    label: str = "value read",
    figure: Figure | None = None,
) -> Figure:
    """What every Gaussian reads: a map with a column for each mean and a row for each width.

    Args:
        mu: means.
        sigmas: standard deviations, drawn on a logarithmic axis.
        values: what is read.
        paths: pairs (mu, sigma) of densities that moved, in order; a circle marks the start, a cross the end.
        label: of the colour bar.
        figure: drawn into again; None makes a new one.

    Example:
        >>> figure = draw_reading_map(torch.linspace(0, 1, 3), torch.tensor([0.1, 1.0]), torch.ones(2, 3))
        >>> figure.axes[0].get_yscale()
        'log'
    """
    figure = blank(figure, height=3.4)
    axes = figure.add_subplot()
    mesh = axes.pcolormesh(mu.numpy(), sigmas.numpy(), values.numpy(), cmap=COLORMAP, shading="nearest")
    figure.colorbar(mesh, ax=axes, label=label)
    for number, path in enumerate(paths):
        color = ("white", ORANGE)[number % 2]
        axes.plot(path[:, 0], path[:, 1], DASHES[number % len(DASHES)], color=color, linewidth=2)
        axes.plot(path[0, 0], path[0, 1], "o", color=color, markersize=9, mec="black", clip_on=False)
        axes.plot(path[-1, 0], path[-1, 1], "X", color=color, markersize=9, mec="black", clip_on=False)
    axes.set(xlabel="mean of the density, mu", ylabel="width of the density, sigma", yscale="log")
    axes.set(xlim=(float(mu.min()), float(mu.max())), ylim=(float(sigmas.min()), float(sigmas.max())))
    return figure


def draw_regularizer(
    sigmas: Float[Tensor, " sigma"],
    divergence: Float[Tensor, " sigma"],
    sigma_0: float,
    figure: Figure | None = None,
) -> Figure:
    """The divergence of a density from one of width `sigma_0`, over its own width.

    Args:
        sigmas: standard deviations.
        divergence: in nats.
        sigma_0: where it is 0.
        figure: drawn into again; None makes a new one.

    Example:
        >>> figure = draw_regularizer(torch.tensor([0.1, 0.2]), torch.tensor([0.0, 0.8]), sigma_0=0.1)
        >>> figure.axes[0].get_ylabel()
        'divergence in nats'
    """
    figure = blank(figure, width=6)
    axes = figure.add_subplot()
    axes.plot(sigmas, divergence, color=BLUE, linewidth=2, label="divergence")
    axes.axvline(sigma_0, color=VERMILION, linestyle="--", label=f"sigma_0 = {sigma_0:g}")
    axes.set(xlabel="width of the density, sigma", ylabel="divergence in nats", ylim=(0, None))
    tidy(axes, legend=True)
    return figure


def draw_heads(
    t: Float[Tensor, " t"],
    agreement: Float[Tensor, "head t"],
    mu: Float[Tensor, " head"],
    sigma_sq: Float[Tensor, " head"],
    sigma_0: int | float | None = None,
    chosen: int = 0,
    figure: Figure | None = None,
) -> Figure:
    """Above, how well a query agrees with each head's keys along the memory; below, where each head looks.

    Args:
        t: where the agreement is given.
        agreement: query times key, for each head.
        mu: mean of each head's density.
        sigma_sq: its variance.
        sigma_0: width of the density that the regulariser pulls the chosen head's towards; None draws none.
        chosen: the head that is drawn bold.
        figure: drawn into again; None makes a new one.

    Example:
        >>> figure = draw_heads(torch.linspace(0, 1, 5), torch.ones(2, 5), torch.ones(2), torch.ones(2))
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['head 1', 'head 2']
    """
    figure = blank(figure, height=4)
    above, below = figure.subplots(2, sharex=True)
    densities = gaussian_density(t, mu[:, None], sigma_sq[:, None])
    for head in range(len(mu)):
        style = {
            "color": CYCLE[head],
            "linestyle": DASHES[head % len(DASHES)],
            "linewidth": 3 if head == chosen else 1.2,
        }
        above.plot(t, agreement[head], label=f"head {head + 1}", **style)
        below.plot(t, densities[head], label=f"head {head + 1}", **style)
    highest = float(densities.max())
    if sigma_0 is not None:
        pulled_to = gaussian_density(t, mu[chosen], torch.as_tensor(sigma_0, dtype=t.dtype) ** 2)
        below.fill_between(t, pulled_to, color=GREY, alpha=0.25, linewidth=0, label="of width sigma_0")
        highest = max(highest, min(float(pulled_to.max()), 2 * highest))  # a needle would flatten all others
    above.set(ylabel="agreement\nwith the query")
    below.set(xlabel=POSITION, ylabel="density", ylim=(0, 1.1 * highest))
    for axes in (above, below):
        _shade_outside(axes, float(t.min()), float(t.max()))
    tidy(above)
    tidy(below, legend=True)
    return figure
