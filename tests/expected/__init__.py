"""What each explorer's sentence must say, computed from the library without the explorer.

Each module has a dictionary EXPECTED: by the explorer's name, a function of its controls' values that gives the pieces
of text, numbers above all, that the sentence has to contain.
"""

import importlib
import pkgutil

EXPECTED = {}
for module in pkgutil.iter_modules(__path__):
    EXPECTED |= importlib.import_module(f"{__name__}.{module.name}").EXPECTED
