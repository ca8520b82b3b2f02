"""The notebooks keep to the rules, the rules catch what they are for, and `make test` compares outputs strictly."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_rules import ROOT, RULES, Course, library, numbering, runs_of_lines

FOLDER = ROOT / "notebooks"
NAMES = tuple(sorted(path.name for path in FOLDER.glob("*.ipynb")))
URL = "https://github.com/somebody/infmem"


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


execute = load(FOLDER / "execute.py")


@pytest.fixture(scope="module")
def course() -> Course:
    url = execute.repository()
    badges = None if url is None else lambda name: execute.badge_markdown(url, name)
    return Course(FOLDER, NAMES, *library(), badges)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", NAMES)
def test_notebook(name: str, rule: str, course: Course) -> None:
    problems = list(RULES[rule](nbformat.read(FOLDER / name, as_version=4), name, course))
    assert not problems


def test_notebooks_are_numbered_without_gaps() -> None:
    assert NAMES and not numbering(list(NAMES))


@pytest.mark.parametrize(
    "names, problems",
    [
        (["00_a.ipynb", "01_b.ipynb"], 0),
        (["01_b.ipynb"], 1),
        (["00_a.ipynb", "02_c.ipynb"], 1),
        (["00_a.ipynb", "00_b.ipynb"], 1),
        (["00_a.ipynb", "extra.ipynb"], 1),
    ],
)
def test_gaps_in_the_numbers_are_found(names: list[str], problems: int) -> None:
    assert len(numbering(names)) == problems


def written(pattern: str) -> set[str]:
    cells = (cell for name in NAMES for cell in nbformat.read(FOLDER / name, as_version=4).cells)
    return {found for cell in cells if cell.cell_type == "code" for found in re.findall(pattern, cell.source)}


def test_every_explorer_stands_in_a_notebook_and_every_exercise_is_set() -> None:
    from infmem import exercises, explorers

    assert written(r"\bexplorers\.(\w+)\(") == set(explorers.ALL)
    in_class = {found for path in (FOLDER / "exercises").glob("*.ipynb") for found in checked(path)}
    assert written(r"""\bexercises\.check\(["']([^"']+)["']""") | in_class == set(exercises.ALL)


def checked(path: Path) -> list[str]:
    """The exercises that a notebook for a class checks."""
    return re.findall(r"\bcheck\.(\w+)\(my_", path.read_text(encoding="utf-8"))


# ---- A rule that can't fail checks nothing: each is shown a small notebook without fault, and the same with one.

PICTURE = "iVBORw0KGgo="


def stored(text: str, **data: str) -> list[NotebookNode]:
    kinds = {kind.replace("_", "/"): content for kind, content in data.items()}
    return [new_output("execute_result", {"text/plain": text} | kinds, execution_count=1)]


def faultless() -> NotebookNode:
    shown = stored("A bar. It is 3 high.", image_png=PICTURE)
    cells = [
        new_markdown_cell("# 0 · Title\n\n![A curve that falls](picture.png) <img src='picture.png' alt='A curve'>"),
        new_code_cell("from infmem import explorers\nprint(1)", execution_count=1),
        new_markdown_cell("See [above](#A-bar), [here](00_a.ipynb). $[a](b)$ and `[c](d)` are no links.\n\n## A bar"),
        new_code_cell("explorers.bar()", execution_count=2, outputs=shown),
        new_markdown_cell("**Next.** [On](01_b.ipynb)"),
    ]
    cells[1].outputs = [new_output("stream", name="stdout", text="1\n")]
    notebook = new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"00-{number:03d}"
    return notebook


LIBRARY = "def answer(x):\n    '''What it is.'''\n    y = x + 1\n    z = y * 2\n    return [z,\n        y]\n"


@pytest.fixture
def small_course(tmp_path: Path) -> Course:
    (tmp_path / "picture.png").write_bytes(b"")
    nbformat.write(faultless(), tmp_path / "00_a.ipynb")
    nbformat.write(faultless(), tmp_path / "01_b.ipynb")
    return Course(tmp_path, ("00_a.ipynb", "01_b.ipynb"), frozenset({"answer"}), frozenset(runs_of_lines(LIBRARY)))


def put(index: int, **changes) -> Callable[[NotebookNode], object]:
    """Change fields of a cell."""
    return lambda notebook: notebook.cells[index].update(changes)


def stderr(text: str) -> list[NotebookNode]:
    return [new_output("stream", name="stderr", text=text)]


def add_words(text: str) -> Callable[[NotebookNode], object]:
    return lambda notebook: put(2, source=notebook.cells[2].source + "\n\n" + text)(notebook)


def add_view(notebook: NotebookNode) -> None:
    notebook.cells[3].outputs[0].data["application/vnd.jupyter.widget-view+json"] = {"model_id": "5"}


COPY = "def mine(x):\n    # a comment of one's own\n    y = (x + 1)\n    z = y*2\n    return [z, y]"

PLANTED: dict[str, list[Callable[[NotebookNode], object]]] = {
    "is_valid": [put(0, id="00-001"), put(1, outputs=[{"output_type": "wrong"}]), lambda n: n.update(nbformat_minor=4)],
    "was_run_in_order": [put(1, execution_count=None), put(3, execution_count=1), put(3, execution_count=3)],
    "has_no_errors": [
        put(1, outputs=[new_output("error", ename="ValueError", evalue="", traceback=[])]),
        put(1, outputs=stderr("UserWarning: careful")),
        put(1, outputs=[new_output("stream", name="stdout", text="Traceback (most recent call last):\n  File")]),
        put(1, outputs=stderr("Traceback (most recent call last):"), metadata={"tags": ["nbval-ignore-output"]}),
    ],
    "has_known_tags_only": [
        put(1, metadata={"tags": ["raises-exception"]}),
        put(1, source="# NBVAL_IGNORE_OUTPUT\nprint(1)"),
        put(1, metadata={"tags": ["nbval-ignore-output"]}),  # half of its code cells
    ],
    "has_plain_metadata": [
        lambda n: n.metadata.update(widgets={}),
        lambda n: n.metadata.update(kernelspec={"name": "venv", "display_name": "mine"}),
        add_view,
    ],
    "is_small": [add_words("x" * 500_000)],
    "has_short_cells_and_more_prose": [
        put(1, source="\n".join(f"x = {n}" for n in range(13))),
        lambda n: n.cells.__delitem__(slice(2, 3)) or n.cells.__delitem__(slice(0, 1)),
    ],
    "describes_every_image": [add_words("![](picture.png)"), add_words("<img src='picture.png'>")],
    "links_to_what_exists": [
        add_words("[there](02_c.ipynb)"),
        add_words("![It](gone.png)"),
        add_words("[there](#nowhere)"),
        add_words("[there](01_b.ipynb#nowhere)"),
        add_words("<a href='gone.md'>there</a>"),
    ],
    "works_on_any_machine": [
        put(1, source="open('/home/ada/x')"),
        put(1, source="open(r'C:\\Users\\ada')"),
        put(1, outputs=[new_output("stream", name="stdout", text="saved to /tmp/x\n")]),
        put(1, source="%pip install infmem"),
        put(1, source="!apt-get install chromium"),
    ],
    "begins_with_its_number": [put(0, source="# 1 · Title"), put(0, source="Words first.\n\n# 0 · Title")],
    "ends_with_the_way_on": [put(4, source="[Back](00_a.ipynb)"), lambda n: n.cells.pop()],
    "leaves_the_library_s_names_alone": [
        put(1, source="def answer(x):\n    return x"),
        put(1, source="class answer:\n    pass"),
        put(1, source="%time\ndef mine():\n    def answer(x):\n        return x"),
    ],
    "copies_nothing_from_the_library": [put(1, source=LIBRARY), put(1, source=COPY.replace("mine", "answer"))],
    "shows_each_explorer_without_a_kernel": [
        put(3, outputs=[]),
        put(3, outputs=[new_output("display_data", {"image/png": PICTURE, "text/plain": "Explorer(children=())"})]),
        put(3, outputs=[new_output("display_data", {"text/plain": "A bar. It is 3 high."})]),
    ],
    "has_badges_if_there_is_a_repository": [add_words("[![Open](a.svg)](https://colab.research.google.com/x)")],
}


def test_every_rule_has_a_planted_fault() -> None:
    assert set(PLANTED) == set(RULES) and all(PLANTED.values())


@pytest.mark.parametrize("rule", RULES)
def test_a_faultless_notebook_passes(rule: str, small_course: Course) -> None:
    assert not list(RULES[rule](faultless(), "00_a.ipynb", small_course))


@pytest.mark.parametrize("rule, number", [(rule, number) for rule in PLANTED for number in range(len(PLANTED[rule]))])
def test_a_planted_fault_is_found(rule: str, number: int, small_course: Course) -> None:
    notebook = faultless()
    PLANTED[rule][number](notebook)
    assert list(RULES[rule](notebook, "00_a.ipynb", small_course))


def test_the_last_notebook_leads_back_to_the_first(small_course: Course) -> None:
    rule, notebook = RULES["ends_with_the_way_on"], faultless()
    assert list(rule(notebook, "01_b.ipynb", small_course))
    notebook.cells[-1].source = "[Again](00_a.ipynb)"
    assert not list(rule(notebook, "01_b.ipynb", small_course))


def test_three_lines_in_a_row_are_no_copy(small_course: Course) -> None:
    notebook = faultless()
    notebook.cells[1].source = COPY.replace("mine(x)", "mine(x, more)")  # the three lines of its body are the library's
    assert not list(RULES["copies_nothing_from_the_library"](notebook, "00_a.ipynb", small_course))


# ---- Badges, and what `make notebooks` stores.


def test_badges_open_the_notebook_that_they_stand_in(small_course: Course) -> None:
    text = execute.badge_markdown(f"{URL}.git", "01_b.ipynb")
    assert f"{URL}/blob/main/notebooks/01_b.ipynb".replace("https://github.com", "/github") in text
    assert "mybinder.org/v2/gh/somebody/infmem/HEAD?labpath=notebooks%2F01_b.ipynb" in text
    published = Course(small_course.folder, small_course.names, badges=lambda name: execute.badge_markdown(URL, name))
    rule, notebook = RULES["has_badges_if_there_is_a_repository"], faultless()
    assert list(rule(notebook, "00_a.ipynb", published))
    execute.set_badges(notebook, "00_a.ipynb", URL)
    assert not list(rule(notebook, "00_a.ipynb", published)) and list(rule(notebook, "01_b.ipynb", published))
    assert list(rule(notebook, "00_a.ipynb", small_course))
    execute.set_badges(notebook, "00_a.ipynb", None)
    assert notebook == faultless()


@pytest.mark.parametrize("url", ["https://example.com/a/b", "https://github.com/a", "github.com/a/b"])
def test_badges_need_a_repository_on_github(url: str) -> None:
    with pytest.raises(ValueError, match=r"a badge needs https://github.com/OWNER/NAME, got "):
        execute.badge_markdown(url, "01_b.ipynb")


def test_what_is_stored_depends_on_the_code_alone() -> None:
    notebook = faultless()
    add_view(notebook)
    notebook.metadata.update(widgets={"state": {}}, language_info={"name": "python", "version": "3.99"})
    notebook.cells[1].metadata.update(execution={"iopub.execute_input": "today"}, tags=["long"])
    notebook.cells[1].outputs = [new_output("stream", name="stdout", text=text) for text in ("1", "\n")]
    notebook.nbformat_minor = 4
    for cell in notebook.cells:
        del cell["id"]
    execute.clean(notebook, "00_a.ipynb")
    expected = faultless()
    expected.metadata = nbformat.from_dict(execute.METADATA)
    expected.cells[1].metadata["tags"] = ["long"]
    ids = [cell.pop("id") for cell in notebook.cells]
    for cell in expected.cells:
        del cell["id"]
    assert len(set(ids)) == len(ids) and ids[0] == "00-001"
    assert notebook == expected
    execute.clean(notebook, "00_a.ipynb")


# ---- The options that `make test` gives to nbval.

MARKDOWN = "from IPython.display import Markdown\nMarkdown('Two')"
PLAIN = "import sys\nclass Both:\n    def _repr_mimebundle_(self, **options):\n        return {0}\nBoth()"


BUNDLE = {"text/plain": "The bar is 3 high.", "text/html": "<b>3</b>", "image/png": PICTURE}
VIEW = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
# Code, what is stored of it, and whether that is what the code gives as far as words go.
COMPARED: dict[str, tuple[str, list[NotebookNode], bool]] = {
    "a value": ("1 + 1", stored("2"), True),
    "another value": ("1 + 1", stored("3"), False),
    "a digit of a number": ("0.25", stored("0.26"), False),
    "a value that is gone": ("_ = 2", stored("2"), False),
    "a value that is new": ("1 + 1", [], False),
    "printed": ("print('a')\nprint('b')", [new_output("stream", name="stdout", text="a\nb\n")], True),
    "printed otherwise": ("print('a')", [new_output("stream", name="stdout", text="b\n")], False),
    "printed no more": ("pass", [new_output("stream", name="stdout", text="a\n")], False),
    "markdown": (MARKDOWN, stored("<IPython.core.display.Markdown object>", text_markdown="Two"), True),
    "other markdown": (MARKDOWN, stored("<IPython.core.display.Markdown object>", text_markdown="Three"), False),
    "an address": ("object()", stored("<object at 0x7f0123456789>"), True),
    "a complaint": ("sys.stderr.write('now') and None", stderr("then"), True),
    "a picture and its words": (
        PLAIN.format(BUNDLE | VIEW),
        stored(BUNDLE["text/plain"], text_html="<b>4</b>", image_png="AAAA"),
        True,
    ),
    "a picture with other words": (PLAIN.format(BUNDLE), stored("The bar is 4 high.", image_png=PICTURE), False),
    "an error": ("1 / 0", [], False),
}


def test_make_test_compares_stored_outputs_to_the_letter(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (options,) = re.findall(r"^NBVAL +:= (.*)$", makefile, flags=re.MULTILINE)
    (recipe,) = re.findall(r"^test: .*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    assert re.search(r"pytest\b.* notebooks \$\(NBVAL\)", recipe) and "--nbval-lax" not in options
    (tmp_path / "notebooks").mkdir()
    for name in ("conftest.py", "sanitize.cfg"):
        shutil.copy(FOLDER / name, tmp_path / "notebooks")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)  # pytest's settings, as in `make test`
    cells = [
        new_code_cell(code, outputs=outputs, execution_count=number)
        for number, (code, outputs, _) in enumerate([("import sys", [], True), *COMPARED.values()], start=1)
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / "00_a.ipynb")
    command = [sys.executable, "-m", "pytest", "notebooks", *shlex.split(options), "-p", "no:cacheprovider", "-rA"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    lines = re.findall(r"^(PASSED|FAILED) notebooks/00_a\.ipynb::Cell (\d+)", printed, flags=re.MULTILINE)
    found = {int(number): result for result, number in lines}
    expected = {0: "PASSED"} | {
        number: "PASSED" if same else "FAILED" for number, (_, _, same) in enumerate(COMPARED.values(), start=1)
    }
    assert found == expected, printed[-3000:]


def test_a_notebook_that_fails_is_told_and_the_others_are_run(tmp_path, monkeypatch, capsys):
    def run(path: Path, *_) -> str:
        if path.name == "a.ipynb":
            raise CellExecutionError("in cell 3", "ZeroDivisionError", "division by zero")
        return path.name

    monkeypatch.setattr(execute, "HERE", tmp_path)
    monkeypatch.setattr(execute, "execute", run)
    for name in ("a.ipynb", "b.ipynb"):
        nbformat.write(faultless(), tmp_path / name)
    with pytest.raises(SystemExit, match=r"a\.ipynb: in cell 3"):
        execute.main()
    assert capsys.readouterr().out == "b.ipynb\n"
    with pytest.raises(SystemExit, match=r"there is no notebook c, d\.ipynb in "):
        execute.main(("c", "b.ipynb", "d.ipynb"))
