"""Explorers in rough hands: dragged from end to end, two of a kind at once, wrong values typed, closed again."""

import gc
import math
import random
import weakref

import ipywidgets as widgets
import pytest
from ipywidgets.widgets import widget
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from traitlets import TraitError

from infmem import explorers
from infmem.benchmark.soak import process_mib
from infmem.explorers import base
from infmem.explorers.base import Explorer

# What may come when all moves are made once again: objects, by caches that go by age (64 were measured; of one picture
# that is kept there are thousands), and MiB of the process after 500 pictures (2.2 were measured; one PNG has 28 kB or
# more, and 500 that are kept 14 MB).
MORE_OBJECTS, MORE_MIB = 500, 6.0

live_widgets = widget._instances if hasattr(widget, "_instances") else widget.Widget.widgets  # before version 8

Moves = list[tuple[str, object]]


def options(control: widgets.Widget) -> list:
    """What a menu, a switch or a slider over named values can be."""
    if isinstance(control, widgets.Checkbox):
        return [False, True]
    return [option[1] if isinstance(option, tuple) else option for option in control.options]


def ends(control: widgets.Widget) -> list:
    """Of a slider, numbers beyond its ends, as they may be typed: it stops there."""
    if isinstance(control, widgets.IntSlider | widgets.FloatSlider):
        return [control.min - 10**6, control.max + 10**6]
    return [options(control)[0], options(control)[-1]]


def anywhere(control: widgets.Widget, chance: random.Random) -> object:
    """Any value that a control takes; between the steps of a slider too, where a typed number may lie."""
    if isinstance(control, widgets.IntSlider):
        return chance.randint(control.min, control.max)
    if isinstance(control, widgets.FloatSlider):
        return chance.uniform(control.min, control.max)
    return chance.choice(options(control))


def rough_moves(explorer: Explorer, number: int) -> Moves:
    """Each control from end to end, then any control anywhere."""
    chance = random.Random(0)
    dragged = [(name, value) for name, control in explorer.controls.items() for value in ends(control)]
    names = chance.choices(list(explorer.controls), k=number - len(dragged))
    return dragged + [(name, anywhere(explorer.controls[name], chance)) for name in names]


def drag(pair: tuple[Explorer, Explorer], moves: Moves) -> None:
    """Move two explorers in turn; each gets every move, one forwards and the other backwards."""
    for forwards, backwards in zip(moves, reversed(moves), strict=True):
        for explorer, (name, value) in zip(pair, (forwards, backwards), strict=True):
            explorer.controls[name].value = value
            assert not explorer.failed, f"{explorer.values}: {explorer.sentence}"


def held() -> dict[str, int]:
    """How much is alive of what a picture could leave behind."""
    gc.collect()
    alive = gc.get_objects()
    figures = sum(issubclass(type(thing), Figure) for thing in alive)
    return {"objects": len(alive), "widgets": len(live_widgets), "figures": figures, "pyplot": len(plt.get_fignums())}


@pytest.fixture(params=explorers.ALL)
def name(request, without_type_checker) -> str:
    """The name of an explorer, which is run as a reader runs it."""
    return request.param


@pytest.fixture
def pair(name):
    made = explorers.ALL[name](), explorers.ALL[name]()
    yield made
    for explorer in made:
        explorer.close()


def leaves_nothing_behind(pair: tuple[Explorer, Explorer], moves: Moves) -> None:
    """Drag a pair twice the same way: the first fills what is kept for another time, the second may add nothing."""
    drag(pair, moves)
    before = held()
    drag(pair, moves)
    after = held()
    more = after.pop("objects") - before.pop("objects")
    assert after == before
    assert more <= MORE_OBJECTS


def shows_what_its_controls_say(pair: tuple[Explorer, Explorer]) -> None:
    """One explorer, led to where the other is by whatever way, has the same picture and sentence."""
    one, other = pair
    for name, value in one.values.items():
        other.controls[name].value = value
    one.redraw()
    other.redraw()
    assert one.sentence == other.sentence and one.image.value == other.image.value


def test_two_at_once_are_dragged_and_neither_leaves_a_trace(pair, monkeypatch):
    with monkeypatch.context() as changes:  # writing PNG files takes most of the time; the long version does
        changes.setattr(base, "to_png", lambda figure: b"")
        leaves_nothing_behind(pair, rough_moves(pair[0], 2 * len(pair[0].controls) + 4))
    shows_what_its_controls_say(pair)


@pytest.mark.slow
def test_five_hundred_moves_leave_nothing_behind(pair):
    moves = rough_moves(pair[0], 125)  # by two explorers, twice
    drag(pair, moves)
    mib = process_mib()
    leaves_nothing_behind(pair, moves)
    assert mib is None or process_mib() - mib < MORE_MIB
    shows_what_its_controls_say(pair)


def test_what_is_no_value_is_refused_or_told_and_the_explorer_goes_on(name):
    explorer = explorers.ALL[name]()
    picture = explorer.image.value
    for control in explorer.controls.values():
        start = control.value
        for wrong in ("many", [1], 1j):
            with pytest.raises(TraitError):
                control.value = wrong
            assert control.value == start and not explorer.failed
        if isinstance(control, widgets.FloatSlider):
            control.value = math.nan
            assert explorer.sentence == f"This choice is not possible: {control.description} must be a number, got nan"
        if isinstance(control, widgets.Dropdown):
            control.value = None
            assert explorer.sentence == f"This choice is not possible: {control.description}: nothing is chosen"
        assert explorer.image.value == picture
        control.value = start
    assert not explorer.failed and explorer.image.value == picture
    explorer.close()


def test_an_explorer_that_is_closed_is_gone(name):
    """As when a cell is run again and again, each time after `close`."""
    before = set(live_widgets)
    explorer = explorers.ALL[name]()
    figure = weakref.ref(explorer._figure)
    assert set(live_widgets) > before
    explorer.close()
    explorer.close()  # a second time is no mistake
    del explorer
    gc.collect()
    assert set(live_widgets) == before and figure() is None
