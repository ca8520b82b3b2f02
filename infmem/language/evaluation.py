"""How well a language model expects whole documents, by position, and what its long-term memory is worth in that.

Everything is computed from one table: for each document and each range of positions, how many tokens there were and
what they cost in nats. So two models, or one with and without its memory, are compared document by document.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from infmem.language.reading import Batch, Reader, segment_places
from infmem.language.training import read_segment
from infmem.models.transformer_xl import ModelState
from infmem.tasks.sorting import IGNORE
from infmem.tasks.tokens import Documents
from infmem.training import autocast, generator_for
from infmem.validation import checked, require

MemoryUse = Literal["on", "off", "shuffled"]

# Positions of a document up to which each range goes, but the last, which has no end.
EDGES = tuple(64 * 2**power for power in range(11))


@dataclass(frozen=True)
class Costs:
    """What the tokens of documents cost a model.

    Args:
        nats: sum of the losses.
        num_tokens: how many there were.
        num_bytes: of each document.
        names: of each document.
    """

    nats: Float[Tensor, "document range"]
    num_tokens: Float[Tensor, "document range"]
    num_bytes: Float[Tensor, " document"]
    names: tuple[str, ...]

    @property
    def perplexity(self) -> float:
        """Of a token, over all documents."""
        return math.exp((self.nats.sum() / self.num_tokens.sum()).item())

    @property
    def bits_per_byte(self) -> float:
        """Over all documents: it does not depend on the vocabulary."""
        return (self.nats.sum() / self.num_bytes.sum()).item() / math.log(2)


def position_range(place: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The number of the range that a position of a document is in.

    Example:
        >>> position_range(torch.tensor([0, 63, 64, 127, 128, 10**6])).tolist()
        [0, 0, 1, 1, 2, 11]
    """
    return torch.bucketize(place, torch.tensor(EDGES, device=place.device), right=True)


def with_memory(model: nn.Module, state: ModelState, use: MemoryUse) -> ModelState:
    """A state from which the next segment is read with another long-term memory than its own.

    What is about to leave the short-term memory belongs to the long-term one: `off` drops it, and `shuffled` lets it
    change places too, so that nothing of a row's own distant past is left.

    Args:
        model: with a long-term memory.
        state: of the model.
        use: `on` leaves it, `off` empties the long-term memory, `shuffled` gives each row that of the row before.

    Raises:
        ValueError: if the model has no long-term memory, or there is but one row to shuffle.
    """
    if use == "on":
        return state
    require(
        len(state.long_term) > 0,
        "this model has no long-term memory that could be off or shuffled: leave --memories at on",
    )
    num_leaving = model.num_leaving(state.short_term[0].shape[1])
    if use == "off":
        return state._replace(
            short_term=tuple(memory[:, num_leaving:] for memory in state.short_term),
            long_term=model.empty(len(state.short_term[0])).long_term,
        )
    require(len(state.short_term[0]) > 1, "one row has nobody to change its memory with: use at least two (batch_size)")
    return state._replace(
        short_term=tuple(
            torch.cat([memory[:, :num_leaving].roll(1, dims=0), memory[:, num_leaving:]], dim=1)
            for memory in state.short_term
        ),
        long_term=tuple(type(memory)(*(part.roll(1, dims=0) for part in memory)) for memory in state.long_term),
    )


