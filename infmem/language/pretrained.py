"""GPT-2 on this package's text: a base of our own, and fine-tuning with and without a long-term memory (extra `hf`).

A GPT-2 is put behind the interface of this package's models, so that rows, evaluation and tables are the same.
"""

from infmem.gpt2 import InfiniteGPT2  # first: where transformers is missing, it says how to get it

# isort: split
import copy
import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from infmem.language.reading import Reader, cut
from infmem.language.sizes import CHOSEN, OWN, STICKY, TunedMemory
from infmem.language.training import read_segment
from infmem.memory import MemoryConfig
from infmem.models.transformer_xl import ModelState
from infmem.tasks.sorting import IGNORE
from infmem.tasks.tokens import Documents, TokenFile
from infmem.training import autocast, derive_seed, generator_for
from infmem.validation import check_fields, require

# What the released code for GPT-2 has: narrow functions, half of the memory for the past, a weaker ridge.
PAPER = {"num_basis": 512, "sigmas": (0.005, 0.01), "num_samples": 512, "tau": 0.5, "ridge": 0.5}

DOCUMENT = "<|document|>"


@dataclass(frozen=True)
class TuningConfig:
    """How a GPT-2 is trained.

    Args:
        steps: optimiser steps, one a segment.
        batch_size: rows.
        segment_length: tokens per segment.
        learning_rate: of GPT-2's own weights; it falls to 0 in a line.
        memory_learning_rate: of the memory's weights.
        warmup_steps: over which both rise from 0.
        weight_decay: of AdamW.
        clip_norm: gradients are scaled down to this norm.
        length: tokens of a document at most; longer ones are cut.
        precision: as in every training.
        seed: of the order of documents, and of dropout.
    """

    steps: int = 2000
    batch_size: int = 16
    segment_length: int = 256
    learning_rate: float = 1e-3
    memory_learning_rate: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    length: int = 65_536
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0

    def __post_init__(self):
        check_fields(self)
        for name in ("steps", "batch_size", "segment_length", "length"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "memory_learning_rate", "clip_norm"):
            require(getattr(self, name) > 0, f"{name} must be > 0, got {getattr(self, name)}")
        require(self.seed >= 0, f"seed must be >= 0, got {self.seed}")


class GPT2Reader(nn.Module):
    """A GPT-2 behind the interface of this package's models: `forward(tokens, state) -> (logits, state)`.

    Args:
        model: with a long-term memory or without; without, each segment is read alone.
    """

    def __init__(self, model: GPT2LMHeadModel):
        super().__init__()
        self.model = model

    @property
    def embedding(self) -> nn.Embedding:
        """Of the tokens."""
        return self.model.transformer.wte

    @property
    def num_parameters(self) -> int:
        """Numbers that are learned."""
        return sum(parameter.numel() for parameter in self.parameters())

    def state_bytes(self, batch: int) -> int:
        """Bytes of a state: the same however much was read."""
        return sum(part.numel() * part.element_size() for memory in self.empty(batch).long_term for part in memory)

    def num_leaving(self, num_remembered: int) -> int:
        """There is no short-term memory that anything could leave."""
        return 0

    def empty(self, batch: int) -> ModelState:
        """The state before the first segment."""
        weight = self.embedding.weight
        memory = self.model.empty(batch) if isinstance(self.model, InfiniteGPT2) else ()
        return ModelState((weight.new_zeros(batch, 0, weight.shape[1]),), memory, weight.new_zeros(()))

    def forward(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        *,
        generator: torch.Generator | None = None,
        keep_graph: bool = False,
    ) -> tuple[Tensor, ModelState]:
        """Read one segment; gradient never flows into it from later ones."""
        state = self.empty(len(tokens)) if state is None else state
        if state.num_seen is not None:
            state = state._replace(num_seen=state.num_seen + tokens.shape[1])
        if not isinstance(self.model, InfiniteGPT2):
            return self.model(tokens, use_cache=False).logits, state
        output = self.model(tokens, memory=state.long_term, generator=generator, use_cache=False)
        return output.logits, state._replace(long_term=output.memory, auxiliary_loss=output.regularizer)


class Tuned(NamedTuple):
    """What a training gives.

    Args:
        losses: mean cost of a token in each step.
        seconds: time that it took.
        finished: whether it came to its last step.
    """

    losses: list[float]
    seconds: float
    finished: bool


