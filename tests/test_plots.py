import numpy as np
import pytest

from infmem.plots import LINE_NAMES, draw_learning_curves, moving_average
from infmem.plots.style import MODEL_COLORS
from infmem.tasks.sorting import ReferenceLines

LINES = ReferenceLines(chance=0.18, last_segment=0.23, receptive_field=0.36, exact_counts=0.87)


def test_learning_curves_show_every_model_and_line():
    rows = {model: [{"step": step, "accuracy": 0.01 * step} for step in range(1, 61)] for model in MODEL_COLORS}
    figure = draw_learning_curves(rows, LINES, window=11)
    (axes,) = figure.axes
    curves = {line.get_label(): line for line in axes.lines}
    assert set(curves) == {*MODEL_COLORS, *LINE_NAMES.values()}
    for model, color in MODEL_COLORS.items():
        assert curves[model].get_color() == color
        assert curves[model].get_xdata()[-1] == 60
        assert curves[model].get_ydata()[-1] == pytest.approx(np.mean([0.01 * step for step in range(50, 61)]))
    assert set(np.asarray(curves[LINE_NAMES["exact_counts"]].get_ydata())) == {0.87}


@pytest.mark.parametrize(("length", "window"), [(0, 5), (1, 5), (4, 5), (5, 5), (13, 5)])
def test_moving_average_against_a_loop(length, window):
    values = [(7 * step) % 5 for step in range(length)]
    steps, means = moving_average(list(range(length)), values, window)
    used = min(window, length)
    expected = [sum(values[i - used + 1 : i + 1]) / used for i in range(used - 1, length)] if length else []
    np.testing.assert_allclose(means, expected)
    assert list(steps) == list(range(used - 1, length))[: len(expected)]
