"""Tokens, the signal that is fitted to them, and how much of each token it keeps."""

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from infmem.basis import GaussianBasis
from infmem.plots.style import BLUE, GREY, VERMILION, blank, tidy


def draw_signal(
    positions: Float[Tensor, " pos"],
    x: Float[Tensor, " pos"],
    basis: GaussianBasis,
    coefficients: Float[Tensor, " basis"],
    kept: Float[Tensor, " pos"] | None = None,
    figure: Figure | None = None,
) -> Figure:
    """One component of the tokens as points, the fitted signal as a line, the weighted basis functions below it.

    Args:
        positions: where the tokens sit.
        x: their values.
        basis: the basis functions.
        coefficients: their weights.
        kept: each token's share that is kept (`effective_degrees_of_freedom`), drawn beneath if it is given.
        figure: drawn into again; None makes a new one.

    Example:
        >>> basis = GaussianBasis.grid(num_basis=3, sigmas=(0.2,))
        >>> t = torch.linspace(0, 1, 5)
        >>> len(draw_signal(t, torch.sin(t), basis, torch.ones(3)).axes)
        1
    """
    figure = blank(figure)
    rows = 1 if kept is None else 2
    panels = figure.subplots(rows, sharex=True, squeeze=False, height_ratios=(3, 1)[:rows])[:, 0]
    axes = panels[0]
    t = torch.linspace(-0.1, 1.1, 481, dtype=torch.float64)
    weighted = basis.to(t).evaluate(t) * coefficients.double()
    axes.plot(t, weighted.numpy(), color=GREY, linewidth=0.6, alpha=0.6)
    signal = weighted.sum(-1)
    axes.plot(t, signal, color=BLUE, linewidth=2, label="signal")
    axes.plot(positions, x, "o", color=VERMILION, markersize=4, label="tokens")
    axes.plot([], [], color=GREY, linewidth=0.6, label="weighted basis functions")
    axes.axvspan(-0.1, 0, color="0.93")
    axes.axvspan(1, 1.1, color="0.93")
    tokens, inside = float(x.abs().max()), float(signal[(t >= 0) & (t <= 1)].abs().max())
    largest = 1.25 * max(min(inside, 2 * tokens), tokens, 1e-9)  # tokens stay in view when the signal runs wild
    axes.set(xlim=(-0.1, 1.1), ylim=(-largest, largest), ylabel="value")
    tidy(axes, legend=True)
    if kept is not None:
        width = 0.8 / len(positions)
        panels[1].bar(np.asarray(positions), np.asarray(kept), width=width, color=BLUE)
        panels[1].set(ylim=(0, 1), ylabel="kept")
        tidy(panels[1])
    panels[-1].set_xlabel("position t on the memory: 0 oldest, 1 newest")
    return figure
