"""The order in which a batch of rows reads documents: each row one after another, segment by segment.

A document begins at the start of a segment and its last segment is filled up with positions that are not asked for, so
a segment never holds two documents. A row that has finished one takes the next that nobody has taken. The whole order
follows from a seed, so a training that was stopped goes on by the number of its step alone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import torch
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
        targets: the token that comes next, `IGNORE` behind a document's end.
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
    """

    documents: Int[Tensor, "step batch"]
    segments: Int[Tensor, "step batch"]

    def __len__(self) -> int:
        """How many steps."""
        return len(self.documents)


def make_plan(num_segments: Int[Tensor, " document"], order: Iterable[int], batch: int, steps: int | None) -> Plan:
    """Let rows read documents.

    Args:
        num_segments: of each document.
        order: numbers of documents, in which they are taken; without an end if `steps` is given.
        batch: number of rows.
        steps: how many; None goes on until all are read.

    Example:
        >>> plan = make_plan(torch.tensor([1, 3, 2]), order=[0, 1, 2], batch=2, steps=None)
        >>> plan.documents.tolist(), plan.segments.tolist()
        ([[0, 1], [2, 1], [2, 1]], [[0, 0], [0, 1], [1, 2]])
    """
    lengths, coming = num_segments.tolist(), iter(order)
    document, segment = [IDLE] * batch, [0] * batch
    documents, segments = [], []
    while steps is None or len(documents) < steps:
        for row in range(batch):
            segment[row] += 1
            if document[row] == IDLE or segment[row] >= lengths[document[row]]:
                document[row], segment[row] = next(coming, IDLE), 0
        if document == [IDLE] * batch:
            break
        documents.append(document.copy())
        segments.append(segment.copy())
    return Plan(*(torch.tensor(entries, dtype=torch.int64).reshape(-1, batch) for entries in (documents, segments)))


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
        """Rows that read each document once, the longest first, so that they end at about the same time."""
        num_segments = _segments(documents, segment_length)
        order = num_segments.argsort(descending=True, stable=True).tolist()
        return cls(documents, make_plan(num_segments, order, batch, None), segment_length, document_token)

    def __len__(self) -> int:
        """How many batches."""
        return len(self.plan)

    def batch(self, step: int) -> Batch:
        """What every row reads in a step.

        Args:
            step: from 0.
        """
        numbers, places = self.plan.documents[step], self.plan.segments[step] * self.segment_length
        return _batch(self.documents, numbers, places, self.segment_length, self.document_token)

    @property
    def waste(self) -> float:
        """Share of all positions that nothing is asked at: behind the ends of documents, and in idle rows."""
        numbers, segments = self.plan.documents.flatten(), self.plan.segments.flatten()
        lengths = self.documents.lengths[numbers.clamp(min=0)]
        asked = (lengths - segments * self.segment_length).clamp(0, self.segment_length) * (numbers != IDLE)
        return 1 - asked.sum().item() / (len(numbers) * self.segment_length)


def _segments(documents: Documents, segment_length: int) -> Tensor:
    """Segments of each document, the last one perhaps not full."""
    return (documents.lengths + segment_length - 1) // segment_length


@checked
def _batch(
    documents: Documents,
    numbers: Int[Tensor, " batch"],
    places: Int[Tensor, " batch"],
    segment_length: int,
    document_token: int,
) -> Batch:
    is_idle, chosen = numbers == IDLE, numbers.clamp(min=0)
    place = places[:, None] + torch.arange(segment_length)
    is_asked = (place < documents.lengths[chosen][:, None]) & ~is_idle[:, None]
    index = documents.starts[chosen][:, None] + place
    targets = documents.tokens[index.clamp(max=len(documents.tokens) - 1)].long().masked_fill(~is_asked, IGNORE)
    before = documents.tokens[(index - 1).clamp(0, len(documents.tokens) - 1)].long()
    tokens = before.masked_fill(~is_asked | (place == 0), document_token)
    return Batch(tokens, targets, (places == 0) | is_idle, numbers, places)
