"""The operators of a memory's configuration: built once per case in float64, and kept in bounded caches.

An operator depends on the configuration, the lengths and tau, and on nothing that is learned.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from infmem.basis import GaussianBasis
from infmem.caching import cached_tensors
from infmem.contraction import UpdateOperators, update_operators
from infmem.memory.config import MemoryConfig
from infmem.recurrence import LinearRecurrence, exact_recurrence, linear_recurrence
from infmem.signal import padding_positions, positions, ridge_operator
from infmem.validation import require

MOST_ZEROS = 2**18


def position_rules(config: MemoryConfig) -> tuple[str, str]:
    """Rules of the first fit and of the updates."""
    if config.positions == "released":
        return "midpoints", "end_points"
    return config.positions, config.positions


def zero_padding(config: MemoryConfig, num_past: int, num_new: int) -> Tensor | None:
    """Where zeros are fitted beside `num_past` samples and `num_new` tokens."""
    if not config.padding:
        return None
    # The released code shifts the grid of an update by 1 / (2 L + M); half a spacing would be 1 / (2 (L + M)).
    shift = 1 / (2 * num_new + num_past) if config.positions == "released" and num_past else None
    return padding_positions(num_past + num_new, shift=shift)


@cached_tensors(maxsize=64)
def build_basis(
    config: MemoryConfig, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> GaussianBasis:
    """The basis functions of a configuration, built once per case and kept in a bounded cache.

    Example:
        >>> build_basis(MemoryConfig.paper(num_basis=4)).num_basis
        4
    """
    return GaussianBasis.grid(config.num_basis, config.sigmas, dtype=dtype, device=device)


def sampling_locations(config: MemoryConfig) -> Float[Tensor, " sample"]:
    """Where an update samples the old signal when the memory is not sticky.

    Example:
        >>> sampling_locations(MemoryConfig.paper(num_samples=4)).tolist()
        [0.25, 0.5, 0.75, 1.0]
    """
    return positions(config.num_samples, position_rules(config)[1])


@cached_tensors(maxsize=64)
def first_operator(
    config: MemoryConfig, length: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Float[Tensor, "pos basis"]:
    """The operator G of a first fit of `length` tokens, built once per case and kept in a bounded cache.

    Example:
        >>> first_operator(MemoryConfig.paper(num_basis=4), length=7).shape
        torch.Size([7, 4])
    """
    placed = positions(length, position_rules(config)[0])
    operator = ridge_operator(build_basis(config), placed, config.ridge, zero_padding(config, 0, length))
    return operator.to(device=device, dtype=dtype)


# A scaled schedule with equal segments goes through 63 values of tau before it reaches its limit.
@cached_tensors(maxsize=128)
def update_recurrence(
    config: MemoryConfig,
    length: int,
    tau: float,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> LinearRecurrence:
    """The matrices A and C of an update with even sampling, built once per case and kept in a bounded cache.

    Example:
        >>> transition, write = update_recurrence(MemoryConfig.paper(num_basis=4), length=7, tau=0.75)
        >>> transition.shape, write.shape
        (torch.Size([4, 4]), torch.Size([4, 7]))
    """
    basis, placed = build_basis(config), positions(length, position_rules(config)[1])
    if config.contraction == "exact":
        num_past = round(length * tau / (1 - tau))  # zeros as dense as the new tokens
        require(
            not config.padding or num_past <= MOST_ZEROS,
            f"an exact update of {length} tokens with tau={tau} pads with more than {MOST_ZEROS:,} zeros, which fit "
            "into no memory: choose a smaller tau, or padding=False",
        )
        padding = zero_padding(config, num_past, length)
        recurrence = exact_recurrence(basis, placed, tau, config.ridge, padding)
    else:
        locations, padding = sampling_locations(config), zero_padding(config, config.num_samples, length)
        operators = update_operators(basis, locations, placed, tau, config.ridge, padding)
        recurrence = linear_recurrence(basis.evaluate(locations), operators)
    return LinearRecurrence(*(matrix.to(device=device, dtype=dtype) for matrix in recurrence))


# All layers of a model ask for the same rows.
@cached_tensors(maxsize=2)
def row_recurrences(
    config: MemoryConfig,
    length: int,
    shares: tuple[float | None, ...],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> LinearRecurrence:
    """The matrices A and C of rows that leave different shares to their past, each with one axis more: the batch.

    Args:
        config: of the memory.
        length: number of new tokens.
        shares: tau of each row; None where nothing was written yet, and so A is 0 and C the first fit.
        dtype: of the matrices.
        device: of the matrices.

    Example:
        >>> row_recurrences(MemoryConfig.paper(num_basis=4), length=7, shares=(None, 0.75)).write.shape
        torch.Size([2, 4, 7])
    """
    first = rearrange(first_operator(config, length, dtype, device), "pos basis -> basis pos")
    nothing = LinearRecurrence(first.new_zeros(len(first), len(first)), first)
    rows = [nothing if tau is None else update_recurrence(config, length, tau, dtype, device) for tau in shares]
    return LinearRecurrence(*(torch.stack(matrices) for matrices in zip(*rows, strict=True)))


def sticky_operators(
    config: MemoryConfig, locations: Float[Tensor, "batch sample"], length: int, tau: float
) -> UpdateOperators:
    """The operators of an update whose samples were drawn: one set per row at their address, or one for all rows.

    Args:
        config: of the memory.
        locations: where the old signal was sampled, in each row.
        length: number of new tokens.
        tau: share of the past.

    Example:
        >>> config = MemoryConfig.paper(num_basis=4, num_samples=5, sticky="stratified")
        >>> sticky_operators(config, torch.rand(3, 5), length=7, tau=0.75).past.shape
        torch.Size([3, 5, 4])
    """
    basis = build_basis(config, torch.float64, locations.device)
    placed, even, padding = _places(config, length, locations.dtype, locations.device)
    past = even if config.placement == "even" else locations
    return update_operators(basis, past, placed, tau, config.ridge, padding)


@cached_tensors(maxsize=64)
def _places(
    config: MemoryConfig, length: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Where an update's new tokens go, its samples if they are spread evenly, and zeros beside them."""
    padding = zero_padding(config, config.num_samples, length)
    placed = positions(length, position_rules(config)[1], dtype=dtype).to(device)
    return placed, sampling_locations(config).to(device, dtype), None if padding is None else padding.to(device)
