r"""Transformer-XL: segment recurrence with relative positions, and the same model without any memory.

Each layer remembers the hidden states that entered it in earlier segments. What is older than its memory reaches it
only through the layers below, so a model with l layers and memory m sees about l * m tokens back, and nothing before.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from infmem.memory import CompressedState, MemoryState
from infmem.models.layers import Block
from infmem.validation import check_fields, checked, require, require_at_most

Config = TypeVar("Config", bound="WindowTransformerConfig")

# What stands for "all that is remembered" where nobody has counted.
MOST_SEEN = 2**30


@dataclass(frozen=True)
class WindowTransformerConfig:
    """A transformer that sees one segment at a time.

    Args:
        vocab_size: number of tokens.
        d_model: size of the hidden states, even.
        num_heads: attention heads, a divisor of `d_model`.
        num_layers: layers >= 1.
        d_ff: size of the feed-forward's inner layer.
        dropout: in [0, 1).

    Raises:
        ValueError: naming the field, its range and what came.
    """

    vocab_size: int = 22
    d_model: int = 192
    num_heads: int = 6
    num_layers: int = 3
    d_ff: int = 768
    dropout: float = 0.0

    @property
    def reach(self) -> int:
        """How many tokens before its segment a layer attends to, in whatever form; what is older needs more layers."""
        return 0

    def narrowed(self, kind: type[Config]) -> Config:
        """The part of this configuration that a configuration which it extends has too.

        Args:
            kind: the class that it extends.

        Example:
            >>> TransformerXLConfig(d_model=12, memory_length=7).narrowed(WindowTransformerConfig).d_model
            12
        """
        return kind(**{entry.name: getattr(self, entry.name) for entry in dataclasses.fields(kind)})

    def __post_init__(self):
        check_fields(self)
        for name in ("vocab_size", "d_model", "num_heads", "num_layers", "d_ff"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require_at_most(self, vocab_size=2**24, d_model=2**24, num_layers=2**24, d_ff=2**24)
        require(self.d_model % 2 == 0, f"d_model must be even, got {self.d_model}: sines and cosines share it")
        require(
            self.d_model % self.num_heads == 0,
            f"num_heads must be a divisor of d_model ({self.d_model}), got {self.num_heads}",
        )
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), got {self.dropout}")


@dataclass(frozen=True)
class TransformerXLConfig(WindowTransformerConfig):
    """A Transformer-XL.

    Args:
        memory_length: hidden states that each layer remembers, >= 0.
    """

    memory_length: int = 256

    def __post_init__(self):
        super().__post_init__()
        require(self.memory_length >= 0, f"memory_length must be >= 0, got {self.memory_length}")

    @property
    def reach(self) -> int:
        """The hidden states that a layer remembers."""
        return self.memory_length


class ModelState(NamedTuple):
    """What a model carries from one segment to the next.

    Args:
        short_term: for each layer, the hidden states that entered it last, oldest first.
        long_term: for each layer, its long-term memory; empty for models that have none.
        auxiliary_loss: what the last segment adds to a training loss besides its logits; not carried further, so it
            keeps its gradient also in a state that is detached otherwise.
        num_seen: how many tokens each row has read since it was reset, on the CPU; None if none ever was.
    """

    short_term: tuple[Float[Tensor, "batch mem_pos d_model"], ...]
    long_term: tuple[MemoryState | CompressedState, ...]
    auxiliary_loss: Float[Tensor, ""]
    num_seen: Int[Tensor, " batch"] | None = None

    def detach(self) -> "ModelState":
        """The same state, cut off from the graph that computed it."""
        return ModelState(
            short_term=tuple(memory.detach() for memory in self.short_term),
            long_term=tuple(memory.detach() for memory in self.long_term),
            auxiliary_loss=self.auxiliary_loss.detach(),
            num_seen=self.num_seen,
        )

    def reset(self, rows: Bool[Tensor, " batch"]) -> "ModelState":
        """Let some rows begin anew, as if nothing had been read, and leave the others alone.

        What a layer remembers of such a row stays where it is, since all rows share one tensor, but no position looks
        at it and nothing of it enters a long-term memory.

        Args:
            rows: True where a row begins anew.

        Example:
            >>> model = TransformerXL(TransformerXLConfig(d_model=12, num_heads=3, num_layers=2, memory_length=7))
            >>> _, state = model(torch.zeros(2, 5, dtype=torch.int64))
            >>> model(torch.zeros(2, 3, dtype=torch.int64), state.reset(torch.tensor([True, False])))[1].num_seen
            tensor([         3, 1073741827])
        """
        if self.num_seen is not None and not bool(rows.any()):
            return self
        seen = torch.full((len(rows),), MOST_SEEN) if self.num_seen is None else self.num_seen
        return self._replace(
            long_term=tuple(memory.reset(rows) for memory in self.long_term),
            num_seen=seen.masked_fill(rows.cpu(), 0),
        )


class LayerOutput(NamedTuple):
    """What one layer gives back.

    Args:
        hidden: its output.
        memory: its long-term memory after reading it, if it has one.
        auxiliary_loss: what its reading adds to a training loss.
    """

    hidden: Float[Tensor, "batch pos d_model"]
    memory: MemoryState | CompressedState | None
    auxiliary_loss: Float[Tensor, ""]


class TransformerXL(nn.Module):
    r"""Transformer-XL (Dai et al. 2019): memories of every layer's input, relative attention, post-norm.

    Equation:
        $h^0 = \sqrt{d}\, E[x]$, $h^{l+1} = \mathrm{Block}_l(h^l, m^l)$, logits $= W h^L + b$; then $m^l$ becomes the
        last M hidden states of $[m^l, h^l]$, without gradient.

    Args:
        config: sizes.

    Source: Dai et al. 2019 (arXiv 1901.02860), section 3, and its public implementation.

    Differs from the paper: a plain linear output instead of an adaptive softmax, for small vocabularies.

    Example:
        >>> config = TransformerXLConfig(vocab_size=22, d_model=12, num_heads=3, num_layers=2, d_ff=20, memory_length=7)
        >>> model = TransformerXL(config)
        >>> logits, state = model(torch.zeros(2, 5, dtype=torch.int64))
        >>> logits, state = model(torch.zeros(2, 5, dtype=torch.int64), state)
        >>> logits.shape, state.short_term[0].shape
        (torch.Size([2, 5, 22]), torch.Size([2, 7, 12]))
    """

    def __init__(self, config: TransformerXLConfig):
        super().__init__()
        self.config, self.d_model = config, config.d_model
        self.memory_length = config.memory_length
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(
            Block(config.d_model, config.num_heads, config.d_ff, config.dropout) for _ in range(config.num_layers)
        )
        biases = torch.zeros(2, config.num_heads, config.d_model // config.num_heads)
        self.content_bias, self.position_bias = (nn.Parameter(bias.clone()) for bias in biases)
        self.long_term_memories = nn.ModuleList()  # one for each layer, where a model has them
        self.output = nn.Linear(config.d_model, config.vocab_size)
        self.dropout = nn.Dropout(config.dropout)
        self.apply(initialize)

    @property
    def _longest_short_term(self) -> int | float:
        """How many hidden states a layer's short-term part of a state may hold."""
        return self.memory_length

    @property
    def num_parameters(self) -> int:
        """Numbers that are learned."""
        return sum(parameter.numel() for parameter in self.parameters())

    def state_bytes(self, batch: int) -> int:
        """Largest number of bytes that a state takes, however much was read.

        Args:
            batch: number of rows.

        Example:
            >>> config = TransformerXLConfig(d_model=12, num_heads=3, num_layers=2, memory_length=7)
            >>> TransformerXL(config).state_bytes(batch=1)
            672
        """
        return batch * self.config.num_layers * self.memory_length * self.d_model * self.embedding.weight.element_size()

    def empty(self, batch: int) -> ModelState:
        """The state before the first segment."""
        memory = self.embedding.weight.new_zeros(batch, 0, self.d_model)
        return ModelState(
            short_term=(memory,) * self.config.num_layers,
            long_term=(),
            auxiliary_loss=self.embedding.weight.new_zeros(()),
        )

    @checked
    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        state: ModelState | None = None,
        *,
        generator: torch.Generator | None = None,
        keep_graph: bool = False,
        validate: bool = False,
    ) -> tuple[Float[Tensor, "batch pos vocab"], ModelState]:
        """Read one segment.

        Args:
            tokens: the segment.
            state: of the segment before, or None at the start.
            generator: randomness of a sticky long-term memory; not used by models without one.
            keep_graph: let gradient flow into this segment from later ones; otherwise the new state is detached.
            validate: check the values of tokens and state too; on a GPU that waits for them.

        Returns:
            A score for every token of the vocabulary at every position, and the new state.

        Raises:
            ValueError: if shapes, dtypes, devices or the state do not fit, or with `validate` on tokens out of range.
        """
        state = self.empty(len(tokens)) if state is None else state
        self._check(tokens, state, validate)
        hidden, state = self._read_segment(self.embed(tokens), state, generator)
        if state.num_seen is not None:
            state = state._replace(num_seen=state.num_seen + tokens.shape[1])
        if not keep_graph:
            state = state.detach()._replace(auxiliary_loss=state.auxiliary_loss)
        return self.output(self.dropout(hidden)), state

    def num_leaving(self, num_remembered: int) -> int:
        """How many of the oldest hidden states leave the short-term memory when the next segment is read.

        Args:
            num_remembered: how many there are.
        """
        return max(0, num_remembered - self.memory_length)

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """What enters the first layer."""
        return self.dropout(self.embedding(tokens.long()) * math.sqrt(self.d_model))

    def _read_segment(
        self, hidden: Tensor, state: ModelState, generator: torch.Generator | None
    ) -> tuple[Tensor, ModelState]:
        """Pass a segment through all layers."""
        memories, num_seen = [], on_device(state.num_seen, hidden)
        for layer, memory in enumerate(state.short_term):
            memories.append(remember(memory, hidden, self.memory_length))
            hidden = self.layer(layer, hidden, memory, num_seen=num_seen).hidden
        return hidden, state._replace(short_term=tuple(memories))

    def layer(
        self,
        layer: int,
        hidden: Tensor,
        recent: Tensor,
        memory: MemoryState | CompressedState | None = None,
        num_seen: Tensor | None = None,
    ) -> LayerOutput:
        """Pass hidden states through one layer.

        Args:
            layer: which one.
            hidden: the segment's input to that layer.
            recent: the inputs that the layer remembers, oldest first.
            memory: the layer's long-term memory; None for models that have none.
            num_seen: how many tokens before the segment each row has read, on its device; None if no row was reset.
        """
        block = self.blocks[layer]
        attended = block.attention(hidden, recent, self.content_bias, self.position_bias, num_seen)
        return LayerOutput(block(hidden, attended.output), memory, hidden.new_zeros(()))

    def _check(self, tokens: Tensor, state: ModelState, validate: bool) -> None:
        """Raise `ValueError` unless tokens and state fit this model and each other."""
        require(tokens.shape[1] >= 1, "tokens must hold at least one position, got an empty segment")
        weight = self.embedding.weight
        device = weight.device
        require(
            tokens.device == device,
            f"tokens must be on the model's device {device}, got {tokens.device}: "
            f"move them with `.to({str(device)!r})`",
        )
        require(
            isinstance(state, ModelState),
            f"state must be the ModelState of the last call, or None, got {type(state).__name__}",
        )
        sizes = [tuple(memory.shape) for memory in state.short_term]
        longest = self._longest_short_term
        fits = [
            len(size) == 3 and (size[0], size[2]) == (len(tokens), self.d_model) and size[1] <= longest
            for size in sizes
        ]
        require(
            fits == [True] * self.config.num_layers,
            f"the state must hold {self.config.num_layers} layers of {len(tokens)} rows with d_model "
            f"{self.d_model} and at most {longest} hidden states, got {sizes}: it comes from another model or batch; "
            "start with state=None",
        )
        num_memories = len(self.long_term_memories)
        require(
            len(state.long_term) == num_memories,
            f"the state must hold {num_memories} long-term memories, got {len(state.long_term)}: it comes from another "
            "model; start with state=None",
        )
        require(
            all((memory.device, memory.dtype) == (device, weight.dtype) for memory in state.short_term),
            f"the state must be on the model's device {device} and of its type {weight.dtype}, got "
            f"{[(str(memory.device), memory.dtype) for memory in state.short_term]}",
        )
        require(
            state.num_seen is None or (state.num_seen.device.type, len(state.num_seen)) == ("cpu", len(tokens)),
            f"state.num_seen must hold {len(tokens)} counts on the CPU: take it from `state.reset`",
        )
        if validate:
            low, high = tokens.min().item(), tokens.max().item()
            require(
                0 <= low and high < self.config.vocab_size,
                f"tokens must be from 0 to {self.config.vocab_size - 1}, got values from {low} to {high}",
            )
            for memory in (*state.short_term, *(memory[0] for memory in state.long_term)):
                require(bool(torch.isfinite(memory).all()), "the state holds NaN or infinity: start with state=None")


