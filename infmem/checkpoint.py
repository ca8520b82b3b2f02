"""Checkpoints: one safetensors file with weights, optimiser and step together, written whole or not at all.

Tensors and configuration travel in one file, so they can never disagree, and no pickle is ever read.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from infmem.validation import require

FORMAT = "infmem 1"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it takes its place once it is safe on the disk.

    Raises:
        OSError: naming the file, if the disk is full or the folder can't be written to; what was there stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    with failure_named(path, temporary.unlink):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            _write(file, content)
        os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, as `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def append_text(path: Path, text: str) -> None:
    """Append to a text file all of a text or nothing.

    Raises:
        OSError: as `write_bytes`.
    """
    length = path.stat().st_size
    with failure_named(path, lambda: os.truncate(path, length)), path.open("ab") as file:
        _write(file, text.encode("utf-8"))


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())  # else a power cut can leave an empty file where a whole one was


@contextmanager
def failure_named(path: Path, undo: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Say in a sentence what could not be written.

    Args:
        path: what is written meanwhile.
        undo: takes back what was written of it.
    """
    try:
        yield
    except OSError as error:
        with suppress(OSError):
            undo()
        raise OSError(
            f"{path} could not be written ({error.strerror or error}): make room, or choose a folder that you may "
            "write to; what was there before is as it was"
        ) from error


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        config: configuration of the run, as plain data.
        step: optimiser steps done.
        seconds: time spent on them.
        model: the model's weights by name.
        optimizer: the optimiser's averages by name.
        carried: whatever else the run carries from step to step, by name.
    """

    config: dict
    step: int
    seconds: float
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    carried: dict[str, Tensor] = field(default_factory=dict)

    def load_into(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Copy weights, and the optimiser's averages, into a model of the same configuration.

        Weights that are kept in bfloat16, to be half as large, are read into float32.

        Raises:
            ValueError: naming the first tensor that is missing, unknown or of another shape.
        """
        wide = {
            name: tensor.float() if tensor.dtype == torch.bfloat16 else tensor for name, tensor in self.model.items()
        }
        _copy(wide, model.state_dict(), "weights")
        if optimizer is not None:
            _fill_optimizer(model, optimizer)
            _copy(self.optimizer, _optimizer_tensors(model, optimizer), "optimiser")


def save_checkpoint(
    path: Path,
    config: dict,
    step: int,
    seconds: float,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    carried: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        path: the file.
        config: configuration of the run, as plain data.
        step: optimiser steps done.
        seconds: time spent on them.
        model: the model.
        optimizer: its optimiser, or None to save the weights alone.
        carried: whatever else the run carries from step to step.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if optimizer is not None:
        tensors |= {f"optimizer.{name}": tensor for name, tensor in _optimizer_tensors(model, optimizer).items()}
    tensors |= {f"carried.{name}": tensor for name, tensor in (carried or {}).items()}
    metadata = {"format": FORMAT, "config": json.dumps(config), "step": str(step), "seconds": repr(seconds)}
    metadata["check"] = _check(metadata, tensors)
    # As bytes first: what safetensors writes by itself is readable to its owner alone, and stays where it is killed.
    write_bytes(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        ValueError: if there is no such file, or it is truncated, a pickle, or not a checkpoint of this package.
    """
    path = Path(path)
    require(path.is_file(), f"there is no checkpoint at {path}: train a model first, or name another run")
    tensors, metadata = read_tensors(path)
    require(metadata.get("format") == FORMAT, f"{path} is not a checkpoint of infmem: name another run")
    try:
        config, step, seconds = _read_metadata(metadata, tensors)
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} has a damaged header ({error}): delete it or name another run") from error
    parts = {
        part: {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}
        for part in ("model", "optimizer", "carried")
    }
    return Checkpoint(config, step, seconds, **parts)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata; nothing in it is executed.

    What it declares is held against the size of the file first, and no tensor takes memory before its values are
    looked at.

    Raises:
        ValueError: if the file is truncated, a pickle, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    # What PyTorch can't make, such as a type that it does not know, it refuses with errors of several kinds.
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}): it was cut off, or is of another kind, such as a "
            "pickle; delete it or name another one"
        ) from error


def _read_metadata(metadata: dict[str, str], tensors: dict[str, Tensor]) -> tuple[dict, int, float]:
    """Configuration, step and seconds; whatever is damaged is an error."""
    check = metadata.get("check")  # files of the first models have none
    require(check is None or check == _check(metadata, tensors), "it has changed since it was written")
    unknown = sorted(set(metadata) - {"format", "config", "step", "seconds", "check"})
    require(not unknown, f"it has an unknown entry {unknown}")
    step, seconds = int(metadata["step"]), float(metadata["seconds"])
    require(step >= 0 and 0 <= seconds < float("inf"), f"step {step} after {seconds} seconds")
    config = json.loads(metadata["config"])
    require(isinstance(config, dict), f"its configuration is {config!r:.40}")
    return config, step, seconds


def _check(metadata: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """A sum that changes with any bit of the header: a wrong number of steps could still make sense."""
    sizes = {name: tuple(tensors[name].shape) for name in sorted(tensors)}
    text = json.dumps([metadata["config"], metadata["step"], metadata["seconds"], sizes])
    return f"{zlib.crc32(text.encode()):08x}"


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors, named after what they are averages of."""
    return {
        f"{entry}.{name}": optimizer.state[parameter][entry]
        for name, parameter in model.named_parameters()
        for entry in sorted(optimizer.state.get(parameter, {}))
    }


def _fill_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Make a fresh optimiser allocate its averages, with a step that moves nothing."""
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), weights, strict=True):
            parameter.copy_(weight)


def _copy(source: dict[str, Tensor], target: dict[str, Tensor], what: str) -> None:
    missing, unknown = sorted(set(target) - set(source)), sorted(set(source) - set(target))
    require(not missing and not unknown, f"the checkpoint's {what} lack {missing} or have unknown {unknown}")
    for name, tensor in target.items():
        require(
            source[name].shape == tensor.shape,
            f"the checkpoint's {what} have {name} of sizes {tuple(source[name].shape)}, the model needs "
            f"{tuple(tensor.shape)}: it is of another configuration",
        )
        require(
            source[name].dtype == tensor.dtype and bool(torch.isfinite(source[name]).all()),
            f"the checkpoint's {what} have {name} of type {source[name].dtype} or with values that are not finite; the "
            f"model needs finite ones of type {tensor.dtype}",
        )
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])
