import csv
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from test_language_results import write as write_recorded

from infmem.evaluation import evaluate
from infmem.experiment import Cell, mean_scores
from infmem.presets import num_weights
from infmem.run import load_run

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "figures" / "data" / "demo"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("figures_build", ROOT / "figures" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_figure_of_the_readme_is_made_from_recorded_numbers(build):
    shown = set(re.findall(r"!\[[^\]]+\]\(figures/([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert shown and shown == set(build.FIGURES) == {path.name for path in (ROOT / "figures").glob("*.png")}


def test_learning_curves_are_the_recorded_ones(build):
    summary = json.loads((DEMO / "summary.json").read_text(encoding="utf-8"))
    (axes,) = build.learning_curves().axes
    curves = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    for model in ("infinite-former", "transformer-xl"):
        with (DEMO / f"{model}.csv").open(newline="") as file:
            accuracy = [float(row["accuracy"]) for row in csv.DictReader(file)]
        assert len(accuracy) == summary[model]["steps"]
        expected = [sum(accuracy[end - 50 : end]) / 50 for end in range(50, len(accuracy) + 1)]
        np.testing.assert_allclose(curves[model], expected)
    heights = {y[0] for label, y in curves.items() if label not in summary}
    assert heights == set(summary["lines"].values())


def test_the_step_times_of_the_readme_are_the_recorded_ones(build):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert build.training_table() in readme and build.timed("train")["device"].split()[-1] in readme
    for row in build.timed("train")["rows"]:
        assert f"{row['milliseconds']:.2f}" in build.training_table()


def test_the_speed_up_of_the_readme_is_the_recorded_one():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    runs = json.loads((ROOT / "figures" / "data" / "bench_train_two_gpus.json").read_text(encoding="utf-8"))["runs"]
    speed = {(row["workers"], row["batch_size"]): row["tokens_per_second"] for run in runs for row in run["rows"][1:]}
    for batch_size, words in ((64, "as many sequences"), (32, "same 32")):
        assert f"{speed[2, batch_size] / speed[1, 32]:.2f} times" in readme, words


def test_the_speed_of_the_readme_is_the_recorded_one(build):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert build.with_speed(readme) == readme, "`make figures` writes it anew"
    for what in ("read", "attention", "stream"):
        recorded = build.timed(what)
        assert recorded["device"] in readme and recorded["command"].startswith(f"infmem bench {what}")
        lines = readme.split(build.BEGIN)[1].splitlines()
        assert sum(line.startswith("|") for line in lines) > 12
    changed = readme.replace("does not fit", "fits").replace("keys on forward", "keys forward")
    assert build.with_speed(changed) == readme
    with pytest.raises(ValueError, match="must have the lines"):
        build.with_speed("# Nothing")


def test_the_collapsed_read_is_much_faster_on_a_cpu(build):
    recorded = build.timed("read_cpu")
    assert recorded["device"] == "the CPU" and recorded["sizes"]["num_basis"] == 512
    times = {row["form"]: row["milliseconds"] for row in recorded["rows"] if row["pass"] == "forward and backward"}
    assert times["textbook"] >= 1.3 * times["collapsed"]
    assert f"{times['textbook'] / times['collapsed']:.1f} times with gradients" in " ".join(build.cpu_words().split())


def test_tables_of_speed_hold_every_row(build):
    for row in build.timed("read")["rows"]:
        (line,) = (x for x in build.read_table().splitlines() if f"from {row['begins_with']}: {row['form']} |" in x)
        assert f"{row['milliseconds']:.3f} ({row['floor_milliseconds']:.3f})" in line
    for row in build.timed("stream")["rows"]:
        (line,) = (x for x in build.stream_table().splitlines() if x.startswith(f"| {row['model']} |"))
        assert ("does not fit" if row["milliseconds"] is None else f" {row['milliseconds']:.2f} ") in line
    steps = [row for row in build.timed("attention")["rows"] if "step" in row["what"]]
    for row in (steps[0], steps[-1]):
        assert f" {row['milliseconds']:.3f} |" in build.attention_table()


def test_the_crossover_is_the_recorded_one(build):
    recorded = build.timed("attention")
    figure = build.crossover_figure()
    assert recorded["device"] in figure.get_suptitle()
    for axes in figure.axes:
        (line,) = (line for line in axes.lines if line.get_label() == "attention step")
        times = {
            row["key_pos"]: row["milliseconds"]
            for row in recorded["rows"]
            if (row["what"], row["pass"]) == ("attention step", axes.get_title())
        }
        assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == times


def test_the_accuracies_of_the_readme_are_the_recorded_ones(build):
    with (ROOT / "figures" / "data" / "sorting.csv").open(newline="") as file:
        recorded = {row["preset"] for row in csv.DictReader(file)}
    assert "small" in recorded
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for preset in recorded:
        assert build.sorting_table(preset) in readme and build.longer_table(preset) in readme
    assert build.depth_table() in readme and build.ablation_table() in readme and build.recall_table() in readme


@pytest.mark.parametrize(("preset", "budgets"), [("small", ("2500",)), ("full", ("3500", "700"))])
def test_the_sorting_figure_holds_every_seed(preset, budgets, build):
    path = ROOT / "figures" / "data" / "sorting.csv"
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["preset"], row["optimizer"]) == (preset, "muon")]
    rows = [row for row in rows if row["steps"] in budgets]
    scores = {(row["name"], row["length"]): row for row in mean_scores(path, preset)}
    assert len(rows) == sum(score["seeds"] for score in scores.values())
    for row in rows:
        score = scores[row["model"], int(row["length"])]
        assert abs(float(row["accuracy"]) - score["accuracy"]) + float(row["ci95"]) <= score["ci95"] + 1e-9
    labels = {text.get_text() for text in build.sorting(preset, "").axes[0].get_legend().get_texts()}
    assert {row["model"] for row in rows} < labels


def test_longer_trainings_have_a_line_of_their_own(build):
    with (ROOT / "figures" / "data" / "sorting.csv").open(newline="") as file:
        long = [row for row in csv.DictReader(file) if row["steps"] in ("8000", "1000")]
    (line,) = build.long_lines()
    assert line[1] == f"{float(long[0]['accuracy']):.3f} (1)" and "8,000 + 1,000 + 1,000 steps" in line[0]


def checkpoints() -> list[Path]:
    return sorted((ROOT / "figures" / "checkpoints").iterdir())


@pytest.mark.parametrize("folder", checkpoints(), ids=lambda folder: folder.name)
def test_a_checkpoint_is_that_of_a_recorded_cell(folder):
    model, config = load_run(folder)
    assert next(model.parameters()).dtype == torch.float32  # stored in bfloat16, half as large
    with (ROOT / "figures" / "data" / "sorting.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["preset"] == "full" and not row["start"]]
    known = [
        Cell(
            row["model"],
            "full",
            int(row["length"]),
            int(row["seed"]),
            float(row["learning_rate"]),
            int(row["steps"]),
            row["optimizer"],
        ).config
        for row in rows
    ]
    assert config in known


@pytest.mark.slow
@pytest.mark.parametrize("folder", checkpoints(), ids=lambda folder: folder.name)
def test_a_checkpoint_scores_what_is_recorded(folder):
    """Few sequences, since each takes most of a minute on a CPU: within four standard errors."""
    model, config = load_run(folder)
    found = evaluate(model, config.length, config.segment_length, sequences=12, batch_size=4, seed=1)
    with (ROOT / "figures" / "data" / "sorting.csv").open(newline="") as file:
        (row,) = (row for row in csv.DictReader(file) if row["preset"] == "full" and row["steps"] == str(config.steps))
    assert abs(found.accuracy - float(row["accuracy"])) < 2 * found.ci95


@pytest.mark.parametrize("name", ["sorting_sweep", "sorting", "ablation", "longer"])
def test_recorded_trainings_are_those_of_today(name):
    """Every row's command is what its cell says today, of a model of the recorded size, with a curve of that name."""
    folder, longer = ROOT / "figures" / "data", name == "longer"
    with (folder / f"{name}.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["length"]))
    cells, sizes = {}, {}
    for row in rows:
        numbers = (int(row["trained_length" if longer else "length"]), int(row["seed"]), float(row["learning_rate"]))
        more = (int(row["steps"]), row["optimizer"], cells.get(row.get("start")))
        cell = Cell(row["model"], row["preset"], *numbers, *more)
        assert row["command"].partition(" && ")[0] == cell.command
        assert longer or row["start"] == (cell.start.name if cell.start else "")
        cells[cell.name], sizes[cell.name] = cell, row.get("parameters")
    if not longer:
        assert {path.stem for path in (folder / f"{name}_curves").iterdir()} == set(cells)
        models = {cells[cell].config.model: int(size) for cell, size in sizes.items()}
        assert {model: num_weights(model) for model in models} == models


def test_an_ablation_is_held_against_the_memory_without_a_change(build):
    with (ROOT / "figures" / "data" / "ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["steps"] for row in rows} == {"1500"}
    mean = {}
    for name in ("best", "tau .9"):
        scores = [float(row["accuracy"]) for row in rows if row["model"] == name]
        mean[name] = sum(scores) / len(scores)
    (line,) = (line for line in build.ablation_table().splitlines() if line.startswith("| tau .9 "))
    assert line.endswith(f"| {mean['tau .9'] - mean['best']:+.3f} |")
    assert "| best | " in build.ablation_table() and "| +0.000 |" in build.ablation_table()


def test_figures_are_written(build, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "FIGURES", {"one.png": build.learning_curves})
    figure = build.learning_curves()
    width, height = figure.get_size_inches()
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "data").symlink_to(build.HERE / "data")
    parts = (f"{begin}\nof yesterday\n{build.END}" for begin in (build.BEGIN, build.BEGIN_LANGUAGE, build.BEGIN_SOAK))
    (tmp_path / "README.md").write_text("\n".join(["# Title", *parts, "The end\n"]), encoding="utf-8")
    monkeypatch.setattr(build, "HERE", tmp_path / "figures")
    build.main()
    head = (tmp_path / "figures" / "one.png").read_bytes()[:24]
    assert head[1:4] == b"PNG"
    assert [int.from_bytes(head[at : at + 4], "big") for at in (16, 20)] == [150 * width, 150 * height]
    assert capsys.readouterr().out == "figures/one.png\nREADME.md\n"
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert build.speed_text() in readme and build.language_text() in readme and build.soak_text() in readme
    assert readme.startswith("# Title\n") and readme.endswith("\nThe end\n")
    assert "of yesterday" not in readme


def test_the_language_models_of_the_readme_are_the_recorded_ones(build):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert build.with_language(readme) == readme, "`make figures` writes it anew"
    for experiment, (name, _) in build.LANGUAGE.items():
        assert (name in build.FIGURES) == (ROOT / "figures" / "data" / f"{experiment}.csv").exists()


def test_the_soak_of_the_readme_is_the_recorded_one(build):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert build.with_soak(readme) == readme, "`make figures` writes it anew"
    for path in (ROOT / "figures" / "data").glob("soak_*.json"):
        recorded = json.loads(path.read_text(encoding="utf-8"))
        assert recorded["updates"] >= 10_000 and recorded["tokens"] >= 10**6
        least = min(row["tokens"] for row in recorded["rows"] if "tokens" in row)
        assert least > 0.99 * recorded["tokens"] and f"{least:,} tokens" in readme
        names = {(row["what"], row["name"]) for row in recorded["rows"]}
        assert len(recorded["rows"]) == 2 * len(names) and not any(row["problems"] for row in recorded["rows"])


def test_a_soak_that_does_not_hold_is_told(build, tmp_path):
    recorded = {"device": "the CPU", "threads": 1, "torch": "2.13.0+cpu", "preset": "small", "tokens": 10**6}
    recorded |= {"updates": 10**4, "segment_length": 256}
    memory = {"what": "memory", "name": "paper", "precision": "float32", "drift": 0.0123, "problems": []}
    model = {"what": "model", "name": "window", "precision": "bfloat16", "problems": [], "gpu_mib": [None, None]}
    model |= {"tokens": 10**6, "relative": [2.0, 2.5], "process_mib": [100.0, 103.5]}
    path = tmp_path / "soak_cpu.json"
    path.write_text(json.dumps(recorded | {"rows": [memory, model]}))
    words = build.soak_words(path)
    assert "1,000,000 tokens through each of 1 models of the preset `small`, in segments of 256" in words
    assert "at most 1.23 %" in words and "at most 1.25 times as long" in words and "at most 3.5 MiB more" in words
    path.write_text(json.dumps(recorded | {"rows": [memory, model | {"problems": ["all is lost"]}]}))
    assert "**Not all holds (window in bfloat16: all is lost).** Of the rest, what a memory reads" in build.soak_words(
        path
    )


def test_language_models_are_written_once_they_are_recorded(build, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(build, "HERE", tmp_path)
    assert build.language_text().count("Not recorded yet: ") == 2
    write_recorded(tmp_path / "data", "language")
    text = build.language_text()
    assert text.count("Not recorded yet: ") == 1 and "](figures/language.png)" in text
    assert "| infinite-former | 1,234,567 | 2 | 19.50 (18.00 to 22.00) |" in text
    assert "- infinite-former, memory off: 1.205 (1.100 to 1.311)" in text
    assert all(len(line) <= 128 or line.startswith(("|", "!")) for line in text.splitlines())
    (left,) = build.positions("language", "a title").axes[:1]
    assert len(left.lines) == 3
