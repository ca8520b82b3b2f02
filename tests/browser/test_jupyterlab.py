"""Every notebook with an explorer, in a real JupyterLab and a real browser: it runs, each explorer answers to keys."""

import contextlib
import re
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
EXPLORER = re.compile(r"\bexplorers\.(\w+)\(")
LEFT_OUT = {"nbval-skip", "long"}  # tags of cells that train for minutes; nothing later may need them
PRESSES = 5
SLOWEST = 2.0  # seconds from key to picture; the budgets in the table are for a quiet machine
PATIENCE = 600  # seconds for all cells of a notebook

# From the moment a key goes down until the picture that it leads to has been loaded.
WATCH = """
(cell) => {
  const image = cell.querySelector("img.widget-image");
  let began;
  cell.addEventListener("keydown", () => { began = performance.now(); }, {capture: true, once: true});
  window.waited = new Promise(done =>
    image.addEventListener("load", () => done(performance.now() - began), {once: true}));
}
"""
WAITED = "(most) => Promise.race([window.waited, new Promise(done => setTimeout(() => done(null), most))])"


def cells_to_run(name: str) -> list:
    """Without those that train for minutes."""
    cells = nbformat.read(FOLDER / name, as_version=4).cells
    return [cell for cell in cells if not LEFT_OUT & set(cell.metadata.get("tags", []))]


def explorers_of(name: str) -> list[tuple[int, str]]:
    """The code cells that show an explorer, and its name."""
    sources = [cell.source for cell in cells_to_run(name) if cell.cell_type == "code"]
    return [(index, found[1]) for index, source in enumerate(sources) if (found := EXPLORER.search(source))]


NAMES = [path.name for path in sorted(FOLDER.glob("*.ipynb")) if explorers_of(path.name)]


def test_there_are_notebooks_with_explorers() -> None:
    assert NAMES


def put_copy(name: str, folder: Path) -> Path:
    """A notebook as a reader first opens it: with its stored outputs, and not run yet."""
    notebook = nbformat.read(FOLDER / name, as_version=4)
    notebook.cells = cells_to_run(name)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
    nbformat.write(notebook, folder / name)
    return folder / name


def prompts_of(page) -> list[str]:
    """What stands beside each code cell: `[ ]:` before it has run, `[*]:` while it waits or runs, then its number."""
    return page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()


def run_all(page) -> None:
    """Run > Run All Cells, and wait until the last has run."""
    # Without a kernel the command does nothing, and the notebook's sign says idle even then: the status bar tells.
    page.locator("#jp-main-statusbar").get_by_text(re.compile(r"Python 3.*\| Idle")).wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    ends, quiet = time.monotonic() + PATIENCE, 0
    while time.monotonic() < ends:
        prompts = prompts_of(page)
        if prompts and all(re.fullmatch(r"\[\d+\]:", prompt) for prompt in prompts):
            return
        quiet = 0 if "[*]:" in prompts else quiet + 1
        if quiet > 50:  # for ten seconds nothing has run, nor is anything waiting to: a cell has failed
            said = page.locator(".jp-OutputArea-output").all_inner_texts()
            pytest.fail(f"it stopped at a cell: {prompts}\n" + "\n".join(said[-3:]))
        page.wait_for_timeout(200)
    pytest.fail(f"its cells were not done after {PATIENCE} s")


def saved(page, path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs that it has now."""
    page.keyboard.press("Control+s")
    for _ in range(100):
        with contextlib.suppress(nbformat.reader.NotJSONError):  # it may be half written
            notebook = nbformat.read(path, as_version=4)
            if all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code"):
                return notebook
        page.wait_for_timeout(100)
    pytest.fail("JupyterLab did not save it")


def move(page, cell, explorer: str) -> tuple[str, list[float]]:
    """Move an explorer's first control by key, there and back; returns its name and the milliseconds of each press."""
    image, caption = cell.locator("img.widget-image"), cell.get_by_role("status")
    handle = cell.locator(".noUi-handle").first
    assert handle.count(), f"{explorer} has no slider to move"
    control = cell.locator(".widget-hslider, .widget-vslider").first.locator(".widget-label").inner_text()
    image.scroll_into_view_if_needed()
    times, sentences, step = [], {caption.inner_text()}, 1
    for _ in range(PRESSES):
        low, now, high = (float(handle.get_attribute(f"aria-value{end}")) for end in ("min", "now", "max"))
        step = -1 if now >= high else 1 if now <= low else step
        before = image.get_attribute("src")
        handle.focus()
        cell.evaluate(WATCH)
        page.keyboard.press("ArrowRight" if step > 0 else "ArrowLeft")
        took = page.evaluate(WAITED, 5000 * SLOWEST)
        assert took is not None and image.get_attribute("src") != before, f"{explorer}: {control} moves no picture"
        times.append(took)
        page.wait_for_timeout(100)  # the sentence follows the picture
        sentences.add(caption.inner_text())
    assert len(sentences) > 1, f"{explorer}: {control} moves no sentence"
    return control, times


@pytest.mark.browser
@pytest.mark.parametrize("name", NAMES)
def test_explorers_answer_to_keys(name: str, page, jupyterlab, screenshots, record) -> None:
    url, folder = jupyterlab
    path, explorers = put_copy(name, folder), explorers_of(name)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(f"{url}/lab/tree/{name}?reset")  # without it the last workspace comes back in front
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    for index, _ in explorers:  # before anything runs, and on a page without a kernel
        cells.nth(index).locator("img[src^='data:image/png']").wait_for()
        assert not cells.nth(index).locator(".noUi-handle").count()

    run_all(page)
    for cell in saved(page, path).cells:
        assert not any(output.output_type == "error" for output in cell.get("outputs", [])), cell.source
    for index, explorer in explorers:
        cell = cells.nth(index)
        cell.locator("img.widget-image").wait_for()
        control, times = move(page, cell, explorer)
        shown = cell.locator(".jp-OutputArea-output", has=page.locator("img.widget-image"))
        shown.screenshot(path=screenshots / f"{path.stem}-{explorer}.png")
        record(name, explorer, control, times)
        assert max(times) < 1000 * SLOWEST, f"{explorer}: {[round(took) for took in times]} ms from key to picture"
    assert not page.get_by_text("Error displaying widget").count()
    assert not troubles

    with urllib.request.urlopen(f"{url}/api/sessions") as answer:
        running = re.findall(rb'"kernel": *\{"id": *"([\w-]+)"', answer.read())
    for kernel in running:
        urllib.request.urlopen(urllib.request.Request(f"{url}/api/kernels/{kernel.decode()}", method="DELETE")).close()
