"""Whatever kills a training, or keeps it from writing: nothing is lost, and it goes on as if nothing had happened."""

import errno
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny import tiny_config

from infmem import checkpoint, cli, lock
from infmem.checkpoint import append_text, load_checkpoint, write_text
from infmem.lock import alone_in
from infmem.run import HEADER, METRICS, Run, clear_run, read_metrics
from infmem.training import TrainingConfig

FILES = ("config.json", "metrics.csv", "checkpoint.safetensors")
LONG, SHORT = tiny_config(steps=24), tiny_config("window", steps=4)
QUICK = {"progress": False, "save_every": 1, "log_every": 1}

needs_kill = pytest.mark.skipif(os.name == "nt", reason="Windows has neither SIGKILL nor flock")


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.BaseContext:
    """Starts processes that have imported everything already, and have done nothing with it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["infmem.run", "torch._dynamo"])  # the first optimiser would import the latter
    return context


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def go_on(folder: Path) -> None:
    """Train in another process, from where the folder is, with a checkpoint after every step."""
    torch.set_num_threads(1)
    begun = (folder / "checkpoint.safetensors").exists()
    Run(LONG, folder, resume=begun).train(**QUICK)


def uninterrupted(config: TrainingConfig) -> Run:
    run = Run(config, None)
    run.train(progress=False)
    return run


def assert_as_if_nothing_had_happened(folder: Path, whole: Run) -> None:
    """The same weights and averages bit for bit, and every step's row once."""
    resumed = Run(whole.config, folder, resume=True)
    assert resumed.step == whole.step
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
        for name, average in whole.optimizer.state[one].items():
            assert torch.equal(average, resumed.optimizer.state[other][name]), name
    rows = read_metrics(folder)
    assert [row["step"] for row in rows] == list(range(1, whole.step + 1))
    for row, expected in zip(rows, whole.rows, strict=True):
        assert [row[name] for name in METRICS[:-1]] == [
            pytest.approx(expected[name], rel=1e-5) for name in METRICS[:-1]
        ]


# --- killed at random moments -----------------------------------------------------------------------------------------


def killed(folder: Path, draw: random.Random, processes: multiprocessing.context.BaseContext) -> bool:
    """Whether a training was killed before it had ended: some steps after it began, at no moment in particular."""
    metrics = folder / "metrics.csv"
    before = metrics.stat().st_size if metrics.exists() else 0
    training = processes.Process(target=go_on, args=(folder,))
    training.start()
    wanted = before + draw.choice([0, 1, *range(50, 500, 25)])
    while training.is_alive() and not (metrics.exists() and metrics.stat().st_size >= wanted):
        time.sleep(0.0005)
    time.sleep(draw.uniform(0, 0.02))
    training.kill()
    training.join()
    return training.exitcode == -signal.SIGKILL


@needs_kill
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_training_that_is_killed_goes_on_bit_for_bit(kills, tmp_path, processes):
    draw, folder = random.Random(kills), tmp_path / "run"
    for _ in range(kills):
        if not killed(folder, draw, processes):  # it was at its end: what is killed next begins anew
            assert_as_if_nothing_had_happened(folder, uninterrupted(LONG))
            clear_run(folder)
            assert killed(folder, draw, processes)
        if (folder / "checkpoint.safetensors").exists():
            saved = load_checkpoint(folder / "checkpoint.safetensors").step
            assert [row["step"] for row in read_metrics(folder)][:saved] == list(range(1, saved + 1))
    last = processes.Process(target=go_on, args=(folder,))
    last.start()
    last.join()
    assert last.exitcode == 0
    assert_as_if_nothing_had_happened(folder, uninterrupted(LONG))
    assert sorted(content(folder)) == sorted(FILES), "no temporary file may stay"


class Died(BaseException):
    """Stands for a death that nothing can catch."""


@pytest.mark.parametrize("call", range(9))
def test_a_training_that_dies_in_any_step_of_writing_goes_on_bit_for_bit(call, tmp_path, monkeypatch):
    """The three files of a new folder and two savings, each dying before its file is safe and before it is in place."""
    calls = iter(range(10**6))

    def dying(function):
        def wrapper(*args):
            if next(calls) == call:
                raise Died
            return function(*args)

        return wrapper

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(os, "fsync", dying(os.fsync))
        patched.setattr(os, "replace", dying(os.replace))
        Run(SHORT, tmp_path).train(**QUICK)
    begun = (tmp_path / "checkpoint.safetensors").exists()
    Run(SHORT, tmp_path, resume=begun).train(**QUICK)
    assert_as_if_nothing_had_happened(tmp_path, uninterrupted(SHORT))


