import json
import statistics

import pytest
import torch
from tiny import TINY, tiny_config

from infmem import cli
from infmem.benchmark import benchmark_training, train
from infmem.distributed import Workers
from infmem.presets import PRESETS
from infmem.run import Run

ALONE = Workers(torch.device("cpu"))


@pytest.fixture
def asked_fast(monkeypatch) -> list[bool]:
    """Whether each run was asked for the fast step; it takes plain ones, since compiling takes a minute on a CPU."""
    asked = []

    def plain(*args, fast, **kwargs):
        asked.append(fast)
        return Run(*args, fast=False, **kwargs)

    monkeypatch.setattr(train, "Run", plain)
    return asked


def test_each_training_is_timed_plain_then_fast_on_the_same_sequences(asked_fast):
    configs = [tiny_config("window"), tiny_config("transformer-xl", batch_size=5)]
    rows = list(benchmark_training(configs, ALONE, steps=4, warm_up=2))
    assert asked_fast == [False, True, False, True]
    assert [(row["model"], row["path"]) for row in rows] == [
        (model, path) for model in ("window", "transformer-xl") for path in ("eager", "fast")
    ]
    for row, config in zip(rows, [config for config in configs for _ in range(2)], strict=True):
        lower, upper = row["middle_half"]
        assert 0 < lower <= row["milliseconds"] <= upper
        tokens = config.batch_size * (config.length + 20)
        assert row["tokens_per_second"] == pytest.approx(tokens / row["milliseconds"] * 1000, rel=1e-2)
        assert len(row["losses"]) == 6 and row["batch_size"] == config.batch_size and row["workers"] == 1
    assert rows[0]["losses"] == rows[1]["losses"] != rows[2]["losses"][:6]
    expected = Run(configs[0], None)
    expected.model.train()
    assert rows[0]["losses"] == [round(float(expected.train_step()["loss"]), 5) for _ in range(6)]


def test_the_median_and_the_middle_half_are_of_single_steps(asked_fast, monkeypatch):
    milliseconds = [4.0, 1.0, 9.0, 2.0, 3.0]
    times = [sum(milliseconds[:count]) / 1000 for count in range(6)]
    monkeypatch.setattr(train, "mark", lambda device: times.pop(0))
    row = next(benchmark_training([tiny_config("window")], ALONE, steps=5, warm_up=0))
    lower, median, upper = statistics.quantiles(milliseconds, n=4)
    assert row["milliseconds"] == pytest.approx(median) == 3
    assert row["middle_half"] == pytest.approx([lower, upper])


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 2 for a median and its range, got 1"):
        list(benchmark_training([tiny_config()], ALONE, steps=1))
    with pytest.raises(ValueError, match="warm_up must be >= 0, got -1"):
        list(benchmark_training([tiny_config()], ALONE, warm_up=-1))


def test_the_command_prints_a_table_and_writes_it(asked_fast, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(PRESETS, "classroom", TINY)
    output = tmp_path / "new" / "bench.json"
    options = ["--models", "window", "--steps", "2", "--batch-size", "2", "--device", "cpu", "--output", str(output)]
    assert cli.main(["bench", "train", *options]) == 0
    printed = capsys.readouterr().out
    assert "Steps on the CPU" in printed and printed.count("window") == 2
    written = json.loads(output.read_text())
    assert set(written) == {"command", "device", "torch", "threads", "rows"}
    assert [(row["preset"], row["path"], row["batch_size"]) for row in written["rows"]] == [
        ("classroom", "eager", 2),
        ("classroom", "fast", 2),
    ]
    assert f"{written['rows'][0]['milliseconds']:.2f}" in printed
