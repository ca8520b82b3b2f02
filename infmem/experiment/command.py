"""The command `infmem experiment`."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

from infmem.experiment.cells import (
    ABLATION_SEEDS,
    ABLATION_STEPS,
    LONGER,
    RECALL_SEEDS,
    RECALL_STEPS,
    SCALES,
    VARIANTS,
    Cell,
    ScaleName,
    VariantName,
    ablation_cells,
    recall_cells,
    result_cells,
    sweep_cells,
)
from infmem.experiment.results import chosen_rates, num_missing, read_rows, record_errors, record_lines
from infmem.experiment.train import record_longer, train_cells
from infmem.presets import Device, choose_device
from infmem.validation import require


def experiment(
    what: Annotated[Literal["sorting", "longer", "ablation", "recall"], tyro.conf.Positional] = "sorting",
    scale: ScaleName = "small",
    variants: tuple[VariantName, ...] = tuple(VARIANTS),
    lengths: tuple[int, ...] = (),
    seeds: tuple[int, ...] = (),
    steps: int | None = None,
    workers: int = 1,
    minutes: float | None = None,
    sequences: int = 1024,
    output: Path = Path("runs/experiment"),
    runs: Path = Path("runs/cells"),
    device: Device = "auto",
) -> int:
    """Experiments on the tasks, cell by cell.

    sorting is the paper's: accuracy against length for every model. First every model is trained with the same learning
    rates at small scale, then with its best one at every length and with every seed.

    longer does the same at the scale's second length, small, or first, full, and then scores each model on sequences
    up to sixteen times as long, without training it on them.

    ablation changes one choice of the infinite-former's memory at a time, at small scale, and records how wrong each
    memory is before it is trained.

    recall is a task on which some tokens matter more than others: facts that are asked for again and again. Everybody
    is trained with the same learning rates, then with the best one and every seed; accuracy is recorded by age of the
    fact.

    What is recorded is not trained again and what was begun is gone on with: stop it, and call it again.

    Args:
        what: which experiment.
        scale: sizes of models and task; full are the paper's.
        variants: the models.
        lengths: symbols per sequence; by default those of the scale.
        seeds: of weights and data; by default those of the scale.
        steps: optimiser steps; by default the preset's, 1,500 for ablation and recall.
        workers: trainings side by side; several GPUs are shared out among them.
        minutes: stop after so many, with everything saved.
        sequences: sequences of each evaluation.
        output: folder for sorting_lines.csv, sorting_sweep.csv, sorting.csv (longer.csv; ablation.csv,
            memory_errors.csv; recall_sweep.csv, recall.csv) and learning curves.
        runs: folder for the runs.
        device: where to train.
    """
    require(workers >= 1, f"workers must be at least 1, got {workers}")
    require(sequences >= 2, f"sequences must be at least 2 for an interval, got {sequences}")
    chosen, place = SCALES[scale], choose_device(device).type
    chosen = dataclasses.replace(chosen, lengths=lengths or chosen.lengths, seeds=seeds or chosen.seeds)
    until = None if minutes is None else time.time() + 60 * minutes
    training = {"device": place, "workers": workers, "until": until, "sequences": sequences}

    def complete(cells: list[Cell], path: Path) -> int:
        """Train what is missing, and say how many are left."""
        for row in train_cells(cells, path, runs, **training):
            print(_cell_line(row), flush=True)
        return num_missing(cells, path)

    if what == "ablation":
        record_errors(output / "memory_errors.csv")
        cells = ablation_cells(seeds or ABLATION_SEEDS, steps or ABLATION_STEPS)
        return _report_left(complete(cells, output / "ablation.csv"), output)
    if what == "recall":
        sweep, sweep_path = recall_cells(steps=steps or RECALL_STEPS), output / "recall_sweep.csv"
        left = complete(sweep, sweep_path)
        if not left:
            rates = chosen_rates(read_rows(sweep_path), sweep, sweep[0].preset)
            left = complete(recall_cells(rates, seeds or RECALL_SEEDS, steps or RECALL_STEPS), output / "recall.csv")
        return _report_left(left, output)
    if what == "longer":
        chosen = dataclasses.replace(chosen, lengths=lengths or LONGER[scale][:1])
    record_lines(chosen, output / "sorting_lines.csv")
    sweep_path, path = output / "sorting_sweep.csv", output / "sorting.csv"
    sweep = sweep_cells(variants, chosen.optimizer, steps)
    left = complete(sweep, sweep_path)
    if not left:
        rates = chosen_rates(read_rows(sweep_path), sweep, chosen.preset)
        cells = result_cells(chosen, variants, rates, steps)
        left = complete(cells, path)
        if what == "longer":
            longer = record_longer(cells, LONGER[scale], output / "longer.csv", runs, device=place, sequences=sequences)
            for row in longer:
                print(_cell_line(row), flush=True)
            gone = sum(not (runs / cell.name / "checkpoint.safetensors").exists() for cell in cells) - left
            if gone:
                print(f"{gone} trainings are recorded, but not in {runs}: train them there by their commands")
    return _report_left(left, output)


def _report_left(left: int, output: Path) -> int:
    print(f"{output}: {f'{left} trainings left; go on with the same command' if left else 'complete'}")
    return 0


def _cell_line(row: dict) -> str:
    return (
        f"{row['model']:<24} {row['length']:>6} symbols  rate {row['learning_rate']:<8} seed {row['seed']}  "
        f"accuracy {row['accuracy']} ± {row['ci95']}"
        + (f"  ({row['train_seconds']} s)" if "train_seconds" in row else "")
    )