# --- a disk that is full, a folder that is read-only ------------------------------------------------------------------


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A real limit: what is written beyond it fails part-way, as on a full disk."""
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_is_one_sentence_and_nothing_is_lost(tmp_path):
    run = Run(SHORT, tmp_path)
    assert not run.train(**QUICK, until=0.0)
    assert run.step == 1
    before = content(tmp_path)
    with largest_file(3000), pytest.raises(OSError, match=r"checkpoint.safetensors could not be written \(File too"):
        run.train(**QUICK)
    after = content(tmp_path)
    assert set(after) == set(FILES), "no temporary file may stay"
    assert all(after[name] == before[name] for name in ("config.json", "checkpoint.safetensors"))
    Run(SHORT, tmp_path, resume=True).train(**QUICK)
    assert_as_if_nothing_had_happened(tmp_path, uninterrupted(SHORT))


def test_a_run_goes_on_by_itself_once_there_is_room_again(tmp_path):
    run = Run(SHORT, tmp_path)
    size = (tmp_path / "metrics.csv").stat().st_size
    with largest_file(size + 20), pytest.raises(OSError, match=r"metrics.csv could not be written"):
        run.train(**QUICK)
    assert (tmp_path / "metrics.csv").read_text() == HEADER, "half a row may not stay"
    run.train(**QUICK)
    assert_as_if_nothing_had_happened(tmp_path, uninterrupted(SHORT))


def test_text_is_appended_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_text(path, "one\n")
    append_text(path, "two\n")
    with largest_file(10), pytest.raises(OSError, match="what was there before is as it was"):
        append_text(path, "three\n")
    assert path.read_text() == "one\ntwo\n"


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that this process can't write to; the superuser, who can write anywhere, is somebody else meanwhile."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Run(SHORT, folder / "run")
        for path in (folder / "run", folder):
            path.chmod(0o555)
        if user == 0:
            os.seteuid(65534)  # nobody
        yield folder
        os.seteuid(user)
        for path in (folder, folder / "run"):
            path.chmod(0o700)


def test_a_folder_that_is_read_only_is_one_sentence(read_only, capsys):
    before = content(read_only / "run")
    with pytest.raises(OSError, match=r"metrics.csv could not be written \(Permission denied\)"):
        Run(SHORT, read_only / "run", resume=True)
    with pytest.raises(OSError, match=r"new could not be written \(Permission denied\): make room, or choose a folder"):
        Run(SHORT, read_only / "new")
    command = ["train", "--steps", "1", "--sequences", "2", "--device", "cpu", "--run", str(read_only / "new")]
    assert cli.main(command) == cli.BAD_INPUT
    assert cli.main(["demo", "--device", "cpu", "--run", str(read_only / "new")]) == cli.BAD_INPUT
    error = capsys.readouterr().err
    assert error.count("Permission denied") == error.count("\n") == 2
    assert content(read_only / "run") == before and [path.name for path in read_only.iterdir()] == ["run"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_the_systems_own_words_are_in_the_sentence(number, tmp_path, monkeypatch):
    def failing(*_):
        raise OSError(number, os.strerror(number))

    write_text(tmp_path / "file", "before")
    monkeypatch.setattr(checkpoint.os, "fsync", failing)
    with pytest.raises(OSError, match=f"file could not be written .{os.strerror(number)}.: make room"):
        write_text(tmp_path / "file", "after")
    assert content(tmp_path) == {"file": b"before"}


# --- two in one folder ------------------------------------------------------------------------------------------------


def hold(folder: Path, entered, left) -> None:
    with alone_in(folder):
        entered.set()
        left.wait()


@needs_kill
def test_a_folder_is_free_again_when_its_process_has_been_killed(tmp_path, processes):
    entered, left = processes.Event(), processes.Event()
    other = processes.Process(target=hold, args=(tmp_path, entered, left))
    other.start()
    assert entered.wait(60)
    with pytest.raises(ValueError, match="another process is at work in"), alone_in(tmp_path):
        pass
    other.kill()
    other.join()
    with alone_in(tmp_path):
        assert list(tmp_path.iterdir()) == []


@needs_kill
def test_two_in_one_folder_are_refused_and_lose_nothing(tmp_path, capsys):
    first = Run(SHORT, tmp_path)
    before = content(tmp_path)
    with alone_in(tmp_path):
        for attempt in (
            lambda: Run(SHORT, tmp_path),
            lambda: Run(SHORT, tmp_path, resume=True),
            lambda: clear_run(tmp_path),
            first.train,
        ):
            with pytest.raises(ValueError, match="another process is at work in"):
                attempt()
        for command in ("train", "demo"):
            assert cli.main([command, "--device", "cpu", "--run", str(tmp_path)]) == cli.BAD_INPUT
    error = capsys.readouterr().err
    assert error.count("another process is at work in") == error.count("\n") == 2
    assert content(tmp_path) == before
    assert first.train(progress=False)


def test_what_another_process_has_trained_meanwhile_is_not_overwritten(tmp_path):
    first = Run(SHORT, tmp_path)
    second = Run(SHORT, tmp_path, resume=True)
    assert second.train(progress=False)
    before = content(tmp_path)
    with pytest.raises(ValueError, match="has changed since this run has left it"):
        first.train(progress=False)
    assert content(tmp_path) == before


@pytest.mark.parametrize("without", ["the module", "the file system"])
def test_where_there_are_no_locks_all_goes_on_without(without, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if without == "the module":
        monkeypatch.setattr(lock, "fcntl", None)
    else:
        monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with alone_in(tmp_path):
        assert Run(SHORT, tmp_path).train(progress=False)


# --- a folder that another crash has left -----------------------------------------------------------------------------


def test_a_folder_whose_run_died_before_its_first_checkpoint_can_be_begun_again(tmp_path):
    write_text(tmp_path / "config.json", json.dumps({}))
    write_text(tmp_path / "metrics.csv", HEADER)
    assert Run(SHORT, tmp_path).train(progress=False)


def test_rows_without_a_checkpoint_are_not_overwritten(tmp_path):
    write_text(tmp_path / "metrics.csv", HEADER + "1,1,1,1,1,1\n")
    before = content(tmp_path)
    with pytest.raises(ValueError, match="holds a run already"):
        Run(SHORT, tmp_path)
    assert content(tmp_path) == before
