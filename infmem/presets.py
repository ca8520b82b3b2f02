"""Named sizes for training, and the models that they describe."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from infmem.memory import CompressedMemoryConfig, MemoryConfig
from infmem.models.compressive import CompressiveTransformer, CompressiveTransformerConfig
from infmem.models.infinite_former import InfiniteFormer, InfiniteFormerConfig
from infmem.models.transformer_xl import (
    TransformerXL,
    TransformerXLConfig,
    WindowTransformer,
    WindowTransformerConfig,
)
from infmem.tasks import TaskName, find_task
from infmem.validation import require

ModelName = Literal["infinite-former", "compressive-transformer", "transformer-xl", "window"]
PresetName = Literal["classroom", "small", "full"]
MemoryName = Literal["best", "paper", "released"]
Device = Literal["auto", "cpu", "cuda"]
ModelConfig = InfiniteFormerConfig | CompressiveTransformerConfig | TransformerXLConfig | WindowTransformerConfig

MODEL_NAMES: dict[type, ModelName] = {
    InfiniteFormerConfig: "infinite-former",
    CompressiveTransformerConfig: "compressive-transformer",
    TransformerXLConfig: "transformer-xl",
    WindowTransformerConfig: "window",
}


# What `--memory-options` sets.
MEMORY_CONFIGS: dict[ModelName, type] = {
    "infinite-former": MemoryConfig,
    "compressive-transformer": CompressedMemoryConfig,
}


@dataclass(frozen=True)
class Preset:
    """Sizes that all models of a comparison share.

    Args:
        length: symbols per sequence of the sorting task.
        segment_length: tokens per segment.
        sizes: width, heads, depth and feed-forward of every model.
        short_term_length: short-term memory of the infinite-former and the Compressive Transformer. As many vectors as
            the infinite-former has basis functions the Compressive Transformer keeps compressed, and the Transformer-XL
            adds to its memory: all three remember equally many.
        memory: what the long-term memory's preset is changed in.
        batch_size: sequences per step.
        steps: optimiser steps.
        learning_rate: the largest one; chosen by a sweep that every model gets.
    """

    length: int
    segment_length: int
    sizes: WindowTransformerConfig
    short_term_length: int
    memory: dict
    batch_size: int
    steps: int
    learning_rate: float


PRESETS: dict[PresetName, Preset] = {
    # 13 segments, the last of which holds the whole answer.
    "classroom": Preset(
        length=396,
        segment_length=32,
        sizes=WindowTransformerConfig(d_model=64, num_heads=4, num_layers=2, d_ff=128),
        short_term_length=32,
        memory={"num_basis": 48, "num_samples": 256},
        batch_size=32,
        steps=1500,
        learning_rate=4e-3,
    ),
    "small": Preset(
        length=1000,
        segment_length=128,
        sizes=WindowTransformerConfig(d_model=192, num_heads=6, num_layers=3, d_ff=768),
        short_term_length=128,
        memory={"num_basis": 128, "num_samples": 128},
        batch_size=64,
        steps=2500,
        learning_rate=2e-3,
    ),
    # The paper's segments and memories; heads of 64 instead of 50, which GPUs prefer.
    "full": Preset(
        length=4000,
        segment_length=1024,
        sizes=WindowTransformerConfig(d_model=384, num_heads=6, num_layers=3, d_ff=1536),
        short_term_length=1024,
        memory={"num_basis": 1024, "num_samples": 512},
        batch_size=32,
        steps=3500,
        learning_rate=5e-4,
    ),
}


def preset(name: PresetName) -> Preset:
    """A preset by its name.

    Raises:
        ValueError: if there is none of that name.

    Example:
        >>> preset("classroom").segment_length
        32
    """
    require(name in PRESETS, f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def model_config(
    model: ModelName,
    sizes: Preset,
    memory: MemoryName = "best",
    memory_options: Mapping[str, Any] | None = None,
    task: TaskName = "sorting",
) -> ModelConfig:
    """The configuration of a model at a preset's sizes.

    Args:
        model: which model.
        sizes: the preset.
        memory: which preset of the long-term memory; the other models have none.
        memory_options: fields of the memory's configuration to set otherwise than the presets do: of `MemoryConfig` for
            the infinite-former, of `CompressedMemoryConfig` for the Compressive Transformer.
        task: what it is to learn, which decides the number of tokens.

    Raises:
        ValueError: if a name is unknown, or the model has no such memory.

    Example:
        >>> model_config("transformer-xl", preset("classroom")).memory_length
        80
    """
    sizes = dataclasses.replace(sizes, sizes=dataclasses.replace(sizes.sizes, vocab_size=find_task(task).vocab_size))
    shared = dataclasses.asdict(sizes.sizes)
    require(memory in get_args(MemoryName), f"memory must be one of {', '.join(get_args(MemoryName))}, got {memory!r}")
    long_term = getattr(MemoryConfig, memory)
    require(model in MODEL_NAMES.values(), f"model must be one of {', '.join(MODEL_NAMES.values())}, got {model!r}")
    options = dict(memory_options or {})
    require(
        not options or model in MEMORY_CONFIGS,
        f"memory options are for {' and '.join(MEMORY_CONFIGS)}: {model} has no memory that they could change",
    )
    if model == "infinite-former":
        chosen = long_term(**(sizes.memory | options))
        return InfiniteFormerConfig(**shared, memory_length=sizes.short_term_length, memory=chosen)
    num_basis = long_term(**sizes.memory).num_basis
    if model == "compressive-transformer":
        compressed = CompressedMemoryConfig(**({"length": num_basis} | options))
        return CompressiveTransformerConfig(**shared, memory_length=sizes.short_term_length, memory=compressed)
    if model == "transformer-xl":
        return TransformerXLConfig(**shared, memory_length=sizes.short_term_length + num_basis)
    return sizes.sizes


MODELS: dict[type, type[TransformerXL]] = {
    InfiniteFormerConfig: InfiniteFormer,
    CompressiveTransformerConfig: CompressiveTransformer,
    TransformerXLConfig: TransformerXL,
    WindowTransformerConfig: WindowTransformer,
}

# Far more than any preset has, and 4 GiB in float32.
MOST_WEIGHTS = 2**30


def num_weights(config: ModelConfig) -> int:
    """How many weights a model has, before any of them takes memory.

    Example:
        >>> num_weights(model_config("window", preset("classroom")))
        77590
    """
    with torch.device("meta"):  # every layer has as many as any other
        one, two = (MODELS[type(config)](dataclasses.replace(config, num_layers=layers)) for layers in (1, 2))
    return one.num_parameters + (config.num_layers - 1) * (two.num_parameters - one.num_parameters)


def build_model(config: ModelConfig, seed: int = 0) -> TransformerXL:
    """A model with fresh weights; the same seed gives the same weights, and PyTorch's own randomness stays as it was.

    Raises:
        ValueError: if the model would have more weights than `MOST_WEIGHTS`.

    Example:
        >>> type(build_model(model_config("window", preset("classroom")))).__name__
        'WindowTransformer'
    """
    count = num_weights(config)
    require(
        count <= MOST_WEIGHTS,
        f"a model of this configuration has {count:,} weights, and more than {MOST_WEIGHTS:,} are not built: lower "
        "d_model, d_ff, num_layers, vocab_size or the sizes of its memory",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[type(config)](config)


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` takes a GPU if there is one.

    Raises:
        ValueError: if the name is unknown, or a GPU is asked for where there is none.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    require(name in ("auto", "cpu", "cuda"), f"device must be auto, cpu or cuda, got {name!r}")
    require(
        name != "cuda" or torch.cuda.is_available(),
        "device cuda was asked for, but PyTorch finds no CUDA GPU here: use --device cpu or auto",
    )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device, count: int = 1) -> str:
    """What a device is called, and how many workers have one.

    Example:
        >>> device_name(torch.device("cpu"), count=2)
        'the CPU with 2 workers'
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    return name if count == 1 else f"{name} with {count} workers"
