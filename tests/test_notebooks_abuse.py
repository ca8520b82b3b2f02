"""Notebooks in rough hands: the kernel started anew and the cells run out of order."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SECONDS = 300
# What a cell may say that came before what it needs, or after what it did not expect: each of its own line.
OWN = ("NameError", "AssertionError")


class Complaint(NamedTuple):
    """What a cell ended with: the name of the error, its words, and the traceback that is shown."""

    name: str
    words: str
    traceback: str


class Kernel:
    """A kernel as a reader has one: cells are sent to it, and it can be started anew."""

    def __init__(self) -> None:
        self._manager, self._client = start_new_kernel(cwd=str(FOLDER))

    def run(self, source: str) -> Complaint | None:
        """Run a cell; what it complains of."""
        found = []

        def listen(message: dict) -> None:
            if message["msg_type"] == "error":
                content = message["content"]
                found.append(Complaint(content["ename"], content["evalue"], "\n".join(content["traceback"])))

        self._client.execute_interactive(source, output_hook=listen, allow_stdin=False, timeout=SECONDS)
        return found[0] if found else None

    def restart(self) -> None:
        self._manager.restart_kernel(now=True)
        self._client.wait_for_ready(timeout=SECONDS)

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    kernel.close()


def sources(name: str) -> list[str]:
    """The cells of code of a notebook, without those that train for minutes."""
    cells = nbformat.read(FOLDER / name, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    return [cell.source for cell in code if "nbval-skip" not in cell.metadata.get("tags", [])]


def is_explorer(source: str) -> bool:
    return source.startswith("explorers.")


def needs_no_other(source: str) -> bool:
    """Whether an explorer shows what comes with the package, and not what the cells before have made."""
    return is_explorer(source) and "run." not in source


NOTEBOOKS = [path.name for path in sorted(FOLDER.glob("*.ipynb")) if any(map(is_explorer, sources(path.name)))]
MOVED = [pytest.param(name, marks=() if name == "01_signals.ipynb" else pytest.mark.slow) for name in NOTEBOOKS]


def test_nearly_every_notebook_has_an_explorer_that_needs_set_up_alone():
    assert len(NOTEBOOKS) >= 12 and "01_signals.ipynb" in NOTEBOOKS
    assert sum(any(map(needs_no_other, sources(name))) for name in NOTEBOOKS) >= len(NOTEBOOKS) - 1


@pytest.mark.parametrize("name", MOVED)
def test_a_notebook_run_out_of_order_works_or_says_what_it_lacks(name, kernel):
    """Explorers first; the set-up, and explorers twice; all cells from the last to the first; a new kernel."""
    set_up, *others = sources(name)
    shown = [source for source in others if is_explorer(source)]
    for backwards in (others[::-1], []):
        for source in shown:
            complaint = kernel.run(source)
            assert complaint and (complaint.name, complaint.words) == ("NameError", "name 'explorers' is not defined")
        assert kernel.run(set_up) is None
        for source in shown + shown:
            complaint = kernel.run(source)
            lacks = not needs_no_other(source) and complaint and complaint.name == "NameError"
            assert complaint is None or lacks, complaint
        for source in backwards:
            complaint = kernel.run(source)
            inside = complaint and (complaint.name not in OWN or "infmem/" in complaint.traceback)
            assert not inside, f"{source}\n{complaint.traceback}"
        for source in filter(needs_no_other, shown):
            assert kernel.run(source) is None
        if backwards:
            kernel.restart()


def test_a_traceback_from_inside_is_seen(kernel):
    """Of what the tests above look for, one of each is made."""
    complaint = kernel.run(
        "from infmem.basis import GaussianBasis\nGaussianBasis.grid(num_basis='many', sigmas=(0.1,))"
    )
    assert "infmem/" in complaint.traceback and complaint.name not in OWN
    assert kernel.run("print(never_made)").name == "NameError"
    assert kernel.run("never_made = 1\nprint(never_made)") is None
