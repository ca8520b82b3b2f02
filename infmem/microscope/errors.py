r"""How wrong a memory is, by age, before anything is trained; and what becomes of one fact that attention stays on.

Three things can be asked of a memory: one token back, the mean of a segment, and the mean of all that was read. Each
answer is a weighted sum of all tokens, with weights that follow from the configuration. For white noise of variance 1
the distance of these weights from those of a perfect answer is the error of the answer.
"""

from typing import NamedTuple

import torch
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor

from infmem import sticky
from infmem.basis import gaussian_mass
from infmem.contraction import Update, contracted_positions, update
from infmem.memory import MemoryConfig, sticky_operators, update_recurrence
from infmem.memory.operators import build_basis, first_operator, position_rules, sampling_locations
from infmem.microscope.trace import next_update, segment_edges
from infmem.microscope.weights import token_operator
from infmem.recurrence import recur
from infmem.signal import fit, positions
from infmem.validation import require


class MemoryErrors(NamedTuple):
    """Relative errors of what a memory gives back, by age: 0 is perfect, 1 is what an empty one gives.

    Args:
        token: of a token, read where it was put.
        segment_mean: of the mean of a segment, read evenly over its room.
        whole_mean: how far, relative to an even share, the weights of the segment's tokens are off when a head reads
            evenly over all of the memory; root mean square.
    """

    token: Float[Tensor, " age"]
    segment_mean: Float[Tensor, " age"]
    whole_mean: Float[Tensor, " age"]


def memory_errors(
    config: MemoryConfig, segment_length: int, num_updates: int, generator: torch.Generator | None = None
) -> MemoryErrors:
    r"""Errors of a memory that was written in equal segments.

    Equation:
        With the writes as one matrix, $B = G^\top X$, an answer $\int w(t) \bar{X}(t) dt$ weighs the tokens by
        $G \int w(t) \psi(t) dt$. Token i: w is a point at its place $t_i$, a perfect answer weighs i alone. Segment: w
        is even over its room, a perfect answer weighs its L tokens by 1/L. Everything: w is even over [0, 1], a perfect
        answer weighs all n tokens by 1/n.

    Args:
        config: of the memory. A gate is left out. A sticky memory samples as if attention had been even.
        segment_length: tokens of the first fit and of each update, L >= 1.
        num_updates: updates after the first fit, >= 0.
        generator: randomness of sticky sampling.

    Returns:
        Errors by age in updates: 0 for the newest segment, `num_updates` for the oldest.

    Source: ours.

    Example:
        >>> paper, best = (preset(num_basis=32) for preset in (MemoryConfig.paper, MemoryConfig.best))
        >>> oldest = [memory_errors(config, 32, 5).whole_mean[-1].item() for config in (paper, best)]
        >>> oldest[0] > 10 * oldest[1]
        True
    """
    require(segment_length >= 1, f"segment_length must be at least 1 token, got {segment_length}")
    require(num_updates >= 0, f"num_updates must be >= 0, got {num_updates}")
    updates = [next_update(config, segment_length * count, segment_length) for count in range(1, num_updates + 1)]
    if config.sticky == "none":
        operator = token_operator(config, segment_length, updates)
    else:
        operator = _sticky_operator(config, segment_length, updates, generator)
    basis, num_tokens = build_basis(config), len(operator)
    places, edges = _places(config, segment_length, updates), segment_edges(updates)
    at_places = operator @ basis.evaluate(places).mT  # token by place
    token = (at_places - torch.eye(num_tokens, dtype=operator.dtype)).square().sum(0)
    below, above = edges[:-1], edges[1:]
    lower, upper = (rearrange(edge, "age -> age 1") for edge in (below, above))
    room = gaussian_mass(basis.centers, basis.sigmas**2, lower, upper) / (upper - lower)
    wanted = torch.block_diag(*[torch.full((1, segment_length), 1.0 / segment_length)] * len(below)).to(operator)
    segment_mean = (room @ operator.mT - wanted).square().sum(-1) * segment_length
    share = operator @ basis.integrals() * num_tokens - 1
    by_age = {"age": len(below), "pos": segment_length}
    return MemoryErrors(
        token=reduce(token, "(age pos) -> age", "mean", **by_age).sqrt().flip(0),
        segment_mean=segment_mean.sqrt().flip(0),
        whole_mean=reduce(share.square(), "(age pos) -> age", "mean", **by_age).sqrt().flip(0),
    )


