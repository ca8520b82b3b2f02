"""Run every notebook again and store its outputs: `make notebooks`.

What is stored depends on the code alone: no times, no identities of live widgets, the same names of cells. So a second
call changes nothing but the progress bars of the cells that train, and a difference in git is a difference in what a
reader sees.
"""

import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tyro

from infmem.checkpoint import write_text

try:
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbformat import NotebookNode
except ImportError as error:
    sys.exit(f"this needs the package {error.name}: pip install 'infmem[notebooks]'")

HERE = Path(__file__).resolve().parent
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
BADGES = "badges"  # name of the cell that holds them
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def repository() -> str | None:
    """Where the project is published, if it is: `project.urls.Repository` in pyproject.toml."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository")


def badge_markdown(url: str, notebook: str) -> str:
    """Buttons that open a notebook of a repository on GitHub in Colab and in Binder.

    Args:
        url: of the repository.
        notebook: name of the file in notebooks/.

    Raises:
        ValueError: if the repository is not on GitHub.

    Example:
        >>> print(badge_markdown("https://github.com/somebody/infmem", "01_signals.ipynb").splitlines()[0])
        [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/somebody/infmem/blob/main/notebooks/01_signals.ipynb)
    """
    host, _, name = url.removesuffix("/").removesuffix(".git").partition("github.com/")
    if host != "https://" or name.count("/") != 1:
        raise ValueError(f"a badge needs https://github.com/OWNER/NAME, got {url}: mend Repository in pyproject.toml")
    colab, binder = "https://colab.research.google.com", "https://mybinder.org"
    return (
        f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({colab}/github/{name}/blob/main/notebooks/{notebook})\n"
        f"[![Open in Binder]({binder}/badge_logo.svg)]({binder}/v2/gh/{name}/HEAD?labpath=notebooks%2F{notebook})"
    )


def set_badges(notebook: NotebookNode, name: str, url: str | None) -> None:
    """Put the badges below the title, in a cell of their own, if there is a repository to open; else leave none."""
    notebook.cells = [cell for cell in notebook.cells if cell.get("id") != BADGES]
    if url is not None:
        cell = nbformat.v4.new_markdown_cell(badge_markdown(url, name))
        cell["id"] = BADGES
        notebook.cells.insert(1, cell)


def clean(notebook: NotebookNode, name: str) -> None:
    """Leave out all that would change from one run to the next, or that a page without a kernel can't show.

    A live widget's view is dropped: without its kernel it is an empty place, which pages would show in favour of the
    still picture that comes with it.
    """
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict(METADATA)
    used = {cell["id"] for cell in notebook.cells if "id" in cell}
    free = (f"{name[:2]}-{number:03d}" for number in range(1, 1000))
    for cell in notebook.cells:
        if "id" not in cell:
            cell["id"] = next(candidate for candidate in free if candidate not in used)
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs = merged(cell.outputs)
            for output in cell.outputs:
                if output.output_type == "stream":  # of a progress bar, its last state
                    output.text = "\n".join(line.rpartition("\r")[2] for line in output.text.split("\n"))
                output.get("data", {}).pop(WIDGET_VIEW, None)


def merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Printed text in one piece where the kernel happened to send it in several."""
    whole: list[NotebookNode] = []
    for output in outputs:
        last = whole[-1] if whole else None
        if last is not None and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            whole.append(output)
    return whole


def execute(path: Path, run: bool, timeout: int) -> str:
    """Run one notebook in its folder and write it back, whole or not at all; returns its name."""
    notebook = nbformat.read(path, as_version=4)
    set_badges(notebook, path.name, repository())
    if run:
        client = NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name="python3",
            store_widget_state=False,
            record_timing=False,
            resources={"metadata": {"path": str(HERE)}},
        )
        client.execute()
    clean(notebook, path.name)
    nbformat.validate(notebook)
    write_text(path, nbformat.writes(notebook).rstrip("\n") + "\n")
    return path.name


def main(names: tuple[str, ...] = (), workers: int = 1, timeout: int = 900, run: bool = True) -> None:
    """Run notebooks and store their outputs; one with a cell that fails is left as it was, and told at the end.

    Args:
        names: files to run, such as 09_sorting.ipynb; by default all of them.
        workers: notebooks side by side.
        timeout: seconds that a cell may take.
        run: only tidy what is stored, if not.
    """
    paths, failures = [HERE / name for name in names] or sorted(HERE.glob("*.ipynb")), []
    if missing := [path.name for path in paths if not path.is_file()]:
        sys.exit(f"there is no notebook {', '.join(missing)} in {HERE}: names are those of its files")
    with ThreadPoolExecutor(workers) as pool:
        for path, future in [(path, pool.submit(execute, path, run, timeout)) for path in paths]:
            try:
                print(future.result(), flush=True)
            except CellExecutionError as error:
                failures.append(f"{path.name}: {error}")
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    tyro.cli(main)
