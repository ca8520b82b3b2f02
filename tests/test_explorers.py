import base64
import statistics
import time

import ipywidgets as widgets
import pytest
from expected import EXPECTED
from matplotlib.figure import Figure

from infmem import explorers
from infmem.experiment import ABLATIONS
from infmem.explorers.ablations import CHANGES
from infmem.explorers.base import Explorer, int_slider


def positions_of(control: widgets.Widget) -> list:
    """The least, the middle and the greatest value of a control; all values of a menu."""
    if isinstance(control, widgets.Checkbox):
        return [False, True]
    if isinstance(control, widgets.Dropdown | widgets.SelectionSlider):
        options = [option[1] if isinstance(option, tuple) else option for option in control.options]
        return (
            options if isinstance(control, widgets.Dropdown) else [options[0], options[len(options) // 2], options[-1]]
        )
    steps = round((control.max - control.min) / control.step)
    middle = control.min + steps // 2 * control.step
    return [control.min, middle, control.max]


def test_every_explorer_has_an_expectation_and_the_other_way_round():
    assert set(EXPECTED) == set(explorers.ALL)


@pytest.mark.parametrize("name", explorers.ALL)
def test_every_control_changes_the_picture_and_the_sentence_tells_the_library_s_numbers(name):
    explorer = explorers.ALL[name]()
    for control, widget in explorer.controls.items():
        start, pictures = widget.value, []
        for value in dict.fromkeys(positions_of(widget)):
            widget.value = value
            assert explorer.values[control] == value
            assert not explorer.failed, f"{control} = {value}: {explorer.sentence}"
            for piece in EXPECTED[name](explorer.values):
                assert piece in explorer.sentence, f"{control} = {value}"
            pictures.append(explorer.image.value)
        assert len(pictures) >= 2 and len(set(pictures)) == len(pictures), (
            f"moving {control} does not change the picture"
        )
        widget.value = start


@pytest.mark.parametrize("name", explorers.ALL)
def test_every_control_has_a_name_and_every_picture_fits_a_notebook(name):
    explorer = explorers.ALL[name]()
    assert explorer.controls and all(widget.description for widget in explorer.controls.values())
    assert len(explorer.image.value) < 120_000
    assert explorer.sentence in explorer.caption.value or "&" in explorer.caption.value
    bundle = explorer._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert base64.b64decode(data["image/png"]) == explorer.image.value
    assert explorer.sentence in data["text/plain"]


@pytest.mark.parametrize("name", explorers.ALL)
def test_no_redraw_keeps_a_reader_waiting(name):
    """A coarse guard: the budget is 0.1 s on a quiet machine (0.2 s for several panels), and tests share one."""
    explorer, seconds = explorers.ALL[name](), []
    for _ in range(5):
        began = time.perf_counter()
        explorer.redraw()
        seconds.append(time.perf_counter() - began)
    assert statistics.median(seconds) < 1


def test_an_impossible_choice_is_told_in_a_sentence_and_the_picture_stays():
    def show(figure: Figure, height: int) -> str:
        if height > 3:
            raise ValueError(f"height must be at most 3, got {height}: the ceiling is low")
        figure.add_subplot().bar([0], [height])
        return f"{height} < 4"

    explorer = Explorer("Bars", show, {"height": int_slider("height", 3, 1, 5)}, size=(3, 2))
    before = explorer.image.value
    explorer.controls["height"].value = 5
    assert explorer.failed and explorer.image.value == before
    assert explorer.sentence == ("This choice is not possible: height must be at most 3, got 5: the ceiling is low")
    explorer.controls["height"].value = 2
    assert not explorer.failed and explorer.image.value != before
    assert "2 &lt; 4" in explorer.caption.value


def test_every_recorded_change_can_be_chosen_and_missing_records_are_told_in_a_sentence(tmp_path):
    assert {"best", *(name for names in CHANGES.values() for name in names)} == set(ABLATIONS)
    explorer = explorers.ablations(folder=tmp_path)
    assert explorer.failed and "best, tau .5, tau .75, tau .9 should be recorded in" in explorer.sentence
    assert explorers.ablations("stickiness").values["group"] == "stickiness"
    with pytest.raises(ValueError, match=r"group must be one of schedule, contraction, .*, got 'sticky'"):
        explorers.ablations("sticky")