def _places(config: MemoryConfig, length: int, updates: list[Update]) -> Float[Tensor, " pos"]:
    """Where every token sits after all updates, oldest first."""
    places, later = (positions(length, rule) for rule in position_rules(config))
    for step in updates:
        places = contracted_positions(places, later, step.tau)
    return places


def _sticky_operator(
    config: MemoryConfig, length: int, updates: list[Update], generator: torch.Generator | None
) -> Float[Tensor, "pos basis"]:
    """All writes as one matrix, for the locations that even attention draws."""
    even = torch.full((1, config.num_bins), 1 / config.num_bins, dtype=torch.float64)
    (coefficients, *segments) = _one_hot_writes(config, length, len(updates), rows=1)
    for new, step in zip(segments, updates, strict=True):
        locations = sticky.sample_locations(even, config.num_samples, generator, config.sticky)
        coefficients = _updated(config, coefficients, new, step, locations)
    return rearrange(coefficients, "1 basis pos -> pos basis")


def _one_hot_writes(config: MemoryConfig, length: int, num_updates: int, rows: int) -> list[Tensor]:
    """Coefficients after the first fit, then the tokens of each update, if every token is a one-hot vector."""
    num_tokens = length * (1 + num_updates)
    tokens = repeat(torch.eye(num_tokens, dtype=torch.float64), "pos one_hot -> row pos one_hot", row=rows)
    first, *segments = tokens.split(length, dim=1)
    return [fit(first, first_operator(config, length, torch.float64)), *segments]


def _updated(
    config: MemoryConfig, coefficients: Tensor, new: Tensor, step: Update, locations: Tensor | None
) -> Float[Tensor, "row basis one_hot"]:
    """Coefficients after an update, with samples at these locations, or of a memory that is not sticky."""
    if locations is None:
        return recur(update_recurrence(config, step.num_new, step.tau, torch.float64), coefficients, new)
    operators = sticky_operators(config, locations, step.num_new, step.tau)
    return update(coefficients, new, build_basis(config).evaluate(locations), operators)


class FactErrors(NamedTuple):
    """How well a memory gives back one early token, by updates since it was written.

    Args:
        error: relative error: 0 is perfect, 1 is what an empty memory gives.
        scaled_error: the same, if what was read is first scaled as suits it best: what a trained map can't mend. From 0
            to 1; 1 means that nothing is left of the token.
        place: where it sits on the memory, and attention with it.
    """

    error: Float[Tensor, "age row"]
    scaled_error: Float[Tensor, "age row"]
    place: Float[Tensor, "age row"]


