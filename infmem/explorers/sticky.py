"""Keeping more of what was attended: where samples are drawn, and what the update makes of them."""

from functools import cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

from infmem.basis import GaussianBasis
from infmem.contraction import update, update_operators
from infmem.explorers.base import Explorer, choice, choice_slider, float_slider, int_slider
from infmem.plots.sticky import draw_sticky_update
from infmem.signal import fit, padding_positions, positions, read, ridge_operator
from infmem.sticky import attention_histogram, sample_locations

LENGTH, NUM_BASIS, SIGMA, RIDGE, NUM_BINS = 128, 64, 0.02, 0.1, 64


def old_tokens() -> Tensor:
    """One component of a made-up past: a slow wave, and two short events at 0.3 and 0.7."""
    t = positions(LENGTH)
    events = sum(torch.exp(-0.5 * ((t - place) / 0.02) ** 2) for place in (0.3, 0.7))
    return 0.5 * torch.sin(2 * torch.pi * t) + events


@cache
def _old_memory() -> tuple[GaussianBasis, Tensor]:
    basis, t = GaussianBasis.grid(NUM_BASIS, (SIGMA,), dtype=torch.float64), positions(LENGTH)
    operator = ridge_operator(basis, t, RIDGE, padding_positions(LENGTH))
    return basis, fit(old_tokens()[None, :, None], operator)


def _after(coefficients: Tensor, basis: GaussianBasis, locations: Tensor, past: Tensor, tau: float) -> Tensor:
    """The memory after an update in which nothing new is said."""
    new, padding = positions(LENGTH), padding_positions(LENGTH + len(past))
    operators = update_operators(basis, past, new, tau, RIDGE, padding)
    return update(coefficients, torch.zeros(1, LENGTH, 1, dtype=new.dtype), basis.evaluate(locations), operators)


def sticky() -> Explorer:
    """One update whose samples are drawn from an attention: what is kept at the attended place, and what elsewhere."""
    t = (torch.arange(400, dtype=torch.float64) + 0.5) / 400

    def show(
        figure: Figure,
        center: float,
        width: float,
        method: str,
        placement: str,
        num_samples: int,
        tau: float,
        seed: int,
    ) -> str:
        basis, old = _old_memory()
        mu = torch.full((1, 1, 1), center, dtype=torch.float64)
        probabilities = attention_histogram(mu, torch.full_like(mu, width**2), NUM_BINS)
        generator, even = torch.Generator().manual_seed(seed), positions(num_samples)
        locations = sample_locations(probabilities, num_samples, generator, method)[0]
        new = _after(old, basis, locations, locations if placement == "address" else even, tau)
        new_even = _after(old, basis, even, even, tau)
        before, after, after_even = (read(memory, basis, t)[0, :, 0] for memory in (old, new, new_even))
        draw_sticky_update(probabilities[0], locations, t, before, after, after_even, tau, figure=figure)
        near = (locations - center).abs() <= width
        there = t[(t - center).abs() <= width]
        wanted = read(old, basis, there)
        error, error_even = ((read(m, basis, tau * there) - wanted).square().mean().sqrt() for m in (new, new_even))
        return (
            f"{100 * near.double().mean():.0f} % of the {num_samples} samples lie within one width of the attended "
            f"place. Read at its address there, the old signal is off by {error:.3f} (root mean square); with even "
            f"sampling by {error_even:.3f}."
        )

    controls = {
        "center": float_slider("attended place", 0.7, 0.05, 0.95, 0.05),
        "width": choice_slider("width of the attention", 0.1, [0.02, 0.05, 0.1, 0.2, 0.5]),
        "method": choice("sampling", "stratified", ["stratified", "iid", "left_edge"]),
        "placement": choice("samples are put", "address", ["address", "even"]),
        "num_samples": choice_slider("samples M", 64, [16, 32, 64, 128, 256]),
        "tau": float_slider("tau", 0.75, 0.3, 0.95, 0.05),
        "seed": int_slider("draw", 0, 0, 9),
    }
    return Explorer("A sticky update", show, controls, size=(7.5, 5))
