"""Train every model that the notebooks load, and record the numbers behind their figures: `make models`.

A run that is complete is not trained again, so an interrupted call goes on where it stopped. On one GPU with
`--workers 12` it takes minutes; on two CPU cores, about six hours.
"""

import csv
import dataclasses
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import tyro

from infmem.checkpoint import load_checkpoint, save_checkpoint, write_text
from infmem.config import from_dict
from infmem.evaluation import evaluate
from infmem.presets import build_model
from infmem.run import read_metrics
from infmem.tables import write_curve
from infmem.trained import FOLDER
from infmem.training import TrainingConfig
from infmem.validation import require

# What `infmem train` is told for each of them; all are of the classroom's size.
VARIANTS: dict[str, tuple[str, ...]] = {
    "infinite-former": (),
    "transformer-xl": ("--model", "transformer-xl"),
    "window": ("--model", "window"),
    "fixed-tau": ("--memory-options", "schedule=fixed"),
    "few-basis": ("--memory-options", "num_basis=12"),
    "sampled": ("--memory-options", "contraction=sampled"),
    "few-samples": ("--memory-options", "contraction=sampled", "num_samples=48"),
    "gate": ("--memory-options", "gate=true"),
    "padding": ("--memory-options", "padding=true"),
    "sticky": ("--memory-options", "contraction=sampled", "sticky=stratified"),
    "sticky-even": ("--memory-options", "contraction=sampled", "sticky=stratified", "placement=even"),
    "sticky-iid": ("--memory-options", "contraction=sampled", "sticky=iid"),
}
LENGTHS = (108, 204, 396, 780)
LENGTH_MODELS = ("infinite-former", "fixed-tau", "transformer-xl", "window")
COLUMNS = ("name", "length", "seed", "accuracy", "ci95", "free_running", "exact_counts", "receptive_field",
           "last_segment", "chance", "seconds")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training: a variant at a length, with a seed."""

    name: str
    length: int
    seed: int

    @property
    def command(self) -> tuple[str, ...]:
        """What trains it."""
        return ("infmem", "train", *VARIANTS[self.name], "--length", str(self.length), "--seed", str(self.seed))

    def folder(self, root: Path) -> Path:
        """Where it is trained."""
        return root / f"{self.name}-{self.length}-seed{self.seed}"

    def evaluation(self, root: Path) -> Path:
        """What is there once it is complete."""
        return self.folder(root) / f"evaluation-{self.length}.json"


def cells(seeds: tuple[int, ...]) -> list[Cell]:
    """Every variant at the classroom's length, and the models to compare at every length."""
    lengths = {Cell(name, length, seed) for seed in seeds for name in LENGTH_MODELS for length in LENGTHS}
    names = list(VARIANTS)
    variants = {Cell(name, 396, seed) for seed in seeds for name in VARIANTS}
    # What is shipped first, and the slow ones last: a sticky memory is read segment by segment.
    return sorted(
        lengths | variants,
        key=lambda cell: (cell.seed, cell.length != 396, "sticky" in cell.name, cell.length, names.index(cell.name)),
    )


def train(cell: Cell, root: Path, commit: str) -> str:
    """Train one cell in a process of its own; returns what it printed last."""
    started = (cell.folder(root) / "checkpoint.safetensors").exists()
    command = [sys.executable, "-m", "infmem.cli", *cell.command[1:], "--run", str(cell.folder(root))]
    done = subprocess.run([*command, *(["--resume"] if started else [])], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    origin = {"commit": commit, "device": device, "torch": torch.__version__}
    write_text(cell.folder(root) / "origin.json", json.dumps(origin) + "\n")
    return " ".join(done.stdout.split())


def ship(cell: Cell, root: Path) -> None:
    """Put a finished run among the trained models; its score is measured anew, on the CPU."""
    folder = cell.folder(root)
    checkpoint = load_checkpoint(folder / "checkpoint.safetensors")
    config = from_dict(TrainingConfig, checkpoint.config)
    require(checkpoint.step == config.steps, f"{folder} has done {checkpoint.step} of {config.steps} steps: resume it")
    model = build_model(config.model)
    checkpoint.load_into(model)
    save_checkpoint(
        FOLDER / f"{cell.name}.safetensors", checkpoint.config, checkpoint.step, checkpoint.seconds, model, None
    )
    score = dataclasses.asdict(evaluate(model, config.length, config.segment_length, precision="float32"))
    del score["seconds"]
    card = {"command": " ".join(cell.command), "seed": config.seed}
    card |= json.loads((folder / "origin.json").read_text(encoding="utf-8"))
    card |= {"training_seconds": round(checkpoint.seconds, 1)}
    card |= {name: round(value, 4) if isinstance(value, float) else value for name, value in score.items()}
    write_text(FOLDER / f"{cell.name}.json", json.dumps(card, indent=2) + "\n")
    write_curve(FOLDER / f"{cell.name}.csv", read_metrics(folder))


def current_commit() -> str:
    """The commit of this checkout, marked if it has changes."""
    command = ["git", "-C", str(FOLDER), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(
    folder: Path = Path("runs/models"),
    seeds: tuple[int, ...] = (0, 1, 2),
    workers: int = 1,
    commit: str | None = None,
    ship_models: bool = True,
) -> None:
    """Train what is missing, record accuracy against length, and ship the models.

    Args:
        folder: where the runs are kept.
        seeds: seeds to train with; the models of seed 0 are shipped.
        workers: trainings side by side.
        commit: what is trained, where there is no git checkout to ask.
        ship_models: copy weights, cards and learning curves into the package, and the numbers into figures/data.
    """
    wanted = cells(seeds)
    missing = [cell for cell in wanted if not cell.evaluation(folder).exists()]
    commit = commit or current_commit()
    with ThreadPoolExecutor(workers) as pool:
        for line in pool.map(lambda cell: train(cell, folder, commit), missing):
            print(line, flush=True)
    if not ship_models:
        return
    here = Path(__file__).resolve().parent
    rows = []
    for cell in wanted:
        found = json.loads(cell.evaluation(folder).read_text())
        seconds = load_checkpoint(cell.folder(folder) / "checkpoint.safetensors").seconds
        values = dataclasses.asdict(cell) | found | found["lines"] | {"seconds": seconds}
        rows.append({name: round(v, 4) if isinstance(v := values[name], float) else v for name in COLUMNS})
        if cell.length == 396 and cell.seed == 0:
            ship(cell, folder)
    with (here / "data" / "classroom_variants.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["name"], row["length"], row["seed"])))


if __name__ == "__main__":
    tyro.cli(main)
