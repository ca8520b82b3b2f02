"""Each explorer as a page of its own, served by Voila: it appears, without code around it, and answers to keys."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_jupyterlab import SLOWEST, move

from infmem import explorers

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 90_000  # milliseconds until an explorer has appeared


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Iterator[str]:
    """The address of a Voila that serves a page for each explorer."""
    pytest.importorskip("voila", reason="Voila is missing: the explorers' pages were NOT tried in a browser")
    folder = tmp_path_factory.mktemp("pages")
    script = ROOT / "notebooks" / "exercises" / "pages.py"
    subprocess.run([sys.executable, script, "--folder", folder], check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "voila", str(folder), "--no-browser", f"--port={port}"]
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"IPYTHONDIR": str(folder / ".ipython")}
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except (urllib.error.URLError, TimeoutError):
                assert server.poll() is None, f"Voila did not start:\n{(folder / 'log').read_text()[-3000:]}"
                time.sleep(0.25)
        yield url
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.browser
@pytest.mark.parametrize("name", explorers.ALL)
def test_an_explorer_s_page_answers_to_keys(name: str, page, pages: str, screenshots, record) -> None:
    page.goto(f"{pages}/voila/render/{name}.ipynb", wait_until="commit")
    page.locator("img.widget-image").first.wait_for(timeout=PATIENCE)
    control, times = move(page, page.locator("body"), name)
    page.screenshot(path=screenshots / f"page-{name}.png")
    record("(page)", name, control, times)
    assert max(times) < 1000 * SLOWEST and "explorers." not in page.locator("body").inner_text()
