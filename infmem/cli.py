"""The command line: `infmem demo | train | evaluate | sweep | experiment | language | bench | info`."""

import ctypes
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from safetensors import SafetensorError

from infmem.benchmark.command import bench
from infmem.checkpoint import load_checkpoint, write_text
from infmem.config import parse_options
from infmem.demo import MODELS, demo_config, format_summary, run_demo
from infmem.distributed import joined_workers
from infmem.evaluation import RecallEvaluation, SortingEvaluation
from infmem.evaluation import evaluate as evaluate_model
from infmem.experiment.command import experiment
from infmem.language.command import language
from infmem.models.infinite_former import InfiniteFormerConfig
from infmem.optimizer import OptimizerName
from infmem.presets import (
    MEMORY_CONFIGS,
    MODEL_NAMES,
    PRESETS,
    Device,
    MemoryName,
    ModelName,
    PresetName,
    build_model,
    choose_device,
    device_name,
    model_config,
)
from infmem.run import Run, default_folder, load_run
from infmem.sweep import sweep as run_sweep
from infmem.system import system_lines
from infmem.tasks import TaskName, find_task, recall
from infmem.tasks.sorting import first_visible, reference_lines
from infmem.training import TrainingConfig, generator_for
from infmem.validation import require

INTERRUPTED = 130
BAD_INPUT = 2

Precision = Literal["auto", "float32", "bfloat16"]
Fast = Literal["auto", "on", "off"]
FAST: dict[Fast, bool | None] = {"auto": None, "on": True, "off": False}


def demo(
    preset: PresetName = "classroom",
    run: Path = Path("runs/demo"),
    seed: int = 0,
    device: Device = "auto",
    resume: bool = False,
) -> int:
    """Train an infinite-former beside a Transformer-XL, and show who remembers.

    Both models have the same width, depth, steps, data and memory budget. Ends with a table, a figure of learning
    curves and a summary in the run's folder. An earlier demonstration in that folder is replaced.

    Args:
        preset: sizes of models and task.
        run: folder for both runs, the figure and summary.json.
        seed: of weights and data.
        device: where to train.
        resume: go on with a demonstration that was interrupted.
    """
    sizes, place = PRESETS[preset], choose_device(device)
    remembers = model_config("transformer-xl", sizes).reach
    seen = sizes.length - first_visible(sizes.length, sizes.segment_length, sizes.sizes.num_layers, remembers)[0].item()
    print(
        f"Sorting {sizes.length} symbols by how often each occurred, read {sizes.segment_length} tokens at a time.\n"
        f"The Transformer-XL can see the last {seen} of them; the infinite-former has to remember what is older.\n"
        f"Training on {device_name(place)}; Ctrl-C saves and stops.",
        flush=True,
    )
    summary = run_demo(sizes, run, place, seed=seed, resume=resume)
    if summary is None:
        print(
            f"\nStopped. Go on with: infmem demo --preset {preset} --run {run} --seed {seed} --device {device} --resume"
        )
        return INTERRUPTED
    print(
        f"\n{format_summary(summary)}\n\n"
        f"Learning curves: {run / 'learning_curves.png'}\nNumbers: {run / 'summary.json'}"
    )
    return 0


