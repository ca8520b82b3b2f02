r"""The update as a linear recurrence, and how much of the past it keeps.

Without sticky sampling an update multiplies the memory by one fixed matrix and adds the new tokens through another,
$B \leftarrow A B + C X$. That links the infinite-former to HiPPO, S4 and other state-space models, and it makes
forgetting a property that can be computed before anything is trained.
"""

from typing import NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from infmem.basis import GaussianBasis
from infmem.contraction import UpdateOperators, contracted_positions
from infmem.signal import ridge_solve
from infmem.validation import checked, require, require_finite


class LinearRecurrence(NamedTuple):
    r"""An update with fixed locations as a linear recurrence, $B \leftarrow A B + C X$.

    A is far from normal: it shifts what it holds towards 0, so products of it behave very differently from what its
    eigenvalues suggest. At tau = 0.75 (released settings) the spectral radius is 0.53, as if the memory halved after
    1.1 updates, while the mass of a segment halves only after 2.4. Measure forgetting with `retained_mass` and
    `retained_energy`, not with eigenvalues.

    Args:
        transition: A.
        write: C.
    """

    transition: Float[Tensor, "basis other_basis"]
    write: Float[Tensor, "basis pos"]


@checked
def linear_recurrence(samples: Float[Tensor, "sample basis"], operators: UpdateOperators) -> LinearRecurrence:
    r"""The update's matrices, for locations that do not depend on the data.

    Equation:
        $A = G_{past}^\top \Psi$, $C = G_{new}^\top$

    Args:
        samples: $\Psi$, the basis functions at the sampled locations.
        operators: of `update_operators`, for the same locations.

    Source: plain algebra; the link to HiPPO and state-space models is ours.

    Example:
        >>> from infmem.contraction import update_operators
        >>> basis = GaussianBasis.grid(num_basis=3, sigmas=(0.2,))
        >>> t = torch.linspace(0, 1, 5)
        >>> transition, write = linear_recurrence(basis.evaluate(t), update_operators(basis, t, t, 0.75, ridge=1.0))
        >>> transition.shape, write.shape
        (torch.Size([3, 3]), torch.Size([3, 5]))
    """
    require(
        operators.past.ndim == operators.new.ndim == 2,
        f"operators must be one set for all rows, got sizes {tuple(operators.past.shape)}: a recurrence has no batch",
    )
    transition = einsum(
        operators.past, samples.to(operators.past), "sample basis, sample other_basis -> basis other_basis"
    )
    return LinearRecurrence(transition, rearrange(operators.new, "pos basis -> basis pos"))


@checked
def exact_recurrence(
    basis: GaussianBasis,
    new: Float[Tensor, " pos"],
    tau: float,
    ridge: float,
    padding: Float[Tensor, " padding_pos"] | None = None,
) -> LinearRecurrence:
    r"""The update that refits all of the old signal instead of samples of it.

    Equation:
        The new signal is the one that minimises
        $w \int_0^1 \|B'^\top \psi(\tau t) - B^\top \psi(t)\|^2 dt + \sum_i \|B'^\top \psi(t_i) - x_i\|^2
        + \lambda \|B'\|^2$ with $w = L \tau / (1 - \tau)$: a unit of the memory counts the same for old and new. So
        $A = M^{-1} w \int_0^1 \psi(\tau t) \psi(t)^\top dt$, $C = M^{-1} F$ with
        $M = w \int_0^1 \psi(\tau t) \psi(\tau t)^\top dt + F F^\top + \lambda I$ and
        $F = [\psi(t_1), \dots, \psi(t_L)]$; both integrals in closed form.

    Args:
        basis: the basis functions.
        new: positions of the new tokens in [0, 1], before the contraction.
        tau: share of the past, in (0, 1).
        ridge: the penalty, >= 0.
        padding: positions whose target is zero, or None.

    Returns:
        A and C, in float64.

    Raises:
        ValueError: if `tau` is outside (0, 1) or the regression has no unique solution.

    Source: ours, in the spirit of HiPPO-LegS (Gu et al. 2020, arXiv 2008.07669).

    Differs from the paper: the paper takes M samples of the old signal. A signal of tokens is rough, so what a few
        hundred points meet of it is noise, anew at every update; and a fixed number of samples counts less and less
        beside the new tokens, however much of the memory it stands for.

    Example:
        >>> from infmem.signal import positions
        >>> basis = GaussianBasis.grid(num_basis=3, sigmas=(0.2,))
        >>> transition, write = exact_recurrence(basis, positions(5), tau=0.75, ridge=0.1)
        >>> transition.shape, write.shape
        (torch.Size([3, 3]), torch.Size([3, 5]))
    """
    new = new.double()
    basis = basis.to(new)
    past, design = basis.stretched(tau), basis.evaluate(contracted_positions(new[:0], new, tau)).mT
    weight = new.shape[-1] / (1 - tau)  # over tau
    gram = weight / tau * past.inner_products() + design @ design.mT
    if padding is not None:
        zeros = basis.evaluate(padding.to(gram))
        gram = gram + zeros.mT @ zeros
    targets = torch.cat([weight * past.inner_products(basis), design], dim=-1)
    return LinearRecurrence(*ridge_solve(gram, targets, ridge).split([basis.num_basis, len(new)], dim=-1))


