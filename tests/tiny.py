"""A preset small enough that a training takes a fraction of a second."""

import dataclasses

from infmem import WindowTransformerConfig
from infmem.demo import demo_config
from infmem.presets import Preset, model_config
from infmem.tasks.recall import SHORTEST
from infmem.training import TrainingConfig

TINY = Preset(
    length=23,
    segment_length=7,
    sizes=WindowTransformerConfig(d_model=12, num_heads=3, num_layers=2, d_ff=10, dropout=0.1),
    short_term_length=5,
    memory={"num_basis": 6, "sigmas": (0.1,), "num_samples": 11},
    batch_size=3,
    steps=13,
    learning_rate=0.01,
)


def tiny_config(name: str = "infinite-former", **changes) -> TrainingConfig:
    """How to train one of the models at the tiny preset's sizes, or one of them with another memory.

    The infinite-former as `exact`, or `sticky`, which samples where it was read; and the Compressive Transformer as
    `most_used`, which keeps what was read.
    """
    if name == "sticky":
        memory = {"sticky": "iid", "num_bins": 7}
        return tiny_config(model=model_config("infinite-former", TINY, "paper", memory), **changes)
    if name == "most_used":
        model = model_config("compressive-transformer", TINY, memory_options={"compression": name})
        return tiny_config(model=model, **changes)
    if name == "exact":  # enough functions that some lie within the memory, away from its ends
        memory = {"num_basis": 40, "sigmas": (1 / 60,)}
        return tiny_config(model=model_config("infinite-former", TINY, "exact", memory), **changes)
    return dataclasses.replace(demo_config(name, TINY, seed=0), **{"warmup_steps": 3} | changes)


def recall_config(name: str = "infinite-former", memory_options: dict | None = None, **changes) -> TrainingConfig:
    """How to train one of the models on recall at the tiny preset's sizes."""
    model = model_config(name, TINY, memory_options=memory_options, task="recall")
    return tiny_config(name, **{"model": model, "task": "recall", "length": SHORTEST + 5} | changes)
