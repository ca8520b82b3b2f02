"""Explorers: pictures that move. Each function builds one; `ALL` has them by name.

They are made of core ipywidgets and the pictures of `infmem.plots`, work from the keyboard, and show a still picture
where there is no kernel.
"""

from infmem.explorers.base import Explorer
from infmem.explorers.signals import signal

ALL = {
    "signal": signal,
}

__all__ = ["ALL", "Explorer", *ALL]
