import json

import pytest
from tiny import TINY

from infmem import cli
from infmem.presets import PRESETS
from infmem.sweep import read_sweep
from infmem.tasks.recall import CHANCE, SHORTEST


@pytest.fixture(autouse=True)
def tiny_classroom(monkeypatch, tmp_path):
    """The real commands at tiny sizes, in a folder of their own."""
    monkeypatch.setitem(PRESETS, "classroom", TINY)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    """A command's exit code."""
    try:
        return cli.main(list(arguments))
    except SystemExit as stop:
        return stop.code


def test_demo_prints_a_table_and_writes_its_files(capsys, tmp_path):
    assert run("demo", "--device", "cpu") == 0
    printed = capsys.readouterr().out
    summary = json.loads((tmp_path / "runs/demo/summary.json").read_text())
    for model in ("infinite-former", "transformer-xl"):
        assert f"{summary[model]['accuracy']:.3f} ± " in printed
    assert "runs/demo/learning_curves.png" in printed
    assert (tmp_path / "runs/demo/learning_curves.png").exists()


@pytest.mark.parametrize("model", ["infinite-former", "transformer-xl", "window"])
def test_train_then_evaluate_then_refuse_then_resume(model, capsys, tmp_path):
    train = ("train", "--model", model, "--steps", "3", "--sequences", "4", "--device", "cpu", "--run", "here")
    assert run(*train) == 0
    assert f"{model}, 4 sequences of 23 symbols" in capsys.readouterr().out
    assert run("evaluate", "here", "--length", "11", "29", "--sequences", "5", "--device", "cpu") == 0
    assert json.loads((tmp_path / "here/evaluation-29.json").read_text())["length"] == 29
    result = json.loads((tmp_path / "here/evaluation-11.json").read_text())
    assert (result["model"], result["length"], result["sequences"]) == (model, 11, 5)
    assert set(result["lines"]) == {"chance", "last_segment", "receptive_field", "exact_counts"}
    capsys.readouterr()
    assert run(*train) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert run(*train, "--resume") == 0


def test_the_default_folder_names_the_run(tmp_path):
    assert run("train", "--steps", "1", "--length", "9", "--seed", "3", "--sequences", "2", "--device", "cpu") == 0
    assert (tmp_path / "runs/sorting-infinite-former-classroom-9-seed3/checkpoint.safetensors").exists()


@pytest.mark.parametrize("model", ["infinite-former", "compressive-transformer", "transformer-xl", "window"])
def test_recall_is_trained_and_evaluated_by_age(model, capsys, tmp_path):
    length = str(SHORTEST + 7)
    options = ("--task", "recall", "--model", model, "--length", length, "--steps", "1", "--device", "cpu")
    assert run("train", *options, "--sequences", "4") == 0
    printed = capsys.readouterr().out
    assert f"{model}, 4 sequences of {length} tokens" in printed and f"chance {CHANCE:.3f}" in printed
    assert "free-running" not in printed and "counting" not in printed
    folder = tmp_path / f"runs/recall-{model}-classroom-{length}-seed0"
    result = json.loads((folder / f"evaluation-{length}.json").read_text())
    assert (result["model"], result["task"], result["chance"]) == (model, "recall", CHANCE)
    assert "lines" not in result and "free_running" not in result
    for each in result["by_age"]:
        assert f"{each['age']} {each['accuracy']:.3f} ± {each['ci95']:.3f}" in printed
    assert run("evaluate", str(folder), "--length", str(SHORTEST - 1)) == 2
    assert f"length must be at least {SHORTEST} for recall, got {SHORTEST - 1}" in capsys.readouterr().err
    assert run("evaluate", str(folder), "--length", str(SHORTEST), "--sequences", "3", "--device", "cpu") == 0


def test_a_training_begins_with_the_weights_of_a_shorter_one(capsys):
    options = ("train", "--model", "window", "--optimizer", "muon", "--sequences", "2", "--device", "cpu")
    assert run(*options, "--steps", "2", "--length", "9") == 0
    longer = (*options, "--steps", "1", "--length", "17", "--start")
    assert run(*longer, "runs/sorting-window-classroom-9-seed0") == 0
    capsys.readouterr()
    assert run(*longer, "nowhere", "--run", "other") == 2
    assert "there is no checkpoint at nowhere" in capsys.readouterr().err


