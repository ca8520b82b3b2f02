"""Where a head looked when it read a token, as places on the memory and as tokens of the text."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from infmem.basis import gaussian_density
from infmem.contraction import age_map
from infmem.microscope import SegmentTrace
from infmem.validation import require

NUM_PLACES = 1001  # on the memory
SHARES = (0.25, 0.5, 0.75)  # of the density, up to the places that are named


class Place(NamedTuple):
    """A place on the memory, read back to the text.

    Args:
        t: where it is, from 0 to 1.
        token: number of the token that sits there, from 0.
        age: updates since it was written.
    """

    t: float
    token: int
    age: int


class Look(NamedTuple):
    """Where one head looked when it read one token.

    Args:
        mu: mean of its density.
        sigma: standard deviation of it.
        t: even places from 0 to 1.
        density: at these, scaled so that the memory holds all of it.
        places: up to which the memory holds a quarter, half and three quarters of it.
        weights: density at each token that was written, oldest first; 1 everywhere for a head that looks evenly.
    """

    mu: float
    sigma: float
    t: Float[Tensor, " t"]
    density: Float[Tensor, " t"]
    places: tuple[Place, ...]
    weights: Float[np.ndarray, " pos"]


def first_with_memory(segments: Sequence[SegmentTrace]) -> int:
    """The first position of a text at which a long-term memory was read.

    Args:
        segments: of `trace`.

    Raises:
        ValueError: if there is none.
    """
    found = [segment.start for segment in segments if segment.layers[0].mu is not None]
    require(bool(found), "nothing was written to the long-term memory yet: read a text of at least three segments")
    return found[0]


def look(segments: Sequence[SegmentTrace], position: int, layer: int, head: int, row: int = 0) -> Look:
    r"""Where a head looked when it read a token.

    Equation:
        The density $\mathcal{N}(\mu, \sigma^2)$ on [0, 1], and for each place the token that the age map names.

    Args:
        segments: of `trace`.
        position: of the token, from 0.
        layer: from 0.
        head: from 0.
        row: of the batch.

    Raises:
        ValueError: if the memory was empty then, or is sticky, so that places follow from what was attended.
    """
    segment = next((part for part in reversed(segments) if part.start <= position), segments[0])
    mu, sigma_sq = segment.layers[layer].mu, segment.layers[layer].sigma_sq
    start = segment.start
    require(
        mu is not None and 0 <= position - start < mu.shape[2],
        f"at position {position} no memory was read: choose one from {first_with_memory(segments)} to the text's end",
    )
    mu, sigma_sq = (part[row, head, position - start].double() for part in (mu, sigma_sq))
    t = torch.linspace(0, 1, NUM_PLACES, dtype=torch.float64)
    density = gaussian_density(t, mu, sigma_sq)
    until = torch.cumulative_trapezoid(density, t)
    share = torch.cat([until.new_zeros(1), until]) / until[-1]
    tokens, ages = age_map(t, segment.num_first, segment.updates)
    places = []
    for wanted in SHARES:
        index = int((share < wanted).sum())
        places.append(Place(t[index].item(), _number(tokens[index].item(), segment.num_written), int(ages[index])))
    middles = np.arange(segment.num_written) + 0.5
    density = density / until[-1]
    weights = np.interp(middles, tokens.numpy(), density.numpy())
    return Look(mu.item(), sigma_sq.sqrt().item(), t, density, tuple(places), weights)


def _number(token: float, num_written: int) -> int:
    """The token, from 0, at a real number of tokens since the start."""
    return min(max(0, int(np.ceil(token - 1e-9)) - 1), num_written - 1)
