r"""From tokens to a continuous signal, and back.

L vectors are placed at positions $t_i$ in [0, 1] and fitted by ridge regression on the basis functions. The result, N
coefficient vectors, is the memory: a signal $\bar{X}(t) = B^\top \psi(t)$ that can be read at any t. The fit is linear
in the tokens, $B = G^\top X$, and G depends on the positions alone, so it is computed once.
"""

import math
from typing import Literal

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from infmem.basis import GaussianBasis
from infmem.validation import checked, require, require_finite

PositionRule = Literal["end_points", "midpoints"]


def positions(
    length: int, rule: PositionRule = "end_points", *, dtype: torch.dtype = torch.float64
) -> Float[Tensor, " pos"]:
    """Where `length` tokens sit on the memory.

    Equation:
        $t_i = i/L$ (`end_points`, the paper's) or $t_i = (i - 1/2)/L$ (`midpoints`), $i = 1, ..., L$.

    Args:
        length: number of tokens L >= 1.
        rule: which of the two.
        dtype: type of the result; float64, because operators are built in it.

    Raises:
        ValueError: if `length` < 1 or the rule is unknown.

    Source: Martins et al. 2022 (arXiv 2109.00301).

    Differs from the paper: `midpoints` is what the released code uses for its first fit.

    Example:
        >>> positions(4).tolist()
        [0.25, 0.5, 0.75, 1.0]
        >>> positions(4, "midpoints").tolist()
        [0.125, 0.375, 0.625, 0.875]
    """
    require(length >= 1, f"length must be at least 1 token, got {length}: there is nothing to place")
    require(rule in ("end_points", "midpoints"), f"rule must be 'end_points' or 'midpoints', got {rule!r}")
    shift = 0.0 if rule == "end_points" else 0.5
    return (torch.arange(1, length + 1, dtype=dtype) - shift) / length


def padding_positions(
    length: int, *, shift: float | None = None, dtype: torch.dtype = torch.float64
) -> Float[Tensor, " padding_pos"]:
    """Positions of the zeros that the released code fits beside the signal, on [-0.5, 0) and (1, 1.5].

    They continue the midpoints of `length` tokens with the same spacing as far as -0.5 and 1.5. The fit then falls to
    zero outside: a constant 1 is read back as about a half at both ends, and at one of them are the newest tokens.

    Args:
        length: number of tokens inside [0, 1] whose spacing is continued, >= 1.
        shift: None continues the midpoints. A number puts `2 * length` even points on [-0.5 + shift, 1.5 - shift] and
            keeps those outside of the memory, as the released code does in its updates.
        dtype: type of the result.

    Raises:
        ValueError: if `length` < 1.

    Source: the released code (its conventions, not its text); the paper does not mention padding.

    Example:
        >>> padding_positions(4).tolist()
        [-0.375, -0.125, 1.125, 1.375]
    """
    require(length >= 1, f"length must be at least 1 token, got {length}: there is nothing to pad")
    require(shift is None or 0 <= shift <= 0.5, f"shift must be in [0, 0.5], got {shift}: zeros lie on [-0.5, 1.5]")
    num_points = 2 * length
    if shift is None:  # an odd number of tokens leaves room for (length - 1) / 2 zeros on each side
        num_points -= length % 2
        shift = (1 + length % 2) / (2 * length)
    grid = torch.linspace(-0.5 + shift, 1.5 - shift, num_points, dtype=dtype)
    return grid[(grid < 0) | (grid > 1)]


@checked
def ridge_operator(
    basis: GaussianBasis,
    positions: Float[Tensor, "*batch pos"],
    ridge: float,
    padding: Float[Tensor, " padding_pos"] | None = None,
) -> Float[Tensor, "*batch pos basis"]:
    r"""The matrix G that turns tokens at given positions into coefficients by ridge regression.

    Equation:
        $B^* = \arg\min_B \|\Psi B - X\|^2 + \lambda \|B\|^2$, so $B = G^\top X$ with
        $G = F^\top (F F^\top + \lambda I)^{-1}$ and $F = [\psi(t_1), \dots, \psi(t_L)]$.

        Padding adds rows with zero targets: they enter $F F^\top$ but meet nothing in X.

    Args:
        basis: the basis functions.
        positions: where the tokens sit, usually in [0, 1].
        ridge: the penalty, >= 0.
        padding: positions whose target is zero, or None.

    Returns:
        G, with the dtype and device of `positions`; solved by Cholesky in float64.

    Raises:
        ValueError: if there are no positions, the penalty is negative, or the system is singular.

    Source: Martins et al. 2022 (arXiv 2109.00301).

    Differs from the paper: `padding` follows the released code; the paper does not mention it.

    Example:
        >>> basis = GaussianBasis.grid(num_basis=3, sigmas=(0.2,))
        >>> ridge_operator(basis, positions(5), ridge=1.0).shape
        torch.Size([5, 3])
    """
    require(positions.shape[-1] >= 1, "positions must hold at least one token, got none")
    require_finite("positions", positions)  # nobody waits longer for it: the solver looks at values anyway
    wide_basis = basis.to(device=positions.device, dtype=torch.float64)
    design = wide_basis.evaluate(positions.double())
    gram = einsum(design, design, "... pos basis, ... pos other_basis -> ... basis other_basis")
    if padding is not None:
        design_padding = wide_basis.evaluate(padding.to(gram))
        gram = gram + design_padding.mT @ design_padding
    return ridge_solve(gram, design.mT, ridge).mT.to(positions.dtype)


