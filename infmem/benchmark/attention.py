"""From how many keys on a memory of fixed size is cheaper than looking at all of them.

The same queries read the memory, and attend to a growing list of keys with PyTorch's fused attention; alone, and as a
whole step with the projections and the writing that belong to each.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from infmem.benchmark.read import PASSES, Pass, called, read_densities
from infmem.benchmark.timing import device_rates, floor_milliseconds, measure
from infmem.cost import Cost, ReadSizes, expected_read, full_attention, memory_step, projection
from infmem.fast import compiled as compiled_copy
from infmem.kernels import fits
from infmem.memory import LongTermMemory, MemoryConfig
from infmem.memory.state import MemoryState
from infmem.training import autocast
from infmem.validation import require

CONTEXTS = tuple(2**power for power in range(10, 21))
# A memory that has seen so many segments is updated by the same two matrices ever after: tau is at its limit.
SEGMENTS_SEEN = 64


def benchmark_attention(
    device: torch.device,
    sizes: ReadSizes,
    memory: MemoryConfig,
    contexts: Sequence[int] = CONTEXTS,
    *,
    calls: int = 50,
    compiled: bool = True,
    mixed: bool = False,
    rates: Cost | None = None,
) -> Iterator[dict]:
    """Time the read of a memory and a step of it beside full attention over more and more keys.

    Args:
        device: where to work.
        sizes: of queries and memory; a segment has as many new tokens as queries.
        memory: the long-term memory; its `num_basis` is that of `sizes`.
        contexts: numbers of keys, the segment's own among them.
        calls: how many are timed.
        compiled: whether the step of the memory is compiled.
        mixed: whether full attention, and a second version of the memory's step, compute in bfloat16.
        rates: what the device does in a second at its best; None measures it.

    Yields:
        A row for each of both and each pass. `what` is `memory read` or `attention` (under given densities; of given
        queries, keys and values), `memory step` or `attention step` (a segment's queries, keys and values, with all
        projections; the memory also writes the segment). `key_pos` is None where nothing depends on it. The rest is
        that of `timing.measure`, and a floor from `infmem.cost`.

    Raises:
        ValueError: if there is nothing to time.
    """
    require(len(contexts) >= 1, "contexts must name at least one number of keys, got none")
    for key_pos in contexts:
        require(
            key_pos >= sizes.query_pos,
            f"every context must hold the segment of {sizes.query_pos} tokens itself, got {key_pos} keys",
        )
    rates = device_rates(device) if rates is None else rates
    dtype = torch.bfloat16 if mixed else torch.float32
    make = partial(torch.randn, device=device, generator=torch.Generator(device).manual_seed(0))

    def row(what: str, name: Pass, call: Callable, cost: Cost, key_pos: int | None, dtype: torch.dtype) -> dict:
        about = {"what": what, "pass": name, "key_pos": key_pos, "precision": _precision(dtype)}
        return about | measure(call, device, calls) | {"floor_milliseconds": floor_milliseconds(cost, rates)}

    for name in PASSES:
        backward = name != "forward"
        factor = 3 if backward else 1  # the gradients of a product are two more
        read, step = expected_read(sizes, backward=backward), memory_step(sizes, sizes.query_pos)
        yield row("memory read", name, _memory_read(make, sizes, memory, name), read, None, torch.float32)
        for precision in dict.fromkeys((torch.float32, dtype)):
            call = _memory_step(make, sizes, memory, name, compiled, precision)
            yield row("memory step", name, call, step._replace(products=factor * step.products), None, precision)
        del call
        for key_pos in contexts:
            attention = full_attention(sizes, key_pos, dtype.itemsize, backward=backward)
            call = _attention(make, sizes, key_pos, name, dtype)
            yield row("attention", name, call, attention, key_pos, dtype)
            del call
            call = _attention_step(make, sizes, key_pos, name, dtype)
            whole = attention.plus(Cost(factor * projection(sizes, 4 * sizes.query_pos).products))
            yield row("attention step", name, call, whole, key_pos, dtype)
            del call


def crossover(
    rows: Sequence[dict], memory: str, attention: str, name: Pass, precision: str | None = None
) -> int | None:
    """The smallest of the measured contexts from which on the memory is faster; None if it is at none.

    Args:
        rows: of `benchmark_attention`.
        memory: `memory read` or `memory step`.
        attention: what to hold against it.
        name: which pass.
        precision: in which the memory computes; None takes that of full attention where it was measured.

    Raises:
        ValueError: if these are rows of something else, or what is asked for was not measured.

    Example:
        >>> row = {"pass": "forward", "precision": "float32"}
        >>> rows = [row | {"what": "memory read", "key_pos": None, "milliseconds": 3.0}]
        >>> rows += [row | {"what": "attention", "key_pos": n, "milliseconds": n / 500} for n in (1000, 2000, 4000)]
        >>> crossover(rows, "memory read", "attention", "forward")
        2000
    """
    lacking = sorted({field for row in rows for field in ("what", "key_pos", "pass", "precision") if field not in row})
    require(not lacking, f"rows must be those of benchmark_attention, got some without {', '.join(lacking)}")
    of_pass = [row for row in rows if row["pass"] == name]
    for what in (memory, attention):
        found = {row["precision"] for row in of_pass if row["what"] == what}
        require(bool(found), f"rows must hold {what!r} with the pass {name!r}: none was measured")
        require(
            what == attention or precision in (None, *found),
            f"precision must be one that was measured, {' or '.join(sorted(found))}, got {precision!r}",
        )
    limit = in_precision_of([row for row in of_pass if row["what"] == memory], rows, precision)["milliseconds"]
    slower = [(row["key_pos"], row["milliseconds"] > limit) for row in of_pass if row["what"] == attention]
    first = None
    for key_pos, is_slower in sorted(slower, reverse=True):
        if not is_slower:
            break
        first = key_pos
    return first


def in_precision_of(measured: Sequence[dict], rows: Sequence[dict], precision: str | None = None) -> dict:
    """That row of a memory which computes in a precision: the given one, or that of full attention if there is one.

    Args:
        measured: rows of a memory, which differ in their precision only.
        rows: of `benchmark_attention`.
        precision: which; None takes that of full attention, or what there is.
    """
    by_precision = {row["precision"]: row for row in measured}
    if precision is None:
        precision = next(row["precision"] for row in rows if row["key_pos"] is not None)
        precision = precision if precision in by_precision else next(iter(by_precision))
    return by_precision[precision]


def _memory_read(make: Callable, sizes: ReadSizes, memory: MemoryConfig, name: Pass) -> Callable:
    basis = LongTermMemory(sizes.d_model, sizes.num_heads, memory).to(make.keywords["device"]).basis
    shape = (sizes.batch, sizes.num_heads)
    mu, sigma = make(*shape, sizes.query_pos).sigmoid(), make(*shape, sizes.query_pos).sigmoid()
    values = make(*shape, sizes.num_basis, sizes.d_head)
    inputs = [tensor.detach().requires_grad_() for tensor in (mu, (0.2 * sigma) ** 2 + 1e-4, values)]
    read = partial(read_densities, basis, memory.interval == "unit", kernel=fits(values))
    return partial(called, read, inputs, name)


def _memory_step(
    make: Callable, sizes: ReadSizes, memory: MemoryConfig, name: Pass, compiled: bool, dtype: torch.dtype
) -> Callable:
    """Write a segment and read with it, in a memory that has seen many segments."""
    module = LongTermMemory(sizes.d_model, sizes.num_heads, memory).to(make.keywords["device"])
    module = compiled_copy(module) if compiled else module
    segment = make(sizes.batch, sizes.query_pos, sizes.d_model).requires_grad_()
    coefficients = make(sizes.batch, sizes.num_basis, sizes.d_model).requires_grad_()
    num_tokens = torch.full((sizes.batch,), SEGMENTS_SEEN * sizes.query_pos)
    histogram = module.empty(sizes.batch).histogram

    def step(segment: Tensor, coefficients: Tensor, *weights: Tensor) -> Tensor:
        with autocast(segment.device, _precision(dtype)):
            return module(segment, segment, MemoryState(coefficients, num_tokens, histogram))[0]

    return partial(called, step, [segment, coefficients, *module.parameters()], name)


def _attention(make: Callable, sizes: ReadSizes, key_pos: int, name: Pass, dtype: torch.dtype) -> Callable:
    """PyTorch's fused attention, with heads as long as it likes them, so that it need not copy its keys."""
    padded = -(-sizes.d_head // 8) * 8
    lengths = (sizes.query_pos, key_pos, key_pos)
    inputs = [make(sizes.batch, sizes.num_heads, length, padded, dtype=dtype).requires_grad_() for length in lengths]
    return partial(called, partial(functional.scaled_dot_product_attention, scale=sizes.d_head**-0.5), inputs, name)


def _attention_step(make: Callable, sizes: ReadSizes, key_pos: int, name: Pass, dtype: torch.dtype) -> Callable:
    """Project a segment, write its keys and values behind those of the cache, attend to all, project the result.

    The gradient goes to the segment, the weights, and the keys and values of the cache.
    """
    padded, d_model = -(-sizes.d_head // 8) * 8, sizes.d_model
    like = {"device": make.keywords["device"], "dtype": torch.float32}
    projections, out = (
        nn.Linear(d_model, 3 * d_model, bias=False, **like),
        nn.Linear(d_model, d_model, bias=False, **like),
    )
    segment = make(sizes.batch, sizes.query_pos, d_model).requires_grad_()
    cache = make(2, sizes.batch, sizes.num_heads, key_pos, padded, dtype=dtype)

    def step(segment: Tensor, *cached: Tensor) -> Tensor:
        with autocast(segment.device, _precision(dtype)):
            heads = rearrange(
                projections(segment),
                "batch query_pos (three head d_head) -> three batch head query_pos d_head",
                three=3,
                head=sizes.num_heads,
            )
            query, *new = functional.pad(heads, (0, padded - sizes.d_head))
            keys, values = (_Append.apply(old, part) for old, part in zip(cached[:2], new, strict=True))
            read = functional.scaled_dot_product_attention(query, keys, values, scale=sizes.d_head**-0.5)
            return out(
                rearrange(read[..., : sizes.d_head], "batch head query_pos d_head -> batch query_pos (head d_head)")
            )

    cached = [part.requires_grad_() for part in cache.unbind()]
    return partial(called, step, [segment, *cached, projections.weight, out.weight], name)


class _Append(torch.autograd.Function):
    """Write new rows into the last places of a cache, where they were kept free: nothing else is copied."""

    @staticmethod
    def forward(ctx, cache: Tensor, new: Tensor) -> Tensor:
        ctx.num_new = new.shape[2]
        written = cache.detach()
        written[:, :, -ctx.num_new :] = new
        return written

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad[:, :, -ctx.num_new :]


def _precision(dtype: torch.dtype) -> str:
    """A type by the name that configurations know it by."""
    return str(dtype).removeprefix("torch.")
