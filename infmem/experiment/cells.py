"""What is trained: models and changes of their memory, scales, and the cells of each experiment."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from infmem.demo import demo_config
from infmem.optimizer import OptimizerName
from infmem.presets import PRESETS, MemoryName, ModelName, PresetName, model_config
from infmem.run import default_folder
from infmem.tasks import TaskName
from infmem.training import TrainingConfig

VariantName = Literal[
    "transformer-xl",
    "compressive-transformer",
    "infinite-former-paper",
    "infinite-former-best",
    "infinite-former-sampled",
    "window",
    "infinite-former-sticky",
]


# Model, preset of its memory, and what is changed in that. Sticky memories are drawn as in the paper.
VARIANTS: dict[VariantName, tuple[ModelName, MemoryName, dict[str, Any]]] = {
    "transformer-xl": ("transformer-xl", "best", {}),
    "compressive-transformer": ("compressive-transformer", "best", {}),
    "infinite-former-paper": ("infinite-former", "paper", {}),
    "infinite-former-best": ("infinite-former", "best", {}),
    "infinite-former-sampled": ("infinite-former", "paper", {"schedule": "scaled", "ridge": 0.1, "gate": False}),
    "window": ("window", "best", {}),
    "infinite-former-sticky": ("infinite-former", "paper", {"sticky": "iid"}),
}


FIRST: tuple[VariantName, ...] = tuple(VARIANTS)[:4]


# What is changed in the memory `best`, one choice at a time. Sampling the old signal instead of refitting all of it is
# what sticky memories need, so they are changes of that one.
SAMPLED: dict[str, Any] = {"contraction": "sampled", "num_samples": 128}


ABLATIONS: dict[str, dict[str, Any]] = {
    "best": {},
    "tau .5": {"schedule": "fixed", "tau": 0.5},
    "tau .75": {"schedule": "fixed", "tau": 0.75},
    "tau .9": {"schedule": "fixed", "tau": 0.9},
    "128 samples": SAMPLED,
    "512 samples": SAMPLED | {"num_samples": 512},
    "zero padding": {"padding": True},
    "whole line": {"interval": "line"},
    "end points": {"positions": "end_points"},
    "ridge .01": {"ridge": 0.01},
    "ridge 1": {"ridge": 1.0},
    "half the width": {"sigmas": (1 / 384,)},
    "twice the width": {"sigmas": (1 / 96,)},
    "two widths": {"sigmas": (0.01, 0.05)},
    "32 functions": {"num_basis": 32, "sigmas": (1 / 48,)},
    "64 functions": {"num_basis": 64, "sigmas": (1 / 96,)},
    "256 functions": {"num_basis": 256, "sigmas": (1 / 384,)},
    "gate": {"gate": True},
    "no bias": {"bias": False},
    "the layer's query": {"own_query": False},
    "narrow at first": {"initial_width": 0.1},
    "very narrow at first": {"initial_width": 0.03},
    "silent at first": {"silent_start": True},
    "no regulariser": {"kl_weight": 0.0},
    "strong regulariser": {"kl_weight": 1e-3},
    "sticky, stratified": SAMPLED | {"sticky": "stratified"},
    "sticky, stratified, even": SAMPLED | {"sticky": "stratified", "placement": "even"},
    "sticky, iid": SAMPLED | {"sticky": "iid"},
}


ABLATION_RATE, ABLATION_STEPS, ABLATION_SEEDS = 2e-3, 1500, (0, 1, 2)


# A training that begins with the weights of another takes this part of its steps.
CONTINUED_PART = 5


# Who has to recall facts: without a long-term memory, with the paper's, and with one that keeps all of the past alike;
# each of these sampled evenly and where it was read, at the address of what was sampled or spread evenly.
RECALLS: dict[str, tuple[ModelName, MemoryName, dict[str, Any]]] = {
    **{name: VARIANTS[name] for name in ("window", "transformer-xl", "compressive-transformer")},
    "paper": ("infinite-former", "paper", {}),
    "paper, sticky": VARIANTS["infinite-former-sticky"],
    "paper, sticky, even": ("infinite-former", "paper", {"sticky": "iid", "placement": "even"}),
    "sampled": ("infinite-former", "best", ABLATIONS["128 samples"]),
    "sampled, sticky": ("infinite-former", "best", ABLATIONS["sticky, stratified"]),
    "sampled, sticky, even": ("infinite-former", "best", ABLATIONS["sticky, stratified, even"]),
    "best": ("infinite-former", "best", ABLATIONS["best"]),
}
RECALL_LENGTH, RECALL_STEPS, RECALL_RATES, RECALL_SEEDS = 2000, 1500, (1e-3, 2e-3, 4e-3), (0, 1)


# Everybody is also asked in sequences so many times as long as those of the training, a quarter as many.
RECALL_LONGER = 8


def choice(variant: str) -> tuple[ModelName, MemoryName, dict[str, Any]]:
    """Model, preset of its memory, and what is changed in that."""
    named = {name: ("infinite-former", "best", changes) for name, changes in ABLATIONS.items()} | RECALLS | VARIANTS
    return named[variant]


@dataclass(frozen=True)
class Scale:
    """The sizes of an experiment.

    Args:
        preset: of models and task.
        lengths: symbols per sequence.
        seeds: of weights and data.
        optimizer: what takes the steps.
        continued: whether a model of each length but the shortest begins with the weights of the length before, and
            takes a fifth of the steps. What a step costs grows with the length.
    """

    preset: PresetName
    lengths: tuple[int, ...]
    seeds: tuple[int, ...]
    optimizer: OptimizerName = "adam"
    continued: bool = False


ScaleName = Literal["small", "full"]


SCALES: dict[ScaleName, Scale] = {
    "small": Scale("small", (500, 1000, 2000), (0, 1, 2), "muon"),
    "full": Scale("full", (4000, 8000, 16000), (0, 1), "muon", continued=True),
}


# What is trained at one length is read at others too.
LONGER: dict[ScaleName, tuple[int, ...]] = {
    "small": (1000, 2000, 4000, 8000, 16000),
    "full": (4000, 8000, 16000, 32000, 64000),
}


# Every model is tried with the same learning rates, at small scale. At full scale each gets its best one times the
# ratio of the presets' rates.
SWEEP_PRESET, SWEEP_LENGTH, SWEEP_RATES = "small", 1000, (5e-4, 1e-3, 2e-3, 4e-3)


@dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        variant: which model, of `VARIANTS` or `ABLATIONS`.
        preset: its sizes.
        length: symbols per sequence.
        seed: of weights and data.
        learning_rate: the largest one.
        steps: optimiser steps.
        optimizer: what takes them.
        start: the training whose weights it begins with, or None.
        task: what is learned.

    Example:
        >>> Cell("window", "small", 500, 0, 0.002, 2500).command
        'infmem train --model window --preset small --length 500 --learning-rate 0.002 --steps 2500 --seed 0'
    """

    variant: str
    preset: PresetName
    length: int
    seed: int
    learning_rate: float
    steps: int
    optimizer: OptimizerName = "adam"
    start: "Cell | None" = None
    task: TaskName = "sorting"

    @property
    def config(self) -> TrainingConfig:
        """How it is trained."""
        model, memory, options = choice(self.variant)
        sizes = PRESETS[self.preset]
        return dataclasses.replace(
            demo_config(model, sizes, self.seed),
            model=model_config(model, sizes, memory, options, self.task),
            task=self.task,
            length=self.length,
            learning_rate=self.learning_rate,
            steps=self.steps,
            optimizer=self.optimizer,
        )

    @property
    def command(self) -> str:
        """What trains it by itself."""
        model, memory, options = choice(self.variant)
        words = ["infmem train", *(["--task", self.task] if self.task != "sorting" else [])]
        words += ["--model", model, "--preset", self.preset]
        words += ["--memory", memory] if memory != "best" else []
        typed = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]
        words += ["--memory-options", *(word.replace(" ", "") for word in typed)] if options else []
        words += ["--length", self.length, "--learning-rate", f"{self.learning_rate:g}", "--steps", self.steps]
        words += ["--optimizer", self.optimizer] if self.optimizer != "adam" else []
        words += ["--start", self.start.folder] if self.start else []
        return " ".join(map(str, [*words, "--seed", self.seed]))

    @property
    def name(self) -> str:
        """The name of its folder."""
        variant = self.variant.replace(",", "").replace(" ", "-")
        name = f"{variant}-{self.preset}-{self.length}-rate{self.learning_rate:g}-seed{self.seed}-{self.steps}"
        name += f"-{self.optimizer}" if self.optimizer != "adam" else ""
        name += f"-{self.task}" if self.task != "sorting" else ""
        return name + (f"-from{self.start.length}" if self.start else "")

    @property
    def folder(self) -> Path:
        """Where its command puts it."""
        return default_folder(choice(self.variant)[0], self.preset, self.length, self.seed, self.task)

    @property
    def key(self) -> tuple[str, ...]:
        """What tells its row from the others."""
        start = self.start.name if self.start else ""
        numbers = (self.length, self.seed, self.optimizer, f"{self.learning_rate:g}", self.steps, start)
        return tuple(map(str, (self.variant, self.preset, *numbers)))


