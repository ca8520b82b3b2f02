import numpy as np
import pytest

from infmem.experiment import RECALLS
from infmem.plots import draw_recall
from infmem.plots.recall import STYLES

SCORES = {"paper": {0: [1.0, 0.8], 1: [0.5, 0.7], 5: [0.1, 0.3]}, "window": {0: [1.0], 1: [0.1], 5: [0.2]}}


def test_lines_are_means_over_seeds_and_bands_hold_all_of_them():
    axes = draw_recall(SCORES).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["paper"].get_ydata(), [0.9, 0.6, 0.2])
    np.testing.assert_allclose(lines["paper"].get_xdata(), [0, 1, 5])
    corners = axes.collections[0].get_paths()[0].vertices
    assert {(1.0, 0.5), (1.0, 0.7), (5.0, 0.3)} <= {(x, y) for x, y in corners.round(6).tolist()}


def test_the_oldest_fact_in_training_is_marked():
    lines = {line.get_label(): line for line in draw_recall(SCORES, longest_trained=3).axes[0].lines}
    assert set(lines["oldest fact in training"].get_xdata()) == {3}
    assert "oldest fact in training" not in {line.get_label() for line in draw_recall(SCORES).axes[0].lines}


def test_the_axis_ends_at_the_oldest_age_of_all():
    axes = draw_recall(SCORES | {"best": {0: [1.0], 37: [0.3]}}).axes[0]
    assert axes.get_xlim() == (0, 37) and [tick.get_text() for tick in axes.get_xticklabels()][-1] == "32"


@pytest.mark.parametrize("name", RECALLS)
def test_everybody_is_drawn_in_a_style_of_his_own(name):
    assert [other for other, style in STYLES.items() if style == STYLES[name]] == [name]
