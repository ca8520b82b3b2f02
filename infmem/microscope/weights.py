r"""What each past token weighs in what a head reads.

Writing is linear in the tokens and so is reading, once a head has chosen its density. What a head reads is therefore a
weighted sum of all past tokens, and the weights can be computed exactly. Even weights are counting.
"""

from collections.abc import Sequence

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from infmem.contraction import Update
from infmem.memory import MemoryConfig, first_operator, update_recurrence
from infmem.memory.operators import build_basis
from infmem.validation import require


def token_operator(config: MemoryConfig, num_first: int, updates: Sequence[Update]) -> Float[Tensor, "pos basis"]:
    r"""All writes so far as one matrix G, from tokens to coefficients: $B = G^\top X$.

    Equation:
        $G = G_{first}$ at first; each update $B \leftarrow A B + C X$ makes it $[G A^\top; C^\top]$.

    Args:
        config: of the memory.
        num_first: tokens of the first fit, >= 1.
        updates: the updates since then, oldest first.

    Returns:
        One row per token, in float64. With a gate, the tokens are those that left it.

    Raises:
        ValueError: if the memory is sticky: then its writes depend on what was attended.

    Source: plain algebra, ours.

    Example:
        >>> token_operator(MemoryConfig.best(num_basis=8), num_first=5, updates=[Update(3, 0.5)]).shape
        torch.Size([8, 8])
    """
    require(
        config.sticky == "none",
        f"a memory with sticky={config.sticky!r} samples where it was attended, so its writes are not one fixed "
        "matrix: choose a model that is not sticky",
    )
    require(num_first >= 1, f"num_first must be at least 1 token, got {num_first}: the memory is still empty")
    operator = first_operator(config, num_first, torch.float64)
    for step in updates:
        transition, write = update_recurrence(config, step.num_new, step.tau, torch.float64)
        old = einsum(operator, transition, "pos other_basis, basis other_basis -> pos basis")
        operator = torch.cat([old, rearrange(write, "basis pos -> pos basis")])
    return operator


def token_weights(
    config: MemoryConfig,
    num_first: int,
    updates: Sequence[Update],
    mu: Float[Tensor, "*shape"],
    sigma_sq: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape pos"]:
    r"""The weight of every past token in what a head reads.

    Equation:
        $\mathbb{E}_p[\bar{X}(t)] = B^\top r = X^\top (G r)$ with $r_j = \mathbb{E}_p[\psi_j]$, so the weights are
        $w = G r$, with G of `token_operator`.

    Args:
        config: of the memory.
        num_first: tokens of the first fit, >= 1.
        updates: the updates since then, oldest first.
        mu: means of the densities.
        sigma_sq: their variances.

    Returns:
        One weight per token, oldest first, in float64. They need not sum to 1: what a density has outside of [0, 1]
        meets no token.

    Source: plain algebra, ours.

    Example:
        >>> everywhere = torch.tensor([0.5]), torch.tensor([25.0])
        >>> token_weights(MemoryConfig.best(num_basis=8, sigmas=(0.1,)), 10, [], *everywhere).shape
        torch.Size([1, 10])
    """
    operator = token_operator(config, num_first, updates)
    expected = build_basis(config).expectation(mu.double(), sigma_sq.double(), unit_interval=config.interval == "unit")
    return einsum(expected, operator, "... basis, pos basis -> ... pos")