class WindowTransformer(TransformerXL):
    """A Transformer-XL that remembers nothing: every segment is read alone.

    Args:
        config: sizes.

    Example:
        >>> model = WindowTransformer(WindowTransformerConfig(d_model=12, num_heads=3, num_layers=2))
        >>> model.state_bytes(batch=5)
        0
    """

    def __init__(self, config: WindowTransformerConfig):
        sizes = dataclasses.asdict(config.narrowed(WindowTransformerConfig))
        super().__init__(TransformerXLConfig(**sizes, memory_length=0))


def on_device(num_seen: Tensor | None, like: Tensor) -> Tensor | None:
    """Counts of the CPU where `like` is, without waiting for it."""
    return None if num_seen is None else num_seen.to(like.device, non_blocking=True)


@checked
def remember(
    memory: Float[Tensor, "batch mem_pos d_model"], hidden: Float[Tensor, "batch pos d_model"], length: int
) -> Float[Tensor, "batch new_mem_pos d_model"]:
    """The last `length` hidden states of memory and segment together.

    Example:
        >>> remember(torch.ones(1, 3, 2), torch.zeros(1, 2, 2), length=4)[0, :, 0]
        tensor([1., 1., 0., 0.])
    """
    num_kept = max(0, min(memory.shape[1], length - hidden.shape[1]))
    # A new tensor, not a view: a view would keep everything that it is cut from alive.
    return torch.cat([memory[:, memory.shape[1] - num_kept :], hidden[:, max(0, hidden.shape[1] - length) :]], dim=1)


def initialize(module: nn.Module) -> None:
    """Normal weights whose outputs have about the size of their inputs; zero biases.

    Transformer-XL's fixed standard deviation of 0.02 is far too small for the narrow models here: on sorting, a model
    of width 64 stays at chance for over a thousand steps.
    """
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
