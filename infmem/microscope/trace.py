"""What every layer of an infinite-former did, segment by segment."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from infmem.contraction import Update, scaled_tau
from infmem.memory import MemoryConfig, MemoryState
from infmem.models.infinite_former import InfiniteFormer
from infmem.models.transformer_xl import ModelState
from infmem.validation import require


class LayerTrace(NamedTuple):
    """What one layer did in one segment.

    Args:
        hidden: what entered the layer.
        memory: the long-term memory that it read, everything due to be written included.
        mu: where each head and query looked; None while the memory was empty.
        sigma_sq: the variances of these densities; None while the memory was empty.
    """

    hidden: Float[Tensor, "batch pos d_model"]
    memory: MemoryState
    mu: Float[Tensor, "batch head pos"] | None
    sigma_sq: Float[Tensor, "batch head pos"] | None


class SegmentTrace(NamedTuple):
    """What a model did in one segment.

    Args:
        start: number of tokens before the segment.
        short_term_length: hidden states before the segment that attention saw directly.
        num_first: tokens of the first fit of the long-term memory; 0 while it is empty.
        updates: the updates since then, for `age_map`.
        layers: what each layer did.
        logits: the model's scores.
        state: the model's state after the segment.
    """

    start: int
    short_term_length: int
    num_first: int
    updates: tuple[Update, ...]
    layers: tuple[LayerTrace, ...]
    logits: Float[Tensor, "batch pos vocab"]
    state: ModelState

    @property
    def num_written(self) -> int:
        """Tokens that the long-term memory has seen: the oldest ones of the sequence."""
        return self.num_first + sum(step.num_new for step in self.updates)


@torch.no_grad()
def trace(
    model: InfiniteFormer,
    tokens: Int[Tensor, "batch pos"],
    segment_length: int,
    *,
    generator: torch.Generator | None = None,
) -> list[SegmentTrace]:
    """Read sequences segment by segment, and note what every layer did.

    The model runs as it always does; hooks only listen to its attention and its memories.

    Args:
        model: any infinite-former.
        tokens: whole sequences.
        segment_length: tokens per segment.
        generator: randomness of a sticky long-term memory.

    Raises:
        ValueError: if there is no segment, or the model has no long-term memory.

    Example:
        >>> from infmem.presets import build_model, model_config, preset
        >>> model = build_model(model_config("infinite-former", preset("classroom")))
        >>> segments = trace(model, torch.zeros(1, 128, dtype=torch.int64), segment_length=32)
        >>> [(segment.start, segment.num_written) for segment in segments]
        [(0, 0), (32, 0), (64, 32), (96, 64)]
    """
    require(isinstance(model, InfiniteFormer), f"model must be an InfiniteFormer, got {type(model).__name__}")
    require(segment_length >= 1, f"segment_length must be at least 1 token, got {segment_length}")
    entered, readings, segments, state = {}, {}, [], model.empty(len(tokens))
    handles = []
    for layer, (block, memory) in enumerate(zip(model.blocks, model.long_term_memories, strict=True)):
        handles.append(block.attention.register_forward_hook(_keep(entered, layer, lambda inputs, _: inputs[:2])))
        handles.append(memory.register_forward_hook(_keep(readings, layer, lambda _, output: output[2])))
    num_first, updates, start = 0, (), 0
    try:
        for segment in tokens.split(segment_length, dim=1):
            before = int(state.long_term[0].num_tokens[0])
            readings.clear()
            logits, state = model(segment, state, generator=generator)
            num_new = int(state.long_term[0].num_tokens[0]) - before
            if num_new and not before:
                num_first = num_new
            elif num_new:
                updates = (*updates, next_update(model.config.memory, before, num_new))
            layers = tuple(
                LayerTrace(
                    hidden=entered[layer][0],
                    memory=memory,
                    mu=readings[layer].mu if layer in readings else None,
                    sigma_sq=readings[layer].sigma_sq if layer in readings else None,
                )
                for layer, memory in enumerate(state.long_term)
            )
            recent = entered[0][1].shape[1]
            segments.append(SegmentTrace(start, recent, num_first, updates, layers, logits, state))
            start += segment.shape[1]
    finally:
        for handle in handles:
            handle.remove()
    return segments


def _keep(record: dict[int, Any], layer: int, chosen: Callable[[tuple, Any], Any]) -> Callable[..., None]:
    """A forward hook that puts what is chosen from a module's inputs and output on record."""

    def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
        record[layer] = chosen(inputs, output)

    return hook


def next_update(config: MemoryConfig, num_past: int, num_new: int) -> Update:
    """What the next write of `num_new` tokens will be for the age map.

    Args:
        config: of the memory.
        num_past: tokens written so far, >= 1.
        num_new: tokens to write, >= 1.

    Example:
        >>> next_update(MemoryConfig.best(), num_past=300, num_new=100)
        Update(num_new=100, tau=0.75, locations=None)
    """
    tau = config.tau if config.schedule == "fixed" else scaled_tau(num_past, num_new, config.tau_max)
    return Update(num_new, tau)


def segment_edges(updates: Sequence[Update]) -> Float[Tensor, " edge"]:
    r"""Where on the memory each write begins and ends, oldest first.

    Equation:
        An update maps every edge $e \mapsto \tau e$ and adds a new one at 1.

    Args:
        updates: the updates since the first fit, oldest first.

    Example:
        >>> segment_edges([Update(10, 0.5), Update(10, 0.5)]).tolist()
        [0.0, 0.25, 0.5, 1.0]
    """
    edges = [0.0, 1.0]
    for step in updates:
        edges = [step.tau * edge for edge in edges] + [1.0]
    return torch.tensor(edges, dtype=torch.float64)
