r"""Making room for the new: the old signal shrinks to [0, tau], new tokens take (tau, 1], and all is fitted again.

A memory of fixed size that takes in tokens for ever must forget. The age map says which token sits where after k
updates; `infmem.recurrence` says how much is left of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from infmem.basis import GaussianBasis
from infmem.signal import ridge_operator
from infmem.validation import checked, require


def validate_tau(tau: float, name: str = "tau") -> None:
    """Raise `ValueError` unless `tau` lies strictly between 0 and 1."""
    require(
        0 < tau < 1,
        f"{name} must be in (0, 1), got {tau}: it is the share of [0, 1] that the past keeps at an update",
    )


def scaled_tau(num_past: int, num_new: int, tau_max: float = 63 / 64) -> float:
    r"""The share of the memory that gives every token, old or new, the same room.

    Equation:
        $\tau_s = \min(n_{past} / (n_{past} + n_{new}), \tau_{max})$

    Args:
        num_past: tokens written so far, >= 1.
        num_new: tokens to write, >= 1.
        tau_max: upper limit in (0, 1). Without one, the refit's small errors add up over thousands of updates.

    Raises:
        ValueError: if a count is < 1 or the limit is outside (0, 1).

    Source: ours, in the spirit of HiPPO-LegS (Gu et al. 2020, arXiv 2008.07669).

    Differs from the paper: the paper's tau is a constant, which forgets exponentially.

    Example:
        >>> scaled_tau(num_past=300, num_new=100)
        0.75
    """
    require(num_past >= 1, f"num_past must be at least 1 token, got {num_past}: an empty memory is not contracted")
    require(num_new >= 1, f"num_new must be at least 1 token, got {num_new}: there is nothing to make room for")
    validate_tau(tau_max, "tau_max")
    return min(num_past / (num_past + num_new), tau_max)


@checked
def contracted_positions(
    past: Float[Tensor, "*batch sample"], new: Float[Tensor, " pos"], tau: float
) -> Float[Tensor, "*batch sample_pos"]:
    r"""Positions of old samples and new tokens after the contraction.

    Equation:
        $t \mapsto \tau t$ for the past, $t \mapsto \tau + (1 - \tau) t$ for the new.

    Args:
        past: locations of the old signal's samples in [0, 1].
        new: positions of the new tokens in [0, 1].
        tau: share of the past, in (0, 1).

    Raises:
        ValueError: if `tau` is outside (0, 1).

    Source: Martins et al. 2022 (arXiv 2109.00301). Differs from the paper: nothing that is known.

    Example:
        >>> contracted_positions(torch.tensor([0.5, 1.0]), torch.tensor([0.5, 1.0]), tau=0.5).tolist()
        [0.25, 0.5, 0.75, 1.0]
    """
    validate_tau(tau)
    return torch.cat([tau * past, (tau + (1 - tau) * new).expand(*past.shape[:-1], -1)], dim=-1)


class UpdateOperators(NamedTuple):
    """The two halves of the ridge operator of an update.

    Args:
        past: rows of G that meet the samples of the old signal.
        new: rows of G that meet the new tokens.
    """

    past: Float[Tensor, "*batch sample basis"]
    new: Float[Tensor, "*batch pos basis"]


@checked
def update_operators(
    basis: GaussianBasis,
    past: Float[Tensor, "*batch sample"],
    new: Float[Tensor, " pos"],
    tau: float,
    ridge: float,
    padding: Float[Tensor, " padding_pos"] | None = None,
) -> UpdateOperators:
    """The ridge operator over old samples and new tokens together, split in two.

    Args:
        basis: the basis functions.
        past: locations of the old signal's samples in [0, 1], before the contraction.
        new: positions of the new tokens in [0, 1], before the contraction.
        tau: share of the past, in (0, 1).
        ridge: the penalty, >= 0.
        padding: positions whose target is zero, or None.

    Raises:
        ValueError: if `tau` is outside (0, 1) or the regression has no unique solution.

    Example:
        >>> basis = GaussianBasis.grid(num_basis=3, sigmas=(0.2,))
        >>> t = torch.linspace(0, 1, 5)
        >>> past, new = update_operators(basis, t, t, tau=0.75, ridge=1.0)
        >>> past.shape, new.shape
        (torch.Size([5, 3]), torch.Size([5, 3]))
    """
    operator = ridge_operator(basis, contracted_positions(past, new, tau), ridge, padding)
    return UpdateOperators(*operator.split([past.shape[-1], len(new)], dim=-2))


@checked
def update(
    coefficients: Float[Tensor, "batch basis d_model"],
    x: Float[Tensor, "batch pos d_model"],
    samples: Float[Tensor, "*batch_or_none sample basis"],
    operators: UpdateOperators,
) -> Float[Tensor, "batch basis d_model"]:
    r"""One update of the memory: sample the old signal, put the new tokens behind it, fit again.

    Equation:
        $B \leftarrow G_{past}^\top (\Psi B) + G_{new}^\top X$, with $\Psi$ the basis functions at the sampled
        locations.

    Args:
        coefficients: B before the update.
        x: the new tokens.
        samples: $\Psi$, the basis functions at the sampled locations (one set for all rows, or one per row).
        operators: of `update_operators`, for the same locations.

    Source: Martins et al. 2022 (arXiv 2109.00301). Differs from the paper: nothing that is known.

    Example:
        >>> basis = GaussianBasis.grid(num_basis=3, sigmas=(0.2,))
        >>> t = torch.linspace(0, 1, 5)
        >>> operators = update_operators(basis, t, t, tau=0.75, ridge=1.0)
        >>> update(torch.ones(2, 3, 7), torch.ones(2, 5, 7), basis.evaluate(t), operators).shape
        torch.Size([2, 3, 7])
    """
    batches = {tuple(part.shape[:-2]) for part in (samples, *operators)}
    require(
        batches <= {(), tuple(coefficients.shape[:1])},
        f"samples and operators must be one set for all rows, or one for each of the {len(coefficients)}, got sizes "
        f"{[tuple(part.shape) for part in (samples, *operators)]}",
    )
    old_signal = einsum(samples, coefficients, "... sample basis, ... basis d_model -> ... sample d_model")
    kept = einsum(operators.past, old_signal, "... sample basis, ... sample d_model -> ... basis d_model")
    return kept + einsum(operators.new, x, "... pos basis, ... pos d_model -> ... basis d_model")


class Update(NamedTuple):
    """What the age map must know about one update.

    Args:
        num_new: tokens that it wrote.
        tau: share that it left to the past.
        locations: where on the old memory the signal sampled at t came from, for t on an even grid over (0, 1]
            (sticky memories spread evenly over the past's share), or None where the contraction is plain.
    """

    num_new: int
    tau: float
    locations: Float[Tensor, " sample"] | None = None


@checked
def age_map(
    t: Float[Tensor, " query_pos"], num_first: int, updates: Sequence[Update]
) -> tuple[Float[Tensor, " query_pos"], Float[Tensor, " query_pos"]]:
    r"""Which token sits at `t` after all updates: its number since the start, and its age in updates.

    Equation:
        Going back from the last update: $t > \tau$ is a new token, number $n_{past} + n_{new}(t-\tau)/(1-\tau)$;
        otherwise it is the old memory's $t/\tau$ (or the sampled location that was put there), and so on. In the first
        fit, t is token $n_{first} t$.

    Args:
        t: positions in [0, 1].
        num_first: tokens of the first fit, >= 1.
        updates: the updates since then, oldest first.

    Returns:
        Token numbers (real numbers, token i at $i$ when positions are end points) and ages (0: written last).

    Raises:
        ValueError: if `num_first` < 1 or an update's tau is outside (0, 1).

    Source: Martins et al. 2022 (arXiv 2109.00301).

    Example:
        >>> tokens, ages = age_map(torch.tensor([0.25, 0.5, 1.0]), num_first=10, updates=[Update(10, 0.5)])
        >>> tokens.tolist(), ages.tolist()
        ([5.0, 10.0, 20.0], [1.0, 1.0, 0.0])
    """
    require(num_first >= 1, f"num_first must be at least 1 token, got {num_first}")
    require(
        all(step.num_new >= 1 and (step.locations is None or len(step.locations) >= 1) for step in updates),
        "each of the updates must write at least one token (num_new), and its locations hold at least one",
    )
    asked, t = t.dtype, t.double()
    token, age = torch.full_like(t, float("nan")), torch.zeros_like(t)
    num_past = num_first + sum(step.num_new for step in updates)
    waiting = torch.ones_like(t, dtype=torch.bool)
    for back, step in enumerate(reversed(updates)):
        validate_tau(step.tau)
        num_past -= step.num_new
        is_new = waiting & (t > step.tau)
        token = torch.where(is_new, num_past + step.num_new * (t - step.tau) / (1 - step.tau), token)
        age = torch.where(is_new, float(back), age)
        waiting = waiting & ~is_new
        t = t / step.tau
        if step.locations is not None:
            t = _interpolate(t, step.locations)
    token, age = torch.where(waiting, num_first * t, token), torch.where(waiting, float(len(updates)), age)
    return token.to(asked), age.to(asked)


def _interpolate(t: Float[Tensor, " query_pos"], locations: Float[Tensor, " sample"]) -> Float[Tensor, " query_pos"]:
    """The location that was put at `t`, when sorted locations were spread over i/M; 0 stays 0."""
    num_samples, locations = len(locations), locations.to(t)
    table = torch.cat([torch.zeros_like(locations[:1]), locations])
    place = (t.clamp(0, 1) * num_samples).clamp(max=num_samples)
    left = place.floor().long().clamp(max=num_samples - 1)
    return torch.lerp(table[left], table[left + 1], (place - left).to(table))
