"""One process at a time in a folder, by a lock that ends with its process, however that ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infmem.validation import require

try:
    import fcntl
except ImportError:  # on Windows, where nobody is kept out
    fcntl = None


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder meanwhile, if they ask in the same way.

    The folder itself is locked, so no file of ours can be left behind. A folder that is not there yet, or that lies on
    a file system without locks, can be entered by anybody.

    Args:
        folder: the folder.

    Raises:
        ValueError: if another process is in it.

    Example:
        >>> with alone_in(Path(".")):
        ...     with alone_in(Path(".")):
        ...         pass
        Traceback (most recent call last):
        ValueError: another process is at work in .: wait until it has ended, or choose another folder
    """
    if fcntl is None or not folder.is_dir():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        require(
            _locked(handle),
            f"another process is at work in {folder}: wait until it has ended, or choose another folder",
        )
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    """Whether nobody else has locked a folder; now it is locked, where that is possible."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        return True
    return True
