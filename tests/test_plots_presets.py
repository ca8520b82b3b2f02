import numpy as np
import pytest
import torch

from infmem import plots
from infmem.plots.style import blank

T = torch.linspace(0.1, 0.9, 11, dtype=torch.float64)
READINGS = {"one": T.cos(), "other": T**2, "third": 0 * T}


def test_each_panel_holds_what_was_written_and_what_is_read():
    figure = plots.draw_readings(T, T.sin(), READINGS)
    assert len(figure.axes) == 3
    for axes, (name, values) in zip(figure.axes, READINGS.items(), strict=True):
        written, read = axes.lines
        assert axes.get_title(loc="left") == name
        for line, wanted in [(written, T.sin()), (read, values)]:
            np.testing.assert_array_equal(line.get_xdata(), T)
            np.testing.assert_array_equal(line.get_ydata(), wanted)
        assert written.get_linestyle() != read.get_linestyle()
        assert axes.get_xlim() == pytest.approx((0.1, 0.9))


def test_panels_share_their_scales_and_one_legend():
    axes = plots.draw_readings(T, T.sin(), READINGS).axes
    assert len({panel.get_ylim() for panel in axes}) == 1
    legends = [panel.get_legend() for panel in axes]
    assert [text.get_text() for text in legends[0].get_texts()] == ["what was written", "what is read"]
    assert legends[1:] == [None, None]
    assert axes[-1].get_xlabel().startswith("position t on the memory")


def test_a_figure_is_drawn_into_again():
    figure = blank(None)
    plots.draw_readings(T, T, READINGS, figure)
    assert plots.draw_readings(T, T, {"alone": T}, figure) is figure
    assert len(figure.axes) == 1
