r"""The long-term memory: the five steps, put together.

A call writes new vectors first and then reads with queries, and hands back the state that it was given plus what was
written. Nothing is kept on the module between calls.
"""

import math
from typing import NamedTuple

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from infmem import attention, sticky
from infmem.basis import GaussianBasis
from infmem.contraction import scaled_tau, update
from infmem.memory.config import MemoryConfig
from infmem.memory.operators import (
    build_basis,
    first_operator,
    row_recurrences,
    sticky_operators,
    update_recurrence,
)
from infmem.memory.projections import Projections
from infmem.memory.state import MemoryState
from infmem.recurrence import recur
from infmem.signal import fit
from infmem.validation import checked, require, require_finite, require_values


class MemoryReading(NamedTuple):
    """What a read leaves besides its result.

    Args:
        mu: where each head looked, in (0, 1).
        sigma_sq: the variance of its density.
        kl: the regulariser of each density.
    """

    mu: Float[Tensor, "batch head query_pos"]
    sigma_sq: Float[Tensor, "batch head query_pos"]
    kl: Float[Tensor, "batch head query_pos"]


class LongTermMemory(nn.Module):
    r"""An unbounded memory of fixed size that is read by continuous attention.

    Equation:
        Write: $B \leftarrow G^\top X$ at first, then $B \leftarrow G_{past}^\top (\Psi B) + G_{new}^\top X$.
        Read, per head h and query i: $s = B W_h^K q_{h,i} / \sqrt{d}$, $\mu = \mathrm{sigmoid}(w_\mu^\top s + b_\mu)$,
        $\sigma^2 = \mathrm{softplus}(w_\sigma^\top s + b_\sigma)$,
        $z_{h,i} = (B W_h^V)^\top \mathbb{E}_{\mathcal{N}(\mu, \sigma^2)}[\psi(t)]$, and $Z = [z_1; ...; z_H] W^R$;
        with shared projections $Z = [g_1 z_1; ...; g_H z_H] W^R$.

    Args:
        d_model: size of the vectors.
        num_heads: number of heads, a divisor of `d_model`.
        config: every other choice.

    Raises:
        ValueError: if `num_heads` does not divide `d_model`.

    Source: Martins et al. 2022 (arXiv 2109.00301).

    Differs from the paper: see the presets of `MemoryConfig`; scores are never formed (`attention.collapsed_keys`).
        Shared projections and their factors $g_h$ are ours.

    Example:
        >>> memory = LongTermMemory(d_model=6, num_heads=2, config=MemoryConfig.best(num_basis=8, num_samples=16))
        >>> z, state, aux = memory(query=torch.ones(3, 5, 6), new=torch.ones(3, 7, 6))
        >>> z.shape, state.num_tokens, aux.mu.shape
        (torch.Size([3, 5, 6]), tensor([7, 7, 7]), torch.Size([3, 2, 5]))
    """

    def __init__(self, d_model: int, num_heads: int, config: MemoryConfig):
        super().__init__()
        require(
            num_heads >= 1 and d_model >= 1 and d_model % num_heads == 0,
            f"num_heads must be a divisor of d_model ({d_model}), got {num_heads}",
        )
        self.d_model, self.num_heads, self.config = d_model, num_heads, config
        is_own = config.projections == "own"
        self.key, self.value, self.out = (
            nn.Linear(d_model, d_model, bias=False) if is_own else None for _ in Projections._fields
        )
        self.head_scale = None if is_own else nn.Parameter(torch.ones(num_heads))
        self.to_mu = nn.Linear(config.num_basis, 1, bias=config.bias)
        self.to_sigma_sq = nn.Linear(config.num_basis, 1, bias=config.bias)
        self.query = nn.Linear(d_model, d_model, bias=False) if config.own_query else None
        self.gate = nn.Conv1d(d_model, d_model, kernel_size=3, padding=1) if config.gate else None
        self.begin_as_configured()

    def begin_as_configured(self) -> None:
        """Set the weights whose values before training are the configuration's choice; others stay as they are.

        A model that initialises all of its weights by itself calls this afterwards.
        """
        if self.config.initial_width is not None:
            softplus_inverse = math.log(math.expm1(self.config.initial_width**2))
            nn.init.constant_(self.to_sigma_sq.bias, softplus_inverse)
        if self.config.silent_start:
            nn.init.zeros_(self.out.weight if self.head_scale is None else self.head_scale)

    @property
    def state_dtype(self) -> torch.dtype:
        """Type of states: float32 at least, also where the weights are in bfloat16."""
        return torch.promote_types(self.to_mu.weight.dtype, torch.float32)

    @property
    def basis(self) -> GaussianBasis:
        """The basis functions, on the module's device."""
        return build_basis(self.config, self.state_dtype, self.to_mu.weight.device)

    def empty(self, batch: int) -> MemoryState:
        """A memory in which nothing was written yet.

        Args:
            batch: number of rows.

        Example:
            >>> memory = LongTermMemory(d_model=6, num_heads=2, config=MemoryConfig.best(num_basis=8))
            >>> memory.empty(batch=3).coefficients.shape
            torch.Size([3, 8, 6])
        """
        require(batch >= 0, f"batch must be >= 0, got {batch}")
        device, dtype = self.to_mu.weight.device, self.state_dtype
        num_bins = self.config.num_bins
        return MemoryState(
            coefficients=torch.zeros(batch, self.config.num_basis, self.d_model, device=device, dtype=dtype),
            num_tokens=torch.zeros(batch, dtype=torch.int64, device="cpu"),
            histogram=torch.full((batch, num_bins), 1 / num_bins, device=device, dtype=dtype),
        )

    def state_bytes(self, batch: int) -> int:
        """Bytes of a state: the same however much was read.

        Example:
            >>> LongTermMemory(d_model=6, num_heads=2, config=MemoryConfig.best(num_basis=8)).state_bytes(batch=1)
            712
        """
        numbers = self.config.num_basis * self.d_model + self.config.num_bins
        return batch * (numbers * self.state_dtype.itemsize + torch.int64.itemsize)

    @checked
    def forward(
        self,
        query: Float[Tensor, "batch query_pos d_model"],
        new: Float[Tensor, "batch pos d_model"] | None = None,
        state: MemoryState | None = None,
        *,
        projections: Projections | None = None,
        generator: torch.Generator | None = None,
        textbook: bool = False,
        validate: bool = False,
    ) -> tuple[Float[Tensor, "batch query_pos d_model"], MemoryState, MemoryReading]:
        """Write `new`, then read with `query`.

        Args:
            query: one vector per position that reads; projected already where the configuration has no query of its
                own.
            new: vectors to write, oldest first, or None to read only.
            state: of the last call, or None for an empty memory.
            projections: of the attention beside the memory, where the configuration shares them; None otherwise.
            generator: randomness of sticky sampling; None takes PyTorch's default one.
            textbook: form all keys and scores as the paper writes them; the same result, more work.
            validate: check the values too; on a GPU that waits for them.

        Returns:
            What was read (zeros from an empty memory), the new state, and where each head looked.

        Raises:
            ValueError: if shapes, dtypes, devices or the state do not fit, or with `validate` on NaN and infinity.
        """
        state = self.empty(len(query)) if state is None else state
        if new is not None:
            state = self.write(new, state, generator=generator, validate=validate)
        z, reading = self.read(query, state, projections=projections, textbook=textbook, validate=validate)
        if self.config.sticky != "none":
            histogram = sticky.attention_histogram(reading.mu.detach(), reading.sigma_sq.detach(), self.config.num_bins)
            state = state._replace(histogram=histogram)
        return z, state, reading

    @checked
    def write(
        self,
        new: Float[Tensor, "batch pos d_model"],
        state: MemoryState,
        *,
        generator: torch.Generator | None = None,
        validate: bool = False,
    ) -> MemoryState:
        """Write vectors behind what the memory holds.

        Args:
            new: vectors to write, oldest first, at least one.
            state: the memory before.
            generator: randomness of sticky sampling.
            validate: check the values too.

        Returns:
            The memory after.

        Raises:
            ValueError: as `forward`.
        """
        self._check_state(state, new)
        require(new.shape[1] >= 1, "new must hold at least one position, got none: pass None to read only")
        if validate:
            require_finite("new", new)
            require_finite("state.coefficients", state.coefficients)
        if self.gate is not None:
            channels_first = rearrange(new, "batch pos d_model -> batch d_model pos")
            new = new * torch.sigmoid(rearrange(self.gate(channels_first), "batch d_model pos -> batch pos d_model"))
        # Coefficients are sums over hundreds of positions: float32 also where the model around runs in bf16.
        with torch.autocast(new.device.type, enabled=False):
            coefficients = self._written(new.to(state.coefficients.dtype), state, generator)
        return state._replace(coefficients=coefficients, num_tokens=state.num_tokens + new.shape[1])

    def _written(self, new: Tensor, state: MemoryState, generator: torch.Generator | None) -> Tensor:
        """Coefficients after a write; rows that leave the same share to their past have the same operators."""
        if self.config.sticky != "none":
            probabilities, count, method = state.histogram, self.config.num_samples, self.config.sticky
            locations = sticky.sample_locations(probabilities, count, generator, method)
        else:
            locations = None
        shares = [self._share_of_past(count, new.shape[1]) for count in state.num_tokens.tolist()]
        if not shares:
            return state.coefficients
        if len(set(shares)) == 1:
            return self._written_rows(new, state.coefficients, locations, shares[0])
        if locations is None:
            recurrences = row_recurrences(self.config, new.shape[1], tuple(shares), new.dtype, new.device)
            kept = einsum(
                recurrences.transition,
                state.coefficients,
                "batch basis other_basis, batch other_basis d_model -> batch basis d_model",
            )
            return kept + einsum(recurrences.write, new, "batch basis pos, batch pos d_model -> batch basis d_model")
        coefficients = torch.empty_like(state.coefficients)
        for share in set(shares):
            rows = torch.tensor([row for row, other in enumerate(shares) if other == share], device=new.device)
            written = self._written_rows(new[rows], state.coefficients[rows], locations[rows], share)
            coefficients = coefficients.index_copy(0, rows, written)
        return coefficients

    def _share_of_past(self, num_past: int, num_new: int) -> float | None:
        """The share tau of the memory that an update leaves to the past; None where there is none."""
        if num_past == 0:
            return None
        config = self.config
        return config.tau if config.schedule == "fixed" else scaled_tau(num_past, num_new, config.tau_max)

    def _written_rows(self, new: Tensor, coefficients: Tensor, locations: Tensor | None, tau: float | None) -> Tensor:
        """Coefficients after a write to rows that leave the same share to their past."""
        config, length, like = self.config, new.shape[1], (new.dtype, new.device)
        if tau is None:
            return fit(new, first_operator(config, length, *like))
        if locations is None:
            return recur(update_recurrence(config, length, tau, *like), coefficients, new)
        operators = sticky_operators(config, locations, length, tau)
        return update(coefficients, new, self.basis.evaluate(locations), operators)

    @checked
    def read(
        self,
        query: Float[Tensor, "batch query_pos d_model"],
        state: MemoryState,
        *,
        projections: Projections | None = None,
        textbook: bool = False,
        validate: bool = False,
    ) -> tuple[Float[Tensor, "batch query_pos d_model"], MemoryReading]:
        """Read with every head's Gaussian density.

        Args:
            query: one vector per position that reads.
            state: the memory.
            projections: as in `forward`.
            textbook: form all keys and scores.
            validate: check the values too.

        Returns:
            What was read, and where each head looked.

        Raises:
            ValueError: as `forward`.
        """
        self._check_state(state, query)
        if validate:
            require_finite("query", query)
            require_finite("state.coefficients", state.coefficients)
        return self._read(query, state.coefficients, self._projections(projections), self.basis, textbook)

    def _read(
        self, query: Tensor, coefficients: Tensor, projections: Projections, basis: GaussianBasis, textbook: bool
    ) -> tuple[Tensor, MemoryReading]:
        """All of `read` that depends on values: what `infmem.fast` compiles."""
        query = query if self.query is None else self.query(query)
        values = rearrange(
            functional.linear(coefficients.to(projections.value.dtype), projections.value),
            "batch basis (head d_head) -> batch head basis d_head",
            head=self.num_heads,
        )
        # A mean in bf16 would be coarser than a basis function is wide: densities are computed in float32.
        with torch.autocast(query.device.type, enabled=False):
            density = self._density(query.to(coefficients.dtype), coefficients, projections.key, textbook)
            kl = attention.kl_regularizer(density.sigma_sq, self.config.sigma_0)
            heads = attention.continuous_read(density, values, basis, unit_interval=self.config.interval == "unit")
        if self.head_scale is not None:
            heads = heads * repeat(self.head_scale, "head -> (head d_head)", d_head=self.d_model // self.num_heads)
        return functional.linear(heads, projections.out), MemoryReading(mu=density.mu, sigma_sq=density.sigma_sq, kl=kl)

    def _projections(self, shared: Projections | None) -> Projections:
        """The weights to read with: those that came, or the memory's own."""
        if self.head_scale is None:
            require(shared is None, "projections must be None: this memory has its own (projections='own')")
            return Projections(self.key.weight, self.value.weight, self.out.weight)
        require(
            shared is not None,
            "projections must be those of the attention beside this memory, which shares them, got None: pass "
            "Projections(key, value, out)",
        )
        expected = (self.d_model, self.d_model)
        for name, weight in zip(shared._fields, shared, strict=True):
            require(
                tuple(weight.shape) == expected,
                f"projections.{name} must have sizes {expected}, got {tuple(weight.shape)}",
            )
        return shared

    def _density(self, query: Tensor, coefficients: Tensor, key_weight: Tensor, textbook: bool) -> attention.Density:
        heads = rearrange(query, "batch query_pos (head d_head) -> batch head query_pos d_head", head=self.num_heads)
        maps = torch.cat([self.to_mu.weight, self.to_sigma_sq.weight]).to(coefficients.dtype)
        if textbook:
            keys = rearrange(
                functional.linear(coefficients, key_weight.to(coefficients.dtype)),
                "batch basis (head d_head) -> batch head basis d_head",
                head=self.num_heads,
            )
            logits = einsum(
                attention.scores(heads, keys), maps, "batch head query_pos basis, map basis -> map batch head query_pos"
            )
        else:
            keys = attention.collapsed_keys(coefficients, key_weight.to(coefficients.dtype), maps, self.num_heads)
            logits = attention.collapsed_logits(heads, keys)
        mu_logit, sigma_sq_logit = logits
        if self.config.bias:
            mu_logit, sigma_sq_logit = mu_logit + self.to_mu.bias, sigma_sq_logit + self.to_sigma_sq.bias
        return attention.density(mu_logit, sigma_sq_logit, self.config.sigma_sq_min)

    def _check_state(self, state: MemoryState, tensor: Tensor) -> None:
        """Raise `ValueError` unless the state is of this configuration, and of this tensor's batch and device."""
        require(
            isinstance(state, MemoryState),
            f"state must be the MemoryState of the last call, got {type(state).__name__}",
        )
        expected = (len(tensor), self.config.num_basis, self.d_model)
        require(
            tuple(state.coefficients.shape) == expected,
            f"the state must have coefficients of sizes {expected} (batch, basis, d_model), got "
            f"{tuple(state.coefficients.shape)}: it comes from another configuration or batch; start from "
            "`memory.empty(batch)`",
        )
        require(
            tuple(state.num_tokens.shape) == expected[:1] and state.num_tokens.device.type in ("cpu", "meta"),
            f"state.num_tokens must hold {expected[0]} counts on the CPU, got sizes {tuple(state.num_tokens.shape)} "
            f"on {state.num_tokens.device}",
        )
        require(
            not state.num_tokens.is_floating_point(), f"state.num_tokens must be counts, got {state.num_tokens.dtype}"
        )
        require_values("state.num_tokens", state.num_tokens, lambda count: count >= 0, ">= 0")
        require(
            tuple(state.histogram.shape) == (len(tensor), self.config.num_bins),
            f"state.histogram must have sizes {(len(tensor), self.config.num_bins)} (batch, bin), got "
            f"{tuple(state.histogram.shape)}: it comes from another configuration or batch",
        )
        require(
            state.coefficients.device == tensor.device == self.to_mu.weight.device,
            f"the memory, its state and its input must be on one device, got {self.to_mu.weight.device}, "
            f"{state.coefficients.device} and {tensor.device}: move them with `.to(...)`",
        )
