import csv
import dataclasses
import math
import multiprocessing
import os
import time
from functools import partial

import pytest
import torch
from tiny import TINY

import infmem.experiment.cells
import infmem.experiment.command
import infmem.experiment.results
import infmem.experiment.train
from infmem import cli
from infmem.experiment import (
    ABLATIONS,
    RECALLS,
    SCALES,
    VARIANTS,
    Cell,
    ablation_cells,
    ablation_scores,
    age_scores,
    chosen_rates,
    longer_scores,
    mean_scores,
    num_missing,
    read_errors,
    read_rows,
    recall_cells,
    record_lines,
    record_longer,
    result_cells,
    sweep_cells,
    train_cells,
)
from infmem.experiment.cells import RECALL_LONGER, SWEEP_RATES, Scale
from infmem.experiment.results import ERROR_FIELDS, FIELDS, KEY, LINE_FIELDS, LONGER_FIELDS
from infmem.experiment.train import has_converged, take_gpu, train_cell, visible_gpus
from infmem.presets import PRESETS
from infmem.run import Run, read_metrics
from infmem.tables import read_table, write_table

RATES = dict.fromkeys(VARIANTS, 0.002)


@pytest.fixture
def tiny_sizes(monkeypatch):
    """The small preset so small that a training takes a fraction of a second."""
    monkeypatch.setitem(PRESETS, "small", TINY)


def alone(cell, folder, until=None):
    """Train a cell in this process."""
    return train_cell(cell, folder, "cpu", threads=1, until=until, sequences=3)


@pytest.mark.parametrize("variant", [*VARIANTS, *ABLATIONS])
def test_the_recorded_command_trains_the_cell(variant, monkeypatch, tmp_path):
    cell, seen = Cell(variant, "small", 500, 3, 0.004, 7), []

    class Stopped(Exception):
        pass

    def catch(config, *args, **kwargs):
        seen.append(config)
        raise Stopped

    monkeypatch.setattr(cli, "Run", catch)
    with pytest.raises(Stopped):
        cli.main([*cell.command.split()[1:], "--run", str(tmp_path)])
    assert seen == [cell.config]


