r"""Sticky memories: keep more of what was attended.

At an update the old signal is known only through M samples. Plain contraction takes them evenly. Sticky memories draw
their locations from where the heads looked last, so what was attended is measured more densely than what was not.
"""

from typing import Literal, NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from infmem.basis import gaussian_mass
from infmem.validation import checked, require, require_positive, require_values

SamplingMethod = Literal["stratified", "iid", "left_edge"]


@checked
def attention_histogram(
    mu: Float[Tensor, "batch head query_pos"], sigma_sq: Float[Tensor, "batch head query_pos"], num_bins: int
) -> Float[Tensor, "batch bin"]:
    r"""How the attention of all heads and queries is spread over D equal bins of the memory.

    Equation:
        $p(d_j) \propto \sum_h \sum_i \int_{d_j} \mathcal{N}(t; \mu_{h,i}, \sigma_{h,i}^2) dt$, normalised over the
        bins; the integral is exact, by the error function.

    Args:
        mu: means of the densities.
        sigma_sq: variances, > 0.
        num_bins: number of bins D >= 1.

    Returns:
        Probabilities; each row sums to 1. A row whose densities all lie outside of [0, 1] is even.

    Raises:
        ValueError: if `num_bins` < 1.

    Source: Martins et al. 2022 (arXiv 2109.00301). Differs from the paper: nothing that is known.

    Example:
        >>> half = torch.full((1, 1, 1), 0.5)
        >>> attention_histogram(half, 0.001 * half, num_bins=4).round(decimals=2)
        tensor([[0.0000, 0.5000, 0.5000, 0.0000]])
    """
    require(num_bins >= 1, f"num_bins must be at least 1, got {num_bins}")
    require_positive("sigma_sq", sigma_sq)
    edges = torch.linspace(0, 1, num_bins + 1, dtype=mu.dtype, device=mu.device)
    mean, variance = rearrange(mu, "batch head query_pos -> batch head query_pos 1"), sigma_sq.unsqueeze(-1)
    masses = gaussian_mass(mean, variance, edges[:-1], edges[1:])
    # A floor far below any mass that matters keeps a row without mass defined, and even.
    total = reduce(masses, "batch head query_pos bin -> batch bin", "sum") + torch.finfo(mu.dtype).tiny * 2**20
    return total / reduce(total, "batch bin -> batch 1", "sum")


@checked
def sample_locations(
    probabilities: Float[Tensor, "batch bin"],
    num_samples: int,
    generator: torch.Generator | None = None,
    method: SamplingMethod = "stratified",
) -> Float[Tensor, "batch sample"]:
    r"""Draw sorted locations on [0, 1] from a histogram.

    Equation:
        $t_i = F^{-1}(u_i)$ with F the histogram's distribution function, straight within each bin. Stratified:
        $u_i \sim U[(i-1)/M, i/M]$, one draw from each M-th of the probability. Iid: $u_i \sim U[0, 1]$, sorted.
        Left edge: iid, and each location moved to the left edge of its bin.

    Args:
        probabilities: the histogram; rows sum to 1. A row without attention, or not finite, is sampled evenly.
        num_samples: number of locations M >= 1.
        generator: source of randomness, on the same device; None takes PyTorch's default one.
        method: which of the three.

    Raises:
        ValueError: if `num_samples` < 1 or the method is unknown.

    Source: Martins et al. 2022 (arXiv 2109.00301).

    Differs from the paper: the paper draws independently (`iid`), and its code keeps left edges only (`left_edge`).
        `stratified` is ours: the same expectation, far less noise.

    Example:
        >>> probabilities = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
        >>> t = sample_locations(probabilities, 5, torch.Generator().manual_seed(0))
        >>> bool(((t > 0.25) & (t < 0.5)).all())
        True
    """
    require(num_samples >= 1, f"num_samples must be at least 1, got {num_samples}")
    require(
        method in ("stratified", "iid", "left_edge"),
        f"method must be 'stratified', 'iid' or 'left_edge', got {method!r}",
    )
    require(
        generator is None or generator.device.type == probabilities.device.type,
        f"generator must be on the device of the probabilities ({probabilities.device}), got one for "
        f"{getattr(generator, 'device', None)}: make it with `torch.Generator({probabilities.device.type!r})`",
    )
    num_bins = probabilities.shape[-1]
    require(num_bins >= 1, "probabilities must hold at least one bin, got none")
    require_values("probabilities", probabilities, lambda each: each >= 0, ">= 0")
    shape = (len(probabilities), num_samples)
    u = torch.rand(shape, generator=generator, dtype=torch.float64, device=probabilities.device)
    if method == "stratified":
        u = (torch.arange(num_samples, dtype=u.dtype, device=u.device) + u) / num_samples
    else:
        u = u.sort(-1).values
    weights = probabilities.double()
    weights = weights / weights.amax(-1, keepdim=True)
    weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, 1.0)
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    cumulative = cumulative / total
    found = torch.searchsorted(cumulative, u, right=True).clamp(max=num_bins - 1)
    if method == "left_edge":
        return (found.double() / num_bins).to(probabilities)
    above = cumulative.gather(-1, found)
    share = weights.gather(-1, found) / total
    within = 1 - ((above - u) / share.clamp(min=torch.finfo(u.dtype).tiny)).clamp(0, 1)
    return ((found + within) / num_bins).to(probabilities)


class Provenance(NamedTuple):
    """Where sampled locations came from.

    Args:
        bin: the bin of each location.
        density: how many samples a unit of the memory got there, as a multiple of even sampling.
    """

    bin: Int[Tensor, "batch sample"]
    density: Float[Tensor, "batch sample"]


@checked
def provenance(locations: Float[Tensor, "batch sample"], probabilities: Float[Tensor, "batch bin"]) -> Provenance:
    """The bin that each location was drawn from, and how much denser than evenly that bin is sampled.

    To name the token at a location, give it to `infmem.contraction.age_map`.

    Args:
        locations: of `sample_locations`.
        probabilities: the histogram that they were drawn from.

    Example:
        >>> provenance(torch.tensor([[0.1, 0.9]]), torch.tensor([[0.25, 0.75]]))
        Provenance(bin=tensor([[0, 1]]), density=tensor([[0.5000, 1.5000]]))
    """
    num_bins = probabilities.shape[-1]
    require(num_bins >= 1, "probabilities must hold at least one bin, got none")
    require_values("locations", locations, lambda each: (each >= 0) & (each <= 1), "in [0, 1]")
    left_edges = (torch.arange(num_bins, dtype=torch.float64, device=locations.device) / num_bins).to(locations)
    found = (torch.bucketize(locations.contiguous(), left_edges, right=True) - 1).clamp(0, num_bins - 1)
    return Provenance(bin=found, density=probabilities.gather(-1, found) * num_bins)
