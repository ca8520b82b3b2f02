import dataclasses
import math

import pytest
from tiny import tiny_config

from infmem.sweep import FIELDS, read_sweep, sweep


@pytest.fixture
def configs():
    return [tiny_config(model, steps=2) for model in ("infinite-former", "window")]


def test_every_cell_is_trained_once_and_recorded(configs, tmp_path):
    path = tmp_path / "data" / "sweep.csv"
    rows = list(sweep(configs, [0.01], [0, 1], path, sequences=3))
    cells = {(row["model"], row["learning_rate"], row["seed"]) for row in rows}
    assert cells == {(model, 0.01, seed) for model in ("infinite-former", "window") for seed in (0, 1)}
    assert [list(row) for row in read_sweep(path)] == [list(FIELDS)] * 4
    content = path.read_text()
    assert list(sweep(configs, [0.01], [0, 1], path, sequences=3)) == [], "what is recorded is not trained again"
    assert path.read_text() == content
    more = list(sweep(configs, [0.01, 0.02], [0], path, sequences=3))
    assert {row["learning_rate"] for row in more} == {0.02}
    assert path.read_text().startswith(content), "earlier rows stay"


def test_other_steps_are_another_cell(configs, tmp_path):
    path = tmp_path / "sweep.csv"
    assert len(list(sweep(configs[1:], [0.01], [0], path, sequences=3))) == 1
    longer = [dataclasses.replace(configs[1], steps=3)]
    assert len(list(sweep(longer, [0.01], [0], path, sequences=3))) == 1


def test_a_rate_that_is_too_high_is_recorded_as_such(configs, tmp_path):
    (row,) = sweep(
        [dataclasses.replace(configs[1], steps=20, clip_norm=1e30)], [1e30], [0], tmp_path / "s.csv", sequences=3
    )
    assert math.isnan(row["accuracy"]) and math.isnan(row["final_loss"])


def test_another_file_is_not_written_to(configs, tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear all,\n")
    with pytest.raises(ValueError, match="is not the file of a sweep"):
        list(sweep(configs, [0.01], [0], path))
    assert path.read_text() == "Dear all,\n"
