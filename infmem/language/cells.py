"""A cell of the experiment on language: one training, by which its rows, its folder and its command are known."""

from dataclasses import dataclass

from infmem.language.sizes import SIZES, LanguageModelName, LanguageSize, SizeName, language_model
from infmem.language.training import LanguageConfig
from infmem.optimizer import OptimizerName
from infmem.tasks.documents import Split
from infmem.tasks.tokens import TokenFile

KEY = ("model", "size", "seed", "optimizer", "learning_rate", "steps", "split", "corpus_hash")


@dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        model: which model.
        size: its sizes.
        seed: of weights and data.
        learning_rate: the largest one.
        steps: optimiser steps.
        optimizer: what takes them.
        source: the words of the command that name the tokens.
    """

    model: LanguageModelName
    size: SizeName
    seed: int
    learning_rate: float
    steps: int
    optimizer: OptimizerName
    source: str

    def config(self, tokens: TokenFile) -> LanguageConfig:
        """How it is trained on some tokens."""
        size = SIZES[self.size]
        return language_config(self.model, size, tokens, self.seed, self.steps, self.learning_rate, self.optimizer)

    @property
    def command(self) -> str:
        """What trains it by itself.

        Example:
            >>> Cell("window", "gpu", 0, 0.001, 50, "adam", "--corpus stdlib").command
            'infmem language train --model window --size gpu --corpus stdlib --learning-rate 0.001 --steps 50 --seed 0'
        """
        words = ["infmem language train --model", self.model, "--size", self.size, self.source]
        words += ["--learning-rate", f"{self.learning_rate:g}", "--steps", self.steps]
        words += ["--optimizer", self.optimizer] if self.optimizer != "adam" else []
        return " ".join(map(str, [*words, "--seed", self.seed]))

    def folder(self, tokens: TokenFile) -> str:
        """The name of its folder."""
        name = f"{self.model}-{self.size}-{tokens.about['hash']}-rate{self.learning_rate:g}-seed{self.seed}"
        return f"language-{name}-{self.steps}" + (f"-{self.optimizer}" if self.optimizer != "adam" else "")

    def key(self, split: Split, tokens: TokenFile) -> dict[str, str]:
        """What tells its rows from the others."""
        values = (self.model, self.size, self.seed, self.optimizer, f"{self.learning_rate:g}", self.steps, split)
        return dict(zip(KEY, map(str, (*values, tokens.about["hash"])), strict=True))


def language_config(
    model: LanguageModelName,
    size: LanguageSize,
    tokens: TokenFile,
    seed: int = 0,
    steps: int | None = None,
    learning_rate: float | None = None,
    optimizer: OptimizerName = "adam",
) -> LanguageConfig:
    """How to train a model at a size on some tokens.

    Args:
        model: which model.
        size: its sizes.
        tokens: what it reads.
        seed: of weights and data.
        steps: optimiser steps; None takes the size's.
        learning_rate: the largest one; None takes the size's.
        optimizer: what takes the steps.
    """
    return LanguageConfig(
        model=language_model(model, size, tokens.vocab_size),
        length=size.length,
        segment_length=size.segment_length,
        batch_size=size.batch_size,
        steps=size.steps if steps is None else steps,
        learning_rate=size.learning_rate if learning_rate is None else learning_rate,
        optimizer=optimizer,
        seed=seed,
        corpus=tokens.about["corpus"],
        corpus_hash=tokens.about["hash"],
    )