def train(
    model: ModelName = "infinite-former",
    task: TaskName = "sorting",
    preset: PresetName = "classroom",
    memory: MemoryName = "best",
    memory_options: tuple[str, ...] = (),
    num_layers: int | None = None,
    length: int | None = None,
    segment_length: int | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    grad_segments: int = 1,
    precision: Precision = "auto",
    optimizer: OptimizerName = "adam",
    seed: int = 0,
    start: Path | None = None,
    device: Device = "auto",
    fast: Fast = "auto",
    run: Path | None = None,
    resume: bool = False,
    save_every: int = 250,
    sequences: int = 512,
) -> int:
    """Train one model, then evaluate it on fresh sequences.

    What is not given comes from the preset. Ctrl-C saves; --resume goes on, on a CPU bit for bit.
    Several GPUs share each batch: torchrun --nproc_per_node=K -m infmem.cli -- train ...

    Args:
        model: which model.
        task: what to train on: sorting by counts, or recall of facts that were stated early.
        preset: sizes of model and task.
        memory: preset of the long-term memory (infinite-former only).
        memory_options: fields of the memory to set otherwise, such as schedule=fixed or sigmas=[0.05] for the
            infinite-former, rate=2 or compression=max_pool for the compressive-transformer.
        num_layers: layers of the model.
        length: symbols (recall: tokens) per sequence.
        segment_length: tokens per segment.
        batch_size: sequences per step.
        steps: optimiser steps.
        learning_rate: the largest learning rate.
        grad_segments: segments that gradient flows through.
        precision: auto is bfloat16 on a GPU, float32 on a CPU.
        optimizer: muon makes the updates of matrices orthogonal, and often learns in fewer steps.
        seed: of weights and data.
        start: folder of a run of the same model whose weights to begin with, such as one on shorter sequences.
        device: where to train.
        fast: compile the layers, and on a GPU record the step; auto does it on a GPU. It takes half a minute to begin.
        run: folder of the run; by default runs/TASK-MODEL-PRESET-LENGTH-seedSEED.
        resume: go on from the folder's checkpoint.
        save_every: steps between checkpoints.
        sequences: sequences of the evaluation at the end.
    """
    require(sequences >= 2, f"sequences must be at least 2 for an interval, got {sequences}")
    require(save_every >= 1, f"save_every must be at least 1, got {save_every}")
    sizes = PRESETS[preset]
    if num_layers is not None:
        sizes = dataclasses.replace(sizes, sizes=dataclasses.replace(sizes.sizes, num_layers=num_layers))
    given = {
        "length": length,
        "segment_length": segment_length,
        "batch_size": batch_size,
        "steps": steps,
        "learning_rate": learning_rate,
    }
    chosen = {name: getattr(sizes, name) if value is None else value for name, value in given.items()}
    require(
        model in MEMORY_CONFIGS or not memory_options,
        f"--memory-options set the long-term memory, which a {model} does not have: leave them out",
    )
    options = parse_options(MEMORY_CONFIGS[model], memory_options) if memory_options else {}
    config = TrainingConfig(
        model=model_config(model, sizes, memory, options, task),
        grad_segments=grad_segments,
        precision=precision,
        optimizer=optimizer,
        task=task,
        seed=seed,
        **chosen,
    )
    weights = None if start is None else load_checkpoint(start / "checkpoint.safetensors")
    folder = run or default_folder(model, preset, config.length, seed, task)
    with joined_workers(choose_device(device)) as workers:
        training = Run(config, folder, workers.device, resume=resume, fast=FAST[fast], workers=workers, start=weights)
        if workers.is_first:
            size = f"{model}: {training.model.num_parameters:,} parameters"
            print(f"{size}, on {device_name(workers.device, workers.size)}, in {folder}", flush=True)
        finished = training.train(save_every=save_every)
    if not workers.is_first:
        return 0
    if not finished:
        print(f"Stopped at step {training.step} of {config.steps}. Go on with the same command and --resume.")
        return INTERRUPTED
    return evaluate(folder, device=device, sequences=sequences)


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    length: tuple[int, ...] = (),
    sequences: int = 512,
    batch_size: int = 64,
    seed: int = 0,
    device: Device = "auto",
) -> int:
    """Evaluate a trained model on fresh sequences of its task, beside what counting or guessing scores.

    Writes each result to evaluation-LENGTH.json in the run's folder.

    Args:
        run: folder of the run.
        length: symbols (recall: tokens) per sequence, one number or several; by default as in training.
        sequences: how many sequences.
        batch_size: sequences at a time.
        seed: of the sequences.
        device: where to evaluate.
    """
    model, config = load_run(run)
    lengths = length or (config.length,)
    shortest = find_task(config.task).shortest
    require(min(lengths) >= shortest, f"length must be at least {shortest} for {config.task}, got {min(lengths)}")
    model.to(choose_device(device))
    for each in lengths:
        score = evaluate_model(
            model,
            each,
            config.segment_length,
            task=config.task,
            sequences=sequences,
            batch_size=batch_size,
            seed=seed,
            precision=config.precision,
        )
        reference, report = REPORTS[config.task](config, score, seed)
        result = {"model": config.model_name, "task": config.task} | dataclasses.asdict(score) | reference
        write_text(run / f"evaluation-{each}.json", json.dumps(result, indent=2) + "\n")
        print(report, flush=True)
    return 0


def _report_sorting(config: TrainingConfig, score: SortingEvaluation, seed: int) -> tuple[dict, str]:
    """What a score is held against, and both as text: counting by hand."""
    lines = reference_lines(
        score.length,
        config.segment_length,
        config.model.num_layers,
        config.model.reach,
        generator_for(torch.device("cpu"), seed, "lines"),
    )
    short_term = "short-term memory" if isinstance(config.model, InfiniteFormerConfig) else "receptive field"
    report = (
        f"{config.model_name}, {score.sequences} sequences of {score.length} symbols:\n"
        f"  accuracy       {score.accuracy:.3f} ± {score.ci95:.3f} (teacher-forced)\n"
        f"  free-running   {score.free_running:.3f} ± {score.free_running_ci95:.3f}\n"
        f"  counting       {lines.exact_counts:.3f} everything, {lines.receptive_field:.3f} what its {short_term} "
        f"reaches, {lines.last_segment:.3f} the last segment; chance {lines.chance:.3f}"
    )
    return {"lines": dataclasses.asdict(lines)}, report


