"""JupyterLab and Chromium for the tests in this folder, and a table of what was measured."""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# No GPU, nothing fetched behind the test's back; and root, as which continuous integration may run, has no sandbox.
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run")  # fmt: skip
# All cells are in the page at once, wherever it is scrolled; and nothing asks whether to show news.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
BUDGETS = (250, 400)  # milliseconds: of a picture of one panel, and of several
measured: list[tuple[str, str, str, list[float]]] = []


def find_browser() -> str:
    """The browser to use. One that is named must be there; where none is, the tests are skipped."""
    named = os.environ.get("CHROMIUM")
    found = next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None)
    if named and not found:
        pytest.fail(f"CHROMIUM={named} is no program on this machine: name another, or unset it")
    if not found:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed: the explorers were NOT tried in a browser")
    return found


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The address of a JupyterLab of our own, and the folder that it shows."""
    home = tmp_path_factory.mktemp("jupyterlab")
    folder, settings = home / "notebooks", home / "settings"
    folder.mkdir()
    shutil.copytree(ROOT / "figures" / "data", home / "figures" / "data")  # recorded numbers that notebooks read
    for name, values in SETTINGS.items():
        extension, _, plugin = name.partition("/")
        path = settings / "@jupyterlab" / extension / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
               "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True",
                f"--ServerApp.root_dir={folder}",
               f"--LabApp.user_settings_dir={settings}", f"--LabApp.workspaces_dir={home / 'workspaces'}"]  # fmt: skip
    apart = {f"JUPYTER_{part}_DIR": str(home / part.lower()) for part in ("CONFIG", "RUNTIME")}
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=home, env=os.environ | apart | {"IPYTHONDIR": str(home / "ipython")}
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{url}/api/status", timeout=5).close()
                break
            except (urllib.error.URLError, TimeoutError):
                if server.poll() is not None:
                    break
                time.sleep(0.25)
        else:
            server.terminate()
        assert server.poll() is None, f"JupyterLab did not start:\n{(home / 'log').read_text()[-3000:]}"
        yield url, folder
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="session")
def browser():
    executable = find_browser()
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: NOT tried in a browser")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield launched
        launched.close()


@pytest.fixture
def page(browser):
    opened = browser.new_page(viewport={"width": 1400, "height": 1400})
    opened.set_default_timeout(20_000)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    folder = ROOT / os.environ.get("SCREENSHOTS", "build/screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def record():
    """`record(notebook, explorer, control, milliseconds)`: for the table at the end."""
    return lambda *row: measured.append(row)


def pytest_terminal_summary(terminalreporter) -> None:
    if not measured:
        return
    terminalreporter.section("from key to picture, in milliseconds")
    terminalreporter.line(f"{'notebook':<32}{'explorer':<36}{'control':<28}{'median':>7}{'most':>7}")
    for notebook, explorer, control, times in measured:
        median, most = statistics.median(times), max(times)
        over = "".join(f"  over {budget}" for budget in BUDGETS if median > budget)[-10:]
        terminalreporter.line(f"{notebook:<32}{explorer[:34]:<36}{control[:26]:<28}{median:>7.0f}{most:>7.0f}{over}")
    medians = [statistics.median(times) for *_, times in measured]
    shares = ", ".join(f"{sum(m <= budget for m in medians)} within {budget}" for budget in BUDGETS)
    terminalreporter.line(f"{len(medians)} explorers, median {statistics.median(medians):.0f} ms: {shares}")
