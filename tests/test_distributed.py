"""Several processes train as one: two of them, on the CPU, joined by gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_worker import trained_weights
from safetensors.torch import load_file
from tiny import tiny_config
from torch.testing import assert_close

from infmem.distributed import Workers, joined_workers
from infmem.presets import MODEL_NAMES
from infmem.run import Run, load_run, read_metrics
from infmem.training import generator_for

HERE = Path(__file__).resolve().parent
ALONE = Workers(torch.device("cpu"))


def torchrun(*arguments: str | Path, workers: int = 2) -> subprocess.CompletedProcess:
    """Start several workers, each with one thread, and wait for them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={workers}", *arguments]
    return subprocess.run(
        list(map(str, command)), env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )


def test_two_workers_learn_what_one_learns_from_the_double_batch(tmp_path):
    ended = torchrun(HERE / "distributed_worker.py", tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "second").exists()
    together = load_file(tmp_path / "weights.safetensors")
    for name in MODEL_NAMES.values():
        for key, expected in trained_weights(name, ALONE).items():
            rtol = 1e-6 if key.endswith(" accuracy") else 1e-9  # accuracies are counted in float32
            assert_close(together[key], expected, rtol=rtol, atol=1e-12, msg=lambda text, key=key: f"{key}: {text}")


def test_a_run_of_two_workers_is_one_run_that_one_worker_can_go_on_with(tmp_path):
    options = ["--length", 41, "--segment-length", 13, "--batch-size", 4, "--device", "cpu", "--sequences", 2]
    command = ["-m", "infmem.cli", "--", "train", *options, "--run", tmp_path / "run"]
    ended = torchrun(*command, "--steps", 7)
    assert ended.returncode == 0, ended.stderr
    assert "on the CPU with 2 workers" in ended.stdout
    assert ended.stdout.count("teacher-forced") == 1
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 8))
    config = load_run(tmp_path / "run")[1]
    whole = Run(config, None)
    whole.train()
    for row, expected in zip(rows, whole.rows, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    resumed = Run(config, tmp_path / "run", resume=True)
    assert resumed.step == 7
    again = torchrun(*command, "--steps", 7, "--resume")
    assert again.returncode == 0, again.stderr


def test_rows_are_shared_without_rest():
    rows = torch.arange(6)
    shares = [Workers(torch.device("cpu"), rank, 3).rows(rows) for rank in range(3)]
    assert torch.equal(torch.cat(shares), rows)
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of the number of workers \(3\), got 4"):
        Run(tiny_config(batch_size=4), None, workers=Workers(torch.device("cpu"), 0, 3))


def test_one_worker_alone_needs_nobody():
    with joined_workers(torch.device("cpu")) as workers:
        assert workers == ALONE
    module, value = torch.nn.Linear(2, 3), torch.rand(5, generator=generator_for(torch.device("cpu"), 0))
    assert workers.wrap(module) is module
    assert workers.mean(value) is value
    assert workers.any(True) and not workers.any(False)
    assert workers.from_first(lambda: 7) == 7


def test_more_workers_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(ValueError, match=r"more workers than the 2 GPUs .* lower --nproc_per_node"),
        joined_workers(torch.device("cuda")),
    ):
        pass
