r"""The paper's synthetic task: sort the symbols of a long sequence by how often each occurred.

The probabilities of the symbols drift along the sequence, so whoever remembers only the end of it is misled. The model
sees the sequence, a separator and, teacher-forced, the sorted symbols; it must predict the symbols in order of
decreasing count.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int
from torch import Tensor

from infmem.validation import checked, require

NUM_SYMBOLS = 20
SEPARATOR = NUM_SYMBOLS
PADDING = NUM_SYMBOLS + 1
VOCAB_SIZE = NUM_SYMBOLS + 2
IGNORE = -100


@checked
def sorted_symbols(symbols: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch rank"]:
    """All 20 symbols by decreasing count; ties by first occurrence, absent symbols last in numeric order.

    Args:
        symbols: sequences of symbols 0 to 19.

    Raises:
        ValueError: if a sequence is empty.

    Source: Martins et al. 2022, sorting experiment; ties as in the released data script.

    Example:
        >>> sorted_symbols(torch.tensor([[3, 1, 1, 0]]))[0, :5].tolist()
        [1, 3, 0, 2, 4]
    """
    batch, length = symbols.shape
    require(length >= 1, "symbols must hold at least one position, got none: there is nothing to sort")
    symbols = symbols.long()
    counts = count_symbols(symbols)
    place = torch.arange(length, device=symbols.device).expand(batch, -1)
    absent = length + torch.arange(NUM_SYMBOLS, device=symbols.device).expand(batch, -1)
    first = absent.scatter_reduce(1, symbols, place, reduce="amin")
    return torch.argsort(counts * 2 * (length + NUM_SYMBOLS) - first, dim=-1, descending=True)


@checked
def count_symbols(symbols: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch symbol"]:
    """How often each symbol occurs in each sequence; anything that is not a symbol is not counted.

    Example:
        >>> count_symbols(torch.tensor([[3, 1, 1, 20]]))[0, :4].tolist()
        [0, 2, 0, 1]
    """
    symbols = symbols.long()
    is_symbol = (symbols >= 0) & (symbols < NUM_SYMBOLS)
    counts = torch.zeros(len(symbols), NUM_SYMBOLS, dtype=torch.int64, device=symbols.device)
    return counts.scatter_add(1, symbols.clamp(0, NUM_SYMBOLS - 1), is_symbol.long())


def sample(
    batch: int, length: int, generator: torch.Generator
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    r"""Draw sequences, made on the generator's device.

    Equation:
        $p_0, p_1$: integers from 1 to 9, normalised. Symbol j of L is drawn from $(1 - j/L) p_0 + (j/L) p_1$.

    Args:
        batch: number of sequences >= 1.
        length: symbols per sequence >= 1.
        generator: source of randomness; its device is where the data are.

    Returns:
        Tokens (sequence, separator, the first 19 sorted symbols) and, for each token, the target: the next sorted
        symbol from the separator on, `IGNORE` before. Both have `length + 20` positions.

    Raises:
        ValueError: if `batch` or `length` is < 1.

    Source: Martins et al. 2022, sorting experiment; constants from the released data script.

    Example:
        >>> tokens, targets = sample(batch=2, length=7, generator=torch.Generator().manual_seed(0))
        >>> tokens.shape, targets.shape, tokens[0, 7].item() == SEPARATOR
        (torch.Size([2, 27]), torch.Size([2, 27]), True)
    """
    require(batch >= 1, f"batch must be at least 1 sequence, got {batch}")
    require(length >= 1, f"length must be at least 1 symbol, got {length}")
    device = generator.device
    weights = torch.randint(1, 10, (2, batch, NUM_SYMBOLS), generator=generator, device=device).float()
    from_start, from_end = (torch.multinomial(w, length, replacement=True, generator=generator) for w in weights)
    share_of_end = torch.arange(length, device=device) / length
    is_end = torch.rand(batch, length, generator=generator, device=device) < share_of_end
    symbols = torch.where(is_end, from_end, from_start)
    answer = sorted_symbols(symbols)
    separator = torch.full((batch, 1), SEPARATOR, device=device)
    ignored = torch.full((batch, length), IGNORE, device=device)
    return torch.cat([symbols, separator, answer[:, :-1]], dim=1), torch.cat([ignored, answer], dim=1)


def first_answer(length: int) -> int:
    """The first position that has a target: the separator.

    Example:
        >>> first_answer(7)
        7
    """
    return length


@checked
def accuracy(logits: Float[Tensor, "batch pos vocab"], targets: Int[Tensor, "batch pos"]) -> Float[Tensor, " batch"]:
    """Teacher-forced accuracy of each sequence over the targets that it has.

    Example:
        >>> logits = torch.eye(3).reshape(1, 3, 3)
        >>> accuracy(logits, torch.tensor([[IGNORE, 1, 0]]))
        tensor([0.5000])
    """
    asked = targets != IGNORE
    right = (logits.argmax(-1) == targets) & asked
    return reduce(right.float(), "batch pos -> batch", "sum") / reduce(asked.float(), "batch pos -> batch", "sum")


@checked
def counting_accuracy(symbols: Int[Tensor, "batch pos"], first_seen: Int[Tensor, " rank"]) -> Float[Tensor, " batch"]:
    """Expected score of somebody who counts what he sees, knows the answer so far, and breaks ties at random.

    Args:
        symbols: whole sequences.
        first_seen: for each of the 20 answers, the first position that is seen when it is given.

    Returns:
        Expected teacher-forced accuracy of each sequence.

    Example:
        >>> symbols = torch.zeros(1, 5, dtype=torch.int64)
        >>> nothing = counting_accuracy(symbols, torch.full((20,), 5))
        >>> round(nothing.item(), 3)  # chance: the mean of 1/20, 1/19, ..., 1
        0.18
    """
    answer = sorted_symbols(symbols)
    place = torch.arange(symbols.shape[1], device=symbols.device)
    seen = {}
    for start in first_seen.unique().tolist():
        masked = torch.where(place >= start, symbols, PADDING)
        seen[start] = count_symbols(masked).gather(1, answer)
    return _expected_score(torch.stack([seen[start] for start in first_seen.tolist()], dim=1))


@checked
def weighted_counting_accuracy(
    symbols: Int[Tensor, "batch pos"], weights: Float[Tensor, "rank pos"]
) -> Float[Tensor, " batch"]:
    """As `counting_accuracy`, of somebody who counts some positions more than others.

    Args:
        symbols: whole sequences.
        weights: for each of the 20 answers, what every position counts.

    Example:
        >>> symbols = torch.tensor([[3, 3, 5]])
        >>> twice = weighted_counting_accuracy(symbols, torch.tensor([1.0, 1.0, 3.0]).expand(20, 3))
        >>> bool(twice < counting_accuracy(symbols, torch.zeros(20, dtype=torch.int64)))
        True
    """
    answer = sorted_symbols(symbols)
    counts = torch.zeros(len(symbols), NUM_SYMBOLS, NUM_SYMBOLS, dtype=weights.dtype, device=symbols.device)
    for rank, weight in enumerate(weights.to(symbols.device)):
        counts[:, rank].scatter_add_(1, symbols, weight.expand(symbols.shape))
    return _expected_score(counts.gather(2, repeat(answer, "batch rank -> batch step rank", step=NUM_SYMBOLS)))


def _expected_score(counts: Tensor) -> Tensor:
    """Score of answering with the largest count that is left; counts by answer and by the symbol's true rank."""
    given = torch.ones(NUM_SYMBOLS, NUM_SYMBOLS, dtype=torch.bool, device=counts.device).tril(-1)
    counts = counts.masked_fill(given, -1)
    best = reduce(counts, "batch step rank -> batch step", "max")
    tied = reduce(
        (counts == rearrange(best, "batch step -> batch step 1")).float(), "batch step rank -> batch step", "sum"
    )
    right = counts.diagonal(dim1=1, dim2=2) == best
    return reduce(right / tied, "batch step -> batch", "mean")


