"""A page for each explorer, to project or to hand out as a link.

`python notebooks/exercises/pages.py && voila build/pages`
"""

from pathlib import Path

import nbformat
import tyro
from nbformat.v4 import new_code_cell, new_notebook

from infmem import explorers


def main(folder: Path = Path("build/pages")) -> None:
    """Write a notebook with nothing but an explorer, for each of them.

    Args:
        folder: to write into.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    for name in explorers.ALL:
        cell = new_code_cell(f"from infmem import explorers\n\nexplorers.{name}()", id=name)
        nbformat.write(new_notebook(cells=[cell], metadata=kernel), folder / f"{name}.ipynb")
        print(folder / f"{name}.ipynb")


if __name__ == "__main__":
    tyro.cli(main)