def tune(
    reader: GPT2Reader,
    documents: Documents,
    document_token: int,
    config: TuningConfig,
    until: float | None = None,
    progress: bool | None = None,
) -> Tuned:
    """Train a GPT-2 on documents in order, where it is.

    Args:
        reader: the model.
        documents: what it reads.
        document_token: what is read before a document's first token.
        config: how.
        until: time (as of `time.time`) at which to stop.
        progress: show a bar; None shows it on a terminal only.
    """
    device, began, losses = reader.embedding.weight.device, time.perf_counter(), []
    rows = Reader.training(
        cut(documents, config.length),
        batch=config.batch_size,
        steps=config.steps,
        segment_length=config.segment_length,
        document_token=document_token,
        seed=config.seed,
    )
    optimizer, state = _optimizer(reader, config), reader.train().empty(config.batch_size)
    rates, sticky = [group["lr"] for group in optimizer.param_groups], generator_for(device, config.seed, "sticky")
    hidden = None if progress is None else not progress
    with tqdm(total=config.steps, desc="gpt2", unit="step", disable=hidden) as bar, torch.random.fork_rng():
        torch.manual_seed(derive_seed(config.seed, "dropout"))
        for step in range(config.steps):
            share = min((step + 1) / max(1, config.warmup_steps), 1 - step / config.steps)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * share
            batch = rows.batch(step)
            num_asked = int((batch.targets != IGNORE).sum())
            with autocast(device, config.precision):
                segment = read_segment(reader, batch.to(device), state.reset(batch.begins), sticky)
            state, loss = segment.state, segment.losses.sum() / num_asked
            optimizer.zero_grad(set_to_none=True)
            (loss + state.auxiliary_loss).backward()
            nn.utils.clip_grad_norm_(reader.parameters(), config.clip_norm)
            optimizer.step()
            state = state.detach()
            losses.append(loss.detach())
            if step % 20 == 19 or step + 1 == config.steps:
                bar.set_postfix(loss=f"{torch.stack(losses[-20:]).mean().item():.3f}", refresh=False)
                bar.update(step + 1 - bar.n)
                if until is not None and time.time() >= until:
                    break
    found = torch.stack(losses).tolist()
    return Tuned(found, time.perf_counter() - began, len(found) == config.steps)


def _optimizer(reader: GPT2Reader, config: TuningConfig) -> torch.optim.Optimizer:
    """AdamW with a rate of its own for the memory; norms and biases do not decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in reader.named_parameters():
        groups.setdefault((".long_term." in name, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.memory_learning_rate if is_memory else config.learning_rate,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (is_memory, decays), parameters in groups.items()
        ]
    )


def new_gpt2(tokens: TokenFile, width: int, layers: int, heads: int, segment_length: int, seed: int) -> GPT2LMHeadModel:
    """A real GPT-2 of Hugging Face with fresh weights, for a vocabulary.

    Args:
        tokens: whose vocabulary it has.
        width: of its hidden states.
        layers: blocks.
        heads: a divisor of `width`.
        segment_length: positions that it knows.
        seed: of its weights.
    """
    config = GPT2Config(
        vocab_size=tokens.vocab_size,
        n_positions=segment_length,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokens.document_token,
        eos_token_id=tokens.document_token,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        return GPT2LMHeadModel(config)


def save_base(model: GPT2LMHeadModel, tokens: TokenFile, folder: Path, bfloat16: bool = False) -> None:
    """Write a base and its tokenizer, as `from_pretrained` and `AutoTokenizer` read them.

    Args:
        model: the base.
        tokens: whose vocabulary it has.
        folder: where to.
        bfloat16: keep its weights in that, half as large.
    """
    (copy.deepcopy(model).bfloat16() if bfloat16 else model).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens.tokenizer, eos_token=DOCUMENT, bos_token=DOCUMENT)
    tokenizer.save_pretrained(folder)


def vocabulary_of(base: str) -> str:
    """The vocabulary of a pretrained model, as JSON.

    Args:
        base: a folder, or a name of the Hugging Face hub.

    Raises:
        ValueError: if there is none.
    """
    with _from_hub(base):
        return AutoTokenizer.from_pretrained(base).backend_tokenizer.to_str()


def load_base(base: str, memory: TunedMemory, segment_length: int, seed: int) -> GPT2LMHeadModel:
    """A pretrained GPT-2, with a long-term memory that says nothing yet, or without.

    Args:
        base: a folder, or a name of the Hugging Face hub.
        memory: which memory.
        segment_length: positions that are read together.
        seed: of the memory's weights.

    Raises:
        ValueError: if there is no such model.
    """
    with _from_hub(base):
        model = GPT2LMHeadModel.from_pretrained(base, dtype=torch.float32)
    if memory == "none":
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "memory"))
        return InfiniteGPT2.from_gpt2(model, memory_of(memory, segment_length), segment_length)


def memory_of(kind: TunedMemory, segment_length: int) -> MemoryConfig:
    """The configuration of a memory by its name.

    Args:
        kind: `best` and `sticky` have as many functions as a segment has tokens, a query of their own, and otherwise
            the projections of self-attention; `shared` is `best` with the query of self-attention too, `own` with no
            weights from there; `paper` and `paper-sticky` are those of the released code for GPT-2.
        segment_length: tokens per segment.

    Example:
        >>> memory_of("paper-sticky", 512).sticky, memory_of("best", 256).num_basis
        ('iid', 256)
    """
    if kind.startswith("paper"):
        return MemoryConfig.paper(**PAPER, sticky="iid" if kind == "paper-sticky" else "none")
    chosen = CHOSEN | {"own_query": True}  # added to a model that is trained already: only the query has to be learned
    best = MemoryConfig.best(num_basis=segment_length, num_samples=segment_length, **chosen)
    changes = {"best": {}, "shared": CHOSEN, "own": OWN, "sticky": STICKY}
    return dataclasses.replace(best, **changes[kind])


@contextmanager
def _from_hub(base: str) -> Iterator[None]:
    """One sentence for whatever goes wrong when a model is looked for."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(
            f"there is no GPT-2 in the folder {base}, and the Hugging Face hub could not give one of that name "
            f"({type(error).__name__}): make one with `infmem language pretrain --output {base}`, or connect to the "
            "network for a name such as gpt2"
        ) from error
