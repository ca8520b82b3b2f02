"""The files around the library agree: pyproject.toml says what is needed, and the others repeat it without drifting."""

import pkgutil
import re
import subprocess
import tomllib
from collections import Counter
from importlib.metadata import version as installed_version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"torch": "pytorch-cpu"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def requirements(*extras: str) -> dict[str, SpecifierSet]:
    """The direct dependencies of the package and of these extras, without references to infmem itself."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r.specifier for r in parsed if canonicalize_name(r.name) != "infmem"}


def conda_requirements() -> dict[str, SpecifierSet]:
    lines = [line for line in yaml.safe_load(read("environment.yml"))["dependencies"] if isinstance(line, str)]
    parsed = [Requirement(re.sub(r"(?<![<>=!~])=(?!=)(.*)", r"==\1.*", line)) for line in lines]
    return {r.name: r.specifier for r in parsed}


def pins(name: str = "constraints.txt") -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in read(name).splitlines())
    return [Requirement(line) for line in lines if line]


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", read("Makefile"), flags=re.MULTILINE))


def targets_named_in(text: str) -> set[str]:
    """What follows `make` in code: in `spans`, in fenced blocks, and in a script's commands."""
    calls = re.findall(r"(?:^|[`$|:&(;]|\bexec)[ \t]*make((?:[ \t]+[\w.=/-]+)+)", text, flags=re.MULTILINE)
    return {word for call in calls for word in call.split() if "=" not in word and not word.startswith("-")}


