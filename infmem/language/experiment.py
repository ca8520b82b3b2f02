"""The experiment on language: every model with the same data, steps and parameters, and what its memory is worth.

What is recorded is not trained again and what was begun is gone on with, so the experiment can be stopped and called
again until it is complete.
"""

import math
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from infmem.language.cells import KEY, Cell
from infmem.language.evaluation import (
    Costs,
    MemoryUse,
    by_position,
    evaluate_language,
    load_costs,
    perplexity_interval,
    perplexity_ratio,
    save_costs,
)
from infmem.language.training import LanguageConfig, LanguageRun
from infmem.presets import device_name
from infmem.run import DivergenceError
from infmem.tables import read_table, write_table
from infmem.tasks.documents import Split, fair_order
from infmem.tasks.tokens import TokenFile
from infmem.validation import require

FIELDS = (
    "experiment", "model", "size", "seed", "optimizer", "learning_rate", "steps", "tokens_seen", "split", "documents",
    "memory", "ppl", "ppl_low", "ppl_high", "bits_per_byte", "ratio_to_on", "ratio_low", "ratio_high", "train_seconds",
    "tokens_per_second", "device", "parameters", "state_bytes", "torch", "python", "corpus", "corpus_hash", "sources",
    "command",
)  # fmt: skip
POSITION_FIELDS = (*KEY, "memory", "start", "end", "num_documents", "num_tokens", "ppl", "low", "high")
COMPARED_FIELDS = ("model", "baseline", "size", "seeds", "ratio", "ratio_low", "ratio_high", "corpus_hash")

# Which of these packages the text came from is worth a word; all of them have the corpus's hash.
NAMED_SOURCES = ("python", "torch", "numpy", "matplotlib")


def score(
    model: nn.Module,
    config: LanguageConfig,
    tokens: TokenFile,
    split: Split,
    most_documents: int | None = None,
) -> dict[MemoryUse, Costs]:
    """Evaluate a model where it is, with its long-term memory, if it has one, on, off and shuffled.

    Args:
        model: the model.
        config: how it was trained.
        tokens: the corpus.
        split: which documents.
        most_documents: a fair choice of so many; None takes all.
    """
    documents = tokens.splits[split]
    if most_documents is not None and most_documents < len(documents):
        documents = documents.some(sorted(fair_order(documents.names)[:most_documents]))
    return evaluate_language(
        model,
        documents,
        segment_length=config.segment_length,
        document_token=tokens.document_token,
        batch_size=config.batch_size,
        memories=("on", "off", "shuffled") if model.empty(1).long_term else ("on",),
        precision=config.precision,
        seed=config.seed,
        progress=True,
    )


def score_row(costs: Costs, on: Costs) -> dict[str, str | int]:
    """The numbers of an evaluation, as they are recorded.

    Args:
        costs: with the memory in some use.
        on: with the memory on.
    """
    low, high = perplexity_interval(costs)
    ratio, ratio_low, ratio_high = perplexity_ratio(costs, on)
    numbers = {
        "ppl": costs.perplexity,
        "ppl_low": low,
        "ppl_high": high,
        "bits_per_byte": costs.bits_per_byte,
        "ratio_to_on": ratio,
        "ratio_low": ratio_low,
        "ratio_high": ratio_high,
    }
    return {"documents": len(costs.names)} | {name: f"{number:.4f}" for name, number in numbers.items()}


