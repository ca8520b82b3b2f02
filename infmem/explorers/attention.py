"""Continuous attention: one Gaussian over a signal, and the heads of a memory whose weights were set by hand."""

import math

import torch
from einops import einsum, rearrange
from matplotlib.figure import Figure

from infmem.attention import kl_regularizer
from infmem.basis import GaussianBasis, gaussian_density, gaussian_mass
from infmem.explorers.base import Explorer, choice, choice_slider, float_slider, switch
from infmem.explorers.signals import LENGTH, example_tokens
from infmem.memory import LongTermMemory, MemoryConfig, MemoryState
from infmem.plots.attention import draw_gaussian_reads, draw_heads
from infmem.signal import fit, positions, read, ridge_operator

WIDTHS = [0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 0.83, 1.5]
HEADS = 3


def continuous_attention() -> Explorer:
    """What a Gaussian of some mean and width reads of a signal, on the whole line or cut to the memory."""
    basis = GaussianBasis.grid(48, (0.03,), dtype=torch.float64)
    coefficients = fit(example_tokens()[None, :, None], ridge_operator(basis, positions(LENGTH), ridge=0.1))
    t = torch.linspace(-0.5, 1.5, 401, dtype=torch.float64)
    signal = read(coefficients, basis, t)[0]
    inside = (t >= 0) & (t <= 1)

    def show(figure: Figure, mu: float, sigma: float, unit_interval: bool) -> str:
        mean, variance = torch.tensor([mu, sigma**2], dtype=torch.float64)
        mass = gaussian_mass(mean, variance, 0.0, 1.0)
        density = gaussian_density(t, mean, variance)
        density = torch.where(inside, density / mass, 0.0) if unit_interval else density
        value = basis.expectation(mean, variance, unit_interval=unit_interval) @ coefficients[0]
        here = basis.evaluate(mean) @ coefficients[0]
        draw_gaussian_reads(t, signal, density[:, None], mean[None], value[None], figure=figure)
        cut = "the density is cut there and renormalised" if unit_interval else "the rest reads where nothing is stored"
        return (
            f"A Gaussian at mu = {mu:.2f} of width sigma = {sigma:g} reads {value.item():.2f}; the signal at mu itself "
            f"is {here.item():.2f}. {100 * mass:.1f} % of its mass lies inside of [0, 1]; {cut}."
        )

    controls = {
        "mu": float_slider("mean mu", 0.7, 0.0, 1.0, 0.01),
        "sigma": choice_slider("width sigma", 0.2, WIDTHS),
        "unit_interval": switch("cut to the unit interval", False),
    }
    return Explorer("One Gaussian reads a signal", show, controls, size=(8, 4))


def example_events() -> torch.Tensor:
    """48 tokens of six numbers, two for each head: how strongly each of two things is felt, "pos d_model".

    For head 1, thing A is at .2 and thing B at .8; for head 2, A is at .65 and B at .3; for head 3, neither is strong.
    """
    t = positions(LENGTH)
    events = [(0.2, 0.05, 1.0), (0.8, 0.05, 1.0), (0.65, 0.15, 0.5), (0.3, 0.08, 0.5), (0.5, 0.2, 0.1), (0.5, 0.3, 0.1)]
    return torch.stack([size * torch.exp(-0.5 * ((t - at) / width) ** 2) for at, width, size in events], dim=-1)


def example_memory() -> tuple[LongTermMemory, MemoryState]:
    """A memory of three heads that holds `example_events`. Its weights are set by hand, so that heads look at events.

    Keys are the signal itself. The map to the mean grows along the memory, from negative to positive; the map to the
    variance is negative everywhere, so a query that agrees with much makes the density narrow.

    Example:
        >>> memory, state = example_memory()
        >>> memory.num_heads, state.num_tokens
        (3, tensor([48]))
    """
    config = MemoryConfig.best(num_basis=32, sigmas=(0.04,))
    memory = LongTermMemory(d_model=2 * HEADS, num_heads=HEADS, config=config).double().requires_grad_(False)
    identity = torch.eye(2 * HEADS, dtype=torch.float64)
    for projection in (memory.query, memory.key, memory.value, memory.out):
        projection.weight.copy_(identity)
    memory.to_mu.weight.copy_(13 * (memory.basis.centers - 0.5))
    memory.to_mu.bias.zero_()
    memory.to_sigma_sq.weight.fill_(-7.0)
    return memory, memory.write(example_events()[None], memory.empty(batch=1))


def heads() -> Explorer:
    """Where three heads look while their query moves from one direction to another."""
    memory, state = example_memory()
    t = torch.linspace(-0.1, 1.1, 241, dtype=torch.float64)
    keys = rearrange(memory.basis.evaluate(t) @ state.coefficients[0], "t (head d_head) -> head t d_head", head=HEADS)
    thing_a, thing_b = 4 * torch.eye(2, dtype=torch.float64).repeat(1, HEADS)

    def show(figure: Figure, between: float, bias: float, sigma_0: float, head: int) -> str:
        memory.to_sigma_sq.bias.fill_(bias)
        query = (1 - between) * thing_a + between * thing_b
        reading = memory.read(query[None, None], state)[1]
        mu, sigma_sq = reading.mu[0, :, 0], reading.sigma_sq[0, :, 0]
        per_head = rearrange(query, "(head d_head) -> head d_head", head=HEADS)
        agreement = einsum(per_head, keys, "head d_head, head t d_head -> head t") / math.sqrt(2)
        draw_heads(t, agreement, mu, sigma_sq, sigma_0, chosen=head - 1, figure=figure)
        divergence = kl_regularizer(sigma_sq[head - 1], sigma_0).item()
        return (
            f"Head {head} looks at mu = {mu[head - 1]:.2f} with sigma = {sigma_sq[head - 1].sqrt():.3f}; "
            f"its divergence from the width sigma_0 = {sigma_0:g} is {divergence:.2f} nats."
        )

    controls = {
        "between": float_slider("query: from A (0) to B (1)", 0.0, 0.0, 1.0, 0.05),
        "bias": float_slider("bias of the variance", -2.0, -6.0, 2.0, 0.5, ".1f"),
        "sigma_0": choice_slider("sigma_0 of the regulariser", 0.05, [0.02, 0.05, 0.1, 0.2, 0.4]),
        "head": choice("head in bold", 1, [(f"head {number}", number) for number in range(1, HEADS + 1)]),
    }
    return Explorer("Where the heads of a memory look", show, controls, size=(8, 4))