@checked
def recur(
    recurrence: LinearRecurrence,
    coefficients: Float[Tensor, "batch basis d_model"],
    x: Float[Tensor, "batch pos d_model"],
) -> Float[Tensor, "batch basis d_model"]:
    r"""One update of the memory as a linear recurrence: what `contraction.update` gives, in two products.

    Equation:
        $B \leftarrow A B + C X$

    Args:
        recurrence: A and C.
        coefficients: B before the update.
        x: the new tokens.

    Example:
        >>> recurrence = LinearRecurrence(transition=torch.eye(3), write=torch.ones(3, 5))
        >>> recur(recurrence, torch.ones(2, 3, 7), torch.ones(2, 5, 7))[0, 0, 0]
        tensor(6.)
    """
    transition, write = recurrence
    kept = einsum(transition, coefficients, "basis other_basis, batch other_basis d_model -> batch basis d_model")
    return kept + einsum(write, x, "basis pos, batch pos d_model -> batch basis d_model")


@checked
def retained_mass(basis: GaussianBasis, recurrence: LinearRecurrence, num_updates: int) -> Float[Tensor, " age"]:
    r"""Share of a constant segment's integral that is still in the memory, by age in updates.

    Equation:
        $m_k = w^\top A^k C \mathbf{1} / w^\top C \mathbf{1}$ with $w_j = \int_0^1 \psi_j(t) dt$, $k = 0, ..., K$.

    Args:
        basis: the basis functions.
        recurrence: of `linear_recurrence`.
        num_updates: the largest age K >= 0.

    Example:
        >>> from infmem.contraction import update_operators
        >>> from infmem.signal import positions
        >>> basis, t = GaussianBasis.grid(num_basis=64, sigmas=(0.05,)), positions(128)
        >>> recurrence = linear_recurrence(basis.to(t).evaluate(t), update_operators(basis, t, t, 0.75, ridge=0.1))
        >>> retained_mass(basis, recurrence, 2).round(decimals=2)
        tensor([1.0000, 0.7400, 0.5500], dtype=torch.float64)
    """
    require(num_updates >= 0, f"num_updates must be >= 0, got {num_updates}")
    _check_basis(basis, recurrence)
    weights = basis.integrals().to(recurrence.write)
    held = recurrence.write.sum(-1)
    masses = []
    for _ in range(num_updates + 1):
        masses.append(weights @ held)
        held = recurrence.transition @ held
    return _shares(torch.stack(masses))


@checked
def retained_energy(basis: GaussianBasis, recurrence: LinearRecurrence, num_updates: int) -> Float[Tensor, " age"]:
    r"""Share of a white-noise segment's energy that is still in the memory, by age in updates: how fast detail goes.

    Equation:
        $e_k = \mathrm{tr}(C^\top A^{k\top} H A^k C) / \mathrm{tr}(C^\top H C)$ with
        $H_{ij} = \int_0^1 \psi_i(t) \psi_j(t) dt$, $k = 0, ..., K$.

    Args:
        basis: the basis functions.
        recurrence: of `linear_recurrence`.
        num_updates: the largest age K >= 0.

    Example:
        >>> from infmem.contraction import update_operators
        >>> from infmem.signal import positions
        >>> basis, t = GaussianBasis.grid(num_basis=64, sigmas=(0.05,)), positions(128)
        >>> recurrence = linear_recurrence(basis.to(t).evaluate(t), update_operators(basis, t, t, 0.75, ridge=0.1))
        >>> bool((retained_energy(basis, recurrence, 3) <= retained_mass(basis, recurrence, 3) + 1e-6).all())
        True
    """
    require(num_updates >= 0, f"num_updates must be >= 0, got {num_updates}")
    _check_basis(basis, recurrence)
    inner_products = basis.inner_products().to(recurrence.write)
    held = recurrence.write
    energies = []
    for _ in range(num_updates + 1):
        energies.append(einsum(held, inner_products, held, "basis pos, basis other_basis, other_basis pos ->"))
        held = recurrence.transition @ held
    return _shares(torch.stack(energies))


def _check_basis(basis: GaussianBasis, recurrence: LinearRecurrence) -> None:
    require(
        basis.num_basis == len(recurrence.write),
        f"basis must have the {len(recurrence.write)} functions of the recurrence, got {basis.num_basis}",
    )


def _shares(left: Float[Tensor, " age"]) -> Float[Tensor, " age"]:
    """What is left at each age, as shares of what there was at first."""
    require(bool(left[0] != 0), "recurrence.write must write something, got nothing that a share could be left of")
    return left / left[0]


@checked
def half_life(retained: Float[Tensor, " age"]) -> float:
    """Age, in updates, at which a retained share first falls to a half (linear between updates); inf if it never does.

    Args:
        retained: shares by age, from `retained_mass` or `retained_energy`; at least that of age 0.

    Raises:
        ValueError: if there are no shares, or some are not finite.

    Example:
        >>> half_life(torch.tensor([1.0, 0.75, 0.25]))
        1.5
    """
    require(len(retained) >= 1, "retained must hold the share at age 0 at least, got no shares")
    require_finite("retained", retained)
    shares = retained.tolist()
    if shares[0] <= 0.5:
        return 0.0
    for age in range(1, len(shares)):
        if shares[age] <= 0.5:
            return age - 1 + (shares[age - 1] - 0.5) / (shares[age - 1] - shares[age])
    return float("inf")
