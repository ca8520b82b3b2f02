"""What a report of a bug needs is there, and true, wherever the package lies."""

import platform
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch

import infmem
from infmem import cli, system
from infmem.system import PACKAGES, commit, installed, system_lines

HERE = Path(__file__).resolve().parent


def test_everything_is_told():
    text = "\n".join(system_lines())
    for word in (infmem.__version__, str(Path(infmem.__file__).parent), platform.python_version(), platform.platform()):
        assert word in text
    assert f"torch {torch.__version__}" in text and f"PyTorch uses {torch.get_num_threads()}" in text
    for name in PACKAGES:
        assert f"{name} {installed(name) or 'not installed'}" in text


def test_every_dependency_is_named():
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    names = {re.split("[<>=]", requirement)[0] for requirement in project["dependencies"]}
    assert names <= set(PACKAGES)


def test_the_command_begins_with_it(capsys):
    assert cli.main(["info"]) == 0
    assert capsys.readouterr().out.startswith("\n".join(system_lines()))


def git(folder: Path, *arguments: str) -> None:
    about = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *about, "-C", folder, *arguments], check=True, capture_output=True)


def test_the_commit_is_that_of_the_files(tmp_path):
    package = tmp_path / "project" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(tmp_path / "project", "init")
    assert commit(package) == "not a git checkout", "an environment within another project is not of that project"
    git(package, "add", ".")
    git(package, "commit", "-m", "first")
    assert re.fullmatch("commit [0-9a-f]{12}", commit(package))
    (package / "__init__.py").write_text("changed")
    assert commit(package).endswith(" with changes")


def test_without_git_nothing_breaks(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit(HERE.parent / "infmem") == "not a git checkout"


@pytest.mark.parametrize("count", [0, 2])
def test_graphics_cards_are_named(count, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    assert system._gpus().startswith("card 0, card 1, CUDA" if count else "none that PyTorch could use")
