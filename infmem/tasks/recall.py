r"""Recall: facts that are stated once, early in a long noisy stream, and asked for again and again.

The stream comes in slots of three tokens. FACT key value states a fact, NOISE key value means nothing, and ASK key
BLANK asks for the value that was stated with that key: the target stands at the key, and no answer is ever in the
input. All facts lie in the first slots; from then on they only grow older. A model whose memory reaches back so far
answers as well at the end as at the beginning, and accuracy by age of the fact shows how far it does.

Only a few of the facts are ever asked for, other ones in every sequence, and those few again and again. That is the
best chance for a sticky memory, and a fair one: what is worth keeping can't be seen when it is stated, only from what
is asked, so a memory that samples evenly has to keep all of the stream or none of it, while one that samples where it
was read can spend its room on the facts in use. Half of all slots ask, so that the attention of every segment returns
to them. Questions also come right after a fact, in its own segment: there a model learns to answer them, since no
gradient reaches what earlier segments have written.
"""

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from infmem.tasks.sorting import IGNORE
from infmem.validation import checked, require

SLOT_LENGTH = 3
FACT, ASK, NOISE, BLANK = range(4)
NUM_KEYS = NUM_VALUES = 16
FIRST_KEY = 4
FIRST_VALUE = FIRST_KEY + NUM_KEYS
VOCAB_SIZE = FIRST_VALUE + NUM_VALUES

NUM_FACTS = 8
NUM_WANTED = 2  # of the facts, those that are asked for
EARLY_SLOTS = 32  # facts are stated in these: 96 tokens, and two dozen questions more fit into a segment of 128
ASK_SHARE = 0.5

SHORTEST = SLOT_LENGTH * (EARLY_SLOTS + 1) - 1  # a slot that asks, and may lack its blank, after all facts
CHANCE = 1 / NUM_VALUES  # knowing that a value is asked for, and nothing else