@torch.no_grad()
def evaluate_language(
    model: nn.Module,
    documents: Documents,
    *,
    segment_length: int,
    document_token: int,
    batch_size: int = 16,
    memories: Sequence[MemoryUse] = ("on",),
    precision: str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> dict[MemoryUse, Costs]:
    """Let a model read documents from start to end, and note what each token costs.

    The state goes on as it is with the memory on; `off` and `shuffled` read each segment from the same state, with
    another long-term memory.

    Args:
        model: any model of this package, or a GPT-2 behind the same interface; evaluated where it is.
        documents: what it reads.
        segment_length: tokens per segment, as in training.
        document_token: what is read before a document's first token.
        batch_size: rows.
        memories: how the long-term memory is used.
        precision: as in training.
        seed: of a sticky long-term memory.
        progress: show a bar on a terminal.
    """
    require(len(documents) >= 2, f"at least 2 documents are needed for an interval, got {len(documents)}")
    device, was_training = model.embedding.weight.device, model.training
    reader = Reader.once(documents, batch=batch_size, segment_length=segment_length, document_token=document_token)
    nats = {use: torch.zeros(len(documents), len(EDGES) + 1, dtype=torch.float64, device=device) for use in memories}
    num_tokens = torch.zeros(len(documents), len(EDGES) + 1, dtype=torch.float64)
    generator, state = generator_for(device, seed, "evaluate-sticky"), model.eval().empty(batch_size)
    for step in tqdm(range(len(reader)), desc="evaluate", unit="segment", disable=None if progress else True):
        batch = reader.batch(step)
        cells, is_asked = _cells(batch), batch.targets != IGNORE
        num_tokens.view(-1).index_add_(0, cells[is_asked], torch.ones(int(is_asked.sum()), dtype=torch.float64))
        moved, cells = batch.to(device), cells.to(device)
        state, after = state.reset(batch.begins), None
        for use in sorted(memories, key="on".__ne__):
            with autocast(device, precision):
                segment = read_segment(model, moved, with_memory(model, state, use), generator)
            after = segment.state if after is None else after
            nats[use].view(-1).index_add_(0, cells.flatten(), segment.losses.flatten().double())
        state = after
    model.train(was_training)
    return {
        use: Costs(table.cpu(), num_tokens, documents.num_bytes.double(), documents.names)
        for use, table in nats.items()
    }


def _cells(batch: Batch) -> Tensor:
    """For each position the cell of the flat table of documents and ranges; idle rows, which cost nothing, take 0."""
    place = segment_places(batch.places, batch.targets.shape[1])
    row = rearrange(batch.documents.clamp(min=0), "batch -> batch 1")
    return row * (len(EDGES) + 1) + position_range(place)


@checked
def resampled_means(
    nats: Float[Tensor, " document"],
    num_tokens: Float[Tensor, " document"],
    draws: Int[Tensor, "draw document"],
) -> Float[Tensor, " draw"]:
    """Mean cost of a token in documents that were drawn with replacement.

    Args:
        nats: cost of each document.
        num_tokens: tokens of each.
        draws: numbers of documents.
    """
    return reduce(nats[draws], "draw document -> draw", "sum") / reduce(
        num_tokens[draws], "draw document -> draw", "sum"
    ).clamp(min=1)


def bootstrap_draws(num_documents: int, seed: int = 0, num_draws: int = 2000) -> Int[Tensor, "draw document"]:
    """Numbers of documents, drawn with replacement; the same for all that is compared.

    Example:
        >>> bootstrap_draws(5, num_draws=3).shape
        torch.Size([3, 5])
    """
    generator = generator_for(torch.device("cpu"), seed, "bootstrap")
    return torch.randint(num_documents, (num_draws, num_documents), generator=generator)


def perplexity_interval(costs: Costs, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the perplexity, by bootstrap over documents.

    Args:
        costs: of a model.
        seed: of the draws.
    """
    draws = bootstrap_draws(len(costs.names), seed)
    means = resampled_means(costs.nats.sum(1), costs.num_tokens.sum(1), draws)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).exp().tolist()
    return low, high


def perplexity_ratio(costs: Costs, other: Costs, seed: int = 0) -> tuple[float, float, float]:
    """By which factor a perplexity is that of another model on the same documents, and its paired 95 % interval.

    Args:
        costs: of a model.
        other: of the one that it is compared with.
        seed: of the draws.

    Raises:
        ValueError: if the documents are not the same.
    """
    require(costs.names == other.names, "the two were evaluated on other documents: evaluate both on the same ones")
    draws, means = bootstrap_draws(len(costs.names), seed), []
    for part in (costs, other):
        means.append(resampled_means(part.nats.sum(1), part.num_tokens.sum(1), draws))
    difference = means[0] - means[1]
    low, high = difference.quantile(torch.tensor([0.025, 0.975], dtype=difference.dtype)).exp().tolist()
    return costs.perplexity / other.perplexity, low, high


def by_position(costs: Costs, seed: int = 0) -> list[dict[str, int | float]]:
    """Perplexity in each range of positions that some document reaches, with its interval over documents.

    Args:
        costs: of a model.
        seed: of the draws.

    Returns:
        Rows with `start` and `end` of the range (an `end` of 0 for the last, which has none), `num_documents`,
        `num_tokens`, `ppl`, `low` and `high`.
    """
    rows = []
    for number, (start, end) in enumerate(zip((0, *EDGES), (*EDGES, 0), strict=True)):
        nats, num_tokens = costs.nats[:, number], costs.num_tokens[:, number]
        reached = num_tokens > 0
        if not reached.any():
            continue
        draws = bootstrap_draws(int(reached.sum()), seed)
        means = resampled_means(nats[reached], num_tokens[reached], draws)
        low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).exp().tolist()
        ppl = math.exp((nats.sum() / num_tokens.sum()).item())
        row = {"start": start, "end": end, "num_documents": int(reached.sum()), "num_tokens": int(num_tokens.sum())}
        rows.append(row | {"ppl": ppl, "low": low, "high": high})
    return rows


def save_costs(path: Path, costs: Costs) -> None:
    """Write costs to a file, so that they can be compared with those of another model later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"nats": costs.nats, "num_tokens": costs.num_tokens, "num_bytes": costs.num_bytes}
    save_file(tensors, path, {"names": json.dumps(costs.names)})


def load_costs(path: Path) -> Costs:
    """Read costs from a file.

    Raises:
        ValueError: if there is none.
    """
    require(path.is_file(), f"there are no costs at {path}: evaluate the model first")
    with safe_open(path, framework="pt") as file:
        names = tuple(json.loads(file.metadata()["names"]))
        return Costs(**{name: file.get_tensor(name) for name in file.keys()}, names=names)
