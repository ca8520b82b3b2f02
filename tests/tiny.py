"""A preset small enough that a training takes a fraction of a second."""

import csv
import dataclasses
from pathlib import Path

import torch

from infmem import WindowTransformerConfig, cli
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

    The infinite-former with `many_functions`, or `sampled`, or `sticky`, which samples where it was read; and the
    Compressive Transformer as `most_used`, which keeps what was read.
    """
    if name == "sticky":
        memory = {"sticky": "iid", "num_bins": 7}
        return tiny_config(model=model_config("infinite-former", TINY, "paper", memory), **changes)
    if name == "most_used":
        model = model_config("compressive-transformer", TINY, memory_options={"compression": name})
        return tiny_config(model=model, **changes)
    if name == "sampled":
        memory = {"schedule": "scaled", "ridge": 0.1, "gate": False}
        return tiny_config(model=model_config("infinite-former", TINY, "paper", memory), **changes)
    if name == "many_functions":  # enough of them that some lie within the memory, away from its ends
        memory = {"num_basis": 40, "sigmas": (1 / 60,)}
        return tiny_config(model=model_config("infinite-former", TINY, "best", memory), **changes)
    return dataclasses.replace(demo_config(name, TINY, seed=0), **{"warmup_steps": 3} | changes)


def recall_config(name: str = "infinite-former", memory_options: dict | None = None, **changes) -> TrainingConfig:
    """How to train one of the models on recall at the tiny preset's sizes."""
    model = model_config(name, TINY, memory_options=memory_options, task="recall")
    return tiny_config(name, **{"model": model, "task": "recall", "length": SHORTEST + 5} | changes)


def tiny_tokens(num_documents: int = 29, vocab_size: int = 31):
    """Documents of random tokens of many lengths, without a tokenizer."""
    from infmem.tasks.tokens import Documents, TokenFile

    generator, splits = torch.Generator().manual_seed(3), {}
    for split, count in (("train", num_documents), ("validation", 5), ("test", 7)):
        lengths = torch.randint(1, 61, (count,), generator=generator)
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        tokens = torch.randint(vocab_size - 1, (int(starts[-1]),), generator=generator, dtype=torch.int32)
        splits[split] = Documents(tokens, starts, 3 * lengths, tuple(f"{split}/{number}" for number in range(count)))
    about = {"corpus": "tiny", "hash": "0123456789abcdef", "sources": {"python": "3"}, "left_out": {}}
    return TokenFile(splits, "{}", about | {"vocab_size": vocab_size})


def run_language(*arguments: str) -> int:
    """A language command's exit code."""
    try:
        return cli.main(["language", *arguments])
    except SystemExit as stop:
        return stop.code


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def tiny_language_config(name: str = "infinite-former", **changes):
    """How to train a language model on `tiny_tokens`."""
    from infmem.language.sizes import LanguageSize, language_model
    from infmem.language.training import LanguageConfig

    sizes = WindowTransformerConfig(d_model=12, num_heads=3, num_layers=2, d_ff=10, dropout=0.1)
    size = LanguageSize(31, 4, sizes, num_basis=8, batch_size=3, steps=13, learning_rate=0.01, length=50)
    options = {"length": 50, "segment_length": 4, "batch_size": 3, "steps": 13, "learning_rate": 0.01}
    options |= {"corpus": "tiny", "corpus_hash": "0123456789abcdef", "warmup_steps": 3}
    return LanguageConfig(**{"model": language_model(name, size)} | options | changes)
