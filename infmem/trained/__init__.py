"""Small trained models that come with the package: weights, how they were made, and how well they do.

Each has three files here: `NAME.safetensors` (weights and whole configuration), `NAME.json` (its card: command, seed,
commit, device and score) and `NAME.csv` (its learning curve). `make models` trains them anew.
"""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from infmem.checkpoint import load_checkpoint
from infmem.models.transformer_xl import TransformerXL
from infmem.run import restored
from infmem.training import TrainingConfig
from infmem.validation import require

FOLDER = Path(__file__).parent


class TrainedModel(NamedTuple):
    """A trained model and everything that is known about it.

    Args:
        model: on the CPU, in evaluation mode.
        config: how it was trained.
        card: command, seed, commit, device and score.
    """

    model: TransformerXL
    config: TrainingConfig
    card: dict


def names() -> list[str]:
    """The models that are here.

    Example:
        >>> "infinite-former" in names()
        True
    """
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def load(name: str) -> TrainedModel:
    """A trained model by its name.

    The file holds the whole configuration: what it computes does not change when a preset does.

    Args:
        name: one of `names()`.

    Raises:
        ValueError: if there is none of that name, or its file is damaged.

    Example:
        >>> load("infinite-former").config.length
        396
    """
    model, config = restored(load_checkpoint(_file(name, "safetensors")))
    return TrainedModel(model.eval(), config, card(name))


def card(name: str) -> dict:
    """How a model was made, and its score.

    Example:
        >>> card("infinite-former")["command"].startswith("infmem train")
        True
    """
    path = _file(name, "json")
    with _damage_named(path):
        return json.loads(path.read_text(encoding="utf-8"))


def learning_curve(name: str) -> list[dict[str, float]]:
    """A model's learning curve: means over every 10 steps.

    Example:
        >>> sorted(learning_curve("infinite-former")[0])
        ['accuracy', 'loss', 'step']
    """
    path = _file(name, "csv")
    with _damage_named(path), path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, strict=True))
        if not rows:
            raise ValueError("there are no rows")
        return [{key: float(value) for key, value in row.items()} for row in rows]


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """What goes wrong in reading a file, as a sentence that names it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}; restore it, or train it anew (`make models`)") from error


def _file(name: str, suffix: str) -> Path:
    path = FOLDER / f"{name}.{suffix}"
    require(path.is_file(), f"there is no trained model {name!r} ({path.name}): choose from {', '.join(names())}")
    return path
