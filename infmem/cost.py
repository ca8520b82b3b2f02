r"""What reading costs, counted from sizes alone: operations, exponentials, and bytes that have to move.

Operations are those of matrix products, with two to a multiplication and addition: they are what PyTorch counts too
(`torch.utils.flop_counter`), and nearly all that there are. Exponentials are counted by themselves, since GPUs make few
of them. Bytes are those that have to be read and written once, whatever is done with them in between.
"""

from dataclasses import dataclass
from typing import NamedTuple

from infmem.models.compressive import CompressiveTransformerConfig
from infmem.models.infinite_former import InfiniteFormerConfig
from infmem.models.transformer_xl import TransformerXLConfig, WindowTransformerConfig
from infmem.validation import check_fields, require


class Cost(NamedTuple):
    """What a piece of work costs.

    Args:
        products: floating-point operations of its matrix products.
        exponentials: how many it needs.
        bytes: numbers that must be read or written once, in bytes.

    Example:
        >>> Cost(1, 2, 3).plus(Cost(10, 20, 30))
        Cost(products=11, exponentials=22, bytes=33)
    """

    products: int
    exponentials: int = 0
    bytes: int = 0

    def plus(self, other: "Cost") -> "Cost":
        """Both pieces of work, one after the other."""
        return Cost(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True)
class ReadSizes:
    """Sizes of a read: queries of a segment against a memory.

    Args:
        batch: rows.
        query_pos: queries in each.
        num_heads: heads.
        d_head: size of a head.
        num_basis: basis functions N of the memory.

    Raises:
        ValueError: if one is below 1.

    Example:
        >>> ReadSizes(batch=8, query_pos=1024, num_heads=6, d_head=50, num_basis=512).d_model
        300
    """

    batch: int = 8
    query_pos: int = 1024
    num_heads: int = 6
    d_head: int = 50
    num_basis: int = 512

    def __post_init__(self):
        check_fields(self)
        for name, value in vars(self).items():
            require(value >= 1, f"{name} must be at least 1, got {value}")

    @property
    def d_model(self) -> int:
        """Size of the vectors: heads side by side."""
        return self.num_heads * self.d_head

    @property
    def num_queries(self) -> int:
        """Queries of all rows and heads."""
        return self.batch * self.num_heads * self.query_pos


def projection(sizes: ReadSizes, pos: int) -> Cost:
    r"""A linear map from d_model to d_model at some positions of every row.

    Equation:
        $2 \cdot \text{batch} \cdot \text{pos} \cdot d^2$ operations.

    Args:
        sizes: of the read that it belongs to.
        pos: positions in each row.

    Example:
        >>> projection(ReadSizes(batch=2, num_heads=1, d_head=3), pos=5).products
        180
    """
    return Cost(2 * sizes.batch * pos * sizes.d_model**2)


def textbook_densities(sizes: ReadSizes) -> Cost:
    r"""Means and variances as the paper writes them: keys of all basis functions, all scores, two maps of them.

    Equation:
        $2 B N d^2 + 2 H Q N d_h B + 4 H Q N B$ operations for a batch of B, with H heads of size $d_h$ and Q queries.

    Args:
        sizes: of the read.

    Example:
        >>> textbook_densities(ReadSizes(batch=1, query_pos=2, num_heads=1, d_head=3, num_basis=5)).products
        190
    """
    scores = 2 * sizes.num_queries * sizes.num_basis * sizes.d_head
    maps = 2 * 2 * sizes.num_queries * sizes.num_basis
    return projection(sizes, sizes.num_basis).plus(Cost(scores + maps))


def collapsed_densities(sizes: ReadSizes) -> Cost:
    r"""Means and variances from the collapsed keys: `attention.collapsed_keys`, `attention.collapsed_logits`.

    Equation:
        $4 B N d + 4 B d^2 + 4 B Q d$ operations: N and Q are added, no longer multiplied.

    Args:
        sizes: of the read.

    Example:
        >>> collapsed_densities(ReadSizes(batch=1, query_pos=2, num_heads=1, d_head=3, num_basis=5)).products
        120
    """
    rows = sizes.num_basis + sizes.d_model + sizes.query_pos
    return Cost(2 * 2 * sizes.batch * rows * sizes.d_model)


