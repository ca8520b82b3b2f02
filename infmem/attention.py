r"""Continuous attention: each head looks at the memory through a Gaussian density.

Ordinary attention gives a weight to every stored vector. Here a query gives a mean and a variance, and what is read is
the expected value of the signal under that density. The cost depends on the number of basis functions N, never on how
many tokens the signal was made from.
"""

import math
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from infmem.basis import GaussianBasis
from infmem.kernels import fits
from infmem.validation import checked, require, require_positive


class Density(NamedTuple):
    """One Gaussian per head and query: where it looks, and how widely.

    Args:
        mu: means in (0, 1).
        sigma_sq: variances, > 0.
    """

    mu: Float[Tensor, "batch head query_pos"]
    sigma_sq: Float[Tensor, "batch head query_pos"]


@checked
def scores(
    query: Float[Tensor, "batch head query_pos d_head"], keys: Float[Tensor, "batch head basis d_head"]
) -> Float[Tensor, "batch head query_pos basis"]:
    r"""Agreement of every query with the key of every basis function.

    Equation:
        $s_{h,i} = K_h q_{h,i} / \sqrt{d}$

    Args:
        query: queries, one set per head.
        keys: $K_h = B W_h^K$.

    Example:
        >>> scores(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 5, 4))[0, 0, 0]
        tensor([2., 2., 2., 2., 2.])

    Source: Martins et al. 2022 (arXiv 2109.00301). Differs from the paper: nothing that is known.
    """
    require(query.shape[-1] >= 1, "query must have at least one component (d_head), got none")
    products = einsum(query, keys, "batch head query_pos d_head, batch head basis d_head -> batch head query_pos basis")
    return products / math.sqrt(query.shape[-1])


@checked
def collapsed_keys(
    coefficients: Float[Tensor, "batch basis d_model"],
    key_weight: Float[Tensor, "head_d_head d_model"],
    map_weight: Float[Tensor, "map basis"],
    num_heads: int,
) -> Float[Tensor, "batch head map d_head"]:
    r"""All that a linear map of the scores needs to know about the memory: one vector per head.

    Equation:
        With $K_h = B W_h^{K\top}$ and a map $w \in \mathbb{R}^N$,
        $w^\top (K_h q) = (W_h^K (B^\top w))^\top q$.
        So N keys shrink to the single vector $W_h^K B^\top w$, before any query is seen.

    Args:
        coefficients: B.
        key_weight: $W^K$ of all heads, stacked.
        map_weight: one row per map; the memory has two, for the mean and for the variance.
        num_heads: number of heads.

    Example:
        >>> collapsed_keys(torch.ones(2, 5, 6), torch.ones(6, 6), torch.ones(2, 5), num_heads=3).shape
        torch.Size([2, 3, 2, 2])

    Source: plain algebra; the paper and its code form all N scores.
    """
    require(
        num_heads >= 1 and len(key_weight) % num_heads == 0,
        f"num_heads must be a divisor of the {len(key_weight)} rows of key_weight, got {num_heads}",
    )
    summary = einsum(coefficients, map_weight, "batch basis d_model, map basis -> batch map d_model")
    keys = einsum(summary, key_weight, "batch map d_model, head_d_head d_model -> batch map head_d_head")
    return rearrange(keys, "batch map (head d_head) -> batch head map d_head", head=num_heads)


@checked
def collapsed_logits(
    query: Float[Tensor, "batch head query_pos d_head"], keys: Float[Tensor, "batch head map d_head"]
) -> Float[Tensor, "map batch head query_pos"]:
    r"""The maps of the scores, without the scores.

    Equation:
        $w^\top s_{h,i} = k_h^\top q_{h,i} / \sqrt{d}$ with the collapsed key $k_h = W_h^K B^\top w$.

    Args:
        query: queries, one set per head.
        keys: the collapsed keys.

    Example:
        >>> collapsed_logits(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 2, 4)).shape
        torch.Size([2, 1, 2, 3])

    Source: plain algebra; equal to mapping `scores`, tested to rounding.
    """
    require(query.shape[-1] >= 1, "query must have at least one component (d_head), got none")
    products = einsum(query, keys, "batch head query_pos d_head, batch head map d_head -> map batch head query_pos")
    return products / math.sqrt(query.shape[-1])


@checked
def density(
    mu_logit: Float[Tensor, "batch head query_pos"],
    sigma_sq_logit: Float[Tensor, "batch head query_pos"],
    sigma_sq_min: float = 1e-6,
) -> Density:
    r"""Mean and variance of each head's Gaussian.

    Equation:
        $\mu = \mathrm{sigmoid}(\cdot)$, $\sigma^2 = \max(\mathrm{softplus}(\cdot), \sigma^2_{\min})$

    Args:
        mu_logit: affine map of the scores for the mean.
        sigma_sq_logit: affine map of the scores for the variance.
        sigma_sq_min: smallest variance.

    Example:
        >>> density(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
        Density(mu=tensor([[[0.5000]]]), sigma_sq=tensor([[[0.6931]]]))

    Source: Martins et al. 2022 (arXiv 2109.00301). Differs from the paper: the smallest variance follows the
        released code.
    """
    require(0 < sigma_sq_min < math.inf, f"sigma_sq_min must be > 0 and finite, got {sigma_sq_min}: it is a variance")
    smallest = max(sigma_sq_min, torch.finfo(sigma_sq_logit.dtype).tiny)
    sigma_sq = torch.nn.functional.softplus(sigma_sq_logit).clamp(min=smallest)
    return Density(mu=torch.sigmoid(mu_logit), sigma_sq=sigma_sq)


