"""Sizes of a language model, and the models that are compared at them: equal in parameters, steps and data."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from infmem.config import parse_options
from infmem.memory import CompressedMemoryConfig, MemoryConfig
from infmem.models.compressive import CompressiveTransformerConfig
from infmem.models.infinite_former import InfiniteFormerConfig
from infmem.models.transformer_xl import TransformerXLConfig, WindowTransformerConfig
from infmem.presets import ModelConfig, build_model
from infmem.validation import require

LanguageModelName = Literal[
    "window",
    "transformer-xl",
    "transformer-xl-inside",
    "transformer-xl-long",
    "compressive-transformer",
    "infinite-former",
    "infinite-former-own",
    "infinite-former-sampled",
    "infinite-former-sticky",
]
SizeName = Literal["classroom", "gpu"]
# What a pretrained GPT-2 may get.
TunedMemory = Literal["none", "best", "shared", "own", "sticky", "paper", "paper-sticky"]

# What measurements on text prefer: a model that begins as the Transformer-XL that it contains, instead of learning from
# noise at first, and that reads its memory with the projections of its attention. Projections of its own would cost an
# eighth of the parameters, which are worth more elsewhere, and training goes worse with them
# (figures/data/language.csv).
CHOSEN = {"silent_start": True, "own_query": False, "projections": "shared"}
OWN = {"projections": "own"}

# What a sticky memory is, beside what `best` says: samples of the old signal, which it draws where attention was; and
# the same with even samples, which tells what stickiness alone is worth.
SAMPLED = {"contraction": "sampled", "schedule": "fixed", "tau": 0.75}
STICKY = SAMPLED | {"sticky": "stratified", "placement": "even"}
CHANGES = {
    "infinite-former": {},
    "infinite-former-own": OWN,
    "infinite-former-sampled": SAMPLED,
    "infinite-former-sticky": STICKY,
}


@dataclass(frozen=True)
class LanguageSize:
    """Sizes that all models of a comparison share.

    Args:
        vocab_size: tokens of the vocabulary at most.
        segment_length: tokens per segment, and hidden states of every short-term memory.
        sizes: width, heads and depth of every model, and the feed-forward of the infinite-former whose memory has
            projections of its own; the others get a wider one, until they have as many parameters.
        num_basis: of the long-term memory; the Compressive Transformer keeps as many compressed hidden states, and the
            long Transformer-XL has as many more in its memory.
        batch_size: rows.
        steps: optimiser steps, one a segment.
        learning_rate: the largest one.
        length: tokens of a document at most in training; longer ones are cut.
    """

    vocab_size: int
    segment_length: int
    sizes: WindowTransformerConfig
    num_basis: int
    batch_size: int
    steps: int
    learning_rate: float
    length: int


SIZES: dict[SizeName, LanguageSize] = {
    "classroom": LanguageSize(
        vocab_size=2048,
        segment_length=64,
        sizes=WindowTransformerConfig(d_model=96, num_heads=4, num_layers=2, d_ff=192),
        num_basis=64,
        batch_size=16,
        steps=1200,
        learning_rate=4e-3,
        length=16_384,
    ),
    "gpu": LanguageSize(
        vocab_size=8192,
        segment_length=256,
        sizes=WindowTransformerConfig(d_model=384, num_heads=6, num_layers=6, d_ff=1536),
        num_basis=256,
        batch_size=32,
        steps=8000,
        learning_rate=1e-3,
        length=65_536,
    ),
}


def num_parameters(config: ModelConfig) -> int:
    """How many numbers a model of this configuration learns; it is not built for that.

    Example:
        >>> num_parameters(WindowTransformerConfig(vocab_size=7, d_model=4, num_heads=2, num_layers=1, d_ff=3))
        198
    """
    with torch.device("meta"):
        return build_model(config).num_parameters


def language_model(name: LanguageModelName, size: LanguageSize, vocab_size: int | None = None) -> ModelConfig:
    """The configuration of a model at a size; all but one have equally many parameters.

    Some are there to compare with. The memory of `infinite-former-own` has projections of its own, and the price of
    that shows in `transformer-xl-inside`, which is that model without its memory, and so with fewer parameters.
    `transformer-xl-long` remembers as many hidden states more as there are basis functions.

    Args:
        name: which model.
        size: its sizes.
        vocab_size: tokens of the vocabulary; None takes the size's.

    Raises:
        ValueError: if there is no model of that name.

    Example:
        >>> config = language_model("transformer-xl", SIZES["classroom"])
        >>> config.memory_length, config.d_ff
        (64, 336)
    """
    names = get_args(LanguageModelName)
    require(name in names, f"model must be one of {', '.join(names)}, got {name!r}")
    shared = dataclasses.asdict(size.sizes) | {"vocab_size": vocab_size or size.vocab_size}
    short = size.segment_length
    memory = MemoryConfig.best(num_basis=size.num_basis, num_samples=size.num_basis, **CHOSEN)
    formers = {
        former: InfiniteFormerConfig(**shared, memory_length=short, memory=dataclasses.replace(memory, **changes))
        for former, changes in CHANGES.items()
    }
    models = formers | {
        "window": WindowTransformerConfig(**shared),
        "transformer-xl": TransformerXLConfig(**shared, memory_length=short),
        "transformer-xl-long": TransformerXLConfig(**shared, memory_length=short + size.num_basis),
        "compressive-transformer": CompressiveTransformerConfig(
            **shared, memory_length=short, memory=CompressedMemoryConfig(length=size.num_basis)
        ),
    }
    if name == "transformer-xl-inside":
        return models["transformer-xl"]
    return as_large(models[name], num_parameters(formers["infinite-former-own"]))


def with_memory_options(config: ModelConfig, options: Sequence[str]) -> InfiniteFormerConfig:
    """A configuration whose long-term memory is changed in some fields; widths follow the number of functions.

    Args:
        config: of an infinite-former.
        options: what is changed, as `name=value`.

    Raises:
        ValueError: if the model has no such memory, or there is no such field.

    Example:
        >>> config = language_model("infinite-former", SIZES["classroom"])
        >>> memory = with_memory_options(config, ["ridge=1.0", "num_basis=128"]).memory
        >>> memory.ridge, memory.sigmas == MemoryConfig.best(num_basis=128).sigmas
        (1.0, True)
    """
    require(
        isinstance(config, InfiniteFormerConfig),
        "--memory-options set the long-term memory of an infinite-former, which this model is not: leave them out",
    )
    changes = parse_options(MemoryConfig, options)
    if "num_basis" in changes and "sigmas" not in changes:
        ratio = config.memory.num_basis / max(1, changes["num_basis"])
        changes["sigmas"] = tuple(ratio * sigma for sigma in config.memory.sigmas)
    return dataclasses.replace(config, memory=dataclasses.replace(config.memory, **changes))


def as_large(config: ModelConfig, target: int) -> ModelConfig:
    """A configuration with a feed-forward that is wider, in eights, until it has so many parameters.

    Args:
        config: the model.
        target: parameters that it should have.
    """
    for_each = config.num_layers * (2 * config.d_model + 1)
    wider = round((target - num_parameters(config)) / for_each / 8) * 8
    return dataclasses.replace(config, d_ff=max(8, config.d_ff + wider))
