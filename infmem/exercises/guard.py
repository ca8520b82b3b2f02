"""What keeps a learner's function from ending more than itself: a time limit, and no way out of the kernel."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from IPython import get_ipython

from infmem import teaching


class TimeUp(BaseException):
    """The time is over. It is no `Exception`, so that no `except Exception` of a learner's catches it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop what runs too long, where that can be done: in the main thread, and not on Windows.

    Raises:
        TimeUp: when the time is over.

    Example:
        >>> try:
        ...     with time_limit(0.01):
        ...         while True:
        ...             pass
        ... except TimeUp:
        ...     print("stopped")
        stopped
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, frame):
        raise TimeUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def set_up() -> None:
    """Begin a notebook of exercises: as `infmem.teaching.set_up`, and in grading `exit()` ends its own cell only.

    Outside of nbgrader `exit()` ends the kernel, as in any notebook.
    """
    teaching.set_up()
    shell = get_ipython()
    if shell is not None and os.environ.get("NBGRADER_EXECUTION"):
        shell.ask_exit = _refuse


@contextlib.contextmanager
def no_exit() -> Iterator[None]:
    """Within, `exit()` and `quit()` raise `SystemExit` in a notebook, as they do elsewhere."""
    shell = get_ipython()
    if shell is None:
        yield
        return
    before = shell.__dict__.get("ask_exit")
    shell.ask_exit = _refuse
    try:
        yield
    finally:
        del shell.ask_exit
        if before is not None:
            shell.ask_exit = before


def _refuse() -> None:
    raise SystemExit("an answer must not end the notebook")