def fact_errors(
    config: MemoryConfig,
    segment_length: int,
    num_updates: int,
    *,
    fact: int = 0,
    sigma: float = 0.01,
    share: float = 1.0,
    rows: int = 1,
    generator: torch.Generator | None = None,
) -> FactErrors:
    r"""Errors of a token of the first segment, while attention stays on it from update to update.

    Equation:
        The signal at the token's place $t_f$ weighs all tokens by $w = G \psi(t_f)$; a perfect answer weighs the token
        alone, by 1. For white noise the error is $\|w - e_f\|$, and $\sqrt{1 - w_f^2 / \|w\|^2}$ at the best scale.
        Before each update a sticky memory has the histogram of $\mathcal{N}(t_f, \sigma^2)$, mixed with an even one.
        The update moves the token to $\tau t_f$, or, with samples spread evenly, to $\tau$ times the share of samples
        before it.

    Args:
        config: of the memory. A gate is left out. Sampled evenly, or exact, it does not ask where attention is.
        segment_length: tokens of the first fit and of each update, L >= 1.
        num_updates: updates after the first fit, >= 0.
        fact: which token of the first segment.
        sigma: standard deviation of the density that attends to it, in units of the memory, > 0.
        share: part of the attention that does, in [0, 1]; the rest is even.
        rows: memories that draw their samples on their own, >= 1.
        generator: randomness of sticky sampling.

    Returns:
        Errors by age in updates, of every row.

    Raises:
        ValueError: if a number is out of its range.

    Source: ours: what sticky memories are for, measured without a model.

    Example:
        >>> from dataclasses import replace
        >>> plain = MemoryConfig.paper(num_basis=32, num_samples=32, sigmas=(0.02,))
        >>> sticky = replace(plain, sticky="stratified", placement="even")
        >>> oldest = [fact_errors(config, 32, 8, fact=16).scaled_error[-1].item() for config in (plain, sticky)]
        >>> oldest[1] < oldest[0]
        True
    """
    require(segment_length >= 1, f"segment_length must be at least 1 token, got {segment_length}")
    require(num_updates >= 0, f"num_updates must be >= 0, got {num_updates}")
    require(
        0 <= fact < segment_length, f"fact must be a token of the first segment, 0 to {segment_length - 1}, got {fact}"
    )
    require(sigma > 0, f"sigma must be > 0, got {sigma}: it is a standard deviation")
    require(0 <= share <= 1, f"share must be in [0, 1], got {share}: it is a part of the attention")
    require(rows >= 1, f"rows must be at least 1, got {rows}")
    (coefficients, *segments) = _one_hot_writes(config, segment_length, num_updates, rows)
    place = positions(segment_length, position_rules(config)[0])[fact].double().repeat(rows)
    read = [_errors_at(config, coefficients, place, fact)]
    for count, new in enumerate(segments, start=1):
        step, locations = next_update(config, segment_length * count, segment_length), None
        if config.sticky != "none":
            histogram = _attention_on(place, sigma, share, config.num_bins)
            locations = sticky.sample_locations(histogram, config.num_samples, generator, config.sticky)
        coefficients = _updated(config, coefficients, new, step, locations)
        if locations is not None and config.placement == "even":
            place = _spread(place, locations, sampling_locations(config))
        place = step.tau * place
        read.append(_errors_at(config, coefficients, place, fact))
    return FactErrors(*(torch.stack(parts) for parts in zip(*read, strict=True)))


def _errors_at(config: MemoryConfig, coefficients: Tensor, place: Tensor, fact: int) -> tuple[Tensor, Tensor, Tensor]:
    """Error, scaled error and place of a token whose signal is read at a place of each row."""
    at_place = build_basis(config).evaluate(place)
    weights = einsum(at_place, coefficients, "row basis, row basis one_hot -> row one_hot")
    own, all_together = weights[:, fact], reduce(weights.square(), "row one_hot -> row", "sum")
    others = (all_together - own.square()).clamp(min=0)
    tiny = torch.finfo(weights.dtype).tiny
    scaled = torch.where(all_together > tiny, others / all_together.clamp(min=tiny), 1.0)
    return (others + (own - 1).square()).sqrt(), scaled.sqrt(), place


def _attention_on(place: Tensor, sigma: float, share: float, num_bins: int) -> Float[Tensor, "row bin"]:
    """The histogram of attention of which a share lies around a place of each row, and the rest everywhere."""
    mu = rearrange(place, "row -> row 1 1")
    return share * sticky.attention_histogram(mu, torch.full_like(mu, sigma**2), num_bins) + (1 - share) / num_bins


def _spread(place: Tensor, locations: Float[Tensor, "row sample"], spread_to: Tensor) -> Float[Tensor, " row"]:
    """Where a place comes to lie when the sorted locations around it are moved to where they are spread to."""
    ends = torch.tensor([0.0, 1.0], dtype=place.dtype).expand(len(place), 2)
    old = torch.cat([ends[:, :1], locations, ends[:, 1:]], dim=1)
    new = torch.cat([ends[0, :1], spread_to.to(place), ends[0, 1:]])
    above = torch.searchsorted(old, rearrange(place, "row -> row 1")).clamp(1, old.shape[1] - 1)
    low, high = (rearrange(old.gather(1, index), "row 1 -> row") for index in (above - 1, above))
    above = rearrange(above, "row 1 -> row")
    part = (place - low) / (high - low).clamp(min=torch.finfo(place.dtype).tiny)
    return torch.lerp(new[above - 1], new[above], part.clamp(0, 1))
