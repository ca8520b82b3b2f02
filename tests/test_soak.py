"""Streams without end: nothing grows, nothing drifts, and a soak says so when something does."""

import json
from pathlib import Path

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


MEMORIES = [pytest.param(name, marks=pytest.mark.slow if name in soak.ROWS else ()) for name in memory_configs()]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", MEMORIES)
def test_what_a_memory_reads_of_a_stationary_signal_does_not_drift(name, mixed, without_type_checker):
    config = memory_configs(num_basis=8, num_samples=16)[name]
    row = soak_memory(config, UPDATES, settled=SETTLED, batch=soak.ROWS.get(name, 16), mixed=mixed)
    assert row["settled"] > 0.01 and not problems(row), row


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_that_reads_for_long_keeps_no_more(name, mixed, without_type_checker):
    model = build_model(CONFIGS[name]).eval()
    row = soak_model(model, 7 * 40, segment_length=7, batch=2, mixed=mixed)
    assert not problems(row), row
    assert row["tokens"] == 280 and row["state_bytes"][0] == row["state_bytes"][1] > 0
    assert row["milliseconds"] == row["relative"] == row["gpu_mib"] == [None, None]  # too short, and no GPU


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


def test_a_segment_that_takes_ever_longer_is_found(monkeypatch, without_type_checker):
    monkeypatch.setattr(soak, "LOOKS", 4)
    model = build_model(CONFIGS["transformer-xl"]).eval()
    model.memory_length = 10**6
    row = soak_model(model, 4 * 4 * soak.TOGETHER * 41, segment_length=41)
    assert row["milliseconds"][1] > row["milliseconds"][0] > 0
    assert any(problem.startswith("a segment takes ") for problem in problems(row)), row


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"process_mib": [100.0, 200.0]}, "process_mib has grown from 100.0 to 200.0 MiB"),
        ({"gpu_mib": [100.0, 102.5]}, "gpu_mib has grown from 100.0 to 102.5 MiB"),
        ({"state_bytes": [8000, 4000]}, "state_bytes has shrunk from 8,000 to 4,000 bytes"),
        ({"relative": [2.0, 3.0]}, "a segment takes 1.50 times as long as it did"),
        ({"relative": [2.0, float("nan")]}, "a segment takes nan times as long as it did"),
        ({"drift": float("nan"), "updates": 7}, "what it reads has drifted by nan % after 7 updates"),
    ],
)
def test_each_problem_is_a_sentence(row, problem):
    assert problems(row) == [problem]


def test_memory_of_the_process_is_looked_at_where_the_system_tells(monkeypatch):
    assert problems({"process_mib": [None, None], "gpu_mib": [None, None], "relative": [None, None]}) == []
    held = process_mib() and torch.ones(2**24)
    assert held is None or process_mib() > 64


@pytest.fixture
def quickly(monkeypatch, tmp_path) -> list[str]:
    """The command's options for a soak of three rows."""
    monkeypatch.setitem(PRESETS, "classroom", TINY)
    monkeypatch.setattr(soak, "soak_memory", lambda config, updates, **_: {"updates": updates, "drift": 0.0})
    monkeypatch.setattr(soak, "model_configs", lambda sizes: {"window": CONFIGS["window"]})
    monkeypatch.setattr(soak, "memory_configs", lambda: {"paper": MemoryConfig.paper()})
    output = str(tmp_path / "soak_{device}.json")
    return f"bench soak --updates 650 --tokens 280 --segment-length 7 --device cpu --output {output}".split()


def recorded(options: list[str]) -> dict:
    return json.loads(Path(options[-1].replace("{device}", "cpu")).read_text(encoding="utf-8"))


def test_the_command_writes_a_report_and_fails_where_something_does(quickly, monkeypatch, capsys):
    assert cli.main(quickly) == 0
    report = recorded(quickly)
    assert report["device"] == "the CPU" and report["segment_length"] == 7
    assert [(row["what"], row["precision"]) for row in report["rows"]] == [
        (what, precision) for what in ("memory", "model") for precision in ("float32", "bfloat16")
    ]
    assert capsys.readouterr().out.count("holds") == 4
    broken = [row | {"problems": ["all is lost"]} for row in report["rows"][:1]]
    monkeypatch.setattr(command, "benchmark_soak", lambda *_, **__: iter(broken))
    assert cli.main(quickly) == 1
    assert "all is lost" in capsys.readouterr().out


def test_a_soak_that_is_interrupted_goes_on_where_it_was(quickly, monkeypatch, capsys):
    """Each row is on the disk once it is there; a row with a problem is measured again."""
    real = soak.soak_model

    def interrupted(*arguments, mixed, **options):
        if mixed:
            raise KeyboardInterrupt
        return real(*arguments, mixed=mixed, **options) | {"finite": False}

    monkeypatch.setattr(soak, "soak_model", interrupted)
    cli.main(quickly)
    rows = recorded(quickly)["rows"]
    assert [bool(row["problems"]) for row in rows] == [False, False, True]
    monkeypatch.setattr(soak, "soak_model", real)
    monkeypatch.setattr(soak, "soak_memory", None)  # not called again
    assert cli.main([*quickly[:-2], "--resume", *quickly[-2:]]) == 0
    again = recorded(quickly)["rows"]
    assert again[:2] == rows[:2] and len(again) == 4 and not any(row["problems"] for row in again)


def test_another_soak_is_not_resumed(quickly, capsys):
    assert cli.main(quickly) == 0
    before = recorded(quickly)
    assert cli.main([*quickly[:-2], "--resume", "--updates", "700", *quickly[-2:]]) == 2
    assert "is of another soak: its updates is 650, not 700; leave --resume out" in capsys.readouterr().err
    assert recorded(quickly) == before
    Path(quickly[-1].replace("{device}", "cpu")).write_text("[]", encoding="utf-8")
    assert cli.main([*quickly[:-2], "--resume", *quickly[-2:]]) == 2
    assert "is not the report of a soak: leave --resume out" in capsys.readouterr().err


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
