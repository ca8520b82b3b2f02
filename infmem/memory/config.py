"""Every choice that defines a long-term memory, and the presets that make them."""

from dataclasses import dataclass
from typing import Literal

from infmem.basis import validate_grid
from infmem.contraction import validate_tau
from infmem.validation import check_fields, require, require_at_most

SMALLEST_INITIAL_WIDTH, LARGEST_INITIAL_WIDTH = 1e-3, 5.0


@dataclass(frozen=True)
class MemoryConfig:
    """Every choice that defines a long-term memory.

    Three presets fill it in: `paper`, `released` and `best`. The defaults here are the paper's.

    Args:
        num_basis: basis functions N, a multiple of the number of widths.
        sigmas: their widths, in units of the memory [0, 1].
        ridge: penalty of the fit, >= 0.
        contraction: what an update refits of the old signal: samples of it (`sampled`), or all of it, counting as much
            as new tokens on equal room do (`exact`), which leaves nothing for a sticky memory to draw.
        num_samples: samples M of the old signal that a `sampled` update keeps. As many as narrow functions, with a
            `scaled` share, make updates of a long past unstable: what is kept grows without bound. One and a half
            times as many do not.
        schedule: `fixed` leaves the share `tau` to the past at every update and so forgets exponentially; `scaled`
            leaves it its share of all tokens so far, at most `tau_max`.
        tau: share of the past under `fixed`, in (0, 1).
        tau_max: largest share under `scaled`, in (0, 1).
        positions: `end_points` (the paper's i/L), `midpoints`, or `released` (midpoints at first, then end points).
        padding: whether zeros beside the memory are fitted too.
        interval: whether a head's density lives on the whole `line` or is renormalised to the `unit` interval.
        sticky: how an update's samples are drawn from the last attention: `stratified`, `iid`, `left_edge`, or `none`
            for even sampling.
        placement: whether sticky samples go to their contracted `address` or are spread `even`ly over the past's share,
            which gives what was attended more room. Stratified samples lie in the middle of their share on average:
            spread over `end_points` they move on by half a share at each update, and few of them drift.
        num_bins: bins D of the attention histogram.
        gate: whether a width-3 convolution gates what is written.
        bias: whether the maps to mean and variance have a bias.
        own_query: whether the memory projects the query itself, or takes one that is projected already.
        projections: whether keys, values and the result have weights of their own (`own`), or those of the attention
            beside the memory (`shared`), with one learned factor for each head: a memory that costs no parameters
            worth counting.
        initial_width: about the standard deviation of every density before training, which the bias of the variance
            begins with; None begins with a bias near 0, and so with densities nearly as wide as the memory.
        silent_start: whether the output projection, or with shared ones the factor of each head, begins at zero, so
            that before training a model with this memory equals the model without it.
        sigma_0: standard deviation that the regulariser pulls towards.
        kl_weight: weight of the regulariser in a model's loss, >= 0.
        sigma_sq_min: smallest variance of a density.

    Raises:
        ValueError: naming the field, its range and what came.
    """

    num_basis: int = 512
    sigmas: tuple[float, ...] = (0.01, 0.05)
    ridge: float = 1.0
    contraction: Literal["sampled", "exact"] = "sampled"
    num_samples: int = 512
    schedule: Literal["fixed", "scaled"] = "fixed"
    tau: float = 0.75
    tau_max: float = 63 / 64
    positions: Literal["end_points", "midpoints", "released"] = "end_points"
    padding: bool = True
    interval: Literal["line", "unit"] = "line"
    sticky: Literal["none", "stratified", "iid", "left_edge"] = "none"
    placement: Literal["address", "even"] = "address"
    num_bins: int = 128
    gate: bool = True
    bias: bool = True
    own_query: bool = True
    projections: Literal["own", "shared"] = "own"
    initial_width: float | None = None
    silent_start: bool = False
    sigma_0: float = 0.05
    kl_weight: float = 1e-6
    sigma_sq_min: float = 1e-6

    def __post_init__(self):
        check_fields(self)
        object.__setattr__(self, "sigmas", tuple(self.sigmas))  # hashable, so that operators can be cached
        validate_grid(self.num_basis, self.sigmas)
        require(self.ridge >= 0, f"ridge must be >= 0, got {self.ridge}")
        require(self.num_samples >= 1, f"num_samples must be at least 1, got {self.num_samples}")
        require(self.num_bins >= 1, f"num_bins must be at least 1, got {self.num_bins}")
        require_at_most(self, num_basis=2**14, num_samples=2**20, num_bins=2**20)  # an update is a matrix of N x N
        require(
            self.contraction == "sampled" or self.sticky == "none",
            f"contraction 'exact' keeps all of the old signal, so sticky must be 'none', got {self.sticky!r}",
        )
        validate_tau(self.tau)
        validate_tau(self.tau_max, "tau_max")
        if self.initial_width is not None:
            require(self.bias, "initial_width is set by a bias, and bias is False: leave one of them out")
            require(
                SMALLEST_INITIAL_WIDTH <= self.initial_width <= LARGEST_INITIAL_WIDTH,
                f"initial_width must be between {SMALLEST_INITIAL_WIDTH} and {LARGEST_INITIAL_WIDTH}, got "
                f"{self.initial_width}: it is a standard deviation, and the memory is 1 long",
            )
        require(self.sigma_0 > 0, f"sigma_0 must be > 0, got {self.sigma_0}: it is a standard deviation")
        require(self.kl_weight >= 0, f"kl_weight must be >= 0, got {self.kl_weight}")
        require(self.sigma_sq_min > 0, f"sigma_sq_min must be > 0, got {self.sigma_sq_min}: it is a variance")

    @classmethod
    def paper(cls, **changes) -> "MemoryConfig":
        """The paper's equations; where the paper is silent, the released code's settings.

        Positions i/L, affine maps with bias, regulariser on the variance only; zero padding, widths, ridge and gate
        from the released code. Even sampling: the paper's sticky memories are `paper(sticky="iid")`.
        """
        return cls(**changes)

    @classmethod
    def released(cls, **changes) -> "MemoryConfig":
        """Every convention of the released sorting code, so that its weights give its numbers."""
        return cls(**{"positions": "released", "bias": False, "own_query": False} | changes)

    @classmethod
    def best(cls, **changes) -> "MemoryConfig":
        """All of the past at equal resolution, and nothing but the past: what the ablations on sorting say.

        Every update leaves the past its share of all tokens and refits all of it; heads look at the memory alone, so
        nothing beside it needs a fit; and basis functions of one width, two thirds of their distance, resolve as much
        as so many can, with coefficients small enough for bfloat16. Nothing is left to draw then: a sticky memory is
        `best(contraction="sampled", sticky="stratified", placement="even")`, which keeps facts that are asked for
        (figures/data/recall.csv, with as many samples as functions), and costs a tenth on sorting. It takes twice as
        many samples as functions.

        What each difference from `paper` is worth stands in figures/data/ablation.csv, where one choice is changed at a
        time. Much: the schedule (rows "tau .5", "tau .75", "tau .9"), the widths ("half the width", "twice the width")
        and the interval ("whole line"). About .01, though the intervals overlap: no padding ("zero padding") and all of
        the signal instead of few samples ("128 samples"). Nothing that can be told: all instead of many
        ("512 samples"), one width instead of the paper's ("two widths"), midpoints ("end points"), no gate ("gate"),
        and the ridge ("ridge 1", "ridge .01").

        Example:
            >>> MemoryConfig.best(num_basis=8).sigmas
            (0.08333333333333333,)
        """
        num_basis = max(1, changes.get("num_basis", cls.num_basis))  # what is too small is told by the fields' check
        chosen = {
            "sigmas": (2 / 3 / num_basis,),
            "ridge": 0.1,
            "contraction": "exact",
            "num_samples": 2 * num_basis,
            "schedule": "scaled",
            "positions": "midpoints",
            "padding": False,
            "interval": "unit",
            "gate": False,
        }
        return cls(**chosen | changes)