def run_cells(
    cells: Sequence[Cell],
    tokens: TokenFile,
    path: Path,
    runs: Path,
    *,
    split: Split,
    device: torch.device,
    until: float | None = None,
    save_every: int = 1000,
    most_documents: int | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """Train what is not recorded yet, evaluate it, and record it.

    Args:
        cells: what to train, in order.
        tokens: the corpus.
        path: CSV file that rows are appended to; beside it one with the ranges of positions.
        runs: folder for the runs.
        split: on which documents each is evaluated.
        device: where to train.
        until: time (as of `time.time`) at which a training is saved and left for another call.
        save_every: steps between checkpoints.
        most_documents: of the evaluation; None takes all.

    Yields:
        The rows of each cell, as they are recorded.
    """
    positions = path.with_name(f"{path.stem}_positions.csv")
    for cell in cells:
        rows, key = read_table(path, FIELDS, "the file of a language experiment"), cell.key(split, tokens)
        if any(all(row[name] == key[name] for name in KEY) for row in rows):
            continue
        if until is not None and time.time() >= until:
            return
        folder = runs / cell.folder(tokens)
        begun = (folder / "checkpoint.safetensors").exists()
        run = LanguageRun(cell.config(tokens), tokens, folder, device, resume=begun)
        try:
            if not run.train(until=until, save_every=save_every):
                return
            costs = score(run.model, run.config, tokens, split, most_documents)
        except DivergenceError:
            costs = {}
        for use, cost in costs.items():
            save_costs(costs_path(path, cell, tokens, use), cost)
        about = key | _about(cell, run, tokens)
        numbers = {use: score_row(cost, costs["on"]) for use, cost in costs.items()}
        new = [about | {"memory": use} | row for use, row in numbers.items()] or [about | _diverged()]
        write_table(path, FIELDS, [*rows, *new])
        if split == "test":
            record_positions(positions, key, costs)
        yield new


def _about(cell: Cell, run: LanguageRun, tokens: TokenFile) -> dict[str, Any]:
    config = run.config
    tokens_seen = run.step * config.grad_segments * config.batch_size * config.segment_length
    return about_training(run.model, run.device, tokens, tokens_seen, run.seconds) | {
        "experiment": "scratch",
        "command": cell.command,
    }


def about_training(
    model: nn.Module, device: torch.device, tokens: TokenFile, tokens_seen: int, seconds: float
) -> dict[str, Any]:
    """What is recorded of a training beside its scores: model, machine, versions and text.

    Args:
        model: what was trained.
        device: where.
        tokens: the text.
        tokens_seen: positions read, those behind the ends of documents included.
        seconds: time that it took.
    """
    sources = tokens.about["sources"]
    named = [f"{name} {sources[name]}" for name in NAMED_SOURCES if name in sources]
    more = len(sources) - len(named)
    return {
        "tokens_seen": tokens_seen,
        "train_seconds": f"{seconds:.1f}",
        "tokens_per_second": round(tokens_seen / seconds) if seconds else 0,
        "device": device_name(device),
        "parameters": model.num_parameters,
        "state_bytes": model.state_bytes(1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "corpus": tokens.about["corpus"],
        "sources": ", ".join(named) + (f" and {more} more packages" if more else ""),
    }


def record_positions(path: Path, key: Mapping[str, str], costs: Mapping[MemoryUse, Costs]) -> None:
    """Append the perplexity in each range of positions.

    Args:
        path: CSV file.
        key: what tells the training from others.
        costs: of each use of the memory.
    """
    ranges = [
        {**key, "memory": use} | {name: f"{value:.6g}" for name, value in row.items()}
        for use, cost in costs.items()
        for row in by_position(cost)
    ]
    write_table(path, POSITION_FIELDS, [*read_table(path, POSITION_FIELDS), *ranges])


def _diverged() -> dict[str, Any]:
    return {"memory": "on", "documents": 0} | {
        name: f"{math.nan}"
        for name in ("ppl", "ppl_low", "ppl_high", "bits_per_byte", "ratio_to_on", "ratio_low", "ratio_high")
    }


def best_rates(rows: Sequence[dict[str, str]], cells: Sequence[Cell], tokens: TokenFile) -> dict[str, float]:
    """The learning rate of each model with which it expects the validation documents best.

    Args:
        rows: what is recorded.
        cells: of the sweep.
        tokens: the corpus.

    Raises:
        ValueError: if a cell has no row.
    """
    found = {tuple(row[name] for name in KEY): float(row["ppl"]) for row in rows if row["memory"] == "on"}
    best: dict[str, tuple[float, float]] = {}
    for cell in cells:
        key = tuple(cell.key("validation", tokens).values())
        require(key in found, f"the sweep of learning rates is not complete: {cell.command} is missing")
        ppl = found[key] if math.isfinite(found[key]) else math.inf
        best[cell.model] = min(best.get(cell.model, (math.inf, cell.learning_rate)), (ppl, cell.learning_rate))
    return {model: rate for model, (_, rate) in best.items()}


def costs_path(path: Path, cell: Cell, tokens: TokenFile, use: MemoryUse = "on") -> Path:
    """Where it is kept what each document costs.

    Args:
        path: CSV file of the results.
        cell: the training.
        tokens: the corpus.
        use: of the memory.
    """
    return path.with_name(f"{path.stem}_costs") / f"{cell.folder(tokens)}-{use}.safetensors"


def costs_of_cells(cells: Sequence[Cell], tokens: TokenFile, path: Path) -> dict[tuple[str, int], Path]:
    """Where the costs of each model and seed are, of those that there are.

    Args:
        cells: of the results.
        tokens: the corpus.
        path: CSV file of the results.
    """
    paths = {(cell.model, cell.seed): costs_path(path, cell, tokens) for cell in cells}
    return {pair: costs for pair, costs in paths.items() if costs.exists()}


def compare(paths: Mapping[tuple[str, int], Path], baseline: str, size: str, tokens: TokenFile) -> list[dict[str, Any]]:
    """Each model against a baseline: the ratio of perplexities, and its paired interval over documents.

    What a document costs is the mean over those seeds that both have finished.

    Args:
        paths: costs of each model and seed.
        baseline: what the others are compared with.
        size: of all of them.
        tokens: the corpus.
    """
    rows = []
    for model in dict.fromkeys(name for name, _ in paths):
        seeds = [seed for name, seed in paths if name == model and (baseline, seed) in paths]
        if model == baseline or not seeds:
            continue
        means = [_mean_costs([load_costs(paths[name, seed]) for seed in seeds]) for name in (model, baseline)]
        ratio = dict(zip(("ratio", "ratio_low", "ratio_high"), perplexity_ratio(*means), strict=True))
        about = {"model": model, "baseline": baseline, "size": size, "seeds": len(seeds)}
        about |= {name: f"{number:.4f}" for name, number in ratio.items()}
        rows.append(about | {"corpus_hash": tokens.about["hash"]})
    return rows


def record_compared(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write and print what `compare` has found.

    Args:
        path: CSV file.
        rows: of `compare`.
    """
    write_table(path, COMPARED_FIELDS, rows)
    for row in rows:
        print(
            f"{row['model']}: {row['ratio']} times the perplexity of {row['baseline']} "
            f"({row['ratio_low']} to {row['ratio_high']}; seeds: {row['seeds']})"
        )


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the scores of a training.

    Args:
        rows: as they are recorded.
    """
    for row in rows:
        print(
            f"{row['model']:<24} rate {row['learning_rate']} seed {row['seed']}  memory {row['memory']:<9} perplexity "
            f"{row['ppl']} ({row['ppl_low']} to {row['ppl_high']})  {row['train_seconds']} s",
            flush=True,
        )


def _mean_costs(costs: Sequence[Costs]) -> Costs:
    nats = torch.stack([cost.nats for cost in costs]).mean(0)
    return Costs(nats, costs[0].num_tokens, costs[0].num_bytes, costs[0].names)
