"""The order in which a batch of rows reads documents: each row one after another, segment by segment.

A document begins at the start of a segment and its last segment is filled up with positions that are not asked for, so
a segment never holds two documents. A row that has finished one takes the next that nobody has taken. The whole order
follows from a seed, so a training that was stopped goes on by the number of its step alone.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from infmem.tasks.sorting import IGNORE
from infmem.tasks.tokens import Documents
from infmem.training import derive_seed
from infmem.validation import checked, require

IDLE = -1  # a row that has nothing left to read


class Batch(NamedTuple):
    """A segment of each row.

    Args:
        tokens: what is read.
        targets: the token that comes next, `IGNORE` behind a document's end, and where it is read once more.
        begins: whether a row's document begins with this segment, so that its memory must be empty.
        documents: the number of each row's document; `IDLE` for none.
        places: where in its document the row's first target is.
    """

    tokens: Int[Tensor, "batch pos"]
    targets: Int[Tensor, "batch pos"]
    begins: Bool[Tensor, " batch"]
    documents: Int[Tensor, " batch"]
    places: Int[Tensor, " batch"]

    def to(self, device: torch.device) -> "Batch":
        """Tokens and targets where the model is, without waiting for it; the rest stays on the CPU."""
        if device.type == "cpu":
            return self
        moved = (tensor.pin_memory().to(device, non_blocking=True) for tensor in (self.tokens, self.targets))
        return Batch(*moved, *self[2:])


@dataclass(frozen=True)
class Plan:
    """Which segment of which document every row reads in every step.

    Args:
        documents: number of the document; `IDLE` for none.
        segments: number of its segment.
        is_again: whether it was read before, and is read once more so that the row's memory is that of a document.
    """

    documents: Int[Tensor, "step batch"]
    segments: Int[Tensor, "step batch"]
    is_again: Bool[Tensor, "step batch"]

    def __len__(self) -> int:
        """How many steps."""
        return len(self.documents)


def make_plan(
    num_segments: Int[Tensor, " document"],
    order: Iterable[int],
    batch: int,
    steps: int | None = None,
    again: bool = False,
) -> Plan:
    """Let rows read documents.

    Args:
        num_segments: of each document.
        order: numbers of documents, in which they are taken; without an end if `steps` is given.
        batch: number of rows.
        steps: how many; None goes on until all are read.
        again: let a row that has nothing left read once more what no row is reading.

    Example:
        >>> plan = make_plan(torch.tensor([1, 3, 1]), order=[0, 1, 2], batch=2, again=True)
        >>> plan.documents.tolist(), plan.segments.tolist(), plan.is_again.tolist()
        ([[0, 1], [2, 1], [0, 1]], [[0, 0], [0, 1], [0, 2]], [[False, False], [False, False], [True, False]])
    """
    lengths, coming, taken = num_segments.tolist(), iter(order), deque()
    document, segment, is_again = [IDLE] * batch, [0] * batch, [False] * batch
    documents, segments, agains = [], [], []
    while steps is None or len(documents) < steps:
        for row in range(batch):
            segment[row] += 1
            if document[row] != IDLE and segment[row] < lengths[document[row]]:
                continue
            document[row], segment[row], is_again[row] = next(coming, IDLE), 0, False
            if document[row] != IDLE:
                taken.append(document[row])
            elif again:
                document[row], is_again[row] = _unread(taken, document), True
        if all(number == IDLE or more for number, more in zip(document, is_again, strict=True)):
            break
        documents.append(document.copy())
        segments.append(segment.copy())
        agains.append(is_again.copy())
    columns = (documents, torch.int64), (segments, torch.int64), (agains, torch.bool)
    return Plan(*(torch.tensor(entries, dtype=dtype).reshape(-1, batch) for entries, dtype in columns))


def _unread(taken: deque[int], document: list[int]) -> int:
    """The document that was taken longest ago of those that no row is reading; `IDLE` if there is none."""
    for _ in range(len(taken)):
        taken.rotate(-1)
        if taken[-1] not in document:
            return taken[-1]
    return IDLE


def shuffled_forever(num_documents: int, seed: int) -> Iterator[int]:
    """Numbers of documents without an end: all of them in one order, then in another one.

    Args:
        num_documents: how many.
        seed: of the orders.

    Example:
        >>> from itertools import islice
        >>> sorted(islice(shuffled_forever(3, seed=0), 6))
        [0, 0, 1, 1, 2, 2]
    """
    for epoch in count():
        generator = torch.Generator().manual_seed(derive_seed(seed, "documents", epoch))
        yield from torch.randperm(num_documents, generator=generator).tolist()


def cut(documents: Documents, most: int) -> Documents:
    """The same documents, but those with more tokens than `most` as several.

    Args:
        documents: the documents.
        most: tokens of one, >= 1.

    Example:
        >>> whole = Documents(torch.arange(7), torch.tensor([0, 5, 7]), torch.tensor([50, 70]), ("a", "b"))
        >>> cut(whole, most=3).starts.tolist(), cut(whole, most=3).names
        ([0, 3, 5, 7], ('a', 'a', 'b'))
    """
    require(most >= 1, f"most must be at least 1 token, got {most}")
    starts, names, num_bytes = [], [], []
    for number, (start, length) in enumerate(zip(documents.starts.tolist(), documents.lengths.tolist(), strict=False)):
        for begin in range(0, length, most):
            starts.append(start + begin)
            names.append(documents.names[number])
            num_bytes.append(round(documents.num_bytes[number].item() * min(most, length - begin) / length))
    return Documents(
        documents.tokens, torch.tensor([*starts, len(documents.tokens)]), torch.tensor(num_bytes), tuple(names)
    )


def of_packages(documents: Documents, packages: Sequence[str], inside: bool) -> Documents:
    """Those documents whose name begins with one of these packages, or all others.

    Args:
        documents: with names such as `torch/nn/functional.py`.
        packages: names of top-level folders.
        inside: whether those of the packages are wanted, or the others.

    Raises:
        ValueError: if fewer than two are left.
    """
    chosen = [number for number, name in enumerate(documents.names) if (name.partition("/")[0] in packages) is inside]
    where = "in" if inside else "outside of"
    require(len(chosen) >= 2, f"there are {len(chosen)} documents {where} {', '.join(packages)}: name other --packages")
    return documents.some(chosen)


class Reader:
    """Documents as the batches of a plan.

    Args:
        documents: what is read.
        plan: in which order.
        segment_length: positions of a segment.
        document_token: what is read before a document's first token.
    """

    def __init__(self, documents: Documents, plan: Plan, segment_length: int, document_token: int):
        self.documents, self.plan = documents, plan
        self.segment_length, self.document_token = segment_length, document_token

    @classmethod
    def training(
        cls, documents: Documents, *, batch: int, steps: int, segment_length: int, document_token: int, seed: int
    ) -> "Reader":
        """Rows that go on for so many steps, through all documents again and again, each time in another order."""
        plan = make_plan(_segments(documents, segment_length), shuffled_forever(len(documents), seed), batch, steps)
        return cls(documents, plan, segment_length, document_token)

    @classmethod
    def once(cls, documents: Documents, *, batch: int, segment_length: int, document_token: int) -> "Reader":
        """Rows that read each document once, the longest first, so that they end at about the same time.

        A row that has nothing left reads others once more, and nothing is asked of it: as long as one row is asked
        something, the memory of each row is that of a document.
        """
        num_segments = _segments(documents, segment_length)
        order = num_segments.argsort(descending=True, stable=True).tolist()
        return cls(documents, make_plan(num_segments, order, batch, again=True), segment_length, document_token)

    def __len__(self) -> int:
        """How many batches."""
        return len(self.plan)

    def batch(self, step: int) -> Batch:
        """What every row reads in a step.

        Args:
            step: from 0.
        """
        numbers, places = self.plan.documents[step], self.plan.segments[step] * self.segment_length
        batch = _batch(self.documents, numbers, places, self.segment_length, self.document_token)
        is_again = rearrange(self.plan.is_again[step], "batch -> batch 1")
        return batch._replace(targets=batch.targets.masked_fill(is_again, IGNORE))

    @property
    def waste(self) -> float:
        """Share of all positions at which nothing is asked: behind the ends of documents, and in rows that are done."""
        numbers, segments = self.plan.documents.flatten(), self.plan.segments.flatten()
        lengths = self.documents.lengths[numbers.clamp(min=0)]
        asked = (lengths - segments * self.segment_length).clamp(0, self.segment_length)
        asked = asked * ((numbers != IDLE) & ~self.plan.is_again.flatten())
        return 1 - asked.sum().item() / (len(numbers) * self.segment_length)


def _segments(documents: Documents, segment_length: int) -> Tensor:
    """Segments of each document, the last one perhaps not full."""
    return (documents.lengths + segment_length - 1) // segment_length


@checked
def segment_places(places: Int[Tensor, " batch"], segment_length: int) -> Int[Tensor, "batch pos"]:
    """The position in its document of each target of a segment.

    Args:
        places: of the first one of each row.
        segment_length: positions of a segment.

    Example:
        >>> segment_places(torch.tensor([0, 20]), 3)
        tensor([[ 0,  1,  2],
                [20, 21, 22]])
    """
    return rearrange(places, "batch -> batch 1") + torch.arange(segment_length)


@checked
def _batch(
    documents: Documents,
    numbers: Int[Tensor, " batch"],
    places: Int[Tensor, " batch"],
    segment_length: int,
    document_token: int,
) -> Batch:
    chosen, place, last = numbers.clamp(min=0), segment_places(places, segment_length), len(documents.tokens) - 1
    ends = documents.lengths[chosen].masked_fill(numbers == IDLE, 0)
    is_asked = place < rearrange(ends, "batch -> batch 1")
    index = rearrange(documents.starts[chosen], "batch -> batch 1") + place
    targets = documents.tokens[index.clamp(max=last)].long().masked_fill(~is_asked, IGNORE)
    before = documents.tokens[(index - 1).clamp(0, last)].long()
    tokens = before.masked_fill(~is_asked | (place == 0), document_token)
    return Batch(tokens, targets, (places == 0) | (numbers == IDLE), numbers, places)
