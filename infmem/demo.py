"""The demonstration: an infinite-former beside a Transformer-XL of its size, on a task that needs a long memory."""

import dataclasses
import json
from pathlib import Path

import torch

from infmem.checkpoint import failure_named, write_text
from infmem.evaluation import SortingEvaluation, evaluate
from infmem.lock import alone_in
from infmem.presets import Preset, model_config
from infmem.run import Run, clear_run, read_metrics
from infmem.tasks.sorting import ReferenceLines, reference_lines
from infmem.training import TrainingConfig, generator_for

MODELS = ("infinite-former", "transformer-xl")
SUMMARY, FIGURE = "summary.json", "learning_curves.png"


def demo_config(model: str, sizes: Preset, seed: int) -> TrainingConfig:
    """How the demonstration trains a model: everything but the model is the same for both.

    Example:
        >>> from infmem.presets import preset
        >>> demo_config("transformer-xl", preset("classroom"), seed=0).model_name
        'transformer-xl'
    """
    return TrainingConfig(
        model=model_config(model, sizes),
        length=sizes.length,
        segment_length=sizes.segment_length,
        batch_size=sizes.batch_size,
        steps=sizes.steps,
        learning_rate=sizes.learning_rate,
        seed=seed,
    )


def run_demo(
    sizes: Preset, folder: Path, device: torch.device, seed: int = 0, sequences: int = 512, resume: bool = False
) -> dict | None:
    """Train both models, score them on the same fresh sequences, and write a summary and a figure.

    Args:
        sizes: the preset.
        folder: where to keep both runs; an earlier demonstration there is replaced unless it is resumed.
        device: where to train.
        seed: of weights and data.
        sequences: sequences of the evaluation.
        resume: go on with what is in the folder.

    Returns:
        The summary, or None if training was interrupted.

    Raises:
        ValueError: if another demonstration is at work in the folder.
    """
    with failure_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        return _run_demo(sizes, folder, device, seed, sequences, resume)


def _run_demo(
    sizes: Preset, folder: Path, device: torch.device, seed: int, sequences: int, resume: bool
) -> dict | None:
    for name in (SUMMARY, FIGURE):
        (folder / name).unlink(missing_ok=True)  # what is there belongs to an earlier demonstration
    scores, runs = {}, {}
    for model in MODELS:
        run_folder, config = folder / model, demo_config(model, sizes, seed)
        if not resume:
            clear_run(run_folder)
        started = (run_folder / "checkpoint.safetensors").exists()
        run = Run(config, run_folder, device, resume=started)
        if not run.train():
            return None
        runs[model] = run
        scores[model] = evaluate(
            run.model, sizes.length, sizes.segment_length, sequences=sequences, seed=seed, precision=config.precision
        )
    memory_length = runs["transformer-xl"].model.memory_length
    lines = reference_lines(
        sizes.length,
        sizes.segment_length,
        sizes.sizes.num_layers,
        memory_length,
        generator_for(torch.device("cpu"), seed, "lines"),
        num_sequences=1000,
    )
    summary = {model: _entry(runs[model], scores[model]) for model in MODELS}
    summary["lines"] = dataclasses.asdict(lines)
    write_text(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
    _draw(folder, lines)
    return summary


def _entry(run: Run, score: SortingEvaluation) -> dict:
    state_bytes = run.model.state_bytes(1)
    return {
        "accuracy": score.accuracy,
        "ci95": score.ci95,
        "free_running": score.free_running,
        "free_running_ci95": score.free_running_ci95,
        "sequences": score.sequences,
        "steps": run.step,
        "seconds": run.seconds,
        "parameters": run.model.num_parameters,
        "state_bytes": state_bytes,
        "seed": run.config.seed,
        "learning_rate": run.config.learning_rate,
        "device": str(run.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _draw(folder: Path, lines: ReferenceLines) -> None:
    from infmem.plots import draw_learning_curves  # matplotlib takes a while to import: only when there is a picture

    figure = draw_learning_curves({model: read_metrics(folder / model) for model in MODELS}, lines)
    figure.savefig(folder / FIGURE, dpi=150)


def format_summary(summary: dict) -> str:
    """The summary as a table that a person can read.

    Example:
        >>> entry = dict(accuracy=0.75, ci95=0.01, free_running=0.7, seconds=100.0, parameters=1000, state_bytes=2048)
        >>> lines = dict(chance=0.18, last_segment=0.23, receptive_field=0.36, exact_counts=0.87)
        >>> print(format_summary({"infinite-former": entry, "lines": lines}))  # doctest: +NORMALIZE_WHITESPACE
                                                   accuracy         free-running  parameters  state/sequence  training
        infinite-former                            0.750 ± 0.010    0.700              1,000         2.0 KiB     100 s
        counting everything                        0.870
        counting what a Transformer-XL can see     0.360
        counting the last segment                  0.230
        chance                                     0.180
    """
    from infmem.plots import LINE_NAMES

    head = f"{'':<42}{'accuracy':<17}{'free-running':<14}{'parameters':>10}{'state/sequence':>16}{'training':>10}"
    rows = [head]
    for model, entry in summary.items():
        if model != "lines":
            accuracy = f"{entry['accuracy']:.3f} ± {entry['ci95']:.3f}"
            state, seconds = f"{entry['state_bytes'] / 1024:.1f} KiB", f"{entry['seconds']:.0f} s"
            rows.append(
                f"{model:<42}{accuracy:<17}{entry['free_running']:<14.3f}{entry['parameters']:>10,}{state:>16}{seconds:>10}"
            )
    rows += [f"{title:<42}{summary['lines'][name]:.3f}" for name, title in LINE_NAMES.items()]
    return "\n".join(rows)
