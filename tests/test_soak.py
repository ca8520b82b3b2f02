"""Streams without end: nothing grows, nothing drifts, and a soak says so when something does."""

import json

import pytest
import torch
from tiny import TINY

from infmem import cli
from infmem.benchmark import command, soak
from infmem.benchmark.soak import benchmark_soak, memory_configs, problems, process_mib, soak_memory, soak_model
from infmem.memory import MemoryConfig
from infmem.presets import MODEL_NAMES, PRESETS, build_model, model_config

SETTLED, UPDATES = 250, 420  # without the type checker, which would take as long again
# With a fixed share of the past, so that all operators are there after the second update.
CONFIGS = {name: model_config(name, TINY, "paper") for name in MODEL_NAMES.values()}
CONFIGS["sticky"] = model_config("infinite-former", TINY, "paper", {"sticky": "stratified"})


# What is drawn independently needs many rows, or it differs by chance.
ROWS = dict.fromkeys(memory_configs(), 16) | {"sticky, iid": 256}
MEMORIES = [pytest.param(name, marks=pytest.mark.slow if name == "sticky, iid" else ()) for name in memory_configs()]


@pytest.mark.parametrize("name", MEMORIES)
def test_what_a_memory_reads_of_a_stationary_signal_does_not_drift(name, without_type_checker):
    config = memory_configs(num_basis=8, num_samples=16)[name]
    row = soak_memory(config, UPDATES, settled=SETTLED, batch=ROWS[name])
    assert row["settled"] > 0.01 and not problems(row), row


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_that_reads_for_long_keeps_no_more(name, mixed, without_type_checker):
    model = build_model(CONFIGS[name]).eval()
    row = soak_model(model, 7 * 40, segment_length=7, batch=2, mixed=mixed)
    assert not problems(row), row
    assert row["tokens"] == 280 and row["state_bytes"][0] == row["state_bytes"][1]


@pytest.mark.slow
def test_a_memory_that_drifts_is_found(without_type_checker):
    """Samples of the middles of their shares, put at the ends: the past moves on by half of one at each update."""
    moved = MemoryConfig.best(
        **{"num_basis": 12, "sigmas": (0.08,), "num_samples": 32, "num_bins": 16, "contraction": "sampled"},
        **{"sticky": "stratified", "placement": "even", "positions": "end_points"},
    )
    row = soak_memory(moved, UPDATES, settled=SETTLED)
    assert problems(row)[0].startswith("what it reads has drifted by")


def test_a_leak_is_found():
    model, kept = build_model(CONFIGS["window"]).eval(), []
    model.register_forward_hook(lambda module, inputs, output: kept.append(output[0]))
    found = problems(soak_model(model, 7 * 40, segment_length=7))
    assert len(found) == 1 and found[0].startswith("tensors has grown from")


def test_a_state_that_grows_and_a_number_that_breaks_are_found():
    model = build_model(CONFIGS["transformer-xl"]).eval()
    model.memory_length = 10**6
    assert "state_bytes has grown from" in problems(soak_model(model, 7 * 40, segment_length=7))[0]
    with torch.no_grad():
        model.output.bias[3] = float("nan")
    assert "a number has become NaN or infinite" in problems(soak_model(model, 7 * 4, segment_length=7))


def test_memory_of_the_process_is_looked_at_where_the_system_tells(monkeypatch):
    assert problems({"process_mib": [100.0, 200.0]}) == ["process_mib has grown from 100.0 to 200.0 MiB"]
    assert problems({"process_mib": [None, None]}) == []
    assert problems({"drift": float("nan"), "updates": 7}) == ["what it reads has drifted by nan % after 7 updates"]
    held = process_mib() and torch.ones(2**24)
    assert held is None or process_mib() > 64


def test_the_command_writes_a_report_and_fails_where_something_does(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(PRESETS, "classroom", TINY)
    monkeypatch.setattr(soak, "soak_memory", lambda config, updates, device: {"updates": updates, "drift": 0.0})
    monkeypatch.setattr(soak, "model_configs", lambda sizes: {"window": CONFIGS["window"]})
    monkeypatch.setattr(soak, "memory_configs", lambda: {"paper": MemoryConfig.paper()})
    options = ["--updates", "650", "--tokens", "280", "--device", "cpu", "--output", str(tmp_path / "soak.json")]
    assert cli.main(["bench", "soak", *options]) == 0
    rows = json.loads((tmp_path / "soak.json").read_text())["rows"]
    assert [row["what"] for row in rows] == ["memory"] + ["model"] * 2
    assert capsys.readouterr().out.count("holds") == 3
    broken = [row | {"problems": ["all is lost"]} for row in rows[:1]]
    monkeypatch.setattr(command, "benchmark_soak", lambda *_, **__: iter(broken))
    assert cli.main(["bench", "soak", *options]) == 1
    assert "all is lost" in capsys.readouterr().out


@pytest.mark.parametrize(("updates", "settled"), [(500, 500), (700, 20)])
def test_there_must_be_room_for_two_windows(updates, settled):
    with pytest.raises(ValueError, match="updates must be at least"):
        soak_memory(MemoryConfig.paper(num_basis=6), updates, settled=settled)


def test_a_stream_has_four_segments_at_least():
    with pytest.raises(ValueError, match="tokens must be at least 28, four segments, got 27"):
        soak_model(build_model(CONFIGS["window"]), 27, segment_length=7)


@pytest.mark.soak
def test_the_long_soak_holds():
    """As `make soak`, of half an hour on a CPU."""
    for row in benchmark_soak(PRESETS["classroom"], tokens=10**5, updates=10_000):
        assert not row["problems"], row
