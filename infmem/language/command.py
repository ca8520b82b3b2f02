"""The commands `infmem language prepare | train | evaluate | experiment`, and those of `tuning_command`."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from infmem.checkpoint import write_text
from infmem.language.cells import Cell, language_config
from infmem.language.evaluation import by_position, save_costs
from infmem.language.experiment import (
    FIELDS,
    best_rates,
    compare,
    costs_of_cells,
    print_rows,
    record_compared,
    run_cells,
    score,
    score_row,
)
from infmem.language.reading import Reader, cut
from infmem.language.sizes import SIZES, LanguageModelName, SizeName, with_memory_options
from infmem.language.training import LanguageConfig, LanguageRun, language_folder, load_language_run, require_corpus
from infmem.language.tuning_command import finetune, pretrain
from infmem.models.transformer_xl import TransformerXL
from infmem.optimizer import OptimizerName
from infmem.presets import Device, choose_device, device_name
from infmem.tables import read_table
from infmem.tasks.documents import Split
from infmem.tasks.text import CorpusName
from infmem.tasks.tokens import TokenFile, load_tokens, prepare_tokens
from infmem.validation import require

INTERRUPTED = 130

Precision = Literal["auto", "float32", "bfloat16"]
Fast = Literal["auto", "on", "off"]
FAST: dict[Fast, bool | None] = {"auto": None, "on": True, "off": False}
COMPARED_MODELS: tuple[LanguageModelName, ...] = (
    "transformer-xl",
    "infinite-former",
    "compressive-transformer",
    "infinite-former-sticky",
    "window",
)


def prepare(
    corpus: CorpusName = "stdlib",
    data: Path | None = None,
    vocab_size: int = SIZES["classroom"].vocab_size,
    most_documents: int | None = None,
    output: Path | None = None,
) -> int:
    """Turn a corpus into tokens, once; training does it by itself where it was not done.

    stdlib is the Python source of the standard library, environment also that of the packages in constraints.txt.
    wikitext-103 and pg-19 are read from the Hugging Face hub. The file of --output can be carried to another machine.

    Args:
        corpus: which text.
        data: a folder with a document per file, or one file, instead.
        vocab_size: tokens of the vocabulary; 8192 is that of the size gpu.
        most_documents: documents for training; by default all.
        output: a file for the tokens, beside the one in the cache.
    """
    tokens = prepare_tokens(corpus, data, vocab_size=vocab_size, most_documents=most_documents, output=output)
    left_out = ", ".join(f"{number} {reason}" for reason, number in tokens.about["left_out"].items())
    print(f"{tokens.about['corpus']}, hash {tokens.about['hash']}, {tokens.vocab_size:,} tokens in the vocabulary")
    for split, documents in tokens.splits.items():
        count = f"{len(documents):>7,} documents  {len(documents.tokens):>12,} tokens"
        print(f"  {split:<11} {count}  {documents.num_bytes.sum().item() / len(documents.tokens):.2f} bytes a token")
    print(f"  left out    {left_out or 'nothing'}")
    for name, size in SIZES.items():
        documents = cut(tokens.splits["train"], size.length)
        options = {"batch": size.batch_size, "steps": 1000, "segment_length": size.segment_length}
        waste = Reader.training(documents, **options, document_token=0, seed=0).waste
        print(f"  {100 * waste:.1f} % of the positions of segments of {size.segment_length} ({name}) are filled up")
    return 0


def train(
    model: LanguageModelName = "infinite-former",
    size: SizeName = "classroom",
    corpus: CorpusName = "stdlib",
    data: Path | None = None,
    tokens: Path | None = None,
    most_documents: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    segment_length: int | None = None,
    learning_rate: float | None = None,
    memory_options: tuple[str, ...] = (),
    grad_segments: int = 1,
    precision: Precision = "auto",
    optimizer: OptimizerName = "adam",
    seed: int = 0,
    device: Device = "auto",
    fast: Fast = "auto",
    run: Path | None = None,
    resume: bool = False,
    save_every: int = 1000,
    minutes: float | None = None,
    test_documents: int | None = 32,
) -> int:
    """Train a language model from scratch, then evaluate it on documents that it has not seen.

    What is not given comes from the size. Ctrl-C saves; --resume goes on, on a CPU bit for bit.

    Args:
        model: which model; all have equally many parameters.
        size: sizes of the model and of what it reads.
        corpus: which text.
        data: a folder with a document per file, or one file, instead.
        tokens: a file of tokens, of `infmem language prepare`, instead.
        most_documents: documents for training; by default all.
        steps: optimiser steps.
        batch_size: rows, each of which reads documents in order.
        segment_length: tokens per segment, and of the short-term memory.
        learning_rate: the largest learning rate.
        memory_options: fields of the infinite-former's long-term memory to set otherwise, such as num_basis=512.
        grad_segments: segments that gradient flows through, read before each step.
        precision: auto is bfloat16 on a GPU, float32 on a CPU.
        optimizer: muon makes the updates of matrices orthogonal, and often learns in fewer steps.
        seed: of weights and data.
        device: where to train.
        fast: compile the layers; auto does it on a GPU.
        run: folder of the run; by default runs/language-MODEL-SIZE-CORPUS-seedSEED.
        resume: go on from the folder's checkpoint.
        save_every: steps between checkpoints.
        minutes: stop after so many, with everything saved.
        test_documents: documents of the evaluation at the end.
    """
    require(save_every >= 1, f"save_every must be at least 1, got {save_every}")
    given = {"batch_size": batch_size, "segment_length": segment_length}
    sizes = dataclasses.replace(SIZES[size], **{name: value for name, value in given.items() if value is not None})
    text = _tokens(corpus, data, tokens, sizes.vocab_size, most_documents)
    config = language_config(model, sizes, text, seed, steps, learning_rate, optimizer)
    config = dataclasses.replace(config, grad_segments=grad_segments, precision=precision)
    if memory_options:
        config = dataclasses.replace(config, model=with_memory_options(config.model, memory_options))
    folder = run or language_folder(model, size, text.about["corpus"], seed)
    training = LanguageRun(config, text, folder, choose_device(device), resume=resume, fast=FAST[fast])
    about = f"{model}: {training.model.num_parameters:,} parameters"
    print(f"{about}, on {device_name(training.device)}, in {folder}", flush=True)
    until = None if minutes is None else time.time() + 60 * minutes
    if not training.train(save_every=save_every, until=until):
        print(f"Stopped at step {training.step} of {config.steps}. Go on with the same command and --resume.")
        return INTERRUPTED
    return _report(folder, training.model, config, text, "test", test_documents)


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    corpus: CorpusName = "stdlib",
    data: Path | None = None,
    tokens: Path | None = None,
    most_documents: int | None = None,
    split: Split = "test",
    documents: int | None = None,
    device: Device = "auto",
) -> int:
    """Evaluate a trained language model on whole documents, with its long-term memory on, off and shuffled.

    Writes evaluation-SPLIT.json, and what each document costs, to the run's folder. The text must be the training's.

    Args:
        run: folder of the run.
        corpus: which text.
        data: a folder with a document per file, or one file, instead.
        tokens: a file of tokens instead.
        most_documents: as in training.
        split: which documents.
        documents: a fair choice of so many; by default all.
        device: where to evaluate.
    """
    model, config = load_language_run(run)
    text = _tokens(corpus, data, tokens, config.model.vocab_size, most_documents)
    require_corpus(config, text)
    return _report(run, model.to(choose_device(device)), config, text, split, documents)


def experiment(
    size: SizeName = "classroom",
    models: tuple[LanguageModelName, ...] = COMPARED_MODELS,
    corpus: CorpusName = "stdlib",
    data: Path | None = None,
    tokens: Path | None = None,
    most_documents: int | None = None,
    learning_rates: tuple[float, ...] = (),
    seeds: tuple[int, ...] = (0, 1),
    steps: int | None = None,
    optimizer: OptimizerName = "adam",
    minutes: float | None = None,
    test_documents: int | None = None,
    output: Path = Path("runs/experiment"),
    runs: Path = Path("runs/cells"),
    device: Device = "auto",
) -> int:
    """Every model with the same text, steps and parameters: perplexity as a whole, by position, and against each other.

    With several learning rates each model is first trained with all of them and the first seed, and then gets the one
    with which it expects the validation documents best. What is recorded is not trained again and what was begun is
    gone on with: stop it, and call it again.

    Args:
        size: sizes of the models and of what they read.
        models: which, in this order.
        corpus: which text.
        data: a folder with a document per file, or one file, instead.
        tokens: a file of tokens instead.
        most_documents: documents for training; by default all.
        learning_rates: the rates to try; by default the size's alone.
        seeds: of weights and data.
        steps: optimiser steps; by default the size's.
        optimizer: what takes the steps.
        minutes: stop after so many, with everything saved.
        test_documents: documents of each evaluation; by default all.
        output: folder for language.csv, language_positions.csv, language_compared.csv, language_sweep.csv, and for what
            each document costs.
        runs: folder for the runs.
        device: where to train.
    """
    chosen, place = SIZES[size], choose_device(device)
    text = _tokens(corpus, data, tokens, chosen.vocab_size, most_documents)
    rates = learning_rates or (chosen.learning_rate,)
    source = f"--tokens {tokens}" if tokens else f"--data {data}" if data else f"--corpus {corpus}"
    source += f" --most-documents {most_documents}" if most_documents else ""
    until = None if minutes is None else time.time() + 60 * minutes
    options = {"device": place, "until": until, "most_documents": test_documents}

    def cell(model: LanguageModelName, rate: float, seed: int) -> Cell:
        return Cell(model, size, seed, rate, steps or chosen.steps, optimizer, source)

    best, left = dict.fromkeys(models, rates[0]), 0
    if len(rates) > 1:
        sweep, path = [cell(model, rate, seeds[0]) for model in models for rate in rates], output / "language_sweep.csv"
        for rows in run_cells(sweep, text, path, runs, split="validation", **options):
            print_rows(rows)
        left = _num_left(sweep, path, "validation", text)
        best = best if left else best_rates(read_table(path, FIELDS), sweep, text)
    if not left:
        cells, path = [cell(model, best[model], seed) for seed in seeds for model in models], output / "language.csv"
        for rows in run_cells(cells, text, path, runs, split="test", **options):
            print_rows(rows)
        left = _num_left(cells, path, "test", text)
        compared = compare(costs_of_cells(cells, text, path), "transformer-xl", size, text)
        record_compared(output / "language_compared.csv", compared)
    print(f"{output}: {f'{left} trainings left; go on with the same command' if left else 'complete'}")
    return 0


def _tokens(
    corpus: CorpusName, data: Path | None, tokens: Path | None, vocab_size: int, most_documents: int | None
) -> TokenFile:
    require(data is None or tokens is None, "--data and --tokens both name the text: give one of them")
    if tokens is not None:
        return load_tokens(tokens)
    return prepare_tokens(corpus, data, vocab_size=vocab_size, most_documents=most_documents)


def _num_left(cells: list[Cell], path: Path, split: Split, text: TokenFile) -> int:
    rows = read_table(path, FIELDS)
    keys = [cell.key(split, text) for cell in cells]
    return sum(not any(all(row[name] == key[name] for name in key) for row in rows) for key in keys)


def _report(
    run: Path, model: TransformerXL, config: LanguageConfig, text: TokenFile, split: Split, documents: int | None
) -> int:
    """Evaluate, write what was found, and print it."""
    costs = score(model, config, text, split, documents)
    rows = {use: score_row(cost, costs["on"]) for use, cost in costs.items()}
    positions = {use: by_position(cost) for use, cost in costs.items()}
    write_text(run / f"evaluation-{split}.json", json.dumps({"scores": rows, "positions": positions}, indent=2) + "\n")
    for use, cost in costs.items():
        save_costs(run / f"costs-{split}-{use}.safetensors", cost)
    print(f"{config.corpus}, {split}: {rows['on']['documents']} documents")
    for use, row in rows.items():
        name = f"memory {use}" if len(rows) > 1 else "as a whole"
        interval = f"({row['ppl_low']} to {row['ppl_high']})"
        print(f"  {name:<16} perplexity {row['ppl']} {interval}  {row['bits_per_byte']} bits a byte")
    for number, row in enumerate(positions["on"]):
        others = "  ".join(f"{use} {positions[use][number]['ppl']:.2f}" for use in rows)
        where = f"{row['start']:,} to {row['end'] - 1:,}" if row["end"] else f"from {row['start']:,}"
        print(f"  tokens {where:<18} {others}")
    return 0


def _named(name: str, function: Callable[..., int]) -> Any:
    return tyro.conf.subcommand(name, constructor=function, prefix_name=False)


def language(
    command: tyro.conf.OmitArgPrefixes[
        Annotated[Any, _named("prepare", prepare)]
        | Annotated[Any, _named("train", train)]
        | Annotated[Any, _named("evaluate", evaluate)]
        | Annotated[Any, _named("experiment", experiment)]
        | Annotated[Any, _named("pretrain", pretrain)]
        | Annotated[Any, _named("finetune", finetune)]
    ],
) -> int:
    """Language models: turn text into tokens, train on it, evaluate by position, compare.

    Args:
        command: what to do.
    """
    return command
