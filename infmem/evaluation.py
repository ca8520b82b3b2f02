"""Evaluation: accuracy on fresh sequences, with an interval.

Sorting is scored when the answer so far is given and when it is not; recall by how long ago the fact was stated.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infmem.models.parallel import memorize
from infmem.models.transformer_xl import TransformerXL
from infmem.tasks import TaskName, find_task, recall, sorting
from infmem.training import answer, autocast, generator_for
from infmem.validation import checked, require


@dataclass(frozen=True)
class Evaluation:
    """A model's score on a task.

    Args:
        accuracy: teacher-forced: whatever came before a target is the truth.
        ci95: half the width of its 95 % interval, over sequences.
        sequences: how many it was measured on.
        length: symbols (of recall, tokens) per sequence.
        seconds: time that it took.
    """

    accuracy: float
    ci95: float
    sequences: int
    length: int
    seconds: float


@dataclass(frozen=True)
class SortingEvaluation(Evaluation):
    """A model's score on the sorting task.

    Args:
        free_running: accuracy when the model reads its own answers instead of the true ones.
        free_running_ci95: half the width of that interval.
    """

    free_running: float
    free_running_ci95: float


@dataclass(frozen=True)
class AgeScore:
    """Accuracy of the answers about facts of one age.

    Args:
        age: segments between the fact and the question: 0 if one segment holds both.
        accuracy: mean over sequences.
        ci95: half the width of its 95 % interval.
        sequences: how many of them have such a question.
    """

    age: int
    accuracy: float
    ci95: float
    sequences: int


@dataclass(frozen=True)
class RecallEvaluation(Evaluation):
    """A model's score on the recall task. No answer stands in its input, so there is nothing else to run freely.

    Args:
        by_age: accuracy by age of the fact, youngest first; ages that fewer than two sequences ask for are left out.
    """

    by_age: tuple[AgeScore, ...]


@checked
def free_run(
    model: TransformerXL,
    symbols: Int[Tensor, "batch pos"],
    segment_length: int,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch rank"]:
    """The model's own answer: the 20 tokens that it gives when it reads what it gave before.

    Args:
        model: any model of this package.
        symbols: sequences to sort.
        segment_length: tokens per segment, as in training.
        generator: randomness of a sticky long-term memory.

    Example:
        >>> from infmem.presets import build_model, model_config, preset
        >>> model = build_model(model_config("window", preset("classroom")))
        >>> free_run(model, torch.zeros(2, 37, dtype=torch.int64), segment_length=16).shape
        torch.Size([2, 20])
    """
    require(segment_length >= 1, f"segment_length must be at least 1 token, got {segment_length}")
    with torch.no_grad():
        tokens = torch.cat([symbols, torch.full_like(symbols[:, :1], sorting.SEPARATOR)], dim=1)
        start = symbols.shape[1] // segment_length * segment_length
        state = memorize(model, tokens[:, :start], segment_length, generator=generator)
        given = []
        for _ in range(sorting.NUM_SYMBOLS):
            if tokens.shape[1] - start > segment_length:
                state = model(tokens[:, start : start + segment_length], state, generator=generator)[1]
                start += segment_length
            logits, _ = model(tokens[:, start:], state, generator=generator)
            given.append(logits[:, -1:].argmax(-1))
            tokens = torch.cat([tokens, given[-1]], dim=1)
        return torch.cat(given, dim=1)


def evaluate(
    model: TransformerXL,
    length: int,
    segment_length: int,
    *,
    task: TaskName = "sorting",
    sequences: int = 512,
    batch_size: int = 64,
    seed: int = 0,
    precision: str = "auto",
) -> SortingEvaluation | RecallEvaluation:
    """Score a model on sequences that no training step has seen.

    Args:
        model: any model of this package; evaluated where it is.
        length: symbols (of recall, tokens) per sequence, which may differ from training.
        segment_length: tokens per segment, as in training.
        task: what it was trained on.
        sequences: how many.
        batch_size: how many at a time.
        seed: of the sequences.
        precision: as in training.

    Raises:
        ValueError: if there are too few sequences for an interval, or the length is too short for the task.

    Example:
        >>> from infmem.presets import build_model, model_config, preset
        >>> model = build_model(model_config("window", preset("classroom")))
        >>> evaluate(model, length=37, segment_length=16, sequences=4).sequences
        4
    """
    require(sequences >= 2, f"sequences must be at least 2 for an interval, got {sequences}")
    require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}")
    require(segment_length >= 1, f"segment_length must be at least 1 token, got {segment_length}")
    score, summarize = _FORMS[task]
    device, began, was_training = model.embedding.weight.device, time.perf_counter(), model.training
    parts = []
    model.eval()
    with torch.no_grad(), autocast(device, precision):
        for index, start in enumerate(range(0, sequences, batch_size)):
            count = min(batch_size, sequences - start)
            batch = find_task(task).sample(count, length, generator_for(device, seed, "evaluate", length, index))
            sticky = generator_for(device, seed, "evaluate-sticky", index)
            parts.append(score(model, *batch, segment_length, sticky))
    model.train(was_training)
    (accuracy, *others) = torch.cat(parts).double().unbind(1)
    shared = (*_mean_and_ci95(accuracy), sequences, length, time.perf_counter() - began)
    return summarize(shared, others)


@checked
def _sorting_scores(
    model: TransformerXL,
    tokens: Int[Tensor, "batch pos"],
    targets: Int[Tensor, "batch pos"],
    segment_length: int,
    generator: torch.Generator,
) -> Float[Tensor, "batch score"]:
    """Accuracy of each sequence when the answer so far is given, and when it is not."""
    length = sorting.first_answer(tokens.shape[1] - sorting.NUM_SYMBOLS)
    forced = answer(model, tokens, targets, segment_length, length, generator=generator).accuracy
    given = free_run(model, tokens[:, :length], segment_length, generator)
    return torch.stack([forced, (given == targets[:, length:]).float().mean(-1)], dim=1)


@checked
def _recall_scores(
    model: TransformerXL,
    tokens: Int[Tensor, "batch pos"],
    targets: Int[Tensor, "batch pos"],
    segment_length: int,
    generator: torch.Generator,
) -> Float[Tensor, "batch score"]:
    """Accuracy of each sequence, then that of its questions of each age in segments; NaN where it has none."""
    state, logits = None, []
    for segment in tokens.split(segment_length, dim=1):
        segment_logits, state = model(segment, state, generator=generator)
        logits.append(segment_logits)
    scores = torch.cat(logits, dim=1).float()  # in bfloat16 several tokens may have the highest score
    ages = recall.ages(tokens, segment_length)
    num_ages = -(-tokens.shape[1] // segment_length)
    of_age = [torch.where(ages == age, targets, sorting.IGNORE) for age in range(num_ages)]
    return torch.stack([sorting.accuracy(scores, asked) for asked in (targets, *of_age)], dim=1)


def _sorting_evaluation(shared: tuple, others: list[Tensor]) -> SortingEvaluation:
    (free,) = others
    return SortingEvaluation(*shared, *_mean_and_ci95(free))


def _recall_evaluation(shared: tuple, others: list[Tensor]) -> RecallEvaluation:
    by_age = []
    for age, scores in enumerate(others):
        scores = scores[~scores.isnan()]
        if len(scores) >= 2:
            by_age.append(AgeScore(age, *_mean_and_ci95(scores), len(scores)))
    return RecallEvaluation(*shared, tuple(by_age))


# For each task, the scores of a batch, and what they come to: the first score is the accuracy.
_FORMS: dict[TaskName, tuple[Callable, Callable]] = {
    "sorting": (_sorting_scores, _sorting_evaluation),
    "recall": (_recall_scores, _recall_evaluation),
}


def _mean_and_ci95(scores: Tensor) -> tuple[float, float]:
    return scores.mean().item(), 1.96 * scores.std().item() / math.sqrt(len(scores))
