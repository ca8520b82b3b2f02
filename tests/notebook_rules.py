"""What every notebook of the course keeps to, as functions that say where one does not."""

import ast
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 500_000  # bytes of a file
LONGEST = 12  # lines of a code cell
COPIED = 4  # lines in a row that count as copied
TAGS = {"nbval-ignore-output", "nbval-skip", "long"}
NUMBERED = re.compile(r"(\d\d)_[a-z0-9_]+\.ipynb")
# A path from the root of somebody's machine, on Unix, and on Windows.
ABSOLUTE = re.compile(r"(?<![\w.:/~$*)\]}<-])/(?:home|Users|root|tmp|usr|opt|var|work|mnt|content)/|\b[A-Z]:\\\w")


@dataclass(frozen=True)
class Course:
    """What the rules measure a notebook against.

    Args:
        folder: where the notebooks are.
        names: their file names, in order.
        public: names that the library gives to its functions and classes.
        lines: all runs of `COPIED` lines in the library.
        badges: markdown of a notebook's badges by its file name; None while there is nothing to link to.
    """

    folder: Path
    names: tuple[str, ...]
    public: frozenset[str] = frozenset()
    lines: frozenset[tuple[str, ...]] = frozenset()
    badges: Callable[[str], str] | None = None


Rule = Callable[[NotebookNode, str, Course], Iterator[str]]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: NotebookNode) -> Iterator[tuple[NotebookNode, NotebookNode]]:
    return ((cell, output) for cell in code_cells(notebook) for output in cell.outputs)


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def prose(notebook: NotebookNode) -> str:
    """The words alone: without code and without mathematics, whose brackets are no links."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$", "", text, flags=re.DOTALL)


def links(notebook: NotebookNode) -> list[str]:
    text = prose(notebook)
    return re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r"""(?:href|src)=["']([^"']+)["']""", text)


def slugs(path: Path) -> set[str]:
    """What a heading can be reached by: as JupyterLab names it, and as GitHub does."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        text = path.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ +(.*?) *$", text, flags=re.MULTILINE)
    return {title.replace(" ", "-") for title in headings} | {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings
    }


def normal_lines(source: str) -> list[str]:
    """Code as Python itself would write it: without comments, docstrings, imports and the author's line breaks."""
    source = re.sub(r"^\s*[%!?].*$", "pass", source, flags=re.MULTILINE)
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            kept = [part for part in node.body if not isinstance(part, ast.Import | ast.ImportFrom)]
            node.body = kept or [ast.Pass()]
    return [line.strip() for line in ast.unparse(tree).splitlines() if line.strip()]


def runs_of_lines(source: str) -> Iterator[tuple[str, ...]]:
    lines = normal_lines(source)
    return (tuple(lines[start : start + COPIED]) for start in range(len(lines) - COPIED + 1))


def definitions(tree: ast.AST) -> Iterator[str]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return (node.name for node in ast.iter_child_nodes(tree) if isinstance(node, kinds))


@functools.cache
def library() -> tuple[frozenset[str], frozenset[tuple[str, ...]]]:
    """The library's public names, and its lines in runs of `COPIED`."""
    sources = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "infmem").rglob("*.py"))]
    names = {name for source in sources for name in definitions(ast.parse(source)) if not name.startswith("_")}
    return frozenset(names), frozenset(run for source in sources for run in runs_of_lines(source))


def numbering(names: list[str]) -> list[str]:
    """Where the files are not numbered 00, 01, 02 and so on."""
    odd = [f"{name} is not named NN_words.ipynb" for name in names if not NUMBERED.fullmatch(name)]
    numbers = [int(name[:2]) for name in names if NUMBERED.fullmatch(name)]
    if sorted(numbers) != list(range(len(numbers))):
        odd.append(f"numbered {sorted(numbers)}, not 0 to {len(numbers) - 1}")
    return odd


@rule
def is_valid(notebook, name, course):
    names = [cell.get("id") for cell in notebook.cells]
    if len(set(names)) < len(names) or None in names:
        yield "not every cell has a name (id) of its own"
        return
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        yield "it is older than format 4.5, which has names of cells"
        return
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        yield str(error).splitlines()[0]


@rule
def was_run_in_order(notebook, name, course):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"its code cells were run as {counts}: `make notebooks` runs them all, in order"


@rule
def has_no_errors(notebook, name, course):
    for cell, output in outputs(notebook):
        if output.output_type == "error":
            yield f"{cell.id} ended with {output.ename}"
        elif output.output_type == "stream" and "Traceback (most recent call last)" in output.text:
            yield f"{cell.id} printed a traceback"
        elif output.output_type == "stream" and output.name == "stderr" and not tags(cell) & TAGS:
            yield f"{cell.id} complained: {output.text[:80]!r}"


