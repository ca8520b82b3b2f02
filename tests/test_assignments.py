"""The exercises for a class: complete, without a fault, and graded as they should be, by nbgrader itself."""

import ast
import copy
import logging
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_output
from notebook_rules import ROOT, RULES, Course, code_cells, library

from infmem import explorers
from infmem.exercises import ALL

pytest.importorskip("nbgrader", reason="the assignments are graded with the extra `grading`")
FOLDER = ROOT / "notebooks" / "exercises"
sys.path.insert(0, str(FOLDER))

import assignments  # noqa: E402
import pages  # noqa: E402
from nbgrader.api import Gradebook  # noqa: E402
from nbgrader.utils import determine_grade  # noqa: E402

# nbgrader's database layer warns about its own use.
pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = assignments.names()
# What the others ask for does not fit here: these notebooks are kept unrun, and each is handed out alone.
KEPT_RULES = set(RULES) - {
    "was_run_in_order",
    "has_short_cells_and_more_prose",
    "ends_with_the_way_on",
    "shows_each_explorer_without_a_kernel",
    "has_badges_if_there_is_a_repository",
}
LONGEST = 24  # lines of a code cell
HEADER = re.compile(
    r"## (?P<number>\d\.\d) · .+\n\n(?P<dots>●{1,5}○{0,4}) · (?P<minutes>\d+) minutes · (?P<lines>\d+) lines? · "
    r"use: .+ · (?P<points>\d+) points?\n\n"
)


