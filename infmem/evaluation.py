"""Evaluation: accuracy on fresh sequences, with an interval, when the answer is given and when it is not."""

import math
import time
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from infmem.models.parallel import memorize
from infmem.models.transformer_xl import TransformerXL
from infmem.tasks import sorting
from infmem.training import answer, autocast, generator_for
from infmem.validation import checked, require


@dataclass(frozen=True)
class Evaluation:
    """A model's score on the sorting task.

    Args:
        accuracy: teacher-forced: each target is predicted from the true ones before it.
        ci95: half the width of its 95 % interval, over sequences.
        free_running: accuracy when the model reads its own answers instead.
        free_running_ci95: half the width of that interval.
        sequences: how many it was measured on.
        length: symbols per sequence.
        seconds: time that it took.
    """

    accuracy: float
    ci95: float
    free_running: float
    free_running_ci95: float
    sequences: int
    length: int
    seconds: float


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
    sequences: int = 512,
    batch_size: int = 64,
    seed: int = 0,
    precision: str = "auto",
) -> Evaluation:
    """Score a model on sequences that no training step has seen.

    Args:
        model: any model of this package; evaluated where it is.
        length: symbols per sequence, which may differ from training.
        segment_length: tokens per segment, as in training.
        sequences: how many.
        batch_size: how many at a time.
        seed: of the sequences.
        precision: as in training.

    Raises:
        ValueError: if there are too few sequences for an interval.

    Example:
        >>> from infmem.presets import build_model, model_config, preset
        >>> model = build_model(model_config("window", preset("classroom")))
        >>> evaluate(model, length=37, segment_length=16, sequences=4).sequences
        4
    """
    require(sequences >= 2, f"sequences must be at least 2 for an interval, got {sequences}")
    require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}")
    device, began, was_training = model.embedding.weight.device, time.perf_counter(), model.training
    forced, free = [], []
    model.eval()
    with torch.no_grad(), autocast(device, precision):
        for index, start in enumerate(range(0, sequences, batch_size)):
            count = min(batch_size, sequences - start)
            tokens, targets = sorting.sample(count, length, generator_for(device, seed, "evaluate", length, index))
            sticky = generator_for(device, seed, "evaluate-sticky", index)
            forced.append(answer(model, tokens, targets, segment_length, length, generator=sticky).accuracy)
            given = free_run(model, tokens[:, :length], segment_length, sticky)
            free.append((given == targets[:, length:]).float().mean(-1))
    model.train(was_training)
    (accuracy, ci95), (free_accuracy, free_ci95) = (_mean_and_ci95(torch.cat(scores)) for scores in (forced, free))
    seconds = time.perf_counter() - began
    return Evaluation(accuracy, ci95, free_accuracy, free_ci95, sequences, length, seconds)


def _mean_and_ci95(scores: Tensor) -> tuple[float, float]:
    scores = scores.double()
    return scores.mean().item(), 1.96 * scores.std().item() / math.sqrt(len(scores))