def expected_read(sizes: ReadSizes, itemsize: int = 4, *, backward: bool = False) -> Cost:
    r"""The read under given densities: a weight for every query and basis function, and their product with the values.

    Equation:
        $2 B H Q N d_h$ operations and $B H Q N$ exponentials. Bytes are those of means, variances, values and result;
        the weights need not be kept.

    Args:
        sizes: of the read.
        itemsize: bytes of a value.
        backward: the gradients too: two more products, the weights made again, and every input read again.

    Example:
        >>> sizes = ReadSizes(batch=1, query_pos=2, num_heads=1, d_head=3, num_basis=5)
        >>> expected_read(sizes)
        Cost(products=60, exponentials=10, bytes=100)
        >>> expected_read(sizes, backward=True)
        Cost(products=180, exponentials=20, bytes=276)
    """
    weights = sizes.num_queries * sizes.num_basis
    inputs = 4 * 2 * sizes.num_queries + itemsize * sizes.batch * sizes.num_basis * sizes.d_model
    result = itemsize * sizes.num_queries * sizes.d_head
    forward = Cost(2 * weights * sizes.d_head, weights, inputs + result)
    if not backward:
        return forward
    return forward.plus(Cost(2 * forward.products, weights, 2 * inputs + result))


def full_attention(sizes: ReadSizes, key_pos: int, itemsize: int = 4, *, backward: bool = False) -> Cost:
    r"""Softmax attention of the same queries to a list of keys.

    Equation:
        $4 B H Q K d_h$ operations and $B H Q K$ exponentials, in a fused kernel. Backwards it makes the scores
        again and four more products.

    Args:
        sizes: of the queries.
        key_pos: keys K in each row.
        itemsize: bytes of a number.
        backward: the gradients too.

    Example:
        >>> full_attention(ReadSizes(batch=1, query_pos=2, num_heads=1, d_head=3), key_pos=5)
        Cost(products=120, exponentials=10, bytes=168)
    """
    weights = sizes.num_queries * key_pos
    per_key, per_query = 2 * sizes.batch * key_pos * sizes.d_model, sizes.batch * sizes.query_pos * sizes.d_model
    forward = Cost(4 * weights * sizes.d_head, weights, itemsize * (per_key + 2 * per_query))
    if not backward:
        return forward
    moved = itemsize * (2 * per_key + 4 * per_query)
    return forward.plus(Cost(10 * weights * sizes.d_head, weights, moved))


def memory_update(sizes: ReadSizes, num_new: int) -> Cost:
    r"""Writing new tokens to the memory as a linear recurrence, once its two matrices are known.

    Equation:
        $B \leftarrow A B + C X$: $2 N^2 d + 2 N L d$ operations a row for L tokens, however many were written before.

    Args:
        sizes: of the memory.
        num_new: tokens that are written.

    Example:
        >>> memory_update(ReadSizes(batch=1, num_heads=1, d_head=3, num_basis=5), num_new=7).products
        360
    """
    return Cost(2 * sizes.batch * sizes.num_basis * (sizes.num_basis + num_new) * sizes.d_model)


def memory_step(sizes: ReadSizes, num_new: int) -> Cost:
    """A whole step of a `LongTermMemory`: update, query, value and output projections, densities, read.

    Args:
        sizes: of the read.
        num_new: tokens that are written before it.

    Example:
        >>> sizes = ReadSizes()
        >>> memory_step(sizes, num_new=1024).products < attention_step(sizes, key_pos=8192).products
        True
    """
    parts = (
        memory_update(sizes, num_new),
        projection(sizes, sizes.query_pos),
        projection(sizes, sizes.num_basis),
        projection(sizes, sizes.query_pos),
        collapsed_densities(sizes),
        expected_read(sizes),
    )
    total = Cost(0)
    for part in parts:
        total = total.plus(part)
    return total


def attention_step(sizes: ReadSizes, key_pos: int, itemsize: int = 4) -> Cost:
    """A whole step of full attention with a cache: four projections of the segment, and attention to all keys.

    Args:
        sizes: of the queries.
        key_pos: keys in the cache, the segment's own among them.
        itemsize: bytes of a number.

    Example:
        >>> attention_step(ReadSizes(batch=1, query_pos=2, num_heads=1, d_head=3), key_pos=5).products
        264
    """
    return projection(sizes, 4 * sizes.query_pos).plus(full_attention(sizes, key_pos, itemsize))


