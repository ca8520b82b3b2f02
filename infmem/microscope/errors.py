r"""How wrong a memory is, by age, before anything is trained.

Three things can be asked of a memory: one token back, the mean of a segment, and the mean of all that was read. Each
answer is a weighted sum of all tokens, with weights that follow from the configuration. For white noise of variance 1
the distance of these weights from those of a perfect answer is the error of the answer.
"""

from typing import NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from infmem import sticky
from infmem.basis import gaussian_mass
from infmem.contraction import Update, contracted_positions, update
from infmem.memory import MemoryConfig, sticky_operators
from infmem.memory.operators import build_basis, first_operator, position_rules
from infmem.microscope.trace import next_update, segment_edges
from infmem.microscope.weights import token_operator
from infmem.signal import positions
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
        >>> best, exact = (preset(num_basis=32) for preset in (MemoryConfig.best, MemoryConfig.exact))
        >>> oldest = [memory_errors(config, 32, 5).whole_mean[-1].item() for config in (best, exact)]
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
    basis, even = build_basis(config), torch.full((1, config.num_bins), 1 / config.num_bins, dtype=torch.float64)
    num_tokens = length * (1 + len(updates))
    tokens = torch.eye(num_tokens, dtype=torch.float64).reshape(1, num_tokens, num_tokens)
    coefficients = first_operator(config, length, torch.float64).mT @ tokens[:, :length]
    for count, step in enumerate(updates, start=1):
        locations = sticky.sample_locations(even, config.num_samples, generator, config.sticky)
        operators = sticky_operators(config, locations, length, step.tau)
        new = tokens[:, count * length : (count + 1) * length]
        coefficients = update(coefficients, new, basis.evaluate(locations), operators)
    return rearrange(coefficients, "1 basis pos -> pos basis")
