"""Experiments on the tasks, cell by cell: accuracy against length, and what each choice of a memory is worth.

A cell is one training: a model at a length, with a seed and a learning rate. What is recorded is not trained again, and
what was begun is gone on with, so an experiment can be stopped and called again until it is complete.
"""

from infmem.experiment.cells import (
    ABLATION_SEEDS,
    ABLATION_STEPS,
    ABLATIONS,
    LONGER,
    RECALL_SEEDS,
    RECALL_STEPS,
    RECALLS,
    SCALES,
    SWEEP_LENGTH,
    VARIANTS,
    Cell,
    ScaleName,
    VariantName,
    ablation_cells,
    recall_cells,
    result_cells,
    sweep_cells,
)
from infmem.experiment.results import (
    ablation_scores,
    age_scores,
    chosen_rates,
    has_usual_budget,
    longer_scores,
    mean_scores,
    num_missing,
    read_lines,
    read_rows,
    record_errors,
    record_lines,
)
from infmem.experiment.train import record_longer, train_cells

__all__ = [
    "ABLATIONS",
    "ABLATION_SEEDS",
    "ABLATION_STEPS",
    "LONGER",
    "RECALLS",
    "RECALL_SEEDS",
    "RECALL_STEPS",
    "SCALES",
    "SWEEP_LENGTH",
    "VARIANTS",
    "Cell",
    "ScaleName",
    "VariantName",
    "ablation_cells",
    "ablation_scores",
    "age_scores",
    "chosen_rates",
    "has_usual_budget",
    "longer_scores",
    "mean_scores",
    "num_missing",
    "read_lines",
    "read_rows",
    "recall_cells",
    "record_errors",
    "record_lines",
    "record_longer",
    "result_cells",
    "sweep_cells",
    "train_cells",
]
