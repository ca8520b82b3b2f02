"""A training run: a folder that can be left and gone on with.

The folder holds `config.json`, `metrics.csv` (a row per step) and `checkpoint.safetensors`. Every step draws its
sequences from a generator seeded by (seed, step), so a run that was stopped goes on exactly where it was. Rows are
written before the checkpoint that counts them: whenever a process dies, each step up to the checkpoint has its row.
"""

import csv
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from infmem.checkpoint import Checkpoint, append_text, failure_named, load_checkpoint, save_checkpoint, write_text
from infmem.config import from_dict, to_dict
from infmem.distributed import Workers
from infmem.fast import fast_is_sensible, fast_step
from infmem.lock import alone_in
from infmem.models.transformer_xl import TransformerXL
from infmem.optimizer import build_optimizer
from infmem.presets import build_model, num_weights
from infmem.tasks import TaskName
from infmem.training import BatchReader, BatchResult, TrainingConfig, derive_seed, learning_rate, train_batch
from infmem.validation import require

METRICS = ("step", "loss", "accuracy", "learning_rate", "gradient_norm", "seconds")
HEADER = ",".join(METRICS) + "\n"


def default_folder(model: str, preset: str, length: int, seed: int, task: TaskName = "sorting") -> Path:
    """Where a run is kept if nothing else is asked for.

    Example:
        >>> default_folder("window", "small", 500, 0).as_posix()
        'runs/sorting-window-small-500-seed0'
    """
    return Path("runs") / f"{task}-{model}-{preset}-{length}-seed{seed}"


class DivergenceError(ValueError):
    """The loss is no longer finite."""


