"""Pictures: pure functions that take numbers and return a matplotlib `Figure`. None touches pyplot or a screen.

Each takes a `figure` to draw into again; None makes a new one.
"""

from infmem.plots.learning_curves import LINE_NAMES, draw_learning_curves, moving_average
from infmem.plots.signals import draw_signal

__all__ = ["LINE_NAMES", "draw_learning_curves", "draw_signal", "moving_average"]
