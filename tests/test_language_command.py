"""The commands on text that the test writes, at tiny sizes: from files to tables."""

import dataclasses
import json
import shlex

import pytest
from tiny import rows_of, tiny_tokens
from tiny import run_language as run

from infmem import WindowTransformerConfig
from infmem.language import experiment
from infmem.language.cells import Cell
from infmem.language.sizes import SIZES, LanguageSize
from infmem.run import DivergenceError
from infmem.tasks.tokens import save_tokens

SIZE = LanguageSize(
    vocab_size=300,
    segment_length=4,
    sizes=WindowTransformerConfig(d_model=12, num_heads=3, num_layers=2, d_ff=10),
    num_basis=8,
    batch_size=3,
    steps=3,
    learning_rate=0.01,
    length=50,
)


@pytest.fixture(autouse=True)
def tiny_sizes(monkeypatch, tmp_path):
    """The real commands at tiny sizes, in a folder of their own that has a file of tokens."""
    monkeypatch.setitem(SIZES, "classroom", SIZE)
    monkeypatch.setenv("INFMEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    save_tokens(tmp_path / "tiny.safetensors", tiny_tokens())


TRAIN = ("train", "--tokens", "tiny.safetensors", "--device", "cpu")


@pytest.mark.parametrize("model", ["infinite-former", "transformer-xl"])
def test_train_then_resume_then_evaluate(model, capsys, tmp_path):
    assert run(*TRAIN, "--model", model, "--run", "here", "--minutes", "0", "--save-every", "1") == 130
    assert "Go on with the same command and --resume" in capsys.readouterr().out
    assert run(*TRAIN, "--model", model, "--run", "here") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert run(*TRAIN, "--model", model, "--run", "here", "--resume", "--test-documents", "5") == 0
    printed = capsys.readouterr().out
    assert "tiny, test: 5 documents" in printed and "bits a byte" in printed
    assert ("memory shuffled" in printed) is (model == "infinite-former")
    assert run("evaluate", "here", "--tokens", "tiny.safetensors", "--split", "validation", "--device", "cpu") == 0
    found = json.loads((tmp_path / "here/evaluation-validation.json").read_text())
    assert found["scores"]["on"]["documents"] == 5 and found["positions"]["on"][0]["start"] == 0
    assert (tmp_path / "here/costs-validation-on.safetensors").exists()


def test_the_default_folder_names_the_run(tmp_path):
    assert run(*TRAIN, "--model", "window", "--seed", "3", "--steps", "1") == 0
    assert run(*TRAIN, "--memory-options", "ridge=0.5", "--steps", "1", "--run", "here") == 0
    assert json.loads((tmp_path / "here/config.json").read_text())["model"]["memory"]["ridge"] == 0.5
    assert (tmp_path / "runs/language-window-classroom-tiny-seed3/checkpoint.safetensors").exists()


EXPERIMENT = ("experiment", "--tokens", "tiny.safetensors", "--device", "cpu", "--output", "results")


def test_an_experiment_sweeps_trains_compares_and_does_nothing_twice(capsys, tmp_path, monkeypatch):
    words = (*EXPERIMENT, "--models", "transformer-xl", "infinite-former", "--learning-rates", "0.01", "0.03")
    assert run(*words) == 0
    assert "results: complete" in capsys.readouterr().out
    sweep, rows = rows_of(tmp_path / "results/language_sweep.csv"), rows_of(tmp_path / "results/language.csv")
    assert [(row["model"], row["learning_rate"], row["split"]) for row in sweep if row["memory"] == "on"] == [
        ("transformer-xl", "0.01", "validation"),
        ("transformer-xl", "0.03", "validation"),
        ("infinite-former", "0.01", "validation"),
        ("infinite-former", "0.03", "validation"),
    ]
    best = {}
    for row in sweep:
        if row["memory"] == "on":
            best[row["model"]] = min(best.get(row["model"], (9e9, "")), (float(row["ppl"]), row["learning_rate"]))
    assert [(row["model"], row["seed"], row["memory"]) for row in rows] == [
        ("transformer-xl", "0", "on"),
        *(("infinite-former", "0", memory) for memory in ("on", "off", "shuffled")),
        ("transformer-xl", "1", "on"),
        *(("infinite-former", "1", memory) for memory in ("on", "off", "shuffled")),
    ]
    for row in rows:
        assert row["learning_rate"] == best[row["model"]][1] and row["tokens_seen"] == "36"
        assert float(row["ppl_low"]) <= float(row["ppl"]) <= float(row["ppl_high"])
        assert row["corpus_hash"] == "0123456789abcdef" and row["device"] == "the CPU" and row["sources"] == "python 3"
    (compared,) = rows_of(tmp_path / "results/language_compared.csv")
    assert (compared["model"], compared["baseline"], compared["seeds"]) == ("infinite-former", "transformer-xl", "2")
    assert float(compared["ratio_low"]) <= float(compared["ratio"]) <= float(compared["ratio_high"])
    positions = rows_of(tmp_path / "results/language_positions.csv")
    assert {row["memory"] for row in positions} == {"on", "off", "shuffled"} and positions[0]["end"] == "64"
    monkeypatch.setattr(experiment, "LanguageRun", None)  # nothing is trained again
    assert run(*words) == 0


def test_each_row_has_the_command_that_trains_it_again(tmp_path, capsys):
    assert run(*EXPERIMENT, "--models", "infinite-former", "--seeds", "1") == 0
    row = rows_of(tmp_path / "results/language.csv")[0]
    program, group, *words = shlex.split(row["command"])
    assert (program, group) == ("infmem", "language")
    capsys.readouterr()
    assert run(*words, "--device", "cpu", "--run", "again", "--test-documents", "99") == 0
    assert f"memory on        perplexity {row['ppl']}" in capsys.readouterr().out


def test_an_experiment_is_left_and_gone_on_with(tmp_path, capsys):
    words = (*EXPERIMENT, "--models", "window", "--seeds", "0")
    assert run(*words, "--minutes", "0") == 0
    assert "1 trainings left" in capsys.readouterr().out
    assert run(*words) == 0
    assert len(rows_of(tmp_path / "results/language.csv")) == 1


def test_a_training_that_diverges_is_recorded_without_numbers(tmp_path, monkeypatch):
    def diverge(*_, **__):
        raise DivergenceError("the loss is nan")

    monkeypatch.setattr(experiment.LanguageRun, "train", diverge)
    assert run(*EXPERIMENT, "--models", "window", "--seeds", "0") == 0
    (row,) = rows_of(tmp_path / "results/language.csv")
    assert (row["ppl"], row["documents"]) == ("nan", "0")
    assert run(*EXPERIMENT, "--models", "window", "--seeds", "0", "--learning-rates", "0.5", "0.25") == 0
    assert len(rows_of(tmp_path / "results/language_sweep.csv")) == 2


def test_prepare_train_and_evaluate_on_a_folder_of_files(tmp_path, capsys):
    pytest.importorskip("tokenizers", reason="the test of `infmem language prepare` needs the extra hf")
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"text number {number} of forty\n" * (1 + number % 7))
    (folder / "photo.jpg").write_bytes(b"\0\1")
    assert run("prepare", "--data", "texts", "--vocab-size", "300", "--output", "texts.safetensors") == 0
    printed = capsys.readouterr().out
    assert "left out    1 binary" in printed and "% of the positions" in printed
    assert run("train", "--data", "texts", "--steps", "2", "--device", "cpu", "--run", "here") == 0
    assert run("evaluate", "here", "--tokens", "texts.safetensors", "--device", "cpu") == 0
    assert run("evaluate", "here", "--tokens", "tiny.safetensors", "--device", "cpu") == 2
    assert "name the text that it was trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "--data", "nowhere"), "there is no file or folder nowhere"),
        (("train", "--tokens", "nowhere"), "there are no tokens at nowhere"),
        (("train", "--tokens", "tiny.safetensors", "--data", "x"), "give one of them"),
        ((*TRAIN, "--steps", "0"), "steps must be at least 1, got 0"),
        ((*TRAIN, "--segment-length", "0"), "segment_length must be at least 1"),
        ((*TRAIN, "--save-every", "0"), "save_every must be at least 1"),
        ((*TRAIN, "--memory-options", "depth=3"), "MemoryConfig has no field depth"),
        ((*TRAIN, "--model", "window", "--memory-options", "ridge=1.0"), "which this model is not: leave them out"),
        ((*TRAIN, "--resume"), "there is no checkpoint"),
        (("evaluate", "nowhere", "--tokens", "tiny.safetensors"), "there is no checkpoint at nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("infmem: ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.safetensors"], "nothing may be left behind"


@pytest.mark.parametrize("command", ["prepare", "train", "evaluate", "experiment"])
def test_every_command_explains_itself(command, capsys):
    assert run(command, "--help") == 0
    assert f"usage: infmem language {command}" in capsys.readouterr().out


def test_folders_of_cells_differ():
    cell, tokens = Cell("window", "classroom", 0, 0.01, 3, "adam", "--corpus stdlib"), tiny_tokens()
    changes = {"model": "transformer-xl", "size": "gpu", "seed": 1, "learning_rate": 0.02, "steps": 4}
    changes |= {"optimizer": "muon"}
    others = [dataclasses.replace(cell, **{name: value}) for name, value in changes.items()]
    assert len({other.folder(tokens) for other in (cell, *others)}) == 7
    assert len({tuple(other.key("test", tokens).values()) for other in (cell, *others)}) == 7
    assert "--optimizer muon" in others[-1].command