@checked
def ridge_solve(
    gram: Float[Tensor, "*batch basis other_basis"], targets: Float[Tensor, "*batch basis pos"], ridge: float
) -> Float[Tensor, "*batch basis pos"]:
    r"""Solve the normal equations of a ridge regression, by Cholesky in the type of `gram`.

    Equation:
        $(H + \lambda I)^{-1} F$

    Args:
        gram: H, inner products of the basis functions over what is fitted.
        targets: F, inner products of the basis functions with the targets.
        ridge: the penalty, >= 0.

    Raises:
        ValueError: if the penalty is negative, or the system is singular.

    Example:
        >>> ridge_solve(torch.eye(3), torch.ones(3, 1), ridge=1.0).T
        tensor([[0.5000, 0.5000, 0.5000]])
    """
    require(
        0 <= ridge < math.inf, f"ridge must be >= 0, got {ridge}: it is the penalty on the size of the coefficients"
    )
    require(gram.dtype in (torch.float32, torch.float64), f"gram must be in float32 or float64, got {gram.dtype}")
    require(gram.shape[-2] == gram.shape[-1], f"gram must be square, got sizes {tuple(gram.shape)}")
    require_finite("gram", gram)
    num_basis = gram.shape[-1]
    penalty = ridge * torch.eye(num_basis, dtype=gram.dtype, device=gram.device)
    cholesky, failed = torch.linalg.cholesky_ex(gram + penalty)
    if gram.is_cuda and torch.cuda.is_current_stream_capturing():  # nothing can be looked at then
        return _substitute(cholesky, targets)
    singular = failed > 0
    diagonal, rounding = gram.diagonal(dim1=-2, dim2=-1), torch.finfo(gram.dtype)
    is_negligible = ridge <= rounding.eps * num_basis * diagonal.amax(-1)
    if bool(is_negligible.any()):  # then rounding can make a singular matrix look positive definite
        singular = singular | (torch.linalg.matrix_rank(gram + penalty, hermitian=True) < num_basis)
        singular = singular | (diagonal.amin(-1) + ridge < rounding.tiny / rounding.eps)  # met by no token
    require(
        not bool(singular.any()),
        f"the ridge regression has no unique solution with ridge={ridge}, {num_basis} basis functions and "
        f"{targets.shape[-1]} positions: use a larger ridge or fewer, different basis functions",
    )
    return _substitute(cholesky, targets)


def _substitute(cholesky: Tensor, targets: Tensor) -> Tensor:
    """Forward and back substitution; `torch.cholesky_solve`, which does the same, waits for a GPU."""
    half = torch.linalg.solve_triangular(cholesky, targets, upper=False)
    return torch.linalg.solve_triangular(cholesky.mT, half, upper=True)


@checked
def fit(
    x: Float[Tensor, "batch pos d_model"], operator: Float[Tensor, "pos basis"]
) -> Float[Tensor, "batch basis d_model"]:
    r"""Coefficients of the signal that passes near the tokens.

    Equation:
        $B = G^\top X$

    Args:
        x: the tokens' vectors, oldest first.
        operator: G of `ridge_operator`, for the same positions.

    Example:
        >>> basis = GaussianBasis.grid(num_basis=3, sigmas=(0.2,))
        >>> operator = ridge_operator(basis, positions(5, dtype=torch.float32), ridge=1.0)
        >>> fit(torch.ones(2, 5, 7), operator).shape
        torch.Size([2, 3, 7])

    Source: Martins et al. 2022 (arXiv 2109.00301). Differs from the paper: nothing that is known.
    """
    return einsum(x, operator.to(x.dtype), "batch pos d_model, pos basis -> batch basis d_model")