def test_the_recorded_command_of_a_cell_that_begins_with_another(tiny_sizes, monkeypatch, tmp_path):
    """The two commands, one after the other, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    first = Cell("window", "small", 9, 1, 0.004, 2, "muon")
    longer = Cell("window", "small", 17, 1, 0.004, 1, "muon", first)
    for cell in (first, longer):
        assert cli.main([*cell.command.split()[1:], "--sequences", "2", "--device", "cpu"]) == 0
    trained = Run(longer.config, tmp_path / "runs/sorting-window-small-17-seed1", resume=True)
    alone(longer, tmp_path)
    twin = Run(longer.config, tmp_path / longer.name, resume=True)
    for one, two in zip(trained.model.parameters(), twin.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_all_models_share_sizes_and_remember_equally_many_vectors():
    configs = {variant: Cell(variant, "full", 4000, 0, 5e-4, 10).config for variant in VARIANTS}
    assert len({(c.segment_length, c.batch_size, c.model.d_model, c.model.num_layers) for c in configs.values()}) == 1
    assert configs["transformer-xl"].model.memory_length == 2048
    compressive = configs["compressive-transformer"].model
    assert (compressive.memory_length, compressive.memory.length) == (1024, 1024)
    assert compressive.memory.loss == "attention_reconstruction"
    for variant in [name for name in VARIANTS if name.startswith("infinite-former")]:
        assert (configs[variant].model.memory_length, configs[variant].model.memory.num_basis) == (1024, 1024)
    assert configs["infinite-former-sticky"].model.memory.sticky == "iid"


def test_the_order_of_work_is_the_claim_first():
    cells = result_cells(SCALES["small"], list(VARIANTS), RATES, 10)
    assert len(set(cells)) == len(cells) == 7 * 3 * 3
    first = cells[:12]
    assert {cell.variant for cell in first} == set(list(VARIANTS)[:4]) and {cell.seed for cell in first} == {0}
    assert [cell.length for cell in first] == [500] * 4 + [1000] * 4 + [2000] * 4
    assert {cell.seed for cell in cells[12:24]} == {1} and {cell.variant for cell in cells[:24]} == set(
        list(VARIANTS)[:4]
    )


def test_longer_sequences_begin_with_the_weights_of_shorter_ones():
    scale = Scale("full", (400, 100, 200), (0, 1), "muon", continued=True)
    cells = result_cells(scale, ["window"], {"window": 0.001}, 15)
    assert [(cell.seed, cell.length, cell.steps) for cell in cells] == [
        (seed, length, steps) for seed in (0, 1) for length, steps in ((100, 15), (200, 3), (400, 3))
    ]
    assert cells[0].start is None and cells[1].start == cells[0] and cells[2].start == cells[1]
    assert len({cell.key for cell in cells}) == len({cell.name for cell in cells}) == 6


def test_a_start_is_trained_before_what_begins_with_it(tmp_path):
    path, runs = tmp_path / "data" / "sorting.csv", tmp_path / "runs"
    first = Cell("window", "classroom", 41, 0, 0.002, 2)
    second = Cell("window", "classroom", 59, 0, 0.002, 1, "adam", first)
    rows = list(train_cells([second, first], path, runs, workers=2, sequences=2))
    assert [row["length"] for row in rows] == [41, 59] and rows[1]["start"] == first.name
    # Recorded, but its weights are elsewhere: they are trained again, and recorded once.
    third = Cell("window", "classroom", 67, 0, 0.002, 1, "adam", first)
    rows = list(train_cells([first, third], path, tmp_path / "elsewhere", sequences=2))
    assert [row["length"] for row in rows] == [67]
    assert (tmp_path / "elsewhere" / first.name).is_dir() and num_missing([first, second, third], path) == 0


def test_a_cell_is_trained_scored_and_described(tiny_sizes, tmp_path):
    cell = Cell("infinite-former-best", "small", 23, 0, 0.01, 20)
    row = alone(cell, tmp_path)
    assert tuple(row) == FIELDS
    assert row["command"] == cell.command and row["receptive_field"] == "all" and row["steps"] == 20
    assert 0 <= float(row["accuracy"]) <= 1 and row["converged"] in (True, False)
    curve = read_rows(tmp_path / cell.name / "curve.csv", ("step", "loss", "accuracy"))
    metrics = read_metrics(tmp_path / cell.name)
    assert [row["step"] for row in curve] == ["10", "20"]
    assert float(curve[1]["loss"]) == pytest.approx(sum(row["loss"] for row in metrics[10:]) / 10, abs=1e-4)
    windowed = alone(Cell("window", "small", 23, 0, 0.01, 3), tmp_path)
    assert windowed["receptive_field"] == 23 - 21, "the answer starts in the segment of the positions 21 to 27"


def test_a_cell_that_was_stopped_goes_on_where_it_was(tiny_sizes, tmp_path, monkeypatch):
    cell = Cell("transformer-xl", "small", 23, 0, 0.01, 13)
    whole = alone(cell, tmp_path / "whole")
    assert alone(cell, tmp_path / "parts", until=time.time()) is None
    assert not (tmp_path / "parts").exists(), "nothing is begun when the time is up"
    now = iter(range(1000))
    monkeypatch.setattr(time, "time", lambda: next(now))
    assert alone(cell, tmp_path / "parts", until=1.0) is None
    monkeypatch.undo()
    monkeypatch.setitem(PRESETS, "small", TINY)
    assert 0 < Run(cell.config, tmp_path / "parts" / cell.name, resume=True).step < 13
    row = alone(cell, tmp_path / "parts")
    assert {name: row[name] for name in ("accuracy", "free_running")} == {
        name: whole[name] for name in ("accuracy", "free_running")
    }


def test_a_training_that_diverges_is_recorded_as_such(tiny_sizes, tmp_path):
    row = alone(Cell("window", "small", 23, 0, 1e30, 20), tmp_path)
    assert row["accuracy"] == "nan" and row["converged"] is False


def test_cells_are_trained_once_and_recorded(tmp_path):
    path, runs = tmp_path / "data" / "sorting.csv", tmp_path / "runs"
    cells = [Cell(variant, "classroom", 41, 0, 0.002, 2) for variant in ("window", "infinite-former-sticky")]
    assert list(train_cells(cells, path, runs, until=time.time(), sequences=2)) == []
    assert num_missing(cells, path) == 2
    rows = list(train_cells(cells, path, runs, workers=2, sequences=2))
    assert num_missing(cells, path) == 0
    with path.open(newline="") as file:
        assert sorted(csv.DictReader(file), key=str) == sorted(
            [{k: str(v) for k, v in row.items()} for row in rows], key=str
        )
    assert {curve.stem for curve in (tmp_path / "data" / "sorting_curves").iterdir()} == {cell.name for cell in cells}
    assert list(train_cells(cells, path, runs, sequences=2)) == []


def test_workers_take_the_gpus_in_turn(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    gpus, taken, seen = visible_gpus(), multiprocessing.get_context("spawn").Value("i", 0), []
    assert gpus == ["2", "5", "7"]
    for _ in range(5):
        take_gpu(taken, gpus)
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert seen == ["2", "5", "7", "2", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert visible_gpus() == ["0", "1"]
    take_gpu(taken, [])
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_the_best_rate_is_chosen_and_scaled_with_the_preset():
    cells = sweep_cells(["window", "transformer-xl"])
    assert [cell.learning_rate for cell in cells] == [*SWEEP_RATES] * 2
    scores = dict(zip(cells, ["0.2", "nan", "0.4", "0.3", "nan", "0.1", "0.3", "nan"], strict=True))
    rows = [dict(zip(KEY, cell.key, strict=True)) | {"accuracy": score} for cell, score in scores.items()]
    assert chosen_rates(rows, cells, "small") == {"window": SWEEP_RATES[2], "transformer-xl": SWEEP_RATES[2]}
    ratio = PRESETS["full"].learning_rate / PRESETS["small"].learning_rate
    assert chosen_rates(rows, cells, "full")["window"] == ratio * SWEEP_RATES[2]
    with pytest.raises(ValueError, match=r"the sweep of learning rates is not complete: 1 left"):
        chosen_rates(rows[:-1], cells, "small")


def test_convergence_is_a_small_gain_of_the_last_fifth():
    rising = [step / 1000 for step in range(1000)]
    assert not has_converged(rising) and has_converged([1.0] * 1000)
    assert has_converged([*rising[:800], *[rising[780]] * 200])
    assert not has_converged([0.5] * 960 + [0.52] * 40)
    assert has_converged([0.7])


def test_lines_are_recorded_once(tiny_sizes, tmp_path):
    path = tmp_path / "lines.csv"
    record_lines(Scale("small", (23, 37), (0,)), path, num_sequences=5)
    rows = read_rows(path, LINE_FIELDS)
    assert [row["length"] for row in rows] == ["23", "37"]
    assert all(float(row["chance"]) <= float(row["exact_counts"]) <= 1 for row in rows)
    record_lines(Scale("small", (23, 37, 41), (0,)), path, num_sequences=5)
    assert read_rows(path, LINE_FIELDS)[:2] == rows and len(read_rows(path, LINE_FIELDS)) == 3


def test_an_ablation_changes_one_choice_at_a_time():
    cells = ablation_cells((0, 1))
    assert [cell.seed for cell in cells] == [0] * len(ABLATIONS) + [1] * len(ABLATIONS)
    memories = {cell.variant: cell.config.model.memory for cell in cells}
    assert len(set(memories.values())) == len(ABLATIONS), "two changes are the same"
    base = memories["best"]
    for change, memory in memories.items():
        names = {f.name for f in dataclasses.fields(memory) if getattr(memory, f.name) != getattr(base, f.name)}
        assert names <= set(ABLATIONS[change]) and bool(names) == (change != "best"), change
    rest = {dataclasses.replace(cell.config, model=cells[0].config.model, seed=0) for cell in cells}
    assert rest == {cells[0].config}
    assert len({cell.name for cell in cells}) == len(cells) and not any(set(" ,") & set(cell.name) for cell in cells)


def test_the_command_records_errors_and_trains_every_change(tiny_sizes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(infmem.experiment.cells, "SWEEP_LENGTH", 23)
    for module in (infmem.experiment.cells, infmem.experiment.results):
        monkeypatch.setattr(module, "ABLATIONS", {name: ABLATIONS[name] for name in ("best", "sticky, iid")})
    trained = []

    def in_this_process(cells, path, runs, **kwargs):
        trained.extend(cells)
        for cell in cells:
            row = alone(cell, runs)
            write_table(path, FIELDS, [*read_rows(path), row])
            yield row

    monkeypatch.setattr(infmem.experiment.command, "train_cells", in_this_process)
    options = ["--seeds", "0", "--steps", "2", "--device", "cpu", "--output", str(tmp_path), "--runs", str(tmp_path)]
    assert cli.main(["experiment", "ablation", *options]) == 0
    assert [cell.variant for cell in trained] == ["best", "sticky, iid"]
    assert "sticky, iid" in capsys.readouterr().out
    assert [row["model"] for row in read_rows(tmp_path / "ablation.csv")] == ["best", "sticky, iid"]
    errors = read_table(tmp_path / "memory_errors.csv", ERROR_FIELDS)
    assert [int(row["age"]) for row in errors] == [*range(17), *range(17)]
    assert all(0 < float(row["token"]) and 0 <= float(row["whole_mean"]) for row in errors)
    by_change = read_errors(tmp_path / "memory_errors.csv")
    assert list(by_change) == ["best", "sticky, iid"]
    for name, found in by_change.items():
        rows = [row for row in errors if row["change"] == name]
        for field in found._fields:
            assert getattr(found, field).tolist() == [float(row[field]) for row in rows]


def test_scores_are_means_over_seeds_of_the_usual_budget(tmp_path):
    row = dict.fromkeys(FIELDS, "") | {"model": "window", "preset": "full", "length": 8000, "optimizer": "muon"}
    usual = {"steps": PRESETS["full"].steps // 5, "start": "the shorter one"}
    scores = [("0.5", "0.01", usual), ("0.7", "0.02", usual), ("0.9", "0.01", usual | {"steps": 8000})]
    rows = [
        row | {"accuracy": accuracy, "ci95": ci95, "seed": n} | more for n, (accuracy, ci95, more) in enumerate(scores)
    ]
    rows += [rows[0] | {"optimizer": "adam"}, rows[0] | {"start": ""}]
    write_table(tmp_path / "sorting.csv", FIELDS, rows)
    (score,) = mean_scores(tmp_path / "sorting.csv", "full")
    assert (score["name"], score["length"], score["seeds"]) == ("window", 8000, 2)
    assert score["accuracy"] == pytest.approx(0.6) and score["ci95"] == pytest.approx(0.12)
    assert mean_scores(tmp_path / "sorting.csv", "small") == []
    changes = [
        row | {"model": m, "accuracy": "0.5", "ci95": "0", "steps": 1500, "length": 1000} for m in ("gate", "best")
    ]
    write_table(tmp_path / "ablation.csv", FIELDS, [*changes, changes[0] | {"steps": 2}])
    assert [(row["name"], row["seeds"]) for row in ablation_scores(tmp_path / "ablation.csv")] == [
        ("best", 1),
        ("gate", 1),
    ]


def test_what_is_trained_at_one_length_is_scored_at_others(tmp_path):
    path, runs = tmp_path / "longer.csv", tmp_path / "runs"
    cells = [Cell(variant, "classroom", 41, 0, 0.002, 2) for variant in ("window", "transformer-xl")]
    alone(cells[0], runs)  # the other one is not there
    rows = list(record_longer(cells, (41, 59), path, runs, sequences=3))
    assert [(row["model"], row["trained_length"], row["length"]) for row in rows] == [
        ("window", 41, 41),
        ("window", 41, 59),
    ]
    assert tuple(sorted(rows[0])) == tuple(sorted(LONGER_FIELDS))
    assert rows[1]["command"].endswith("&& infmem evaluate runs/sorting-window-classroom-41-seed0 --length 59")
    assert [row["length"] for row in record_longer(cells, (41, 59, 67), path, runs, sequences=3)] == [67]
    (one, two, three) = longer_scores(path, "classroom")
    assert (one["name"], three["length"], two["seeds"]) == ("window", 67, 1)


def test_everybody_recalls_with_every_rate_and_then_with_the_best(tiny_sizes):
    sweep = recall_cells()
    assert {cell.variant for cell in sweep} == set(RECALLS) and len({cell.key for cell in sweep}) == len(sweep)
    assert {cell.config.task for cell in sweep} == {"recall"}
    assert len({(cell.config.length, cell.config.steps, cell.config.batch_size) for cell in sweep}) == 1
    chosen = recall_cells(dict.fromkeys(RECALLS, 0.001), seeds=(0, 1))
    assert len(chosen) == 2 * len(RECALLS) and {cell.learning_rate for cell in chosen} == {0.001}
    memories = {name: Cell(name, "small", 200, 0, 0.001, 2).config.model for name in RECALLS}
    assert len(set(map(str, memories.values()))) == len(RECALLS), "two of them are the same"
    assert "--task recall" in sweep[0].command and "recall" in sweep[0].name


def test_ages_are_recorded_beside_the_file(tiny_sizes, tmp_path):
    cells = [Cell("window", "small", 71, seed, 0.01, 2, "muon", task="recall") for seed in (0, 1)]
    for cell in cells:
        row = alone(cell, tmp_path / "runs")
        infmem.experiment.train._record(row, tmp_path / "recall.csv", tmp_path / "runs" / cell.name)
    ages, longer = (age_scores(tmp_path / "recall.csv", times) for times in (1, RECALL_LONGER))
    assert len(longer["window"]) > len(ages["window"])
    assert set(ages) == {"window"} and all(0 <= score <= 1 for scores in ages["window"].values() for score in scores)
    assert max(map(len, ages["window"].values())) == 2  # an age that few sequences ask for is left out
    assert float(row["accuracy"]) <= 1 and row["free_running"] == "nan"


def test_another_file_is_not_written_to(tmp_path):
    path = tmp_path / "sorting.csv"
    path.write_text("something,else\n1,2\n")
    with pytest.raises(ValueError, match="is not the file of an experiment"):
        list(train_cells([Cell("window", "classroom", 41, 0, 0.002, 2)], path, tmp_path))
    assert path.read_text() == "something,else\n1,2\n"


def test_the_command_sweeps_then_trains_then_has_nothing_left(tiny_sizes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(infmem.experiment.cells, "SWEEP_LENGTH", 23)
    monkeypatch.setattr(infmem.experiment.cells, "SWEEP_RATES", (0.01, 0.02))
    monkeypatch.setattr(infmem.experiment.command, "record_lines", partial(record_lines, num_sequences=5))

    def in_this_process(cells, path, runs, *, device, workers, until, sequences):
        for cell in cells:
            if num_missing([cell], path) and (row := alone(cell, runs, until)):
                write_table(path, FIELDS, [*read_rows(path), row])
                yield row

    monkeypatch.setattr(infmem.experiment.command, "train_cells", in_this_process)
    options = ["--variants", "window", "--lengths", "23", "37", "--seeds", "0", "--steps", "3", "--device", "cpu"]
    command = ["experiment", "sorting", *options, "--output", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    assert cli.main([*command, "--minutes", "0"]) == 0
    assert "2 trainings left; go on with the same command" in capsys.readouterr().out
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert printed.count("window") == 4 and printed.strip().endswith("complete")
    rows = read_rows(tmp_path / "out" / "sorting.csv")
    assert [row["length"] for row in rows] == ["23", "37"]
    sweep = read_rows(tmp_path / "out" / "sorting_sweep.csv")
    best = max(sweep, key=lambda row: float(row["accuracy"]))
    assert {float(row["learning_rate"]) for row in rows} <= {float(row["learning_rate"]) for row in sweep}
    assert math.isclose(float(best["accuracy"]), max(float(row["accuracy"]) for row in sweep))
    assert cli.main(command) == 0
    assert capsys.readouterr().out.strip() == f"{tmp_path / 'out'}: complete"
