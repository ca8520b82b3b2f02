"""A base of our own and its fine-tuning, from commands to tables, with a GPT-2 of some thousand weights."""

import logging
from typing import get_args

import pytest
import torch
from tiny import rows_of
from tiny import run_language as run
from torch.testing import assert_close

from infmem.language.sizes import TunedMemory
from infmem.tasks.documents import Document
from infmem.tasks.text import Corpus
from infmem.tasks.tokens import encode, learn_vocabulary, save_tokens

transformers = pytest.importorskip("transformers", reason="the tests of fine-tuning need the extra hf")
pytest.importorskip("tokenizers", reason="the tests of fine-tuning need the extra hf")

BASE = ("--packages", "torch", "--segment-length", "16", "--steps", "3", "--batch-size", "2", "--device", "cpu")


@pytest.fixture(autouse=True)
def quiet():
    """Neither bars nor advice: warnings of Python stay errors."""
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def tokens():
    documents = [
        Document(f"{package}/{number}.py", split, f"def {package}_{number}():\n    return {number}\n" * 5)
        for package in ("torch", "numpy")
        for number, split in enumerate((*3 * ["train"], *3 * ["validation"], "test", "test"))
    ]
    vocabulary = learn_vocabulary((document.text for document in documents), 280)
    return encode(Corpus("mine", tuple(documents), {}, {"python": "3"}), vocabulary)


@pytest.fixture
def folder(tokens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFMEM_CACHE", str(tmp_path / "cache"))
    save_tokens(tmp_path / "mine.safetensors", tokens)
    return tmp_path


def pretrain() -> int:
    return run("pretrain", "--tokens", "mine.safetensors", "--width", "12", "--layers", "2", "--heads", "3", *BASE)


def test_pretrain_then_finetune_then_read_the_tables(folder, tokens, capsys):
    assert pretrain() == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "runs/gpt2-base")
    assert type(model) is transformers.GPT2LMHeadModel and model.config.vocab_size == tokens.vocab_size
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "runs/gpt2-base")
    ids = tokenizer("def numpy_3():\n")["input_ids"]
    assert ids == tokens.tokenizer.encode("def numpy_3():\n").ids and tokenizer.eos_token_id == tokens.document_token
    words = ("finetune", "--tokens", "mine.safetensors", *BASE, "--output", "results", "--save", "tuned")
    assert run(*words) == 0
    printed = capsys.readouterr().out
    assert "gpt2-best: " in printed and "results: complete" in printed
    rows = rows_of(folder / "results/language_finetuned.csv")
    assert [(row["model"], row["seed"], row["memory"]) for row in rows if row["memory"] == "on"] == [
        (model, seed, "on") for seed in "01" for model in ("gpt2", "gpt2-best", "gpt2-sticky")
    ]
    assert len(rows) == 14 and {row["documents"] for row in rows} == {"2"}, "the test documents of the other package"
    compared = rows_of(folder / "results/language_finetuned_compared.csv")
    assert [(row["model"], row["baseline"], row["seeds"]) for row in compared] == [
        ("gpt2-best", "gpt2", "2"), ("gpt2-sticky", "gpt2", "2"),
    ]  # fmt: skip
    assert rows_of(folder / "results/language_finetuned_positions.csv")
    tuned = transformers.AutoModelForCausalLM.from_pretrained(folder / "tuned/best-seed0")
    assert tuned.transformer.h[0].attn.long_term.head_scale.abs().sum() > 0
    assert run(*words) == 0, "nothing is trained again"
    assert rows_of(folder / "results/language_finetuned.csv") == rows
    assert rows_of(folder / "results/language_finetuned_compared.csv") == compared


def test_what_is_measured_on_validation_documents_is_no_result(folder):
    assert pretrain() == 0
    words = ("finetune", "--tokens", "mine.safetensors", *BASE, "--memories", "none", "best", "--seeds", "1")
    words += ("--split", "validation", "--output", "results", "--learning-rate", "0.002")
    assert run(*words) == 0
    found = sorted(path.name for path in (folder / "results").iterdir())
    assert found == sorted(
        f"language_finetuned_sweep{end}" for end in (".csv", "_positions.csv", "_compared.csv", "_costs")
    )
    rows = rows_of(folder / "results/language_finetuned_sweep.csv")
    assert [(row["model"], row["memory"]) for row in rows] == [
        ("gpt2", "on"), *(("gpt2-best", memory) for memory in ("on", "off", "shuffled")),
    ]  # fmt: skip
    for row in rows:
        assert (row["split"], row["documents"], row["learning_rate"]) == ("validation", "3", "0.002/0.003")
        assert row["command"].startswith("infmem language finetune ") and row["command"].endswith(" --split validation")
    assert run(*words, "--split", "test") == 0  # the same command, but for the split
    results = rows_of(folder / "results/language_finetuned.csv")
    assert {row["split"] for row in results} == {"test"} and "--split" not in results[0]["command"]
    assert rows_of(folder / "results/language_finetuned_sweep.csv") == rows


