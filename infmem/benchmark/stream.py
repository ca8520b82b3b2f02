"""A stream that does not end: what a segment costs, and how large the state is, after ever more tokens.

Segments are really read, one after the other, up to a limit. Beyond it nothing changes in a model with a memory of
fixed size but the count of tokens, which is set; and the cache of full attention is filled with random numbers. Rows
say which of both they come from.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from infmem.benchmark.timing import free_memory, measure
from infmem.cost import cached_state_bytes
from infmem.memory import MemoryState
from infmem.models.transformer_xl import ModelState, TransformerXL, WindowTransformer
from infmem.presets import Preset, build_model, model_config
from infmem.training import autocast
from infmem.validation import require

TOKENS_SEEN = (2**12, 2**16, 2**20, 10 * 2**20)
MODELS = ("infinite-former", "transformer-xl", "compressive-transformer")
PRECISION = {False: "float32", True: "bfloat16"}


class CachedTransformer(WindowTransformer):
    """A transformer that keeps keys and values of every token and attends to all of them.

    The blocks are those of the other models, their attention without the term of positions, which favours it: that term
    is as large as the scores.

    Args:
        config: sizes.

    Example:
        >>> from infmem.presets import preset
        >>> model = CachedTransformer(preset("classroom").sizes)
        >>> cache = model.cache(batch=1, capacity=5)
        >>> model.read(torch.zeros(1, 3, dtype=torch.int64), cache, num_past=2).shape
        torch.Size([1, 3, 22])
    """

    def cache(self, batch: int, capacity: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Room for the keys and values of so many tokens, for each layer, filled with random numbers."""
        heads, d_head = self.config.num_heads, self.d_model // self.config.num_heads
        sizes = (2, batch, heads, capacity, d_head)
        device = self.embedding.weight.device
        return [torch.empty(sizes, dtype=dtype, device=device).normal_() for _ in range(self.config.num_layers)]

    def read(self, tokens: Tensor, caches: Sequence[Tensor], num_past: int) -> Tensor:
        """Read a segment after `num_past` tokens, whose keys and values are in the cache; its own are written there."""
        hidden, end = self.embed(tokens), num_past + tokens.shape[1]
        bias = causal_bias(tokens.shape[1], end, tokens.device)
        for block, cache in zip(self.blocks, caches, strict=True):
            attention = block.attention
            query, *new = rearrange(
                torch.cat([attention.query(hidden), attention.key_value(hidden)], dim=-1),
                "batch pos (three head d_head) -> three batch head pos d_head",
                three=3,
                head=self.config.num_heads,
            )
            cache[:, :, :, num_past:end] = torch.stack(new).to(cache.dtype)
            keys, values = cache[:, :, :, :end]
            read = functional.scaled_dot_product_attention(query.to(cache.dtype), keys, values, attn_mask=bias)
            attended = attention.out(
                rearrange(read, "batch head pos d_head -> batch pos (head d_head)").to(hidden.dtype)
            )
            hidden = block(hidden, attended)
        return self.output(hidden)


def causal_bias(query_pos: int, key_pos: int, device: torch.device) -> Any:
    """What hides later keys from the last `query_pos` of them: on a GPU in a form that the fused kernel takes."""
    if device.type == "cuda":
        from torch.nn.attention.bias import causal_lower_right  # takes seconds to import

        return causal_lower_right(query_pos, key_pos)
    return torch.ones(query_pos, key_pos, dtype=torch.bool, device=device).tril(key_pos - query_pos)