@checked
def expected_value(
    weights: Float[Tensor, "batch head query_pos basis"], values: Float[Tensor, "batch head basis d_head"]
) -> Float[Tensor, "batch query_pos head_d_head"]:
    r"""What each head reads: the expected signal under its density. Heads are concatenated.

    Equation:
        $z_{h,i} = \mathbb{E}_p[\bar{V}_h(t)] = V_h^\top \mathbb{E}_p[\psi(t)]$

    Args:
        weights: $\mathbb{E}_p[\psi_j]$, from `GaussianBasis.expectation`. They need not sum to 1.
        values: $V_h = B W_h^V$.

    Example:
        >>> expected_value(torch.ones(1, 2, 3, 5), torch.ones(1, 2, 5, 4)).shape
        torch.Size([1, 3, 8])

    Source: Martins et al. 2022 (arXiv 2109.00301). Differs from the paper: nothing that is known.
    """
    heads = einsum(
        weights, values, "batch head query_pos basis, batch head basis d_head -> batch head query_pos d_head"
    )
    return rearrange(heads, "batch head query_pos d_head -> batch query_pos (head d_head)")


@checked
def continuous_read(
    density: Density,
    values: Float[Tensor, "batch head basis d_head"],
    basis: GaussianBasis,
    *,
    unit_interval: bool = False,
) -> Float[Tensor, "batch query_pos head_d_head"]:
    r"""What each head reads under its density: `expected_value` with the expectations of the basis functions.

    On a GPU with Triton one kernel does both, `infmem.kernels.gaussian_read`, and keeps no weights.

    Args:
        density: where each head looks.
        values: $V_h = B W_h^V$; the weights take their type.
        basis: the basis functions.
        unit_interval: whether the densities live on [0, 1] only, instead of the whole line.

    Example:
        >>> basis = GaussianBasis.grid(num_basis=5, sigmas=(0.2,))
        >>> everywhere = Density(mu=torch.full((1, 2, 3), 0.5), sigma_sq=torch.full((1, 2, 3), 100.0))
        >>> read = continuous_read(everywhere, torch.ones(1, 2, 5, 4), basis, unit_interval=True)
        >>> torch.allclose(read, basis.integrals().sum(), rtol=1e-3)
        True

    Source: Martins et al. 2022 (arXiv 2109.00301). Differs from the paper: as `GaussianBasis.expectation`.
    """
    if fits(values):
        from infmem.kernels.gaussian_read import gaussian_read  # needs Triton

        return gaussian_read(*density, values, basis, unit_interval=unit_interval)
    weights = basis.expectation(*density, unit_interval=unit_interval)
    return expected_value(weights.to(values.dtype), values)


@checked
def kl_regularizer(sigma_sq: Float[Tensor, "*shape"], sigma_0: float) -> Float[Tensor, "*shape"]:
    r"""Divergence of each density from one of the same mean and width `sigma_0`: it pulls on sigma, and leaves mu free.

    Equation:
        $D_{KL}(\mathcal{N}(\mu, \sigma^2) \| \mathcal{N}(\mu, \sigma_0^2)) =
        \frac12 (\sigma^2/\sigma_0^2 - \log(\sigma^2/\sigma_0^2) - 1)$

    Args:
        sigma_sq: variances of the densities, > 0.
        sigma_0: standard deviation to pull towards, > 0.

    Raises:
        ValueError: if `sigma_0` is not positive.

    Returns:
        One value per density, >= 0, in nats.

    Example:
        >>> kl_regularizer(torch.tensor([0.0025, 0.01]), sigma_0=0.05)
        tensor([0.0000, 0.8069])

    Source: Martins et al. 2022 (arXiv 2109.00301). Differs from the paper: nothing that is known (the released
        GPT-2 code adds a term that pulls mu to the oldest memory).
    """
    require(sigma_0 > 0, f"sigma_0 must be > 0, got {sigma_0}: it is a standard deviation")
    numbers = torch.finfo(sigma_sq.dtype)
    require(
        numbers.tiny <= sigma_0 * sigma_0 <= numbers.max,
        f"sigma_0 must be > 0 with a square that is a number in {sigma_sq.dtype}, got {sigma_0}",
    )
    require_positive("sigma_sq", sigma_sq)
    ratio = sigma_sq / sigma_0**2
    return 0.5 * (ratio - torch.log(ratio.clamp(max=numbers.max)) - 1)  # a ratio that overflows is infinitely far


@checked
def discrete_attention(
    query: Float[Tensor, "batch head query_pos d_head"],
    keys: Float[Tensor, "batch head key_pos d_head"],
    values: Float[Tensor, "batch head key_pos d_head"],
) -> Float[Tensor, "batch query_pos head_d_head"]:
    r"""Ordinary softmax attention over a memory read at points: the discrete twin of the continuous read.

    Equation:
        $z_{h,i} = \sum_j \mathrm{softmax}_j(k_{h,j}^\top q_{h,i} / \sqrt{d}) \, v_{h,j}$

    Args:
        query: queries, one set per head.
        keys: keys of the signal, read at some points.
        values: values of the signal at the same points.

    Example:
        >>> discrete_attention(torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 2, 2), torch.eye(2).reshape(1, 1, 2, 2))
        tensor([[[0.5000, 0.5000]]])

    Source: Vaswani et al. 2017 (arXiv 1706.03762).
    """
    return expected_value(torch.softmax(scores(query, keys), dim=-1), values)