def sweep_cells(
    variants: Iterable[VariantName], optimizer: OptimizerName = "adam", steps: int | None = None
) -> list[Cell]:
    """Every model with every learning rate.

    Args:
        variants: the models.
        optimizer: what takes the steps.
        steps: optimiser steps; None takes the preset's.

    Example:
        >>> len(sweep_cells(["window"]))
        4
    """
    steps = PRESETS[SWEEP_PRESET].steps if steps is None else steps
    return [
        Cell(variant, SWEEP_PRESET, SWEEP_LENGTH, 0, rate, steps, optimizer)
        for variant in variants
        for rate in SWEEP_RATES
    ]


def ablation_cells(seeds: Iterable[int], steps: int = ABLATION_STEPS) -> list[Cell]:
    """The memory `best` with one choice changed at a time, each with every seed; the first seed of all comes first.

    Args:
        seeds: of weights and data.
        steps: optimiser steps.

    Example:
        >>> len(ablation_cells([0])) == len(ABLATIONS)
        True
    """
    return [
        Cell(change, SWEEP_PRESET, SWEEP_LENGTH, seed, ABLATION_RATE, steps, "muon")
        for seed in seeds
        for change in ABLATIONS
    ]


def recall_cells(
    rates: Mapping[str, float] | None = None, seeds: Iterable[int] = RECALL_SEEDS, steps: int = RECALL_STEPS
) -> list[Cell]:
    """Everybody who has to recall facts: with every learning rate and one seed, or with his own rate and every seed.

    Args:
        rates: the learning rate of each; None tries all.
        seeds: of weights and data, where the rates are known.
        steps: optimiser steps.

    Example:
        >>> len(recall_cells()) == len(RECALLS) * len(RECALL_RATES)
        True
    """
    if rates is None:
        tried = [(name, 0, rate) for rate in RECALL_RATES for name in RECALLS]
    else:
        tried = [(name, seed, rates[name]) for seed in seeds for name in RECALLS]
    return [
        Cell(name, SWEEP_PRESET, RECALL_LENGTH, seed, rate, steps, "muon", task="recall") for name, seed, rate in tried
    ]


def result_cells(
    scale: Scale, variants: Sequence[VariantName], rates: Mapping[str, float], steps: int | None = None
) -> list[Cell]:
    """Every model at every length with every seed, those first that the claim is about.

    Args:
        scale: the sizes.
        variants: the models.
        rates: the learning rate of each.
        steps: optimiser steps, of the shortest sequences if others begin with their weights; None takes the preset's.
    """
    steps = PRESETS[scale.preset].steps if steps is None else steps
    cells = []
    for variant in variants:
        for seed in scale.seeds:
            before = None
            for length in sorted(scale.lengths):
                some = steps if before is None else max(1, steps // CONTINUED_PART)
                cells.append(Cell(variant, scale.preset, length, seed, rates[variant], some, scale.optimizer, before))
                before = cells[-1] if scale.continued else None
    # The first two seeds of the first models come before the rest of either.
    return sorted(cells, key=lambda cell: (cell.variant not in FIRST or cell.seed > 1, cell.seed, cell.length))