def num_left(config: TransformerXLConfig, num_past: int) -> int:
    """How many of the tokens read so far have left the short-term memory; a Compressive Transformer drops whole groups.

    Example:
        >>> num_left(TransformerXLConfig(memory_length=100), num_past=640)
        540
    """
    left = max(0, num_past - config.memory_length)
    return left - left % config.memory.rate if isinstance(config, CompressiveTransformerConfig) else left


def segment_products(config: TransformerXLConfig, num_past: int, segment_length: int) -> int:
    r"""Operations of all matrix products when a model reads one more segment of one sequence.

    Equation:
        In each layer, with L tokens that look at K keys: $2 (2 L + 2 K + K + 1) d^2$ to project them and their
        distances, $2 L (3 K + 1) d$ for scores by content, scores by distance and the mean of the values, and
        $4 L d d_{ff}$ for the feed-forward; and $2 L d v$ once for the output. What a long-term or a compressed memory
        does comes on top: the same for every segment once it is full.

    Args:
        config: of a Transformer-XL, a Compressive Transformer or an infinite-former (without sticky memories or gate).
        num_past: tokens read before, in segments of this length.
        segment_length: tokens of the segment.

    Example:
        >>> config = TransformerXLConfig(d_model=12, num_heads=3, num_layers=2, d_ff=20, memory_length=40)
        >>> segment_products(config, 10_000, 10) == segment_products(config, 10_000_000, 10)
        True
    """
    length, d_model, past = segment_length, config.d_model, num_past - num_left(config, num_past)
    written = num_left(config, num_past)
    leaving = written - num_left(config, max(0, num_past - length))
    special = 0
    if isinstance(config, CompressiveTransformerConfig):
        past += min(config.memory.length, written // config.memory.rate)
        special = 2 * leaving * d_model**2 if config.memory.is_learned else 0
    if isinstance(config, InfiniteFormerConfig) and written:
        sizes = ReadSizes(1, length, config.num_heads, d_model // config.num_heads, config.memory.num_basis)
        whole = memory_step(sizes, leaving).products
        first = 2 * sizes.num_basis**2 * d_model if written == leaving else 0  # nothing old has to make room
        special = whole - first - (0 if config.memory.own_query else projection(sizes, length).products)
    keys = past + length
    projections = 2 * (2 * length + 3 * keys + 1) * d_model**2
    attention = 2 * length * (3 * keys + 1) * d_model
    layer = projections + attention + 4 * length * d_model * config.d_ff + special
    return config.num_layers * layer + 2 * length * d_model * config.vocab_size


def cached_segment_products(config: WindowTransformerConfig, num_past: int, segment_length: int) -> int:
    r"""The same for a transformer that keeps the keys and values of every token and attends to all, without positions.

    Equation:
        $8 L d^2 + 4 L (n + L) d + 4 L d d_{ff}$ in each layer after n tokens: the only cost here that grows with n.

    Args:
        config: sizes.
        num_past: tokens read before.
        segment_length: tokens of the segment.

    Example:
        >>> config = WindowTransformerConfig(d_model=12, num_heads=3, num_layers=2, d_ff=20)
        >>> ten, twenty, thirty = (cached_segment_products(config, 1000 * n, 5) for n in (10, 20, 30))
        >>> thirty - twenty == twenty - ten > 0
        True
    """
    sizes = ReadSizes(1, segment_length, config.num_heads, config.d_model // config.num_heads)
    step = attention_step(sizes, num_past + segment_length).products
    layer = step + 4 * segment_length * config.d_model * config.d_ff
    return config.num_layers * layer + 2 * segment_length * config.d_model * config.vocab_size


def cached_state_bytes(config: WindowTransformerConfig, num_past: int, itemsize: int = 4) -> int:
    """Bytes of the keys and values of every token read so far, of one sequence.

    Args:
        config: sizes.
        num_past: tokens read before.
        itemsize: bytes of a number.

    Example:
        >>> cached_state_bytes(WindowTransformerConfig(d_model=12, num_heads=3, num_layers=2), num_past=1000)
        192000
    """
    return 2 * config.num_layers * num_past * config.d_model * itemsize
