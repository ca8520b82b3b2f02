"""Training a language model: every row reads documents, segment by segment, and an optimiser step follows each.

What a model remembers goes on from step to step without gradient, and is emptied for a row whose next document begins.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from infmem.checkpoint import Checkpoint, load_checkpoint
from infmem.config import from_dict
from infmem.fast import compiled, why_not_compile
from infmem.language.reading import Batch, Reader, cut
from infmem.models.transformer_xl import ModelState, TransformerXL
from infmem.presets import build_model
from infmem.run import Run
from infmem.tasks.sorting import IGNORE
from infmem.tasks.tokens import TokenFile
from infmem.training import BatchResult, TrainingConfig, autocast, derive_seed
from infmem.validation import require


@dataclass(frozen=True)
class LanguageConfig(TrainingConfig):
    """Everything that decides how a training goes, beside the device; a step reads `grad_segments` of each row.

    Args:
        length: tokens of a document at most; longer ones are cut.
        corpus: name of the corpus.
        corpus_hash: what tells it from any other.
    """

    corpus: str = ""
    corpus_hash: str = ""


class Segment(NamedTuple):
    """What a model makes of a segment.

    Args:
        losses: of every position, 0 where nothing is asked.
        is_right: whether the likeliest token is the one that comes.
        state: after it.
    """

    losses: Float[Tensor, "batch pos"]
    is_right: Float[Tensor, "batch pos"]
    state: ModelState


def read_segment(
    model: nn.Module,
    batch: Batch,
    state: ModelState,
    generator: torch.Generator | None = None,
    keep_graph: bool = False,
) -> Segment:
    """Let a model read a segment of each row and score what it expected.

    Args:
        model: any model of this package, or a GPT-2 behind the same interface.
        batch: the segment, on the model's device.
        state: the model's, in which rows whose document begins are empty already.
        generator: randomness of a sticky long-term memory.
        keep_graph: let gradient flow into this segment from later ones.
    """
    logits, state = model(batch.tokens, state, generator=generator, keep_graph=keep_graph)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, reduction="none"
    )
    is_right = (logits.detach().argmax(-1) == batch.targets).to(losses.dtype)
    return Segment(losses.unflatten(0, batch.targets.shape), is_right, state)


class LanguageRun(Run):
    """A training run on text, which can be left and gone on with, bit for bit on a CPU.

    Args:
        config: how to train.
        tokens: of the corpus that the configuration names.
        folder: where to keep metrics and checkpoints; None keeps nothing.
        device: where to train.
        resume: go on from the folder's checkpoint.
        fast: compile the layers; None does it on a GPU where that is possible.

    Raises:
        ValueError: if the tokens are of another corpus, or as `Run`.
    """

    def __init__(
        self,
        config: LanguageConfig,
        tokens: TokenFile,
        folder: Path | None,
        device: torch.device | str = "cpu",
        resume: bool = False,
        fast: bool | None = None,
    ):
        require_corpus(config, tokens)
        device = torch.device(device)
        self.state: ModelState | None = None
        self.reader = Reader.training(
            cut(tokens.splits["train"], config.length),
            batch=config.batch_size,
            steps=config.steps * config.grad_segments,
            segment_length=config.segment_length,
            document_token=tokens.document_token,
            seed=config.seed,
        )
        fast = device.type == "cuda" and why_not_compile(device) is None if fast is None else fast
        super().__init__(config, folder, device, resume=resume, fast=fast)

    def _make_step(self) -> Callable[[], BatchResult]:
        model = compiled(self.model) if self.fast else self.model
        return lambda: self._read_and_step(model.train())

    def _read_and_step(self, model: nn.Module) -> BatchResult:
        """Read the next segment of each row, or the next few, and take an optimiser step."""
        config, state = self.config, self.state or self.model.empty(self.config.batch_size)
        loss = right = auxiliary_loss = torch.zeros((), device=self.device)
        num_asked, num_segments = 0, config.grad_segments
        for index in range(self.step * num_segments, (self.step + 1) * num_segments):
            batch = self.reader.batch(index)
            num_asked += int((batch.targets != IGNORE).sum())
            with autocast(self.device, config.precision):
                segment = read_segment(
                    model,
                    batch.to(self.device),
                    state.reset(batch.begins),
                    self.generators["sticky"],
                    keep_graph=num_segments > 1,
                )
            state = segment.state
            loss, right = loss + segment.losses.sum(), right + segment.is_right.sum()
            auxiliary_loss = auxiliary_loss + state.auxiliary_loss
        self.optimizer.zero_grad(set_to_none=True)
        (loss / num_asked + auxiliary_loss / num_segments).backward()
        for parameter in self.model.parameters():  # those of a memory to which nothing was written yet have none
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.state = state.detach()
        return BatchResult(loss.detach() / num_asked, right / num_asked, norm.detach())

    def _carried(self) -> dict[str, Tensor]:
        return {} if self.state is None else state_tensors(self.state)

    def _load(self, checkpoint: Checkpoint) -> None:
        super()._load(checkpoint)
        if checkpoint.carried:
            self.state = state_from(checkpoint.carried, self.model, self.config.batch_size)


def require_corpus(config: LanguageConfig, tokens: TokenFile) -> None:
    """Raise `ValueError` unless the tokens are those that the configuration names."""
    found = (tokens.about["corpus"], tokens.about["hash"], tokens.vocab_size)
    wanted = (config.corpus, config.corpus_hash, config.model.vocab_size)
    require(
        found == wanted,
        f"the model is for the tokens (corpus, hash, vocabulary) {wanted}, got {found}: name the text that it was "
        "trained on, or its file of tokens (--tokens)",
    )


def state_tensors(state: ModelState) -> dict[str, Tensor]:
    """A state's tensors by name.

    Example:
        >>> from infmem import TransformerXL, TransformerXLConfig
        >>> model = TransformerXL(TransformerXLConfig(d_model=12, num_heads=3, num_layers=2, memory_length=7))
        >>> sorted(state_tensors(model.empty(2).reset(torch.tensor([True, True]))))
        ['num_seen', 'short_term.0', 'short_term.1']
    """
    tensors = {f"short_term.{layer}": memory for layer, memory in enumerate(state.short_term)}
    for layer, memory in enumerate(state.long_term):
        tensors |= {f"long_term.{layer}.{name}": tensor for name, tensor in memory._asdict().items()}
    return tensors | ({} if state.num_seen is None else {"num_seen": state.num_seen})


def state_from(tensors: dict[str, Tensor], model: TransformerXL, batch: int) -> ModelState:
    """The state that `state_tensors` has taken apart.

    Args:
        tensors: by name.
        model: whose state it is.
        batch: number of rows.
    """
    device, empty = model.embedding.weight.device, model.empty(batch)
    short_term = tuple(tensors[f"short_term.{layer}"].to(device) for layer in range(len(empty.short_term)))
    long_term = tuple(
        type(memory)(*(tensors[f"long_term.{layer}.{name}"].to(part.device) for name, part in memory._asdict().items()))
        for layer, memory in enumerate(empty.long_term)
    )
    return empty._replace(short_term=short_term, long_term=long_term, num_seen=tensors.get("num_seen"))


def language_folder(model: str, size: str, corpus: str, seed: int) -> Path:
    """Where a run is kept if nothing else is asked for.

    Example:
        >>> language_folder("window", "classroom", "stdlib", 0).as_posix()
        'runs/language-window-classroom-stdlib-seed0'
    """
    return Path("runs") / f"language-{model}-{size}-{corpus}-seed{seed}"


def load_language_run(folder: Path) -> tuple[TransformerXL, LanguageConfig]:
    """The model of a run, on the CPU, and how it was trained.

    Raises:
        ValueError: if the folder holds no whole checkpoint of a language model.
    """
    checkpoint = load_checkpoint(folder / "checkpoint.safetensors")
    config = from_dict(LanguageConfig, checkpoint.config)
    model = build_model(config.model, derive_seed(config.seed, "weights"))
    checkpoint.load_into(model)
    return model, config