def _report_recall(config: TrainingConfig, score: RecallEvaluation, seed: int) -> tuple[dict, str]:
    """What a score is held against, and both as text: guessing."""
    by_age = "\n".join(
        f"  {each.age:>14} {each.accuracy:.3f} ± {each.ci95:.3f} ({each.sequences} sequences)" for each in score.by_age
    )
    report = (
        f"{config.model_name}, {score.sequences} sequences of {score.length} tokens:\n"
        f"  accuracy       {score.accuracy:.3f} ± {score.ci95:.3f}; chance {recall.CHANCE:.3f}\n"
        f"  by segments of {config.segment_length} tokens since the fact was stated:\n{by_age}"
    )
    return {"chance": recall.CHANCE}, report


# How each task's score is told: what it is held against, and a text for people.
REPORTS: dict[TaskName, Callable[[TrainingConfig, Any, int], tuple[dict, str]]] = {
    "sorting": _report_sorting,
    "recall": _report_recall,
}


def sweep(
    preset: PresetName = "classroom",
    learning_rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    seeds: tuple[int, ...] = (0,),
    models: tuple[ModelName, ...] = MODELS,
    steps: int | None = None,
    length: int | None = None,
    segment_length: int | None = None,
    output: Path = Path("runs/sweep.csv"),
    workers: int = 1,
    precision: Precision = "auto",
    device: Device = "auto",
    fast: Fast = "auto",
) -> int:
    """Train models with the same learning rates and record their accuracy; cells that the file has are skipped.

    Args:
        preset: sizes of models and task.
        learning_rates: the rates to try.
        seeds: the seeds to try.
        models: the models to train.
        steps: optimiser steps; by default the preset's.
        length: symbols per sequence; by default the preset's.
        segment_length: tokens per segment; by default the preset's.
        output: CSV file that rows are appended to.
        workers: trainings side by side.
        precision: auto is bfloat16 on a GPU, float32 on a CPU.
        device: where to train.
        fast: compile the layers, and on a GPU record the step; auto does it on a GPU.
    """
    require(workers >= 1, f"workers must be at least 1, got {workers}")
    sizes = PRESETS[preset]
    given = {"steps": steps, "length": length, "segment_length": segment_length, "precision": precision}
    changes = {name: value for name, value in given.items() if value is not None}
    configs = [dataclasses.replace(demo_config(model, sizes, seed=0), **changes) for model in models]
    began = time.perf_counter()
    place = choose_device(device).type
    for row in run_sweep(configs, learning_rates, seeds, output, device=place, workers=workers, fast=FAST[fast]):
        print(
            f"{row['model']:<23} rate {row['learning_rate']:<8g} seed {row['seed']}  accuracy {row['accuracy']:.3f} "
            f"± {row['ci95']:.3f}  ({row['seconds']:.0f} s)",
            flush=True,
        )
    print(f"{output}: complete after {time.perf_counter() - began:.0f} s")
    return 0


def info() -> int:
    """Show what a report of a bug needs, then the presets with each model's parameters, state and receptive field."""
    print("\n".join(system_lines()) + "\n")
    for name in PRESETS:
        sizes = PRESETS[name]
        print(
            f"{name}: {sizes.length:,} symbols in segments of {sizes.segment_length:,}; "
            f"{sizes.sizes.num_layers} layers, d_model {sizes.sizes.d_model}; "
            f"batch {sizes.batch_size}, {sizes.steps:,} steps"
        )
        for model_name in MODEL_NAMES.values():
            config = model_config(model_name, sizes)
            with torch.device("meta"):
                model = build_model(config)
                state_kib = model.state_bytes(1) / 1024
            first = first_visible(sizes.length, sizes.segment_length, config.num_layers, config.reach)[0].item()
            sees_all = model_name == "infinite-former" or first == 0
            field = "all symbols" if sees_all else f"the last {sizes.length - first:,} symbols"
            print(
                f"  {model_name:<23} {model.num_parameters:>10,} parameters   {state_kib:>9,.1f} KiB of state"
                f" a sequence   sees {field}"
            )
        print()
    return 0


def keep_freed_memory() -> None:
    """Ask glibc not to hand freed memory back to the system, where the C library is glibc.

    Each operation on a large tensor allocates its result. By default glibc returns such blocks at once, and the next
    operation gets fresh pages that fault one by one: a classroom step of the Transformer-XL took 78 ms instead of 48.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # names of the parameters in glibc's malloc.h
        mallopt(trim_threshold, 2**30)
        mallopt(mmap_threshold, 2**25)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; what a user got wrong is told in one line, with exit code 2.

    Example:
        >>> main(["evaluate", "there-is-no-such-run"])
        2
    """
    keep_freed_memory()
    commands = {
        "demo": demo,
        "train": train,
        "evaluate": evaluate,
        "sweep": sweep,
        "experiment": experiment,
        "language": language,
        "bench": bench,
        "info": info,
    }
    try:
        return tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="infmem",
            description="Learn, build and trust the infinite-former: a transformer with an unbounded long-term memory.",
            args=arguments,
        )
    except BrokenPipeError:  # whoever read the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, SafetensorError) as error:
        if os.environ.get("RANK", "0") == "0":  # of several workers one says it
            print(f"infmem: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