def test_sweep_records_every_cell(tmp_path):
    arguments = ("sweep", "--learning-rates", "0.01", "--steps", "2", "--output", "rates.csv", "--device", "cpu")
    assert run(*arguments) == 0
    assert sorted(row["model"] for row in read_sweep(tmp_path / "rates.csv")) == ["infinite-former", "transformer-xl"]


def test_info_names_presets_and_models(capsys):
    assert run("info") == 0
    printed = capsys.readouterr().out
    for word in ("classroom", "small", "full", "infinite-former", "transformer-xl", "parameters", "sees"):
        assert word in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--length", "0"), "length must be at least 1, got 0"),
        (("train", "--task", "recall", "--length", "9"), f"length must be at least {SHORTEST} for the recall task"),
        (("train", "--steps", "-3"), "steps must be at least 1, got -3"),
        (("train", "--learning-rate", "0"), "learning_rate must be > 0"),
        (("train", "--batch-size", "0"), "batch_size must be at least 1"),
        (("train", "--seed", "-1"), "seed must be >= 0"),
        (("train", "--save-every", "0"), "save_every must be at least 1"),
        (("train", "--resume"), "there is no checkpoint"),
        (("evaluate", "nowhere"), "there is no checkpoint at nowhere"),
        (("sweep", "--workers", "0"), "workers must be at least 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("infmem: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [], "nothing may be left behind"


@pytest.mark.parametrize(
    "arguments",
    [("train", "--model", "lstm"), ("train", "--steps", "many"), ("fly",), (), ("train", "--task", "poetry")],
)
def test_bad_words_are_exit_code_2(arguments, capsys, tmp_path):
    assert run(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_evaluating_with_a_bad_length_or_count_is_refused(capsys):
    assert run("train", "--steps", "1", "--sequences", "2", "--device", "cpu", "--run", "here") == 0
    capsys.readouterr()
    assert run("evaluate", "here", "--length", "-2") == 2
    assert "length must be at least 1" in capsys.readouterr().err
    assert run("evaluate", "here", "--sequences", "1") == 2
    assert "sequences must be at least 2" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_one_line(capsys, tmp_path):
    assert run("train", "--steps", "1", "--sequences", "2", "--device", "cpu", "--run", "here") == 0
    path = tmp_path / "here/checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    capsys.readouterr()
    assert run("evaluate", "here") == 2
    error = capsys.readouterr().err
    assert "not a whole safetensors file" in error and error.count("\n") == 1


@pytest.mark.parametrize("command", ["demo", "train", "evaluate", "sweep", "info"])
def test_every_command_explains_itself(command, capsys):
    assert run(command, "--help") == 0
    assert "usage: infmem" in capsys.readouterr().out


def test_zero_is_not_taken_for_the_default(capsys):
    assert run("train", "--steps", "1", "--sequences", "2", "--device", "cpu", "--run", "here") == 0
    assert run("evaluate", "here", "--length", "0") == 2
    assert run("sweep", "--steps", "0", "--device", "cpu") == 2
    assert run("train", "--sequences", "1", "--run", "there") == 2
    assert "sequences must be at least 2" in capsys.readouterr().err


def test_ctrl_c_outside_of_training_is_no_traceback(monkeypatch, capsys):
    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_run", pressed)
    assert run("evaluate", "here") == 130
    assert capsys.readouterr().err == "\nStopped.\n"


def test_memory_options_reach_the_model_and_only_a_model_that_has_a_memory(capsys, tmp_path):
    quick = ("--steps", "1", "--sequences", "2", "--device", "cpu", "--run", "here")
    options = ("--memory-options", "schedule=fixed", "tau=0.5")
    assert run("train", *quick, *options) == 0
    stored = json.loads((tmp_path / "here/config.json").read_text())["model"]["memory"]
    assert (stored["schedule"], stored["tau"]) == ("fixed", 0.5)
    assert run("train", "--model", "window", *quick, *options) == 2
    assert "which a window does not have" in capsys.readouterr().err
