"""Making room for the new, and what that costs the old."""

import math
from functools import cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

from infmem.contraction import Update, age_map, scaled_tau
from infmem.explorers.base import Explorer, choice, choice_slider, float_slider, int_slider
from infmem.memory import MemoryConfig
from infmem.memory.operators import build_basis, first_operator, update_recurrence
from infmem.plots.contraction import draw_forgetting, draw_written
from infmem.recurrence import half_life, recur, retained_energy, retained_mass
from infmem.signal import fit, positions, read

SEGMENT, NUM_BASIS, NUM_SAMPLES, SIGMA = 48, 64, 128, 0.02
MOST_UPDATES, OLDEST = 24, 24


@cache
def segments_written() -> Tensor:
    """One component of all segments, "segment pos": each has a level of its own and the same fast wave on top."""
    levels = torch.rand(MOST_UPDATES + 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 1.6 - 0.8
    levels[0] = 0.8
    return levels[:, None] + 0.3 * torch.sin(6 * torch.pi * positions(SEGMENT))


def _taus(num_updates: int, tau: float, schedule: str) -> list[float]:
    if schedule == "fixed":
        return [round(tau, 2)] * num_updates
    return [scaled_tau(k * SEGMENT, SEGMENT) for k in range(1, num_updates + 1)]


def contraction() -> Explorer:
    """Write segment after segment: where each one sits, what is remembered, and what the first has left."""
    t = (torch.arange(400, dtype=torch.float64) + 0.5) / 400

    def show(figure: Figure, num_updates: int, schedule: str, tau: float, ridge: float) -> str:
        config = MemoryConfig.paper(num_basis=NUM_BASIS, sigmas=(SIGMA,), num_samples=NUM_SAMPLES, ridge=ridge)
        basis, first = build_basis(config), first_operator(config, SEGMENT, torch.float64)
        x, taus = segments_written()[: num_updates + 1], _taus(num_updates, tau, schedule)
        # The first segment by itself: a constant 1, then every token alone (white noise is all of them at once).
        alone = torch.cat([first.sum(0, keepdim=True).mT, first.mT], dim=1)[None]
        signal, at_first = fit(x[:1, :, None], first), alone
        rows = [torch.ones_like(t)]
        for number, share in enumerate(taus, start=1):
            recurrence = update_recurrence(config, SEGMENT, share, torch.float64)
            signal = recur(recurrence, signal, x[number : number + 1, :, None])
            alone = recur(recurrence, alone, torch.zeros(1, SEGMENT, SEGMENT + 1, dtype=torch.float64))
            token, _ = age_map(t, SEGMENT, [Update(SEGMENT, step) for step in taus[:number]])
            rows.append((token / SEGMENT).ceil().clamp(min=1))
        room = math.prod(taus)
        draw_written(x.flatten(), t, read(signal, basis, t)[0, :, 0], torch.stack(rows), room, figure=figure)
        mass, energy = _left(alone, basis) / _left(at_first, basis)
        updates = f"{num_updates} update{'s' * (num_updates != 1)}"
        return (
            f"After {updates} the first segment has {100 * room:.1f} % of the memory to itself. If it was a constant, "
            f"{100 * mass:.1f} % of its mass is left; if it was noise, {100 * energy:.1f} % of its energy."
        )

    controls = {
        "num_updates": int_slider("updates", 3, 0, MOST_UPDATES),
        "schedule": choice("schedule", "fixed", ["fixed", "scaled"]),
        "tau": float_slider("tau (if it is fixed)", 0.75, 0.3, 0.95, 0.05),
        "ridge": choice_slider("ridge", 0.1, [0.001, 0.01, 0.1, 1.0, 10.0]),
    }
    return Explorer("Making room", show, controls, size=(7.5, 5))


def _left(alone: Tensor, basis) -> Tensor:
    """Mass of the constant and energy of the noise that are held in these coefficients."""
    constant, noise = alone[0, :, 0], alone[0, :, 1:]
    return torch.stack([basis.integrals() @ constant, (noise * (basis.inner_products() @ noise)).sum()])


def forgetting() -> Explorer:
    """How fast mass and energy go, by age, and what the spectral radius would have one believe."""

    def show(figure: Figure, tau: float, ridge: float, sigma: float, num_basis: int) -> str:
        config = MemoryConfig.paper(num_basis=num_basis, sigmas=(sigma,), num_samples=256, ridge=ridge)
        recurrence, basis = update_recurrence(config, 128, round(tau, 2), torch.float64), build_basis(config)
        mass, energy = retained_mass(basis, recurrence, OLDEST), retained_energy(basis, recurrence, OLDEST)
        radius = torch.linalg.eigvals(recurrence.transition).abs().max().item()
        draw_forgetting(mass, energy, radius, figure=figure)
        suggests = f"{math.log(0.5) / math.log(radius):.2f} updates" if radius < 1 else "no forgetting at all"
        return (
            f"Half of the mass is left after {half_life(mass):.2f} updates, half of the energy after "
            f"{half_life(energy):.2f}. The spectral radius is {radius:.3f}: by itself it would suggest {suggests}."
        )

    controls = {
        "tau": float_slider("tau", 0.75, 0.3, 0.95, 0.05),
        "ridge": choice_slider("ridge", 1.0, [0.001, 0.01, 0.1, 1.0, 10.0]),
        "sigma": choice_slider("width sigma", 0.02, [0.01, 0.02, 0.03, 0.05, 0.1]),
        "num_basis": choice_slider("basis functions N", 64, [16, 32, 64, 128]),
    }
    return Explorer("Forgetting by age", show, controls, size=(7.5, 2.8))
