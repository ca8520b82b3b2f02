r"""Recall: facts that are stated once, early in a long noisy stream, and asked for again and again.

Every token of the stream is a fact, noise or a question. A fact is a key and a value in one token, "key 3 is 5"; a
question names a key, and its target is the fact with that key. The answer never stands in the input. All facts lie
among the first tokens; from then on they only grow older. A model whose memory reaches back so far answers as well at
the end as at the beginning, and accuracy by age of the fact shows how far it does.

Two choices give memory its say, and sticky memories their best chance that is fair:

1. Only some of the facts are ever asked for, other ones in every sequence, and those again and again: half of all later
   tokens are questions. What is worth keeping can't be seen when it is stated, only from what is asked for. A memory
   that samples evenly has to keep all of the stream or none of it; one that samples where it was read can spend its
   room on the facts in use. Noise has as many tokens as there are possible facts, and is drawn as they are.
2. Key and value are one token, and the question is one too. If they were apart, a model would have to join them before
   it remembers them, and to find the pair by its key later; learning that is another task, which hides this one: an
   infinite-former then knew the facts' values, and hardly which was whose.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from infmem.tasks.sorting import IGNORE
from infmem.validation import checked, require

NUM_KEYS = NUM_VALUES = 8
FIRST_NOISE = NUM_KEYS * NUM_VALUES  # tokens below it are facts: key * NUM_VALUES + value
FIRST_QUESTION = 2 * FIRST_NOISE  # and from it on, questions: one for each key
VOCAB_SIZE = FIRST_QUESTION + NUM_KEYS

NUM_FACTS = 4
NUM_WANTED = 2  # of the facts, those that are asked for
EARLY = 64  # facts are stated in so many first tokens: half of a segment of 128
QUESTION_SHARE = 0.5

SHORTEST = EARLY + 1  # all facts, and a question
CHANCE = 1 / NUM_VALUES  # of somebody who knows which facts have the key, and no more


def sample(
    batch: int, length: int, generator: torch.Generator
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Draw sequences, made on the generator's device without waiting for it.

    The facts have different keys and stand at different places among the first `EARLY` tokens. Any other token asks,
    with probability `QUESTION_SHARE`, for one of the wanted facts if that was stated already, and is noise otherwise.
    The last token always asks.

    Args:
        batch: number of sequences >= 1.
        length: tokens per sequence >= `SHORTEST`.
        generator: source of randomness; its device is where the data are.

    Returns:
        Tokens and, for each token, the target: the fact at a question, `IGNORE` elsewhere.

    Raises:
        ValueError: if `batch` or `length` is too small.

    Source: ours. Associative recall, as in Graves et al. 2014 (arXiv 1410.5401), with noise, old age and facts that
        are never wanted.

    Example:
        >>> tokens, targets = sample(batch=2, length=200, generator=torch.Generator().manual_seed(0))
        >>> tokens.shape, tokens[0, -1].item() - FIRST_QUESTION == targets[0, -1].item() // NUM_VALUES
        (torch.Size([2, 200]), True)
        >>> targets[0, -1] in tokens[0, :EARLY]
        True
    """
    require(batch >= 1, f"batch must be at least 1 sequence, got {batch}")
    require(length >= SHORTEST, f"length must be at least {SHORTEST} tokens, so that all facts fit, got {length}")
    options = {"generator": generator, "device": generator.device}

    def any_of(number: int, size: int) -> Tensor:
        return torch.randint(number, (batch, size), **options)

    def different(number: int, size: int) -> Tensor:
        return torch.rand(batch, number, **options).argsort(-1)[:, :size]

    places, keys = different(EARLY, NUM_FACTS), different(NUM_KEYS, NUM_FACTS)
    facts = keys * NUM_VALUES + any_of(NUM_VALUES, NUM_FACTS)
    place = torch.arange(length, device=generator.device)
    wanted = any_of(NUM_WANTED, length)  # facts are in no order, so the first ones are as good as any
    is_fact = torch.zeros(batch, length, dtype=torch.bool, device=generator.device).scatter(1, places, True)
    asks = (place == length - 1) | (torch.rand(batch, length, **options) < QUESTION_SHARE)
    asks = asks & ~is_fact & (places.gather(1, wanted) < place)
    noise = FIRST_NOISE + any_of(FIRST_QUESTION - FIRST_NOISE, length)
    tokens = torch.where(asks, FIRST_QUESTION + keys.gather(1, wanted), noise).scatter(1, places, facts)
    return tokens, torch.where(asks, facts.gather(1, wanted), IGNORE)


def first_answer(length: int) -> int:
    """The first position that may have a target: the second one, after a fact.

    Example:
        >>> first_answer(200)
        1
    """
    return 1


@checked
def stated_at(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Where the fact that a question asks for was stated.

    Args:
        tokens: whole sequences.

    Returns:
        A position for every question whose fact is in the sequence, -1 elsewhere.

    Example:
        >>> key, value = 3, 5
        >>> fact, question = key * NUM_VALUES + value, FIRST_QUESTION + key
        >>> stated_at(torch.tensor([[FIRST_NOISE, fact, FIRST_NOISE, question]])).tolist()
        [[-1, -1, -1, 1]]
    """
    tokens = tokens.long()
    is_fact, asks = tokens < FIRST_NOISE, tokens >= FIRST_QUESTION
    nothing = NUM_KEYS  # a column more, for what has no key
    place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    places = torch.full((len(tokens), NUM_KEYS + 1), -1, device=tokens.device)
    places = places.scatter(1, torch.where(is_fact, tokens // NUM_VALUES, nothing), place)
    places[:, nothing] = -1
    return places.gather(1, torch.where(asks, tokens - FIRST_QUESTION, nothing))


@checked
def ages(tokens: Int[Tensor, "batch pos"], unit: int = 1) -> Int[Tensor, "batch pos"]:
    r"""How long ago the fact that a question asks for was stated.

    Equation:
        $\lfloor i / L \rfloor - \lfloor j / L \rfloor$ for a question at i, its fact at j and a unit of L: with 1 in
        tokens, with the length of a segment in segments.

    Args:
        tokens: whole sequences.
        unit: tokens that count as one.

    Returns:
        An age for every question, -1 elsewhere.

    Raises:
        ValueError: if the unit is < 1.

    Example:
        >>> stream = torch.tensor([[FIRST_NOISE, 29, FIRST_NOISE, FIRST_QUESTION + 3]])
        >>> ages(stream).tolist(), ages(stream, unit=3).tolist()
        ([[-1, -1, -1, 2]], [[-1, -1, -1, 1]])
    """
    require(unit >= 1, f"unit must be at least 1 token, got {unit}")
    place, stated = torch.arange(tokens.shape[1], device=tokens.device), stated_at(tokens)
    return torch.where(stated >= 0, place // unit - stated // unit, -1)
