"""The commands `infmem language pretrain | finetune`: a GPT-2 of our own, and what a memory adds to it (extra `hf`)."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from infmem.language.cells import KEY
from infmem.language.evaluation import evaluate_language, save_costs
from infmem.language.experiment import (
    FIELDS,
    about_training,
    compare,
    print_rows,
    record_compared,
    record_positions,
    score_row,
)
from infmem.language.reading import of_packages
from infmem.language.sizes import TunedMemory
from infmem.presets import Device, choose_device, device_name
from infmem.tables import read_table, write_table
from infmem.tasks.documents import Split, fair_order, require_package
from infmem.tasks.text import CorpusName
from infmem.tasks.tokens import TokenFile, load_tokens, prepare_tokens
from infmem.validation import require

# What the base reads; fine-tuning reads all the others.
PACKAGES = ("torch", "sympy")


def pretrain(
    tokens: Path,
    output: Path = Path("runs/gpt2-base"),
    packages: tuple[str, ...] = PACKAGES,
    width: int = 256,
    layers: int = 6,
    heads: int = 4,
    segment_length: int = 256,
    batch_size: int = 32,
    steps: int = 6000,
    learning_rate: float = 1e-3,
    seed: int = 0,
    bfloat16: bool = False,
    device: Device = "auto",
    minutes: float | None = None,
) -> int:
    """Train a real GPT-2 of Hugging Face on some packages, to be fine-tuned on others where there is no network.

    Args:
        tokens: a file of tokens, of `infmem language prepare --corpus environment`.
        output: folder for the model and its tokenizer.
        packages: top-level folders that it reads.
        width: of its hidden states.
        layers: blocks.
        heads: a divisor of the width.
        segment_length: positions that it knows.
        batch_size: rows.
        steps: optimiser steps.
        learning_rate: the largest learning rate.
        seed: of weights and data.
        bfloat16: keep the weights in that, half as large.
        device: where to train.
        minutes: stop after so many; what was learned so far is saved.
    """
    require_package("transformers")
    from infmem.language import pretrained  # it can be imported only where transformers is

    text, place = load_tokens(tokens), choose_device(device)
    documents = of_packages(text.splits["train"], packages, inside=True)
    config = pretrained.TuningConfig(
        steps=steps, batch_size=batch_size, segment_length=segment_length, learning_rate=learning_rate, seed=seed
    )
    reader = pretrained.GPT2Reader(pretrained.new_gpt2(text, width, layers, heads, segment_length, seed)).to(place)
    print(
        f"gpt2: {reader.num_parameters:,} parameters, on {device_name(place)}, {len(documents):,} documents", flush=True
    )
    until = None if minutes is None else time.time() + 60 * minutes
    tuned = pretrained.tune(reader, documents, text.document_token, config, until)
    pretrained.save_base(reader.model, text, output, bfloat16)
    print(f"{output}: loss {sum(tuned.losses[-50:]) / len(tuned.losses[-50:]):.3f} after {len(tuned.losses):,} steps")
    return 0


def finetune(
    base: str = "runs/gpt2-base",
    tokens: Path | None = None,
    corpus: CorpusName = "environment",
    data: Path | None = None,
    most_documents: int | None = None,
    packages: tuple[str, ...] = PACKAGES,
    memories: tuple[TunedMemory, ...] = ("none", "best", "sticky"),
    seeds: tuple[int, ...] = (0, 1),
    steps: int = 2000,
    batch_size: int = 16,
    segment_length: int = 256,
    learning_rate: float = 1e-3,
    memory_learning_rate: float = 3e-3,
    split: Split = "test",
    test_documents: int | None = None,
    output: Path = Path("runs/experiment"),
    save: Path | None = None,
    device: Device = "auto",
    minutes: float | None = None,
) -> int:
    """Fine-tune a pretrained GPT-2 as it is, and with long-term memories, with the same steps and text.

    Each is evaluated on test documents that neither the base nor the fine-tuning has read, or to choose a learning
    rate on those of --split validation, which go to language_finetuned_sweep.csv. What is recorded is not trained
    again. The paper's setting is --base gpt2 --corpus wikitext-103 --memories none paper paper-sticky
    --segment-length 512 --batch-size 1 --learning-rate 5e-5 --memory-learning-rate 2.5e-4, with a network.

    Args:
        base: a folder, of `infmem language pretrain`, or a name of the Hugging Face hub.
        tokens: a file of tokens in the base's vocabulary; by default the corpus is read and written in that.
        corpus: which text.
        data: a folder with a document per file, or one file, instead.
        most_documents: documents for training; by default all.
        packages: what the base has read, which is left out.
        memories: which memories; none is the plain GPT-2.
        seeds: of the memory's weights and the order of the data.
        steps: optimiser steps of each.
        batch_size: rows.
        segment_length: tokens per segment, at most the positions of the base.
        learning_rate: of the base's weights.
        memory_learning_rate: of the memory's weights.
        split: on which documents each is evaluated.
        test_documents: of the evaluation, a fair choice; by default all.
        output: folder for language_finetuned.csv, language_finetuned_positions.csv and language_finetuned_compared.csv.
        save: folder for the fine-tuned models; by default none is kept.
        device: where to train.
        minutes: begin no training after so many, and leave the one that is not ready then.
    """
    require_package("transformers")
    from infmem.language import pretrained

    text = _text(base, tokens, corpus, data, most_documents)
    place, until = choose_device(device), None if minutes is None else time.time() + 60 * minutes
    config = pretrained.TuningConfig(
        steps=steps,
        batch_size=batch_size,
        segment_length=segment_length,
        learning_rate=learning_rate,
        memory_learning_rate=memory_learning_rate,
    )
    train, unseen = (of_packages(text.splits[part], packages, inside=False) for part in ("train", split))
    if test_documents is not None:
        unseen = unseen.some(sorted(fair_order(unseen.names)[:test_documents]))
    name = "language_finetuned" if split == "test" else "language_finetuned_sweep"
    path, costs, left = output / f"{name}.csv", {}, 0
    for seed in seeds:
        for memory in memories:
            rows, key = read_table(path, FIELDS), _key(memory, base, seed, config, split, text)
            file = output / f"{name}_costs" / f"{'-'.join(key.values()).replace('/', '-')}.safetensors"
            costs[key["model"], seed] = file
            done = any(all(row[name] == key[name] for name in KEY) for row in rows)
            if done or (until is not None and time.time() >= until):
                left += not done
                continue
            reader = pretrained.GPT2Reader(pretrained.load_base(base, memory, segment_length, seed)).to(place)
            _require_vocabulary(reader.embedding.num_embeddings, text)
            tuned = pretrained.tune(reader, train, text.document_token, dataclasses.replace(config, seed=seed), until)
            if not tuned.finished:
                left += 1
                continue
            found = evaluate_language(
                reader,
                unseen,
                segment_length=segment_length,
                document_token=text.document_token,
                batch_size=batch_size,
                memories=("on",) if memory == "none" else ("on", "off", "shuffled"),
                progress=True,
            )
            seen = steps * batch_size * segment_length
            about = about_training(reader, place, text, seen, tuned.seconds)
            about |= key | {
                "experiment": "fine-tuning",
                "command": _command(base, tokens, memory, seed, config, packages, split),
            }
            new = [about | {"memory": use} | score_row(cost, found["on"]) for use, cost in found.items()]
            write_table(path, FIELDS, [*rows, *new])
            record_positions(output / f"{name}_positions.csv", key, found)
            save_costs(file, found["on"])
            if save is not None:
                reader.model.save_pretrained(save / f"{memory}-seed{seed}")
            print_rows(new)
    compared = compare({pair: file for pair, file in costs.items() if file.exists()}, "gpt2", Path(base).name, text)
    record_compared(output / f"{name}_compared.csv", compared)
    print(f"{output}: {f'{left} trainings left; go on with the same command' if left else 'complete'}")
    return 0


def _text(
    base: str, tokens: Path | None, corpus: CorpusName, data: Path | None, most_documents: int | None
) -> TokenFile:
    if tokens is not None:
        require(data is None, "--data and --tokens both name the text: give one of them")
        return load_tokens(tokens)
    from infmem.language.pretrained import vocabulary_of

    return prepare_tokens(corpus, data, most_documents=most_documents, vocabulary=vocabulary_of(base))


def _require_vocabulary(num_embeddings: int, text: TokenFile) -> None:
    require(
        num_embeddings == text.vocab_size,
        f"the base knows {num_embeddings} tokens and the text has {text.vocab_size}: leave --tokens out, or name the "
        "file that the base was trained on",
    )


def _key(memory: TunedMemory, base: str, seed: int, config: Any, split: Split, text: TokenFile) -> dict[str, str]:
    """What tells the rows of a training from the others."""
    rate = f"{config.learning_rate:g}/{config.memory_learning_rate:g}"
    name = "gpt2" if memory == "none" else f"gpt2-{memory}"
    values = (name, Path(base).name, seed, "adamw", rate, config.steps, split, text.about["hash"])
    return dict(zip(KEY, map(str, values), strict=True))


def _command(
    base: str, tokens: Path | None, memory: TunedMemory, seed: int, config: Any, packages: tuple[str, ...], split: Split
) -> str:
    """What trains it by itself."""
    words = ["infmem language finetune --base", base, *(["--tokens", tokens] if tokens else [])]
    words += ["--packages", *packages, "--memories", memory, "--seeds", seed, "--steps", config.steps]
    words += ["--batch-size", config.batch_size, "--segment-length", config.segment_length]
    words += ["--learning-rate", f"{config.learning_rate:g}"]
    words += ["--memory-learning-rate", f"{config.memory_learning_rate:g}"]
    return " ".join(map(str, [*words, *([] if split == "test" else ["--split", split])]))
