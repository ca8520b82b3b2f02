"""Explorers: pictures that move. Each function builds one; `ALL` has them by name.

They are made of core ipywidgets and the pictures of `infmem.plots`, work from the keyboard, and show a still picture
where there is no kernel.
"""

from infmem.explorers.ablations import ablations
from infmem.explorers.attention import continuous_attention, heads
from infmem.explorers.base import Explorer
from infmem.explorers.compression import compression
from infmem.explorers.contraction import contraction, forgetting
from infmem.explorers.cost import cost
from infmem.explorers.language import language_memory
from infmem.explorers.learning_curves import learning_curves
from infmem.explorers.microscope import microscope
from infmem.explorers.models import receptive_fields, segments
from infmem.explorers.signals import signal
from infmem.explorers.sorting import sorting_task
from infmem.explorers.sticky import sticky

ALL = {
    "sorting_task": sorting_task,
    "signal": signal,
    "continuous_attention": continuous_attention,
    "heads": heads,
    "contraction": contraction,
    "forgetting": forgetting,
    "sticky": sticky,
    "receptive_fields": receptive_fields,
    "compression": compression,
    "segments": segments,
    "learning_curves": learning_curves,
    "ablations": ablations,
    "microscope": microscope,
    "language_memory": language_memory,
    "cost": cost,
}

__all__ = ["ALL", "Explorer", *ALL]
