r"""Gaussian radial basis functions: the alphabet in which the memory writes its signal.

A basis function is a Gaussian density on the line, $\psi_j(t) = \mathcal{N}(t; \mu_j, \sigma_j^2)$. The memory is a
weighted sum of them, so everything that is done to the memory is done to these functions first: evaluate them,
integrate them, take their expectation under another Gaussian. All of it is closed form.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from infmem.validation import checked, require, require_finite, require_positive, require_values

# A Gaussian further from a limit than so many standard deviations has no mass beyond it, in float64 either.
NUM_SIGMAS = 8


@checked
def gaussian_density(
    t: Float[Tensor, "*shape"], mean: Float[Tensor, "*mean_shape"], variance: Float[Tensor, "*variance_shape"]
) -> Float[Tensor, "..."]:
    r"""The normal density, broadcast over its arguments.

    Equation:
        $\mathcal{N}(t; \mu, \sigma^2) = \exp(-(t-\mu)^2 / 2\sigma^2) / \sqrt{2\pi\sigma^2}$

    Args:
        t: where to evaluate.
        mean: the means.
        variance: the variances, > 0.

    Example:
        >>> round(gaussian_density(torch.zeros(1), torch.zeros(1), torch.ones(1)).item(), 4)
        0.3989
    """
    require_positive("variance", variance)
    return torch.exp(-0.5 * (t - mean) ** 2 / variance) * torch.rsqrt(2 * math.pi * variance)


@checked
def gaussian_mass(
    mean: Float[Tensor, "*mean_shape"],
    variance: Float[Tensor, "*variance_shape"],
    lower: Float[Tensor, "*lower_shape"] | float,
    upper: Float[Tensor, "*upper_shape"] | float,
) -> Float[Tensor, "..."]:
    r"""Mass of a Gaussian between two limits, accurate also far out in its tails.

    Equation:
        $\int_a^b \mathcal{N}(t; \mu, \sigma^2) dt = \Phi((b-\mu)/\sigma) - \Phi((a-\mu)/\sigma)$

    Args:
        mean: the means.
        variance: the variances, > 0.
        lower: lower limits a.
        upper: upper limits b, not below a.

    Example:
        >>> round(gaussian_mass(torch.zeros(1), torch.ones(1), -1.96, 1.96).item(), 3)
        0.95
    """
    require_positive("variance", variance)
    width = upper - lower
    require_values("upper - lower", torch.as_tensor(width), lambda each: each >= 0, ">= 0")
    scale = torch.rsqrt(variance)
    below, above = (lower - mean) * scale, (upper - mean) * scale
    # The normal distribution function is near 1 on the right, where differences cancel: reflect that case to the left.
    on_the_right = below > 0
    below, above = torch.where(on_the_right, -above, below), torch.where(on_the_right, -below, above)
    below, above = below * math.sqrt(0.5), above * math.sqrt(0.5)
    # In the tail erfc keeps its digits, which PyTorch's ndtr does not, and around the mean erf does.
    in_the_tail, around_the_mean = torch.erfc(-above) - torch.erfc(-below), torch.erf(above) - torch.erf(below)
    return 0.5 * torch.where(above < -0.5, in_the_tail, around_the_mean)


@dataclass(frozen=True, eq=False)
class GaussianBasis:
    r"""Gaussian radial basis functions $\psi_j(t) = \mathcal{N}(t; \mu_j, \sigma_j^2)$ on the line.

    Args:
        centers: the means $\mu_j$, on the same axis as positions: 0 is the oldest token, 1 the newest.
        sigmas: the widths (standard deviations) $\sigma_j$ > 0.

    Raises:
        ValueError: if there are no functions, the two differ in length, a centre is not finite, or a width is not
            positive, or too small or large to be squared.

    Source: Martins et al. 2022 (arXiv 2109.00301); continuous attention of Martins et al. 2020
        (arXiv 2006.07214).

    Differs from the paper: nothing that is known.
    """

    centers: Float[Tensor, " basis"]
    sigmas: Float[Tensor, " basis"]
    # How many come before, within and behind, in the order of the list: those within have no mass outside of [0, 1].
    regions: tuple[int, int, int] = field(init=False, repr=False)

    def __post_init__(self):
        require(
            self.centers.ndim == 1 and len(self.centers) >= 1 and self.centers.shape == self.sigmas.shape,
            "centers and sigmas must be two lists of the same length, with at least one function, got sizes "
            f"{tuple(self.centers.shape)} and {tuple(self.sigmas.shape)}",
        )
        positive = self.sigmas.is_meta or bool((self.sigmas > 0).all())
        require(positive, f"every width in sigmas must be > 0, got {self.sigmas.tolist() if not positive else ''}")
        if not self.centers.is_meta:
            require_finite("centers", self.centers)
            squares = self.sigmas**2
            require(
                bool(((squares > 0) & squares.isfinite()).all()),
                f"every width in sigmas must have a square that {squares.dtype} can hold, got {self.sigmas.tolist()}",
            )
        object.__setattr__(self, "regions", _regions(self.centers, self.sigmas))

    @classmethod
    def grid(
        cls,
        num_basis: int,
        sigmas: Sequence[float],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> "GaussianBasis":
        """An even grid of centres over [0, 1], each centre with every width.

        The order is by centre, then by width. A single centre sits in the middle.

        Args:
            num_basis: number of functions N, a positive multiple of the number of widths.
            sigmas: the widths, each > 0, in units of the whole memory (0.01 is a hundredth of it).
            dtype: type of the tensors.
            device: device of the tensors.

        Raises:
            ValueError: if `num_basis` is not a positive multiple of the number of widths or a width is not positive.

        Example:
            >>> basis = GaussianBasis.grid(num_basis=6, sigmas=(0.1, 0.2))
            >>> basis.centers
            tensor([0.0000, 0.0000, 0.5000, 0.5000, 1.0000, 1.0000])
            >>> basis.sigmas
            tensor([0.1000, 0.2000, 0.1000, 0.2000, 0.1000, 0.2000])
        """
        validate_grid(num_basis, sigmas)
        num_centers = num_basis // len(sigmas)
        line = torch.linspace(0, 1, num_centers, dtype=dtype) if num_centers > 1 else torch.tensor([0.5], dtype=dtype)
        widths = torch.tensor(tuple(sigmas), dtype=dtype)
        centers = line.repeat_interleave(len(sigmas))
        return cls(centers=centers.to(device), sigmas=widths.repeat(num_centers).to(device))

    @property
    def num_basis(self) -> int:
        """The number of functions, N in the paper."""
        return len(self.centers)

    def to(self, *args, **kwargs) -> "GaussianBasis":
        """The same basis with another dtype or on another device, as `Tensor.to`."""
        centers, sigmas = self.centers.to(*args, **kwargs), self.sigmas.to(*args, **kwargs)
        is_same = centers is self.centers and sigmas is self.sigmas
        return self if is_same else GaussianBasis(centers, sigmas)  # a new one looks at its values: a GPU must wait

    @checked
    def evaluate(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape basis"]:
        r"""Values of every basis function at positions `t`.

        Equation:
            $\psi_j(t) = \mathcal{N}(t; \mu_j, \sigma_j^2)$

        Args:
            t: positions; [0, 1] is the memory, the functions also live outside of it.

        Returns:
            The values; they are densities, so a narrow function is higher than 1.

        Example:
            >>> basis = GaussianBasis.grid(num_basis=3, sigmas=(0.25,))
            >>> basis.evaluate(torch.tensor([0.5])).round(decimals=3)
            tensor([[0.2160, 1.5960, 0.2160]])
        """
        return gaussian_density(rearrange(t, "... -> ... 1"), self.centers, self.sigmas**2)

    @checked
    def expectation(
        self, mu: Float[Tensor, "*shape"], sigma_sq: Float[Tensor, "*shape"], *, unit_interval: bool = False
    ) -> Float[Tensor, "*shape basis"]:
        r"""Expected value of every basis function under a Gaussian density: what continuous attention reads.

        Equation:
            $\mathbb{E}_{t \sim \mathcal{N}(\mu, \sigma^2)}[\psi_j(t)] = \mathcal{N}(\mu; \mu_j, \sigma^2 + \sigma_j^2)$

            With `unit_interval` the density is cut to [0, 1] and renormalised. The product of two Gaussians is a third,
            $\mathcal{N}(t; m, v)$ with $1/v = 1/\sigma^2 + 1/\sigma_j^2$ and $m/v = \mu/\sigma^2 + \mu_j/\sigma_j^2$,
            so the value above is multiplied by the mass of that third Gaussian in [0, 1] and divided by the mass of
            the density there.

        Args:
            mu: means of the densities.
            sigma_sq: variances of the densities, > 0.
            unit_interval: whether the density lives on [0, 1] only, instead of the whole line; then `mu` may not lie so
                far outside that nothing of it is left there.

        Returns:
            The expectations.

        Source: Martins et al. 2020 (arXiv 2006.07214), continuous softmax.

        Differs from the paper: `unit_interval` is ours. The paper integrates over the whole line, where an untrained
        head (sigma about 0.83) has more than half of its mass outside of the memory.

        Example:
            >>> basis = GaussianBasis.grid(num_basis=2, sigmas=(0.1,))
            >>> wide, narrow = torch.tensor([0.7, 0.0001])
            >>> basis.expectation(torch.tensor(0.0), narrow).round(decimals=3)
            tensor([3.9700, 0.0000])
            >>> basis.expectation(torch.tensor(0.0), wide).round(decimals=3)
            tensor([0.4730, 0.2340])
        """
        require_positive("sigma_sq", sigma_sq)
        mu, sigma_sq = rearrange(mu, "... -> ... 1"), rearrange(sigma_sq, "... -> ... 1")
        whole_line = gaussian_density(mu, self.centers, sigma_sq + self.sigmas**2)
        if not unit_interval:
            return whole_line
        mass = gaussian_mass(mu, sigma_sq, 0.0, 1.0)
        require_positive("the mass in [0, 1] that mu and sigma_sq leave", mass)
        return self._times_mass_inside(whole_line, mu, sigma_sq) / mass

    def _times_mass_inside(self, whole_line: Tensor, mu: Tensor, sigma_sq: Tensor) -> Tensor:
        """Values times the mass in [0, 1] of each product: only functions near an end can lose any of it."""
        before, within, behind = whole_line.split(self.regions, dim=-1)
        (first, _, last), (first_sq, _, last_sq) = (part.split(self.regions) for part in (self.centers, self.sigmas**2))
        before = before * _product_mass(mu, sigma_sq, first, first_sq)
        behind = behind * _product_mass(mu, sigma_sq, last, last_sq)
        return torch.cat([before, within, behind], dim=-1)

    def integrals(self) -> Float[Tensor, " basis"]:
        r"""Integral of every basis function over the memory, $\int_0^1 \psi_j(t) dt$.

        Example:
            >>> GaussianBasis.grid(num_basis=3, sigmas=(0.1,)).integrals()
            tensor([0.5000, 1.0000, 0.5000])
        """
        return gaussian_mass(self.centers, self.sigmas**2, 0.0, 1.0)

    def inner_products(self, other: "GaussianBasis | None" = None) -> Float[Tensor, "basis other_basis"]:
        r"""Inner products of the basis functions over the memory, $H_{ij} = \int_0^1 \psi_i(t) \psi_j(t) dt$.

        The energy of a signal with coefficients B is $\mathrm{tr}(B^\top H B)$.

        Args:
            other: the basis that $\psi_j$ are of; None takes the same one.

        Example:
            >>> GaussianBasis.grid(num_basis=3, sigmas=(0.1,)).inner_products().diagonal().round(decimals=3)
            tensor([1.4100, 2.8210, 1.4100])
        """
        other = self if other is None else other
        mean, variance = rearrange(self.centers, "basis -> basis 1"), rearrange(self.sigmas**2, "basis -> basis 1")
        inside = _product_mass(mean, variance, other.centers, other.sigmas**2)
        return gaussian_density(mean, other.centers, variance + other.sigmas**2) * inside

    def stretched(self, tau: float) -> "GaussianBasis":
        r"""The basis whose functions are $\tau \psi_j(\tau t)$: what lies on [0, tau] of this one, on all of [0, 1].

        Args:
            tau: share of the memory, > 0.

        Example:
            >>> basis = GaussianBasis.grid(num_basis=3, sigmas=(0.1,))
            >>> t = torch.tensor([0.4])
            >>> torch.equal(basis.stretched(0.5).evaluate(t), 0.5 * basis.evaluate(0.5 * t))
            True
        """
        require(tau > 0, f"tau must be > 0, got {tau}: it is the share of the memory that is stretched")
        return GaussianBasis(self.centers / tau, self.sigmas / tau)


def _product_mass(mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor) -> Tensor:
    """Mass in [0, 1] of the normalised product of two Gaussians, which is a third."""
    share = variance / (variance + other_variance)  # products of variances would underflow long before these do
    return gaussian_mass(
        torch.lerp(*torch.broadcast_tensors(mean, other_mean, share)), share * other_variance, 0.0, 1.0
    )


def _regions(centers: Tensor, sigmas: Tensor) -> tuple[int, int, int]:
    """How many there are up to the last that reaches beyond 0, between, and from the first that reaches beyond 1."""
    if centers.is_meta:  # nothing is known of them
        return len(centers), 0, 0
    reach = NUM_SIGMAS * sigmas.double()
    beyond_0, beyond_1 = ((distance < reach).nonzero().flatten().tolist() for distance in (centers, 1 - centers))
    first, last = max(beyond_0, default=-1) + 1, min(beyond_1, default=len(centers))
    return (first, last - first, len(centers) - last) if first <= last else (len(centers), 0, 0)


def validate_grid(num_basis: int, sigmas: Sequence[float]) -> None:
    """Raise `ValueError` unless a grid of basis functions can be made of these numbers."""
    require(len(sigmas) > 0, "sigmas must name at least one width, got none: try sigmas=(0.01, 0.05)")
    for sigma in sigmas:
        require(
            math.isfinite(sigma) and sigma > 0,
            f"every width in sigmas must be > 0, got {sigma}: it is a standard deviation in units of the memory [0, 1]",
        )
    require(
        num_basis >= 1 and num_basis % len(sigmas) == 0,
        f"num_basis must be a positive multiple of the number of widths ({len(sigmas)}), got {num_basis}: "
        "every centre carries every width",
    )