def test_memories_for_a_gpt2_have_the_projections_of_their_names(without_type_checker):
    from infmem.language.pretrained import memory_of

    found = {kind: memory_of(kind, 17) for kind in get_args(TunedMemory) if kind != "none"}
    assert {kind: (memory.projections, memory.own_query) for kind, memory in found.items()} == {
        "best": ("shared", True),
        "shared": ("shared", False),
        "own": ("own", True),
        "sticky": ("shared", True),
        "paper": ("own", True),
        "paper-sticky": ("own", True),
    }
    for kind, memory in found.items():
        is_paper = kind.startswith("paper")
        assert (memory.num_basis, memory.silent_start) == ((512, False) if is_paper else (17, True)), kind
        assert memory.sticky == {"sticky": "stratified", "paper-sticky": "iid"}.get(kind, "none"), kind


def test_text_is_written_in_the_vocabulary_of_the_base(folder, capsys):
    assert pretrain() == 0
    (folder / "texts").mkdir()
    for number in range(40):
        (folder / "texts" / f"{number}.txt").write_text(f"def numpy_{number}(): <|document|>\n" * 3)
    words = ("finetune", "--data", "texts", *BASE, "--memories", "none", "--seeds", "0", "--test-documents", "2")
    assert run(*words) == 0
    (row,) = rows_of(folder / "runs/experiment/language_finetuned.csv")
    assert (row["corpus"], row["documents"]) == ("texts", "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("finetune", "--base", "nowhere", "--data", "."), "there is no GPT-2 in the folder nowhere"),
        (("finetune", "--base", "nowhere", "--tokens", "mine.safetensors"), "there is no GPT-2 in the folder nowhere"),
        (("finetune", "--tokens", "mine.safetensors", "--packages", "torch", "numpy"), "there are 0 documents outside"),
        (("finetune", "--tokens", "mine.safetensors", "--steps", "0"), "steps must be at least 1, got 0"),
        (("pretrain", "--tokens", "mine.safetensors", "--packages", "scipy"), "there are 0 documents in scipy"),
        (("pretrain", "--tokens", "nowhere"), "there are no tokens at nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, folder, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # nobody is asked, again and again
    assert run(*arguments, "--device", "cpu") == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("infmem: ") and error.count("\n") == 1


def test_without_the_package_one_line_says_how_to_get_it(folder, monkeypatch, capsys):
    monkeypatch.setattr("infmem.tasks.documents.find_spec", lambda name: None)
    for command in (("finetune",), ("pretrain", "--tokens", "mine.safetensors")):
        assert run(*command) == 2
        assert capsys.readouterr().err == "infmem: this needs the package transformers: pip install 'infmem[hf]'\n"


def test_a_tuned_gpt2_learns_and_its_memory_has_a_rate_of_its_own(tokens):
    from infmem.language.pretrained import GPT2Reader, TuningConfig, new_gpt2, tune

    config = TuningConfig(steps=30, batch_size=3, segment_length=16, learning_rate=1e-2, warmup_steps=3)
    reader = GPT2Reader(new_gpt2(tokens, 12, 2, 3, 16, seed=0))
    tuned = tune(reader, tokens.splits["train"], tokens.document_token, config)
    assert tuned.finished and tuned.losses[-1] < 0.7 * tuned.losses[0]
    again = GPT2Reader(new_gpt2(tokens, 12, 2, 3, 16, seed=0))
    assert tune(again, tokens.splits["train"], tokens.document_token, config).losses == tuned.losses


def test_a_still_base_with_a_memory_that_learns(tokens, tmp_path):
    """With next to no rate for the base, the memory alone changes; and the state of a row follows its documents."""
    from infmem.language.pretrained import GPT2Reader, TuningConfig, load_base, new_gpt2, save_base, tune

    save_base(new_gpt2(tokens, 12, 2, 3, 16, seed=0), tokens, tmp_path)
    reader = GPT2Reader(load_base(str(tmp_path), "best", 16, seed=1))
    save_base(new_gpt2(tokens, 12, 2, 3, 16, seed=0), tokens, tmp_path / "half", bfloat16=True)
    half = GPT2Reader(load_base(str(tmp_path / "half"), "none", 16, seed=1))
    assert_close(half.embedding.weight, reader.embedding.weight, rtol=0.01, atol=0)  # and of the same type
    before = {name: parameter.clone() for name, parameter in reader.named_parameters()}
    config = TuningConfig(steps=9, batch_size=3, segment_length=16, learning_rate=1e-12, memory_learning_rate=1e-2)
    tune(reader, tokens.splits["train"], tokens.document_token, config)
    for name, parameter in reader.named_parameters():
        if ".long_term." in name:
            assert not torch.equal(parameter, before[name]), name
        else:
            assert_close(parameter, before[name], rtol=0, atol=1e-9)
