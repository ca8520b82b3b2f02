"""Make what students get from the notebooks in this folder: `make assignments`.

nbgrader keeps a course in a folder of its own: `source/` (with solutions and hidden tests), `release/` (without),
`submitted/` for what students hand in, `autograded/` and `feedback/`, and `gradebook.db` with all points.
"""

import os
import shutil
import sys
from pathlib import Path

import tyro
from traitlets.config import Config, PyFileConfigLoader

try:
    from nbgrader.apps import NbGraderAPI
except ImportError:
    sys.exit("this needs the package nbgrader: pip install 'infmem[grading]'")

HERE = Path(__file__).resolve().parent
SETTINGS = "nbgrader_config.py"


def names() -> list[str]:
    """Of all assignments, in order: a notebook is an assignment."""
    return sorted(path.stem for path in HERE.glob("*.ipynb"))


def open_course(folder: Path) -> NbGraderAPI:
    """nbgrader on a course's folder, with the settings that are in it."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # for alembic
    settings: Config = PyFileConfigLoader(SETTINGS, path=str(folder)).load_config()
    settings.CourseDirectory.root = str(folder)
    settings.NbGraderAPI.log_level = "WARN"
    return NbGraderAPI(config=settings)


def make(folder: Path, chosen: tuple[str, ...] = ()) -> list[Path]:
    """Lay out a course and make the students' notebooks.

    Args:
        folder: of the course; submissions and points that are in it stay.
        chosen: assignments to make; by default all.

    Returns:
        The students' notebooks.

    Raises:
        RuntimeError: if nbgrader could not make one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / SETTINGS, folder)
    course, made = open_course(folder), []
    for name in chosen or names():
        source = folder / "source" / name
        source.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / f"{name}.ipynb", source)
        result = course.generate_assignment(name, force=True)
        if not result["success"]:
            raise RuntimeError(f"nbgrader could not make {name}:\n{result.get('log', '')}\n{result.get('error', '')}")
        made.append(folder / "release" / name / f"{name}.ipynb")
    return made


def main(folder: Path = Path("build/course"), names: tuple[str, ...] = ()) -> None:
    """Make the students' notebooks, without solutions and hidden tests.

    Args:
        folder: of the course.
        names: assignments to make; by default all.
    """
    for path in make(folder.resolve(), names):
        print(path.relative_to(folder.resolve().parent))


if __name__ == "__main__":
    tyro.cli(main)