def sample(
    batch: int, length: int, generator: torch.Generator
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Draw sequences, made on the generator's device without waiting for it.

    The facts have different keys and go to different slots of the first `EARLY_SLOTS`. Any other slot asks with
    probability `ASK_SHARE` for one of the wanted facts, if that was stated already, and is noise otherwise. The last
    slot always asks.

    Args:
        batch: number of sequences >= 1.
        length: tokens per sequence >= `SHORTEST`; the last slot may be cut off.
        generator: source of randomness; its device is where the data are.

    Returns:
        Tokens and, for each token, the target: the value at the key of a question, `IGNORE` elsewhere.

    Raises:
        ValueError: if `batch` or `length` is too small.

    Source: ours. Associative recall, as in Graves et al. 2014 (arXiv 1410.5401), with noise, old age and facts that
        are never wanted.

    Example:
        >>> tokens, targets = sample(batch=2, length=200, generator=torch.Generator().manual_seed(0))
        >>> tokens.shape, targets.shape, tokens[0, 198].item() == ASK, targets[0, 199].item() >= FIRST_VALUE
        (torch.Size([2, 200]), torch.Size([2, 200]), True, True)
    """
    require(batch >= 1, f"batch must be at least 1 sequence, got {batch}")
    require(length >= SHORTEST, f"length must be at least {SHORTEST} tokens, so that all facts fit, got {length}")
    num_slots = -(-length // SLOT_LENGTH)
    options = {"generator": generator, "device": generator.device}

    def any_of(number: int, size: int) -> Tensor:
        return torch.randint(number, (batch, size), **options)

    def different(number: int, size: int) -> Tensor:
        return torch.rand(batch, number, **options).argsort(-1)[:, :size]

    fact_slots = different(EARLY_SLOTS, NUM_FACTS)
    fact_keys = FIRST_KEY + different(NUM_KEYS, NUM_FACTS)
    fact_values = FIRST_VALUE + any_of(NUM_VALUES, NUM_FACTS)
    wanted = any_of(NUM_WANTED, num_slots)  # facts are in no order, so the first ones are as good as any
    slot = torch.arange(num_slots, device=generator.device)
    is_last = slot == (length - 2) // SLOT_LENGTH  # of those that hold a key
    states = torch.zeros(batch, num_slots, dtype=torch.bool, device=generator.device).scatter(1, fact_slots, True)
    asks = is_last | (torch.rand(batch, num_slots, **options) < ASK_SHARE)
    asks = asks & ~states & (fact_slots.gather(1, wanted) < slot)
    answers = fact_values.gather(1, wanted)
    markers = torch.where(states, FACT, torch.where(asks, ASK, NOISE))
    keys = torch.where(asks, fact_keys.gather(1, wanted), FIRST_KEY + any_of(NUM_KEYS, num_slots))
    values = torch.where(asks, BLANK, FIRST_VALUE + any_of(NUM_VALUES, num_slots))
    tokens = _joined(markers, keys.scatter(1, fact_slots, fact_keys), values.scatter(1, fact_slots, fact_values))
    nothing = torch.full_like(answers, IGNORE)
    targets = _joined(nothing, torch.where(asks, answers, IGNORE), nothing)
    return tokens[:, :length], targets[:, :length]


def _joined(*parts: Tensor) -> Tensor:
    """The three tokens of every slot in a row."""
    return rearrange(torch.stack(parts), "part batch slot -> batch (slot part)")


def first_answer(length: int) -> int:
    """The first position that may have a target: the key of the second slot.

    Example:
        >>> first_answer(200)
        4
    """
    return SLOT_LENGTH + 1


@checked
def stated_at(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Where the fact that each key names was stated: the position of its key there.

    Args:
        tokens: whole sequences.

    Returns:
        A position for every key, of a question or any other, whose fact is stated in the sequence; -1 elsewhere.

    Example:
        >>> stated_at(torch.tensor([[FACT, 7, 21, NOISE, 8, 22, ASK, 7, BLANK]])).tolist()
        [[-1, 1, -1, -1, -1, -1, -1, 1, -1]]
    """
    tokens = tokens.long()
    is_stated = torch.zeros_like(tokens, dtype=torch.bool)
    is_stated[:, 1:] = tokens[:, :-1] == FACT
    is_key = (tokens >= FIRST_KEY) & (tokens < FIRST_VALUE)
    key = torch.where(is_key, tokens - FIRST_KEY, NUM_KEYS)  # one column more takes what is no key
    place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    places = torch.full((len(tokens), NUM_KEYS + 1), -1, device=tokens.device)
    places = places.scatter_reduce(1, torch.where(is_stated, key, NUM_KEYS), torch.where(is_stated, place, -1), "amax")
    return places.gather(1, key)


@checked
def ages(tokens: Int[Tensor, "batch pos"], unit: int = 1) -> Int[Tensor, "batch pos"]:
    r"""How long ago the fact that a question asks for was stated.

    Equation:
        $\lfloor i / L \rfloor - \lfloor j / L \rfloor$ for the question's key at i, the fact's key at j and a unit of
        L: with 1 in tokens, with the length of a segment in segments.

    Args:
        tokens: whole sequences.
        unit: tokens that count as one.

    Returns:
        An age at the key of every question, -1 elsewhere.

    Raises:
        ValueError: if the unit is < 1.

    Example:
        >>> stream = torch.tensor([[FACT, 7, 21, NOISE, 8, 22, ASK, 7, BLANK]])
        >>> ages(stream).tolist(), ages(stream, unit=5).tolist()
        ([[-1, -1, -1, -1, -1, -1, -1, 6, -1]], [[-1, -1, -1, -1, -1, -1, -1, 1, -1]])
    """
    require(unit >= 1, f"unit must be at least 1 token, got {unit}")
    asks = torch.zeros_like(tokens, dtype=torch.bool)
    asks[:, 1:] = tokens[:, :-1] == ASK
    place, stated = torch.arange(tokens.shape[1], device=tokens.device), stated_at(tokens)
    return torch.where(asks & (stated >= 0), place // unit - stated // unit, -1)