def repository_files() -> list[Path]:
    """Every file that is tracked or about to be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so what is tracked is unknown")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("name, wanted", requirements("notebooks").items())
def test_environment_repeats_each_dependency_with_the_same_bound(name: str, wanted: SpecifierSet) -> None:
    assert conda_requirements().get(CONDA_NAMES.get(name, name)) == wanted


def test_environment_names_nothing_else() -> None:
    wanted = {CONDA_NAMES.get(name, name) for name in requirements("notebooks")}
    assert set(conda_requirements()) == wanted | {"python", "pip"}


def test_environment_python_is_one_that_the_package_supports() -> None:
    (specifier,) = conda_requirements()["python"]
    minor = specifier.version.removesuffix(".*")
    assert re.fullmatch(r"3\.\d+", minor) and SpecifierSet(PROJECT["requires-python"]).contains(minor)


def test_environment_uses_conda_forge_only_and_installs_this_checkout() -> None:
    environment = yaml.safe_load(read("environment.yml"))
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert environment["dependencies"][-1] == {"pip": ["-e .[notebooks]"]}


@pytest.mark.parametrize("name, wanted", requirements("notebooks", "test", "browser", "grading", "pages", "hf").items())
def test_constraints_pin_each_direct_dependency_within_its_bound(name: str, wanted: SpecifierSet) -> None:
    pinned = [pin for pin in pins() if canonicalize_name(pin.name) == name]
    assert len(pinned) == 1, f"{name} is pinned {len(pinned)} times in constraints.txt: pin it once"
    (specifier,) = pinned[0].specifier
    assert wanted.contains(specifier.version)


@pytest.mark.parametrize("name, wanted", requirements().items())
def test_the_oldest_constraints_pin_each_dependency_to_its_bound(name: str, wanted: SpecifierSet) -> None:
    (bound,) = wanted
    (pinned,) = (pin for pin in pins("constraints-oldest.txt") if canonicalize_name(pin.name) == name)
    (specifier,) = pinned.specifier
    assert bound.operator == ">=" and specifier.operator == "=="
    assert Version(specifier.version) == Version(bound.version), f"{name}: test the bound that is declared"


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-oldest.txt"])
def test_constraints_are_exact_portable_and_unique(file: str) -> None:
    for pin in pins(file):
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), f"{pin}: write ==VERSION, without a suffix such as +cpu"
        assert pin.url is None and pin.marker is None and not pin.extras, str(pin)
    repeated = [name for name, count in Counter(canonicalize_name(pin.name) for pin in pins(file)).items() if count > 1]
    assert not repeated


def test_citation_and_changelog_have_the_version_of_the_package() -> None:
    assert str(yaml.safe_load(read("CITATION.cff"))["version"]) == PROJECT["version"]
    version = re.escape(PROJECT["version"])
    assert re.search(rf"^(## \[|To be released as ){version}\b", read("CHANGELOG.md"), flags=re.MULTILINE)


def test_citation_has_what_the_format_demands_and_names_the_paper() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software" and citation["license"] == "MIT"
    assert citation["message"] and citation["title"].startswith(PROJECT["name"])
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]
    (paper,) = citation["references"]
    assert paper["doi"] == "10.18653/v1/2022.acl-long.375" and paper["title"] == "∞-former: Infinite Memory Transformer"
    assert [author["family-names"] for author in paper["authors"]] == ["Martins", "Marinho", "Martins"]


def test_make_and_the_workflow_know_the_oldest_python() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f"sys.version_info < ({oldest.replace('.', ', ')})" in read("Makefile")
    assert f"infmem needs Python {oldest} or newer" in read("Makefile")
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    assert oldest in workflow["jobs"]["tested-versions"]["strategy"]["matrix"]["python"]
    steps = workflow["jobs"]["oldest-versions"]["steps"]
    assert {"python-version": oldest} in [step.get("with") for step in steps]


def test_every_makefile_target_is_phony_and_explained() -> None:
    makefile = read("Makefile")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert set(phony.split()) - {"stale"} == makefile_targets()
    assert set(re.findall(r"^([a-z-]+):.*## \S", makefile, flags=re.MULTILINE)) == makefile_targets()


NAMING_TARGETS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", ".ci/run", ".github/workflows/ci.yml"]


@pytest.mark.parametrize("name", NAMING_TARGETS)
def test_make_targets_that_are_named_exist(name: str) -> None:
    named = targets_named_in(read(name))
    assert named, f"{name} names no make target: has the search for them stopped working?"
    assert named <= makefile_targets()


@pytest.mark.parametrize(
    "text, targets",
    [
        ("Run `make test ARGS='-k x'`, or make do without.", {"test"}),
        ("```\n$ make clean && make -j lab\nmake run  # shows\n```", {"clean", "lab", "run"}),
        ("      - run: make test PYTHON=python", {"test"}),
        ("exec make lint", {"lint"}),
    ],
)
def test_make_targets_are_found_in_text(text: str, targets: set[str]) -> None:
    assert targets_named_in(text) == targets


@pytest.mark.parametrize("command, target", PROJECT["scripts"].items())
def test_command_can_be_imported(command: str, target: str) -> None:
    assert callable(pkgutil.resolve_name(target)), command


def test_installed_package_is_this_version() -> None:
    assert installed_version(PROJECT["name"]) == PROJECT["version"], "pyproject.toml has changed: install again"


@pytest.mark.parametrize("suffix", ["safetensors", "json", "csv"])
def test_shipped_data_is_neither_ignored_by_git_nor_left_out_of_the_wheel(suffix: str) -> None:
    repository_files()  # skips where git can't answer
    ignored = subprocess.run(["git", "check-ignore", "--quiet", f"infmem/weights/x.{suffix}"], cwd=ROOT, check=False)
    assert ignored.returncode == 1
    wheel = tomllib.loads(read("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert f"infmem/**/*.{suffix}" in wheel["artifacts"]


def test_every_promise_of_the_readme_is_kept_by_tests_that_exist() -> None:
    section = read("README.md").partition("## What this package promises")[2].partition("\n## ")[0]
    promises = [line for line in section.splitlines() if line.startswith("|")][2:]
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").glob("test_*.py")))
    assert len(promises) >= 9
    for promise in promises:
        names = re.findall(r"`(test_\w+|tests/\S+\.py|make test)`", promise)
        assert names, promise
        for name in names:
            assert name == "make test" or (ROOT / name).is_file() or f"def {name}(" in sources, name


def test_no_file_contains_a_path_of_this_machine() -> None:
    here = [path for path in (ROOT, Path.home().resolve()) if path != Path(path.anchor)]
    wanted = re.compile("|".join(rf"(?<![\w.~*]){re.escape(str(path))}(?![\w.-])" for path in here) or r"(?!)")
    found = {}
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image or weights
        if match := wanted.search(text):
            found[str(path.relative_to(ROOT))] = match.group()
    assert not found