@rule
def has_known_tags_only(notebook, name, course):
    """A tag or comment that waives the comparison is rare, and none allows an error."""
    for cell in notebook.cells:
        if unknown := tags(cell) - TAGS:
            yield f"{cell.id} has the tags {sorted(unknown)}"
        if cell.cell_type == "code" and re.search(r"#\s*(?:NBVAL|PYTEST)_\w+", cell.source):
            yield f"{cell.id} speaks to nbval in a comment: use a tag"
    waived = [cell for cell in code_cells(notebook) if tags(cell) & TAGS]
    if 4 * len(waived) > len(code_cells(notebook)):
        yield f"{len(waived)} of {len(code_cells(notebook))} code cells are not compared"


@rule
def has_plain_metadata(notebook, name, course):
    if "widgets" in notebook.metadata:
        yield "it holds the state of widgets, for which GitHub refuses to show it"
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    if kernel != "python3":
        yield f"its kernel is {kernel}, not python3"
    for cell, output in outputs(notebook):
        if any("widget" in kind for kind in output.get("data", {})):
            yield f"{cell.id} holds a live widget's view, an empty place without a kernel: `make notebooks` removes it"


@rule
def is_small(notebook, name, course):
    size = len(nbformat.writes(notebook).encode())
    if size >= LARGEST:
        yield f"it takes {size:,} bytes"


@rule
def has_short_cells_and_more_prose(notebook, name, course):
    for cell in code_cells(notebook):
        if len(cell.source.splitlines()) > LONGEST:
            yield f"{cell.id} has {len(cell.source.splitlines())} lines"
    words = len(notebook.cells) - len(code_cells(notebook))
    if words < len(code_cells(notebook)):
        yield f"{len(code_cells(notebook))} code cells, but only {words} of prose"


@rule
def describes_every_image(notebook, name, course):
    text = prose(notebook)
    if re.search(r"!\[\s*\]", text):
        yield "an image has no text for those who can't see it: ![what it shows](...)"
    for image in re.findall(r"<img\b[^>]*>", text):
        if not re.search(r"""\balt=["'][^"']+["']""", image):
            yield f"{image} has no alt"


@rule
def links_to_what_exists(notebook, name, course):
    for link in links(notebook):
        target, _, anchor = link.partition("#")
        if re.match(r"https?://|mailto:", link):
            continue
        path = course.folder / target if target else course.folder / name
        if not path.exists():
            yield f"{link} is not there"
        elif anchor and anchor not in slugs(path):
            yield f"{link} names no heading"


@rule
def works_on_any_machine(notebook, name, course):
    texts = [(cell.id, cell.source) for cell in notebook.cells]
    texts += [(cell.id, output.get("text", "")) for cell, output in outputs(notebook)]
    texts += [(cell.id, output.get("data", {}).get("text/plain", "")) for cell, output in outputs(notebook)]
    for cell, text in texts:
        if match := ABSOLUTE.search(text):
            yield f"{cell} has a path of one machine: {text[match.start() : match.start() + 40]!r}"
    for cell in code_cells(notebook):
        if re.search(r"\b(?:pip3?|conda|mamba|uv|apt|apt-get)\s+(?:pip\s+)?(?:install|add)\b", cell.source):
            yield f"{cell.id} installs something: what is needed is said in pyproject.toml"


@rule
def begins_with_its_number(notebook, name, course):
    first = notebook.cells[0].source if notebook.cells else ""
    if not first.startswith(f"# {int(name[:2])} · "):
        yield f"its first line is not '# {int(name[:2])} · Title'"


@rule
def ends_with_the_way_on(notebook, name, course):
    following = course.names[(course.names.index(name) + 1) % len(course.names)]
    last = notebook.cells[-1] if notebook.cells else None
    if last is None or last.cell_type != "markdown" or f"]({following})" not in last.source:
        yield f"its last cell does not link to {following}"


@rule
def leaves_the_library_s_names_alone(notebook, name, course):
    for cell in code_cells(notebook):
        tree = ast.parse(re.sub(r"^\s*[%!?].*$", "", cell.source, flags=re.MULTILINE))
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        for node in ast.walk(tree):
            if isinstance(node, kinds) and node.name in course.public:
                yield f"{cell.id} defines {node.name}, which is the library's: import it, or choose another name"


@rule
def copies_nothing_from_the_library(notebook, name, course):
    for cell in code_cells(notebook):
        for lines in runs_of_lines(cell.source):
            if lines in course.lines:
                yield f"{cell.id} repeats the library from {lines[0]!r}: call it, or show_source(it)"
                break


@rule
def shows_each_explorer_without_a_kernel(notebook, name, course):
    for cell in code_cells(notebook):
        if re.search(r"\bexplorers\.\w+\(", cell.source):
            shown = [output.get("data", {}) for output in cell.outputs]
            if not any("image/png" in data and data.get("text/plain", "").endswith(".") for data in shown):
                yield f"{cell.id} shows no picture with a sentence where there is no kernel"


@rule
def has_badges_if_there_is_a_repository(notebook, name, course):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = set(re.findall(r"\[!\[[^\]]*\]\([^)]*\)\]\([^)]*\)", text))
    wanted = set() if course.badges is None else set(course.badges(name).splitlines())
    if found != wanted:
        yield f"its badges are {sorted(found)}, not {sorted(wanted)}: `make notebooks` mends them"
