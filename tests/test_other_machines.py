"""On other machines: without the optional packages, and twice on one with the same seed."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import save
from tiny import recall_config, tiny_config

from infmem import cli
from infmem.run import Run

HERE = Path(__file__).resolve().parent
# What the extras bring; None in their place is what Python finds where they are not installed.
OPTIONAL = "transformers tokenizers datasets jupyterlab nbformat nbclient nbgrader voila playwright".split()
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL}))\n"


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """A fresh Python in which the helpers of the tests can be imported."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


IMPORT_ALL = f"""{WITHOUT}
import importlib, json, pkgutil, infmem
from infmem import cli
failed = {{}}
for module in pkgutil.walk_packages(infmem.__path__, "infmem."):
    if not module.name.startswith("infmem.kernels."):  # they need Triton, which only some machines have
        try:
            importlib.import_module(module.name)
        except Exception as error:
            failed[module.name] = f"{{type(error).__name__}}: {{error}}"
json.dump(failed, sys.stdout)
"""


def test_without_the_extras_all_can_be_imported_but_what_is_about_gpt2_and_that_says_what_to_install():
    failed = json.loads(python(IMPORT_ALL).stdout)
    assert set(failed) == {"infmem.gpt2", "infmem.language.pretrained"}
    for message in failed.values():
        hint = "ImportError: infmem.gpt2 needs the package transformers: pip install 'infmem[hf]'"
        assert message.startswith(hint) and "\n" not in message


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("transformers", ("finetune",)),
        ("transformers", ("pretrain", "--tokens", "mine.safetensors")),
        ("tokenizers", ("prepare", "--data", "{folder}")),
        ("datasets", ("prepare", "--corpus", "pg-19")),
    ],
)
def test_a_command_that_lacks_its_package_says_what_to_install(package, arguments, tmp_path, monkeypatch, capsys):
    (tmp_path / "texts").mkdir()
    for number in range(20):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"It rained for {number} days.\n" * 9)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["language", *(part.format(folder=tmp_path / "texts") for part in arguments)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"infmem: this needs the package {package}: pip install 'infmem[hf]'"
    )


@pytest.mark.parametrize(
    ("script", "package", "extra"),
    [("exercises/assignments.py", "nbgrader", "grading"), ("execute.py", "nbformat", "notebooks")],
)
def test_a_script_that_lacks_its_package_says_what_to_install(script, package, extra):
    path = HERE.parent / "notebooks" / script
    done = python(f"{WITHOUT}import runpy; runpy.run_path({str(path)!r}, run_name='__main__')")
    assert done.returncode == 1
    assert done.stderr == f"this needs the package {package}: pip install 'infmem[{extra}]'\n"


def numbers() -> dict[str, list]:
    """Losses, and a digest of the weights, of short trainings in which all kinds of things are drawn."""
    trained = {}
    for name, config in {"sticky": tiny_config, "most_used": tiny_config, "infinite-former": recall_config}.items():
        for seed in (0, 1):
            run = Run(config(name, seed=seed), None)
            losses = [float(run.train_step()["loss"]) for _ in range(2)]
            trained[f"{name}, seed {seed}"] = [losses, hashlib.sha256(save(run.model.state_dict())).hexdigest()]
    return trained


def test_the_same_seed_gives_the_same_numbers_twice_and_another_seed_others():
    """In two processes, which put sets of words in different orders."""
    here = numbers()
    there = python("import json, test_other_machines as here; print(json.dumps(here.numbers()))", PYTHONHASHSEED="1")
    assert here == json.loads(there.stdout), there.stderr
    assert len(here) == len(set(map(str, here.values()))) == 6