@checked
def read(
    coefficients: Float[Tensor, "batch basis d_model"], basis: GaussianBasis, t: Float[Tensor, " query_pos"]
) -> Float[Tensor, "batch query_pos d_model"]:
    r"""The signal at positions `t`.

    Equation:
        $\bar{X}(t) = B^\top \psi(t)$

    Args:
        coefficients: B.
        basis: the basis functions that B belongs to.
        t: where to read; 0 is the oldest moment, 1 the newest.

    Raises:
        ValueError: if the coefficients belong to a basis of another size.

    Example:
        >>> basis = GaussianBasis.grid(num_basis=3, sigmas=(0.2,))
        >>> read(torch.ones(2, 3, 7), basis, torch.linspace(0, 1, 11)).shape
        torch.Size([2, 11, 7])

    Source: Martins et al. 2022 (arXiv 2109.00301). Differs from the paper: nothing that is known.
    """
    require(
        coefficients.shape[1] == basis.num_basis,
        f"read: coefficients must have one row per basis function ({basis.num_basis}), got {coefficients.shape[1]}",
    )
    design = basis.evaluate(t).to(coefficients)
    return einsum(coefficients, design, "batch basis d_model, query_pos basis -> batch query_pos d_model")


@checked
def effective_degrees_of_freedom(
    basis: GaussianBasis,
    positions: Float[Tensor, " pos"],
    ridge: float,
    padding: Float[Tensor, " padding_pos"] | None = None,
) -> Float[Tensor, " pos"]:
    r"""How many numbers the fit can really choose: each token's share; their sum is the effective degrees of freedom.

    Equation:
        $\mathrm{tr}(F^\top G^\top) = \sum_i \psi(t_i)^\top g_i$, where $g_i$ is row i of G. Term i is the derivative of
        the signal at $t_i$ with respect to token i: 1 means that the token is kept, 0 that it is lost.

    Args:
        basis: the basis functions.
        positions: where the tokens sit.
        ridge: the penalty, >= 0.
        padding: positions whose target is zero, or None.

    Returns:
        One share per token, in [0, 1].

    Example:
        >>> basis = GaussianBasis.grid(num_basis=512, sigmas=(0.01, 0.05))
        >>> t = positions(1024, "midpoints")
        >>> round(effective_degrees_of_freedom(basis, t, 1.0, padding_positions(1024)).sum().item(), 1)
        111.7

    Source: the standard measure of a linear smoother. Not in the paper, which counts basis functions; but widths and
        ridge limit the resolution, not N.
    """
    operator = ridge_operator(basis, positions, ridge, padding)
    design = basis.to(positions).evaluate(positions)
    return einsum(design, operator, "pos basis, pos basis -> pos")


@checked
def regression_error(
    x: Float[Tensor, "batch pos d_model"],
    basis: GaussianBasis,
    positions: Float[Tensor, " pos"],
    ridge: float,
    padding: Float[Tensor, " padding_pos"] | None = None,
) -> Float[Tensor, " batch"]:
    r"""Share of the tokens' energy that is lost when they are written and read back.

    Equation:
        $\sum_i \|x_i - \bar{X}(t_i)\|^2 / \sum_i \|x_i\|^2$

    Args:
        x: the tokens' vectors.
        basis: the basis functions.
        positions: where the tokens sit.
        ridge: the penalty, >= 0.
        padding: positions whose target is zero, or None.

    Returns:
        0 for a perfect copy, also of nothing but zeros; 1 for what an empty memory would give.

    Example:
        >>> x = torch.sin(torch.linspace(0, 6.28, 64)).reshape(1, 64, 1)
        >>> basis = GaussianBasis.grid(num_basis=16, sigmas=(0.05,))
        >>> bool(regression_error(x, basis, positions(64), ridge=0.01) < 0.01)
        True
    """
    operator = ridge_operator(basis, positions, ridge, padding).to(x)
    largest = reduce(x.abs(), "batch pos d_model -> batch 1 1", "max")
    x = x / torch.where(largest > 0, largest, 1.0)  # a share does not depend on it, and squares overflow soon
    error = x - read(fit(x, operator), basis, positions)
    energy = rearrange(x, "batch pos d_model -> batch (pos d_model)").square().sum(-1)
    lost = rearrange(error, "batch pos d_model -> batch (pos d_model)").square().sum(-1)
    return lost / torch.where(energy > 0, energy, 1.0)