def first_visible(length: int, segment_length: int, num_layers: int, memory_length: int) -> Int[Tensor, " rank"]:
    """The first position whose symbol can reach each of the 20 answers, through the actual segmentation.

    Each layer lets a segment see `memory_length` hidden states before its start, and the earliest of these saw as much
    before the start of their own segment.

    Args:
        length: symbols per sequence.
        segment_length: tokens per segment.
        num_layers: layers of the model.
        memory_length: hidden states that a layer remembers; 0 for a model without memory.

    Example:
        >>> first_visible(length=4000, segment_length=1024, num_layers=3, memory_length=1024)[0].item()
        0
        >>> first_visible(length=8000, segment_length=1024, num_layers=3, memory_length=1024)[0].item()
        4096
    """
    require(segment_length >= 1, f"segment_length must be at least 1 token, got {segment_length}")
    first = torch.arange(length, length + NUM_SYMBOLS) // segment_length * segment_length
    for _ in range(num_layers if memory_length else 0):
        first = first.clamp(min=0) // segment_length * segment_length - memory_length
    return first.clamp(min=0, max=length)


def even_attention_weights(
    length: int, segment_length: int, num_layers: int, memory_length: int
) -> Float[Tensor, "rank pos"]:
    r"""What every position counts for each answer if each layer attends evenly to all that it sees.

    Equation:
        $w \leftarrow A^\top w$ once a layer, from the answering position, where row i of A is even over the segment so
        far and the memory before it. What several layers see counts again and again: the middle of the receptive field
        the most, its far end next to nothing.

    Args:
        length: symbols per sequence.
        segment_length: tokens per segment.
        num_layers: layers of the model.
        memory_length: hidden states that a layer remembers.

    Example:
        >>> even_attention_weights(length=3, segment_length=2, num_layers=1, memory_length=1)[0]
        tensor([0.0000, 0.3333, 0.3333], dtype=torch.float64)
    """
    require(segment_length >= 1, f"segment_length must be at least 1 token, got {segment_length}")
    place = torch.arange(length + NUM_SYMBOLS)
    first = (place // segment_length * segment_length - memory_length).clamp(min=0)
    weights = torch.eye(NUM_SYMBOLS, length + NUM_SYMBOLS, dtype=torch.float64).roll(length, dims=1)
    for _ in range(num_layers):
        each = weights / (place - first + 1)
        ends = each.roll(1, dims=1)  # its share goes to positions from `first` up to its own
        ends[:, 0] = 0.0
        steps = torch.zeros_like(weights).index_add_(1, first, each) - ends
        weights = steps.cumsum(1)
    return weights[:, :length]


@dataclass(frozen=True)
class ReferenceLines:
    """Scores of counting by hand, to hold a model's accuracy against.

    Args:
        chance: knowing only which symbols were given already.
        last_segment: counting what the answering segment holds: a model without memory.
        receptive_field: counting what can reach a Transformer-XL through its layers and memory.
        exact_counts: counting everything; what is missing to 1 are ties.
    """

    chance: float
    last_segment: float
    receptive_field: float
    exact_counts: float


def reference_lines(
    length: int,
    segment_length: int,
    num_layers: int,
    memory_length: int,
    generator: torch.Generator,
    num_sequences: int = 400,
) -> ReferenceLines:
    """Scores of counting by hand at a given length and segmentation.

    Args:
        length: symbols per sequence.
        segment_length: tokens per segment.
        num_layers: layers of the model.
        memory_length: hidden states that each layer of the Transformer-XL remembers.
        generator: randomness of the sequences.
        num_sequences: how many to average over.

    Example:
        >>> lines = reference_lines(1000, 128, 3, 256, torch.Generator().manual_seed(0), num_sequences=50)
        >>> lines.chance < lines.last_segment < lines.receptive_field < lines.exact_counts
        True
    """
    seen_from = {
        "chance": torch.full((NUM_SYMBOLS,), length),
        "last_segment": first_visible(length, segment_length, num_layers, 0),
        "receptive_field": first_visible(length, segment_length, num_layers, memory_length),
        "exact_counts": torch.zeros(NUM_SYMBOLS, dtype=torch.int64),
    }
    scores = {name: [] for name in seen_from}
    rows = max(1, 2**21 // length)  # sequences at a time, so that long ones fit into memory
    for start in range(0, num_sequences, rows):
        symbols = sample(min(rows, num_sequences - start), length, generator)[0][:, :length]
        for name, first_seen in seen_from.items():
            scores[name].append(counting_accuracy(symbols, first_seen.to(symbols.device)))
    return ReferenceLines(**{name: torch.cat(parts).mean().item() for name, parts in scores.items()})
