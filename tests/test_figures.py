import csv
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

from infmem.experiment import mean_scores

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


def test_the_step_times_of_the_readme_are_the_recorded_ones():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = json.loads((ROOT / "figures" / "data" / "bench_train.json").read_text(encoding="utf-8"))["rows"]
    times = {(row["preset"], row["model"], row["path"]): row for row in rows}
    lines = re.findall(
        r"^\| (small|full), ([^|]+) \| ([\d.]+) \| \*\*([\d.]+)\*\* \| ([\d.]+) million \|$", readme, re.MULTILINE
    )
    assert len(lines) == len(times) / 2 == 6
    for preset, name, plain, fast, millions in lines:
        model = name.lower().replace(" ", "-")
        row = times[preset, model, "fast"]
        assert f"{times[preset, model, 'eager']['milliseconds']:.2f}" == plain
        assert f"{row['milliseconds']:.2f}" == fast
        assert f"{row['tokens_per_second'] / 1e6:.1f}" == millions


def test_the_speed_up_of_the_readme_is_the_recorded_one():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    runs = json.loads((ROOT / "figures" / "data" / "bench_train_two_gpus.json").read_text(encoding="utf-8"))["runs"]
    speed = {(row["workers"], row["batch_size"]): row["tokens_per_second"] for run in runs for row in run["rows"][1:]}
    for batch_size, words in ((64, "as many sequences"), (32, "same 32")):
        assert f"{speed[2, batch_size] / speed[1, 32]:.2f} times" in readme, words


def test_the_accuracies_of_the_readme_are_the_recorded_ones(build):
    with (ROOT / "figures" / "data" / "sorting.csv").open(newline="") as file:
        recorded = {row["preset"] for row in csv.DictReader(file)}
    assert "small" in recorded
    for preset in recorded:
        assert build.sorting_table(preset) in (ROOT / "README.md").read_text(encoding="utf-8")
    assert build.depth_table() in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("preset", "optimizer"), [("small", "adam"), ("full", "muon")])
def test_the_sorting_figure_holds_every_seed(preset, optimizer, build):
    path = ROOT / "figures" / "data" / "sorting.csv"
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["preset"], row["optimizer"]) == (preset, optimizer)]
    scores = {(row["name"], row["length"]): row for row in mean_scores(path, preset)}
    assert len(rows) == sum(score["seeds"] for score in scores.values())
    for row in rows:
        score = scores[row["model"], int(row["length"])]
        assert abs(float(row["accuracy"]) - score["accuracy"]) + float(row["ci95"]) <= score["ci95"] + 1e-9
    labels = {text.get_text() for text in build.sorting(preset, "").axes[0].get_legend().get_texts()}
    assert {row["model"] for row in rows} < labels


def test_figures_are_written(build, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "FIGURES", {"one.png": build.learning_curves})
    figure = build.learning_curves()
    width, height = figure.get_size_inches()
    (tmp_path / "data").symlink_to(build.HERE / "data")
    monkeypatch.setattr(build, "HERE", tmp_path)
    build.main()
    head = (tmp_path / "one.png").read_bytes()[:24]
    assert head[1:4] == b"PNG"
    assert [int.from_bytes(head[at : at + 4], "big") for at in (16, 20)] == [150 * width, 150 * height]
    assert capsys.readouterr().out == "figures/one.png\n"
