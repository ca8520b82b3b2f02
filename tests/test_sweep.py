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
