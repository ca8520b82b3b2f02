"""What the first layer's memory holds, read back as symbols, and how much of each segment is left."""

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from infmem.basis import GaussianBasis
from infmem.microscope.trace import next_update, segment_edges
from infmem.models.infinite_former import InfiniteFormer
from infmem.signal import positions, read
from infmem.tasks import sorting
from infmem.validation import checked, require


@checked
@torch.no_grad()
def decode_symbols(
    model: InfiniteFormer,
    coefficients: Float[Tensor, "batch basis d_model"],
    basis: GaussianBasis,
    t: Float[Tensor, " query_pos"],
) -> Float[Tensor, "batch query_pos symbol"]:
    r"""How much of each symbol layer 0's memory holds at every `t`.

    Equation:
        $p(t) = \arg\min_p \|\bar{X}(t) - \sqrt{d}\, E^\top p\|^2$ with the embeddings E of the 20 symbols.

    This assumes that the memory is layer 0's, without a gate, and that only symbols were written to it: then its signal
    is a weighted sum of embeddings. As the 20 embeddings are linearly independent, decoding is exact: it finds the
    weights with which the tokens of each symbol were mixed, and all that is lost was lost by the memory.

    Args:
        model: whose embeddings were written.
        coefficients: of layer 0's memory.
        basis: its basis functions.
        t: where to read.

    Returns:
        Shares that are not forced to lie in [0, 1] or to sum to 1.

    Raises:
        ValueError: if the memory has a gate, which changes the embeddings before they are written.

    Source: ours.

    Example:
        >>> from infmem.presets import build_model, model_config, preset
        >>> model = build_model(model_config("infinite-former", preset("classroom")))
        >>> memory = model.long_term_memories[0]
        >>> state = memory.write(model.embed(torch.full((1, 32), 7)), memory.empty(1))
        >>> decode_symbols(model, state.coefficients, memory.basis, torch.tensor([0.5]))[0, 0].argmax()
        tensor(7)
    """
    require(
        model.long_term_memories[0].gate is None,
        "symbols can be decoded only where embeddings are written as they are: this memory has a gate",
    )
    symbols = torch.arange(sorting.NUM_SYMBOLS, device=coefficients.device)
    embeddings = model.embed(rearrange(symbols, "symbol -> 1 symbol"))[0].double()
    signal = read(coefficients.double(), basis.to(torch.float64), t.double())
    return einsum(
        signal, torch.linalg.pinv(embeddings), "batch query_pos d_model, d_model symbol -> batch query_pos symbol"
    )


@checked
def local_shares(
    symbols: Int[Tensor, "batch pos"], token: Float[Tensor, " query_pos"], window: int
) -> Float[Tensor, "batch query_pos symbol"]:
    """True shares of the symbols in a window around given tokens.

    Args:
        symbols: the sequences.
        token: numbers of the middle tokens, from 1 on, as `age_map` gives them.
        window: tokens in the window; at the ends of the sequence it is cut.

    Example:
        >>> local_shares(torch.tensor([[3, 3, 5, 5]]), torch.tensor([1.5]), window=2)[0, 0, 3]
        tensor(1., dtype=torch.float64)
    """
    require(window >= 1, f"window must be at least 1 token, got {window}")
    number = torch.arange(1, symbols.shape[1] + 1, device=symbols.device)
    middle = rearrange(token, "query_pos -> query_pos 1").clamp(1, symbols.shape[1])
    inside = ((number - middle).abs() <= window / 2).double()
    inside = inside / reduce(inside, "query_pos pos -> query_pos 1", "sum")
    one_hot = torch.nn.functional.one_hot(symbols.long(), sorting.VOCAB_SIZE)[..., : sorting.NUM_SYMBOLS].double()
    return einsum(inside, one_hot, "query_pos pos, batch pos symbol -> batch query_pos symbol")


@torch.no_grad()
def segment_retention(
    model: InfiniteFormer,
    symbols: Int[Tensor, "batch pos"],
    segment_length: int,
    parts: int = 1,
    points_per_part: int = 16,
) -> Float[Tensor, " segment"]:
    """How much of each segment's counts can still be read from layer 0's memory, at the place where the segment lies.

    The shares of each part of a segment are decoded where that part lies, and averaged there. The result is the squared
    correlation with the true shares, over all sequences and symbols: what a straight line explains of their variance.
    Use sequences without drift: with drift, the neighbours of a segment tell something about it.

    Args:
        model: an infinite-former without a gate.
        symbols: sequences of symbols, a whole number of segments, all of which are written.
        segment_length: tokens per segment.
        parts: each segment is counted in so many equal parts: more ask for finer detail.
        points_per_part: where each part is read, evenly over its place.

    Returns:
        One number in [0, 1] for each segment, oldest first: the mean over its parts.

    Source: ours.

    Example:
        >>> from infmem.presets import build_model, model_config, preset
        >>> model = build_model(model_config("infinite-former", preset("classroom")))
        >>> symbols = torch.randint(20, (8, 96), generator=torch.Generator().manual_seed(0))
        >>> segment_retention(model, symbols, segment_length=32).shape
        torch.Size([3])
    """
    length = symbols.shape[1]
    require(
        segment_length >= 1 and length >= segment_length and length % segment_length == 0,
        f"symbols must be a whole number of segments of segment_length={segment_length}, got {length} tokens",
    )
    require(
        parts >= 1 and segment_length % parts == 0,
        f"parts must be a divisor of segment_length={segment_length}, got {parts}",
    )
    memory, updates = model.long_term_memories[0], []
    state = memory.empty(len(symbols))
    for start, segment in zip(range(0, length, segment_length), symbols.split(segment_length, dim=1), strict=True):
        updates += [next_update(memory.config, start, segment_length)] if start else []
        state = memory.write(model.embed(segment), state)
    edges = rearrange(segment_edges(updates), "edge -> edge 1")
    t = torch.lerp(edges[:-1], edges[1:], positions(parts * points_per_part, "midpoints")).flatten()
    decoded = reduce(
        decode_symbols(model, state.coefficients, memory.basis, t),
        "batch (part point) symbol -> part (batch symbol)",
        "mean",
        point=points_per_part,
    )
    chunks = rearrange(symbols, "batch (part pos) -> (part batch) pos", pos=segment_length // parts)
    counts = sorting.count_symbols(chunks).double()
    true = rearrange(counts, "(part batch) symbol -> part (batch symbol)", batch=len(symbols))
    explained = [torch.corrcoef(torch.stack(pair))[0, 1] ** 2 for pair in zip(decoded, true, strict=True)]
    return reduce(torch.stack(explained), "(segment part) -> segment", "mean", part=parts)