def benchmark_stream(
    device: torch.device,
    sizes: Preset,
    tokens_seen: Sequence[int] = TOKENS_SEEN,
    *,
    batch: int = 1,
    streamed: int = 2**16,
    cache_bytes: int = 2**30,
    calls: int = 20,
    mixed: bool = False,
) -> Iterator[dict]:
    """Time a segment after more and more tokens, in every model.

    Args:
        device: where to read.
        sizes: of the models.
        tokens_seen: how many tokens were read before the segment that is timed; rounded down to whole segments.
        batch: sequences side by side.
        streamed: up to so many tokens are really read.
        cache_bytes: the largest cache of full attention; where it would be larger nothing is timed.
        calls: segments that are timed.
        mixed: whether to compute in bfloat16 where a training would; the cache is then in bfloat16.

    Yields:
        A row for each model and number of tokens: the time of a segment as in `timing.measure`, or None where it does
        not fit; `state_bytes`, those of all that the model keeps; and whether the tokens before were `streamed`.

    Raises:
        ValueError: if the numbers of tokens do not make sense.
    """
    segment = sizes.segment_length
    require(
        len(tokens_seen) >= 1 and min(tokens_seen) >= segment,
        f"tokens_seen must be whole segments of {segment} at least, got {tuple(tokens_seen)}",
    )
    require(batch >= 1, f"batch must be at least 1, got {batch}")
    require(cache_bytes >= 0, f"cache_bytes must be >= 0, got {cache_bytes}")
    configs = {name: model_config(name, sizes) for name in MODELS}
    full = max(config.reach for config in configs.values()) + 2 * segment
    require(
        streamed >= min(full, max(tokens_seen)),
        f"streamed must be at least {full}, got {streamed}: what is not read is stood for by memories that are full",
    )
    tokens = torch.randint(0, 20, (batch, segment), generator=torch.Generator().manual_seed(0)).to(device)
    counts = sorted({count // segment * segment for count in tokens_seen})

    def row(name: str, seen: int, state_bytes: int, call: Callable | None, is_streamed: bool) -> dict:
        timed = measure(_inferring(call, device, mixed), device, calls) if call else {"milliseconds": None}
        about = {"model": name, "tokens_seen": seen, "batch": batch, "segment_length": segment}
        return about | timed | {"state_bytes": state_bytes, "streamed": is_streamed}

    for name, config in configs.items():
        model = build_model(config).to(device).eval()
        state, read = None, 0
        for seen in counts:
            upto = min(seen, max(read, streamed // segment * segment))
            state, read = _stream(model, tokens, state, read, upto, mixed), upto
            there = state if read == seen else _as_if(state, seen - read)
            yield row(name, seen, bytes_of(there), lambda m=model, s=there: m(tokens, s)[0], read == seen)
        del model, state, there
        free_memory(device)
    model = CachedTransformer(sizes.sizes).to(device).eval()
    dtype = torch.bfloat16 if mixed else torch.float32
    for seen in counts:
        needed = batch * cached_state_bytes(sizes.sizes, seen, dtype.itemsize)
        try:
            cache = model.cache(batch, seen + segment, dtype) if needed <= cache_bytes else None
            call = cache and (lambda c=cache, n=seen: model.read(tokens, c, n))
            filled = row("full attention", seen, needed, call, False)
        except torch.OutOfMemoryError:
            filled = row("full attention", seen, needed, None, False)
        yield filled
        cache = call = None
        free_memory(device)


def _inferring(call: Callable, device: torch.device, mixed: bool) -> Callable:
    def inferred() -> Tensor:
        with torch.no_grad(), autocast(device, PRECISION[mixed]):
            return call()

    return inferred


def _stream(
    model: TransformerXL, tokens: Tensor, state: ModelState | None, read: int, upto: int, mixed: bool
) -> ModelState | None:
    """Read segments until `upto` tokens were read."""
    with torch.no_grad(), autocast(tokens.device, PRECISION[mixed]):
        for _ in range((upto - read) // tokens.shape[1]):
            state = model(tokens, state)[1]
    return state


def _as_if(state: ModelState, num_more: int) -> ModelState:
    """The state as if so many more tokens had been written to each long-term memory that counts them."""
    long_term = tuple(
        memory._replace(num_tokens=memory.num_tokens + num_more) if isinstance(memory, MemoryState) else memory
        for memory in state.long_term
    )
    return state._replace(long_term=long_term)


def bytes_of(state: Any) -> int:
    """Bytes of all tensors of a state."""
    return sum(tensor.nbytes for tensor in tensors_of(state))


def tensors_of(state: Any) -> Iterator[Tensor]:
    """All tensors of a state, in order; what is None there has none."""
    if isinstance(state, Tensor):
        yield state
    else:
        for part in state or ():
            yield from tensors_of(part)
