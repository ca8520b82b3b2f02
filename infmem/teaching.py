"""What the notebooks need besides the library: errors in one line, pictures, the library's own source in a cell."""

import ast
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import walk_tb

from IPython import get_ipython
from IPython.core.pylabtools import select_figure_formats
from IPython.display import Markdown


def set_up() -> None:
    """Prepare a notebook: figures are shown as PNG, and the library's complaints come as one line, without a traceback.

    Does nothing outside of IPython.
    """
    shell = get_ipython()
    if shell is None:
        return
    select_figure_formats(shell, {"png"}, bbox_inches=None)
    shell.set_custom_exc((ValueError, NotImplementedError), _one_line)


def _one_line(shell, kind: type[BaseException], error: BaseException, traceback: types.TracebackType, tb_offset=None):
    """What IPython shows in place of a traceback; an error that the library itself did not raise keeps its own."""
    *_, (innermost, _) = walk_tb(traceback)  # a reader's function that the library called is the reader's
    if innermost.f_globals.get("__name__", "").split(".")[0] == "infmem":
        structured = [f"{kind.__name__}: {error}"]
    else:
        structured = shell.InteractiveTB.structured_traceback(kind, error, traceback, tb_offset=tb_offset)
    shell._showtraceback(kind, error, structured)
    return structured


def show_source(thing: Callable | type) -> Markdown:
    """The library's source of a function, method or class as a picture of code, without its docstrings.

    Example:
        >>> from infmem.signal import fit
        >>> print(show_source(fit).data.splitlines()[1])
        @checked
    """
    source = textwrap.dedent(inspect.getsource(thing))
    lines = source.splitlines()
    kinds = ast.FunctionDef | ast.ClassDef
    for node in sorted((n for n in ast.walk(ast.parse(source)) if isinstance(n, kinds)), key=lambda n: -n.lineno):
        if ast.get_docstring(node, clean=False) is not None and len(node.body) > 1:
            docstring = node.body[0]
            del lines[docstring.lineno - 1 : docstring.end_lineno]
    text = "\n".join(lines)
    return Markdown(f"```python\n{text}\n```")


@contextmanager
def expect_error(kind: type[Exception] = ValueError) -> Iterator[None]:
    """Run something that must go wrong, and print what it says.

    Raises:
        ValueError: if nothing goes wrong.

    Example:
        >>> from infmem.contraction import scaled_tau
        >>> with expect_error():
        ...     scaled_tau(num_past=0, num_new=1)
        ValueError: num_past must be at least 1 token, got 0: an empty memory is not contracted
    """
    try:
        yield
    except kind as error:
        print(f"{kind.__name__}: {error}")
    else:
        raise ValueError(f"a {kind.__name__} was expected here, but nothing went wrong")
