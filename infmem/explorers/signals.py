"""Fitting a signal to tokens: basis functions, widths, ridge and padding."""

import torch
from matplotlib.figure import Figure

from infmem.basis import GaussianBasis
from infmem.explorers.base import Explorer, choice_slider, int_slider, switch
from infmem.plots.signals import draw_signal
from infmem.signal import (
    effective_degrees_of_freedom,
    fit,
    padding_positions,
    positions,
    regression_error,
    ridge_operator,
)

LENGTH = 48


def example_tokens(length: int = LENGTH) -> torch.Tensor:
    """One component of a made-up sequence: a slow wave, a fast one, and a step near the end."""
    t = positions(length)
    return torch.sin(2 * torch.pi * t) + 0.4 * torch.sin(14 * torch.pi * t) - 0.8 * (t > 0.8)


def signal() -> Explorer:
    """How N, the width, the ridge and the padding change what is kept of 48 tokens."""
    x, t = example_tokens(), positions(LENGTH)

    def show(figure: Figure, num_basis: int, sigma: float, ridge: float, padding: bool) -> str:
        basis = GaussianBasis.grid(num_basis, (sigma,), dtype=torch.float64)
        zeros = padding_positions(LENGTH) if padding else None
        coefficients = fit(x[None, :, None], ridge_operator(basis, t, ridge, zeros))[0, :, 0]
        kept = effective_degrees_of_freedom(basis, t, ridge, zeros)
        error = regression_error(x[None, :, None], basis, t, ridge, zeros).item()
        draw_signal(t, x, basis, coefficients, kept, figure=figure)
        return (
            f"{num_basis} basis functions of width {sigma:g} keep {kept.sum():.1f} degrees of freedom of {LENGTH} "
            f"tokens; reading back loses {100 * error:.1f} % of their energy, and the newest token keeps "
            f"{100 * kept[-1]:.0f} % of itself."
        )

    controls = {
        "num_basis": int_slider("basis functions N", 16, 2, 64),
        "sigma": choice_slider("width sigma", 0.05, [0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3]),
        "ridge": choice_slider("ridge", 0.1, [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]),
        "padding": switch("zeros beside the memory", False),
    }
    return Explorer("Fitting a signal to tokens", show, controls, size=(8, 4))