def source(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def exercises(name: str) -> dict[str, dict[str, NotebookNode]]:
    """The five cells of each exercise of an assignment: its task, loops, hints, answer and grading cell."""
    found: dict[str, dict[str, NotebookNode]] = {}
    for cell in source(name).cells:
        exercise, _, part = cell.id.rpartition("-")
        if part in ("task", "loops", "hints", "answer", "graded"):
            found.setdefault(exercise.replace("-", "_"), {})[part] = cell
    return found


SET = [(name, exercise) for name in NAMES for exercise in exercises(name)]


@pytest.mark.parametrize("rule", sorted(KEPT_RULES))
@pytest.mark.parametrize("name", NAMES)
def test_notebook(name: str, rule: str) -> None:
    course = Course(FOLDER, tuple(f"{each}.ipynb" for each in NAMES), *library())
    assert not list(RULES[rule](source(name), f"{name}.ipynb", course))


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_kept_unrun_with_short_cells(name: str) -> None:
    for cell in code_cells(source(name)):
        assert not cell.outputs and cell.execution_count is None
        assert len(cell.source.splitlines()) <= LONGEST


def test_there_are_enough_exercises_each_set_once_in_order_of_their_numbers() -> None:
    names = [exercise for _, exercise in SET]
    assert len(names) == len(set(names)) >= 24 and set(names) <= set(ALL)
    numbers = [HEADER.match(exercises(name)[exercise]["task"].source)["number"] for name, exercise in SET]
    expected = [f"{name[1]}.{count}" for name in NAMES for count in range(1, len(exercises(name)) + 1)]
    assert numbers == expected


@pytest.mark.parametrize("name, exercise", SET)
def test_an_exercise_says_what_it_takes_and_has_all_its_parts(name: str, exercise: str) -> None:
    parts = exercises(name)[exercise]
    header = HEADER.match(parts["task"].source)
    assert header and len(header["dots"]) == 5
    assert int(header["points"]) == header["dots"].count("●") == parts["graded"].metadata.nbgrader.points
    assert re.findall(r"<summary>(Hint \d)</summary>", parts["hints"].source) == ["Hint 1", "Hint 2", "Hint 3"]
    assert f"\ncheck.{exercise}({exercise}_by_loops)" in parts["loops"].source
    assert re.search(r"^ +(?:for|while|return) ", parts["loops"].source, flags=re.MULTILINE)
    answer = parts["answer"].source
    (function,) = (each for each in ast.parse(answer).body if isinstance(each, ast.FunctionDef))
    assert function.name == f"my_{exercise}" and answer.endswith(f"\n\n\ncheck.{exercise}(my_{exercise})")
    assert function.returns and all(argument.annotation for argument in function.args.args)
    (written,) = re.findall(r"### BEGIN SOLUTION\n(.*?)\n +### END SOLUTION", answer, flags=re.DOTALL)
    assert len(written.splitlines()) <= int(header["lines"])
    assert f"\ncheck.{exercise}(my_{exercise}, graded=True)\n### END HIDDEN TESTS" in parts["graded"].source


# ---- What is handed out.


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("course")
    assert [path.stem for path in assignments.make(folder)] == NAMES
    return folder


def release(course: Path, name: str) -> NotebookNode:
    return nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", NAMES)
def test_the_release_holds_neither_solutions_nor_hidden_tests(course: Path, name: str) -> None:
    text = (course / "release" / name / f"{name}.ipynb").read_text(encoding="utf-8")
    assert "SOLUTION" not in text and "HIDDEN" not in text and "graded=True" not in text
    blank = {cell.id: cell.source for cell in release(course, name).cells}
    for cell in source(name).cells:
        if cell.id.endswith("-answer"):
            before, written, after = re.split(r" +### (?:BEGIN|END) SOLUTION\n?", cell.source)
            assert (
                blank[cell.id]
                == f"{before}    # YOUR CODE HERE\n    raise NotImplementedError(){after and chr(10)}{after}"
            )
            hinted = " ".join(
                each.source for each in exercises(name)[cell.id[:-7].replace("-", "_")].values() if each is not cell
            )
            for line in written.splitlines():
                assert line.strip() in hinted or line not in text
        elif not cell.id.endswith("-graded"):
            assert blank[cell.id] == cell.source


def run(notebook: NotebookNode) -> dict[str, str]:
    """Run the code cells one after the other, without a kernel; what went wrong, by cell."""
    space, errors = {"__name__": "__main__"}, {}
    for cell in code_cells(notebook):
        cell.outputs = []
        try:
            exec(compile(cell.source, cell.id, "exec"), space)
        except Exception as error:
            errors[cell.id] = f"{type(error).__name__}: {error}"
            cell.outputs = [new_output("error", ename=type(error).__name__, evalue=str(error), traceback=[])]
    return errors


@pytest.mark.parametrize("name", NAMES)
def test_the_release_is_never_red_and_says_what_was_not_attempted(course: Path, name: str, capsys) -> None:
    assert not run(release(course, name))
    printed = capsys.readouterr().out
    for exercise in exercises(name):
        assert f"Exercise {exercise}: right.\nExercise {exercise}: not attempted yet" in printed


# ---- How it is graded: by nbgrader whole, and for every single answer by its rule without its kernels.


def hand_in(course: Path, student: str, name: str, notebook: NotebookNode) -> dict[str, float]:
    """Grade a submission through nbgrader; the points of each grading cell."""
    folder = course / "submitted" / student / name
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    opened = assignments.open_course(course)
    result = opened.autograde(name, student)
    assert result["success"], result["log"]
    with Gradebook(opened.coursedir.db_url, opened.coursedir.course_id) as gradebook:
        graded = gradebook.find_submission_notebook(name, name, student).grades
        return {each.name.removesuffix("-graded").replace("-", "_"): each.score for each in graded}


def points(name: str) -> dict[str, float]:
    return {exercise: parts["graded"].metadata.nbgrader.points for exercise, parts in exercises(name).items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_gets_all_points_and_the_blank_release_none(course: Path, name: str) -> None:
    assert hand_in(course, "reference", name, source(name)) == points(name)
    assert hand_in(course, "blank", name, release(course, name)) == dict.fromkeys(points(name), 0)
    scores = {each["student"]: each for each in assignments.open_course(course).get_submissions(name)}
    assert scores["reference"]["score"] == scores["reference"]["max_score"] == sum(points(name).values())
    assert scores["blank"]["score"] == 0


def with_answers(name: str, answers: dict[str, str]) -> NotebookNode:
    """The reference with other answers to some exercises."""
    notebook = copy.deepcopy(source(name))
    for cell in notebook.cells:
        exercise = cell.id.removesuffix("-answer").replace("-", "_")
        if cell.id.endswith("-answer") and exercise in answers:
            cell.source = answers[exercise]
    return notebook


def graded_here(notebook: NotebookNode) -> dict[str, float]:
    """The points that nbgrader's rule gives, from running the cells in this process."""
    run(notebook)
    graded = [cell for cell in code_cells(notebook) if cell.metadata.get("nbgrader", {}).get("grade")]
    rule = logging.getLogger("rule")
    return {cell.id.removesuffix("-graded").replace("-", "_"): determine_grade(cell, rule)[0] for cell in graded}


def blank_answer(name: str, exercise: str) -> str:
    return re.sub(
        r"### BEGIN.*### END SOLUTION",
        "raise NotImplementedError()",
        exercises(name)[exercise]["answer"].source,
        flags=re.DOTALL,
    )


def planted(exercise: str, hint: str) -> str:
    """An answer with a known mistake."""
    mistake = f"from infmem.exercises import ALL\nmy_{exercise} = ALL[{exercise!r}].mistakes[{hint!r}]"
    return f"{mistake}\ncheck.{exercise}(my_{exercise})"


def wrong_answers(name: str, number: int) -> dict[str, str]:
    return {exercise: planted(exercise, list(ALL[exercise].mistakes)[number]) for exercise in exercises(name)}


@pytest.mark.parametrize("name, exercise", SET)
def test_a_missing_answer_loses_exactly_its_points(name: str, exercise: str) -> None:
    scores = graded_here(with_answers(name, {exercise: blank_answer(name, exercise)}))
    assert scores == points(name) | {exercise: 0}


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_plausible_wrong_answers_lose_their_points(name: str, number: int) -> None:
    wrong = wrong_answers(name, number)
    assert graded_here(with_answers(name, wrong)) == dict.fromkeys(wrong, 0)
    half = dict(list(wrong.items())[::2])
    assert graded_here(with_answers(name, half)) == points(name) | dict.fromkeys(half, 0)


def test_every_explorer_gets_a_page(tmp_path: Path, capsys) -> None:
    pages.main(tmp_path)
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == [
        f"{name}.ipynb" for name in explorers.ALL
    ]
    for name in explorers.ALL:
        page = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
        nbformat.validate(page)
        assert f"\nexplorers.{name}()" in page.cells[0].source


@pytest.mark.slow
def test_an_answer_that_ends_the_kernel_costs_its_own_points_only(course: Path) -> None:
    name = NAMES[0]
    first, second, third, *_ = exercises(name)
    bad = {
        first: "import os\nos._exit(1)",
        second: "exit()",
        third: f"def my_{third}(*a):\n    quit()\ncheck.{third}(my_{third})",
    }
    assert hand_in(course, "leaver", name, with_answers(name, bad)) == points(name) | dict.fromkeys(bad, 0)


@pytest.mark.slow
def test_endless_loops_cost_their_own_points_only(course: Path) -> None:
    name = NAMES[0]
    settings = course / assignments.SETTINGS
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("timeout = 90", "timeout = 15"), encoding="utf-8")
    first, second, *_ = exercises(name)
    endless = {first: "while True:\n    pass", second: f"def my_{second}(*arguments):\n    while True:\n        pass"}
    try:
        scores = hand_in(course, "looper", name, with_answers(name, endless))
    finally:
        settings.write_text(text, encoding="utf-8")
    assert "timeout = 90" in text and scores == points(name) | dict.fromkeys(endless, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name, exercise", SET)
def test_a_missing_answer_loses_exactly_its_points_in_nbgrader_too(course: Path, name: str, exercise: str) -> None:
    missing = with_answers(name, {exercise: blank_answer(name, exercise)})
    assert hand_in(course, f"without-{exercise}", name, missing) == points(name) | {exercise: 0}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_plausible_wrong_answers_lose_their_points_in_nbgrader_too(course: Path, name: str, number: int) -> None:
    wrong = wrong_answers(name, number)
    assert hand_in(course, f"wrong-{number}", name, with_answers(name, wrong)) == dict.fromkeys(wrong, 0)
