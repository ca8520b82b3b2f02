"""Training: segments in order, gradient through the last of them, one optimiser step a batch."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from infmem.distributed import Workers
from infmem.models.compressive import CompressiveTransformerConfig
from infmem.models.infinite_former import InfiniteFormerConfig
from infmem.models.parallel import memorize
from infmem.models.transformer_xl import TransformerXL, TransformerXLConfig, WindowTransformerConfig
from infmem.optimizer import OptimizerName
from infmem.presets import MODEL_NAMES
from infmem.tasks import TaskName, find_task, sorting
from infmem.validation import check_fields, checked, require


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides how a run goes, beside the device.

    Args:
        model: configuration of the model.
        length: symbols per sequence, or tokens of a task that has no other symbols.
        segment_length: tokens per segment.
        batch_size: sequences per step.
        steps: optimiser steps.
        learning_rate: the largest one.
        warmup_steps: steps over which it rises from 0.
        final_share: what is left of it at the end of its cosine.
        clip_norm: gradients are scaled down to this norm.
        grad_segments: segments that gradient flows through, up to the one that answers.
        precision: `float32`, `bfloat16` (autocast), or `auto`: bfloat16 on GPUs.
        optimizer: what takes the steps.
        task: what is learned.
        seed: of weights and data.

    Raises:
        ValueError: naming the field, its range and what came.
    """

    model: InfiniteFormerConfig | CompressiveTransformerConfig | TransformerXLConfig | WindowTransformerConfig
    length: int
    segment_length: int
    batch_size: int
    steps: int
    learning_rate: float
    warmup_steps: int = 100
    final_share: float = 0.05
    clip_norm: float = 1.0
    grad_segments: int = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    optimizer: OptimizerName = "adam"
    task: TaskName = "sorting"
    seed: int = 0

    def __post_init__(self):
        check_fields(self)
        for name in ("length", "segment_length", "batch_size", "steps", "grad_segments"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(self.warmup_steps >= 0, f"warmup_steps must be >= 0, got {self.warmup_steps}")
        require(self.learning_rate > 0, f"learning_rate must be > 0, got {self.learning_rate}")
        require(0 <= self.final_share <= 1, f"final_share must be in [0, 1], got {self.final_share}")
        require(self.clip_norm > 0, f"clip_norm must be > 0, got {self.clip_norm}")
        require(self.seed >= 0, f"seed must be >= 0, got {self.seed}")
        asked = find_task(self.task)
        require(
            self.batch_size * self.length <= 2**28,
            f"batch_size * length must be at most {2**28:,} tokens, got {self.batch_size:,} * {self.length:,}: nothing "
            "of that size fits into memory",
        )
        require(
            self.model.vocab_size >= asked.vocab_size,
            f"vocab_size must be at least {asked.vocab_size} for the {self.task} task, got {self.model.vocab_size}",
        )
        require(
            self.length >= asked.shortest,
            f"length must be at least {asked.shortest} for the {self.task} task, got {self.length}",
        )

    @property
    def model_name(self) -> str:
        """The model's name, as the command line knows it."""
        return MODEL_NAMES[type(self.model)]


def derive_seed(seed: int, *stream: str | int) -> int:
    """A seed for one purpose, unrelated to the seeds of all others.

    Example:
        >>> derive_seed(0, "train", 1) != derive_seed(0, "train", 2)
        True
    """
    digest = hashlib.blake2b("/".join(map(str, (seed, *stream))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(device: torch.device, seed: int, *stream: str | int) -> torch.Generator:
    """A generator on a device, seeded for one purpose.

    Example:
        >>> generator_for(torch.device("cpu"), 0, "train", 1).device
        device(type='cpu')
    """
    return torch.Generator(device).manual_seed(derive_seed(seed, *stream))


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine down to `final_share` of the largest rate.

    Args:
        step: from 0.
        config: of the run.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * (config.final_share + (1 - config.final_share) * cosine)


@contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Mixed precision where the configuration asks for it, or, with `auto`, where the device is a GPU."""
    enabled = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
        yield


class Answer(NamedTuple):
    """What a model makes of a batch.

    Args:
        loss: mean cross-entropy of the targets, plus what the model adds.
        accuracy: teacher-forced accuracy of each sequence.
    """

    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, " batch"]


@checked
def answer(
    model: TransformerXL,
    tokens: Int[Tensor, "batch pos"],
    targets: Int[Tensor, "batch pos"],
    segment_length: int,
    answer_start: int,
    grad_segments: int = 1,
    generator: torch.Generator | None = None,
) -> Answer:
    """Read a batch segment by segment and score its answers.

    All segments but the last `grad_segments` before the answer are only remembered: no gradient reaches them, so they
    are read without logits, many at a time. A task that asks from the first segment on has no such segments: there
    `grad_segments=1` cuts the gradient between all segments, and any other number lets it through all of them.

    Args:
        model: any model of this package.
        tokens: whole sequences.
        targets: what should come next, `IGNORE` where nothing is asked.
        segment_length: tokens per segment.
        answer_start: first position that has a target.
        grad_segments: segments that gradient flows through, up to the one where the answer starts.
        generator: randomness of a sticky long-term memory.
    """
    require(segment_length >= 1, f"segment_length must be at least 1 token, got {segment_length}")
    first = max(0, answer_start // segment_length - (grad_segments - 1)) * segment_length
    state = memorize(model, tokens[:, :first], segment_length, generator=generator)
    logits, auxiliary = [], 0.0
    for segment in tokens[:, first:].split(segment_length, dim=1):
        segment_logits, state = model(segment, state, generator=generator, keep_graph=grad_segments > 1)
        logits.append(segment_logits)
        auxiliary = auxiliary + state.auxiliary_loss
    scores, asked = torch.cat(logits, dim=1), targets[:, first:]
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))  # a sum of exponentials is too fine for bf16
    loss = functional.cross_entropy(scores.flatten(0, 1), asked.flatten(), ignore_index=sorting.IGNORE)
    return Answer(loss + auxiliary / len(logits), sorting.accuracy(scores.detach(), asked))


class BatchReader(nn.Module):
    """A model that reads whole batches: one forward pass a step, which is what several workers can share.

    Args:
        model: any model of this package.
        config: how to train.
    """

    def __init__(self, model: TransformerXL, config: TrainingConfig):
        super().__init__()
        self.model, self.config = model, config

    def forward(
        self, tokens: Int[Tensor, "batch pos"], targets: Int[Tensor, "batch pos"], generator: torch.Generator
    ) -> Answer:
        """As `answer`, in the precision of the configuration."""
        config = self.config
        with autocast(tokens.device, config.precision):
            start = find_task(config.task).first_answer(config.length)
            return answer(self.model, tokens, targets, config.segment_length, start, config.grad_segments, generator)


class BatchResult(NamedTuple):
    """What a step on one batch gives.

    Args:
        loss: as `Answer`, without gradient.
        accuracy: the batch's mean.
        gradient_norm: before it was clipped.
    """

    loss: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]
    gradient_norm: Float[Tensor, ""]


def train_batch(
    reader: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    data: torch.Generator,
    sticky: torch.Generator,
    workers: Workers,
) -> BatchResult:
    """Draw a batch and take one optimiser step on it.

    No value is looked at and all is made where the generators are, so a GPU is never waited for.

    Args:
        reader: a `BatchReader`, as the workers wrap it.
        optimizer: of its parameters, with its learning rate set.
        config: how to train.
        data: randomness of the sequences, the same for all workers.
        sticky: randomness of a sticky long-term memory.
        workers: who reads which rows.
    """
    tokens, targets = find_task(config.task).sample(config.batch_size, config.length, data)
    result = reader(workers.rows(tokens), workers.rows(targets), sticky)
    optimizer.zero_grad(set_to_none=True)
    result.loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(reader.parameters(), config.clip_norm)
    optimizer.step()
    loss, accuracy = workers.mean(torch.stack([result.loss.detach(), result.accuracy.mean()]))
    return BatchResult(loss, accuracy, norm.detach())
