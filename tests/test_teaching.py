"""What notebooks lean on: the library's source without docstrings, errors in one line, pictures as PNG."""

import ast
import base64
import json
import os
import subprocess
import sys

import pytest

from infmem import attention, contraction, memory, models, signal, sticky, validation
from infmem.basis import GaussianBasis
from infmem.memory import LongTermMemory, MemoryConfig, MemoryState
from infmem.teaching import expect_error, set_up, show_source

SHOWN = [
    signal.fit,
    signal.ridge_operator,
    attention.density,
    contraction.update,
    sticky.sample_locations,
    validation.require,
    memory.first_operator,
    GaussianBasis,
    GaussianBasis.grid,
    GaussianBasis.num_basis.fget,
    LongTermMemory,
    LongTermMemory.read,
    MemoryConfig,
    MemoryConfig.released,
    MemoryState.reset,
    models.InfiniteFormer,
]

# Cells for a shell of its own: pytest's own process stays outside of IPython.
SESSION = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
shell, told = InteractiveShell.instance(colors="nocolor"), {}
from infmem.teaching import set_up
set_up()
for name, cell in json.loads(sys.argv[1]).items():
    with capture_output() as captured:
        result = shell.run_cell(cell)
    told[name] = {"text": captured.stdout + captured.stderr, "failed": result.error_in_exec is not None}
from matplotlib.figure import Figure
figure = Figure(figsize=(2, 1), dpi=100)
figure.add_subplot().plot([0, 1])
data = shell.display_formatter.format(figure)[0]
told["figure"] = {"kinds": sorted(data), "png": data["image/png"]}
print(json.dumps(told))
"""
CELLS = {
    "import": "import infmem, torch; from infmem.contraction import scaled_tau; from infmem.validation import checked",
    "the library complains": "scaled_tau(0, 1)",
    "the library complains of a shape": "infmem.signal.fit(torch.ones(3), torch.ones(3, 2))",
    "the library complains deep in a function": "def mine():\n    return scaled_tau(0, 1)\nmine()",
    "the reader's own": "def mine():\n    raise ValueError('my own mistake')\nmine()",
    "the reader's own, called by the library": (
        "from jaxtyping import Float\nfrom torch import Tensor\n"
        "@checked\ndef mine(x: Float[Tensor, 'pos']):\n    raise ValueError('my own mistake')\nmine(torch.ones(3))"
    ),
    "another library's": "import json; json.loads('{')",
    "key": "{}['nowhere']",
    "key in the library": "from infmem.presets import build_model; build_model(3)",
    "not attempted": "def mine():\n    raise NotImplementedError\nmine()",
    "afterwards": "print(6 * 7)",
}


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict:
    surroundings = os.environ | {"IPYTHONDIR": str(tmp_path_factory.mktemp("ipython")), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SESSION, json.dumps(CELLS)]
    run = subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=300)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "cell", ["the library complains", "the library complains of a shape", "the library complains deep in a function"]
)
def test_a_complaint_of_the_library_takes_one_line(told, cell):
    assert told[cell]["failed"]
    assert told[cell]["text"].startswith("ValueError: ") and told[cell]["text"].count("\n") == 1
    assert ("num_past must be at least 1" in told[cell]["text"]) == ("shape" not in cell)


@pytest.mark.parametrize(
    "cell, words",
    [
        ("the reader's own", "ValueError: my own mistake"),
        ("the reader's own, called by the library", "ValueError: my own mistake"),
        ("another library's", "JSONDecodeError: Expecting property name"),
        ("key", "KeyError: 'nowhere'"),
        ("key in the library", "KeyError: <class 'int'>"),
        ("not attempted", "NotImplementedError"),
    ],
)
def test_every_other_error_keeps_its_traceback(told, cell, words):
    assert told[cell]["failed"]
    assert "Traceback" in told[cell]["text"] and words in told[cell]["text"] and "--->" in told[cell]["text"]


def test_cells_run_on_after_an_error(told):
    assert told["import"] == {"text": "", "failed": False}
    assert told["afterwards"] == {"text": "42\n", "failed": False}


def test_figures_are_shown_as_png_of_their_own_size(told):
    assert told["figure"]["kinds"] == ["image/png", "text/plain"]
    png = base64.b64decode(told["figure"]["png"])
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")) == (200, 100)


def test_set_up_does_nothing_outside_of_ipython():
    hook, display = sys.excepthook, sys.displayhook
    set_up()
    assert (sys.excepthook, sys.displayhook) == (hook, display)


def code_of(thing) -> str:
    fenced = show_source(thing).data
    assert fenced.startswith("```python\n") and fenced.endswith("\n```")
    return fenced.removeprefix("```python\n").removesuffix("\n```")


@pytest.mark.parametrize("thing", SHOWN, ids=lambda thing: thing.__qualname__)
def test_shown_source_has_no_docstrings_and_is_still_python(thing):
    tree = ast.parse(code_of(thing))
    definition = tree.body[0]
    assert len(tree.body) == 1 and definition.name == thing.__name__
    inside = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert all(ast.get_docstring(node) is None or len(node.body) == 1 for node in inside)


def test_nothing_but_docstrings_is_left_out():
    class Shown:
        """A class.

        Of several lines.
        """

        number = 3  # a comment

        def method(self):
            """One line."""
            text = """not a docstring"""

            def inner():
                """Another
                one."""
                return text

            return inner

        def silent(self):
            """All there is."""

    lines = [line for line in code_of(Shown).splitlines() if line.strip()]
    assert lines == [
        "class Shown:",
        "    number = 3  # a comment",
        "    def method(self):",
        '        text = """not a docstring"""',
        "        def inner():",
        "            return text",
        "        return inner",
        "    def silent(self):",
        '        """All there is."""',
    ]


def test_an_expected_error_is_printed(capsys):
    with expect_error():
        contraction.scaled_tau(0, 1)
    assert capsys.readouterr().out.startswith("ValueError: num_past must be at least 1 token, got 0")
    with expect_error(KeyError):
        raise KeyError("nowhere")
    assert capsys.readouterr().out == "KeyError: 'nowhere'\n"


def test_an_expected_error_that_does_not_come_is_told():
    with (
        pytest.raises(ValueError, match="a KeyError was expected here, but nothing went wrong"),
        expect_error(KeyError),
    ):
        pass


def test_another_error_than_expected_is_not_hidden(capsys):
    with pytest.raises(KeyError), expect_error(ValueError):
        raise KeyError("nowhere")
    assert capsys.readouterr().out == ""