class Run:
    """A training run: its folder, and how far it has come.

    Args:
        config: how to train.
        folder: where to keep metrics and checkpoints; None keeps nothing.
        device: where to train.
        resume: go on from the folder's checkpoint.
        fast: take the fast step of `infmem.fast`; None takes it on a GPU where that is possible.
        workers: the processes that train together, each with a `Run` of its own; None means this one alone.
        start: weights to begin with, of a model of the same configuration; None draws them by the seed.

    Raises:
        ValueError: if the folder holds another run, or `resume` finds none, or another process is at work there, or
            the fast step is not possible.
        OSError: if the folder can't be written to.
    """

    def __init__(
        self,
        config: TrainingConfig,
        folder: Path | None,
        device: torch.device | str = "cpu",
        resume: bool = False,
        fast: bool | None = None,
        workers: Workers | None = None,
        start: Checkpoint | None = None,
    ):
        self.config, self.folder, self.device = config, folder, torch.device(device)
        self.workers = Workers(self.device) if workers is None else workers
        require(
            config.batch_size % self.workers.size == 0,
            f"batch_size must be a multiple of the number of workers ({self.workers.size}), got {config.batch_size}",
        )
        self.model = build_model(config.model, derive_seed(config.seed, "weights")).to(self.device)
        if start is not None:
            start.load_into(self.model)
        self.optimizer = build_optimizer(self.model, config.optimizer, config.learning_rate)
        self.generators = {stream: torch.Generator(self.device) for stream in ("train", "sticky")}
        self.fast = fast_is_sensible(self.model) if fast is None else fast
        self.step, self.seconds, self.rows = 0, 0.0, []
        if resume:
            require(folder is not None, "resume needs the folder of a run, got none")
            self._load(self.workers.from_first(self._read_folder))
        elif folder is not None:
            self.workers.from_first(self._new_folder)
        self._take_step = self._make_step()

    def _make_step(self) -> Callable[[], BatchResult]:
        data, sticky = self.generators.values()
        if self.fast:
            return fast_step(self.model, self.optimizer, self.config, data, sticky, self.workers)
        reader = self.workers.wrap(BatchReader(self.model, self.config))
        return partial(train_batch, reader, self.optimizer, self.config, data, sticky, self.workers)

    def _new_folder(self) -> None:
        require(
            not self.folder.exists() or self.folder.is_dir(),
            f"{self.folder} is a file, but a run needs a folder: choose another one (--run)",
        )
        with failure_named(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with alone_in(self.folder):
            require(
                not _holds_run(self.folder),
                f"{self.folder} holds a run already: go on with it (--resume) or choose another folder (--run)",
            )
            write_text(self.folder / "config.json", json.dumps(to_dict(self.config), indent=2) + "\n")
            write_text(self.folder / "metrics.csv", HEADER)
            self.save()  # so that the run can be gone on with, whatever happens

    def _read_folder(self) -> Checkpoint:
        with alone_in(self.folder):
            return self._read_checkpoint()

    def _read_checkpoint(self) -> Checkpoint:
        """The folder's checkpoint; rows of later steps, which will be taken again, are dropped."""
        self._left = _version(self.folder)
        checkpoint = load_checkpoint(self.folder / "checkpoint.safetensors")
        stored = from_dict(type(self.config), checkpoint.config)
        require(
            stored == self.config,
            f"{self.folder} was trained with other options: {', '.join(_differences(stored, self.config))}; "
            "resume with the same ones, or choose another folder (--run)",
        )
        rows = [row for row in read_metrics(self.folder) if row["step"] <= checkpoint.step]
        write_text(self.folder / "metrics.csv", HEADER + _lines(rows))
        return checkpoint

    def _load(self, checkpoint: Checkpoint) -> None:
        checkpoint.load_into(self.model, self.optimizer if checkpoint.step else None)
        self.step, self.seconds = checkpoint.step, checkpoint.seconds

    def save(self) -> None:
        """Write metrics and a checkpoint, so that a later run can go on from here."""
        if self.folder is None or not self.workers.is_first:
            self.rows = self.rows if self.folder is None else []
            return
        append_text(self.folder / "metrics.csv", _lines(self.rows))
        self.rows = []
        save_checkpoint(
            self.folder / "checkpoint.safetensors",
            to_dict(self.config),
            self.step,
            self.seconds,
            self.model,
            self.optimizer,
            self._carried(),
        )
        self._left = _version(self.folder)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process in the folder, and none has been there since this run has read or written it."""
        if self.folder is None:
            yield
            return
        with alone_in(self.folder):
            require(
                _version(self.folder) == self._left,
                f"{self.folder} has changed since this run has left it: another process has trained there; "
                "go on from what it has saved (--resume)",
            )
            yield

    def _carried(self) -> dict[str, Tensor]:
        """What a run carries from step to step besides its model and optimiser: here nothing."""
        return {}

    def train_step(self) -> dict[str, int | float | Tensor]:
        """One optimiser step; returns its row of metrics, with loss and accuracy still on the device."""
        config, step, rate = self.config, self.step, learning_rate(self.step, self.config)
        # All workers draw the same sequences; what else is random differs between them.
        own = () if self.workers.is_first else (self.workers.rank,)
        self.generators["train"].manual_seed(derive_seed(config.seed, "train", step))
        self.generators["sticky"].manual_seed(derive_seed(config.seed, "sticky", step, *own))
        if config.model.dropout:
            torch.manual_seed(derive_seed(config.seed, "dropout", step, *own))
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # a recorded step reads it there
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        result = self._take_step()
        self.step += 1
        return {
            "step": self.step,
            "loss": result.loss.clone(),  # a recorded step overwrites it
            "accuracy": result.accuracy.clone(),
            "learning_rate": rate,
            "gradient_norm": result.gradient_norm.clone(),
        }

    def train(
        self,
        *,
        progress: bool | None = None,
        save_every: int = 250,
        log_every: int = 10,
        until: float | None = None,
    ) -> bool:
        """Train to the last step, or until Ctrl-C or a point in time.

        Args:
            progress: show a bar; None shows it on a terminal only.
            save_every: steps between checkpoints.
            log_every: steps between updates of the bar, which wait for the GPU.
            until: time, as of `time.time`, at which to save and stop.

        Returns:
            Whether the last step was reached. If not, the state is saved, and another call goes on.

        Raises:
            ValueError: if the loss is no longer finite, or another process is at work in the folder, or has been.
            OSError: if the folder can't be written to. What was saved before is left as it is in each case.
        """
        with ExitStack() as stack:
            self.workers.from_first(lambda: stack.enter_context(self._alone()))
            return self._train(progress, save_every, log_every, until)

    def _train(self, progress: bool | None, save_every: int, log_every: int, until: float | None) -> bool:
        self.model.train()
        log_every = min(log_every, save_every)
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            desc=self.config.model_name,
            unit="step",
            disable=True if not self.workers.is_first else None if progress is None else not progress,
            dynamic_ncols=True,
        )
        with bar, _interruption() as interrupted, torch.random.fork_rng(devices=_cuda_devices(self.device)):
            if self.fast:
                bar.set_postfix_str("compiling", refresh=True)
            began, pending = time.perf_counter() - self.seconds, []
            stopped = False
            while self.step < self.config.steps and not stopped:
                pending.append(self.train_step())
                # One worker alone stops at once; several agree on it when they wait for the GPU anyway.
                stops = interrupted.is_set() and not self.workers.are_many
                if stops or len(pending) >= log_every or self.step == self.config.steps:
                    self.seconds = time.perf_counter() - began
                    self._log(pending, bar)
                    late = until is not None and time.time() >= until
                    pending, stopped = [], self.workers.any(late or interrupted.is_set())
                if self.step % save_every < log_every and not pending:
                    self.save()
            self._log(pending, bar)
            self.save()
        return self.step >= self.config.steps

    def _log(self, pending: list[dict], bar: tqdm) -> None:
        if not pending:
            return
        rows = [
            {name: float(value) if isinstance(value, Tensor) else value for name, value in row.items()}
            for row in pending
        ]
        for row in rows:
            row["seconds"] = self.seconds
            if not math.isfinite(row["loss"]):
                raise DivergenceError(
                    f"the loss is {row['loss']} at step {row['step']}: try a smaller --learning-rate; the last "
                    "checkpoint is untouched"
                )
        self.rows += rows
        loss, accuracy = (sum(row[name] for row in rows) / len(rows) for name in ("loss", "accuracy"))
        bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}", refresh=False)
        bar.update(len(rows))


def _differences(stored: TrainingConfig, wanted: TrainingConfig) -> list[str]:
    mine, theirs = to_dict(wanted), to_dict(stored)
    return [f"{name} ({theirs[name]} there, {mine[name]} here)" for name in mine if mine[name] != theirs[name]]


def _lines(rows: Iterable[dict[str, int | float]]) -> str:
    """Rows of metrics as the file has them."""
    return "".join(",".join(_text(row[name]) for name in METRICS) + "\n" for row in rows)


def _text(value: int | float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _holds_run(folder: Path) -> bool:
    """Whether there is anything to lose, a checkpoint or rows: what died before its first checkpoint has neither."""
    metrics = folder / "metrics.csv"
    has_rows = metrics.exists() and metrics.read_bytes() != HEADER.encode()
    return has_rows or (folder / "checkpoint.safetensors").exists()


def _version(folder: Path) -> tuple[int, int] | None:
    """What tells a folder's checkpoint from any other that was there, or will be; None if there is none."""
    path = folder / "checkpoint.safetensors"
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """Turn Ctrl-C, and the end that a cluster announces, into a flag, so that a step is done or not done."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, lambda *_: flag.set()) for kind in signals]
    try:
        yield flag
    finally:
        for kind, handler in zip(signals, before, strict=True):
            signal.signal(kind, handler)


def read_metrics(folder: Path) -> list[dict[str, int | float]]:
    """The rows of a run's `metrics.csv`.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    path = folder / "metrics.csv"
    require(path.is_file(), f"there are no metrics at {path}: name the folder of a run")
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    require(
        tuple(reader.fieldnames or ()) == METRICS,
        f"{path} must begin with the line {HEADER.strip()}: it is damaged, or of another kind",
    )
    complete = [row for row in rows if None not in row.values() and set(row) == set(METRICS)]
    try:
        return [{name: int(row[name]) if name == "step" else float(row[name]) for name in METRICS} for row in complete]
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete the run and train again") from error


def clear_run(folder: Path) -> None:
    """Remove a run's own files from a folder, and nothing else that may be there.

    Raises:
        ValueError: if another process is at work there.
    """
    with alone_in(folder):
        for name in ("config.json", "metrics.csv", "checkpoint.safetensors"):
            (folder / name).unlink(missing_ok=True)


def load_run(folder: Path) -> tuple[TransformerXL, TrainingConfig]:
    """The model of a run, on the CPU, and how it was trained.

    Raises:
        ValueError: if the folder holds no whole checkpoint of this package.
    """
    return restored(load_checkpoint(folder / "checkpoint.safetensors"))


def restored(checkpoint: Checkpoint) -> tuple[TransformerXL, TrainingConfig]:
    """The model of a checkpoint, on the CPU, and how it was trained.

    Raises:
        ValueError: if the checkpoint does not hold the weights of its own configuration.
    """
    config = from_dict(TrainingConfig, checkpoint.config)
    wanted, there = num_weights(config.model), sum(tensor.numel() for tensor in checkpoint.model.values())
    require(  # before a model is built: a few letters can ask for gigabytes
        wanted == there,
        f"the checkpoint holds {there:,} weights, but a model of its configuration has {wanted:,}: it is damaged",
    )
    model = build_model(config.model)
    checkpoint.load_into(model)
    return model, config
