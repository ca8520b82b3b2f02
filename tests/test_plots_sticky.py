import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from infmem.plots import draw_histogram, draw_kept_events, draw_sampling_errors, draw_sticky_update


def random(*sizes: int) -> torch.Tensor:
    return torch.rand(sizes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def assert_bars(axes, probabilities):
    num_bins = len(probabilities)
    assert_allclose([bar.get_height() for bar in axes.patches], probabilities)
    assert_allclose([bar.get_x() for bar in axes.patches], np.arange(num_bins) / num_bins, atol=1e-7)
    assert_allclose([bar.get_width() for bar in axes.patches], 1 / num_bins)
    (even,) = axes.lines
    assert_allclose(even.get_ydata(), 1 / num_bins)


def test_histogram_stands_over_the_locations_of_every_method():
    probabilities, locations = random(7), {"stratified": random(11), "iid": random(13)}
    above, below = draw_histogram(probabilities, locations).axes
    assert_bars(above, probabilities)
    assert [label.get_text() for label in below.get_yticklabels()] == list(locations)
    for row, (line, places) in enumerate(zip(below.lines, locations.values(), strict=True)):
        assert_allclose(line.get_xdata(), places)
        assert set(np.asarray(line.get_ydata())) == {row}
    assert below.get_ylim()[0] > below.get_ylim()[1]  # the first method on top


def test_a_sticky_update_from_the_attention_to_the_new_signal():
    probabilities, locations, t = random(5), random(11), torch.linspace(0, 1, 17, dtype=torch.float64)
    before, after, after_even = random(3, 17)
    histogram, rug, old, new = draw_sticky_update(probabilities, locations, t, before, after, after_even, tau=0.6).axes
    assert_bars(histogram, probabilities)
    assert_allclose(rug.lines[0].get_xdata(), locations)
    assert_allclose(old.lines[0].get_ydata(), before)
    curves = {line.get_label(): line.get_ydata() for line in new.lines}
    assert_allclose(curves["these samples"], after)
    assert_allclose(curves["even samples"], after_even)
    (room,) = new.patches
    assert_allclose([room.get_x(), room.get_x() + room.get_width()], [0.6, 1])
    assert old.get_ylim() == new.get_ylim()


def test_sampling_errors_show_every_seed_and_the_mean_with_its_interval():
    errors = {"address": random(3, 7), "even": random(6, 7)[3:]}
    panels = draw_sampling_errors(errors, ["even", "stratified", "iid"]).axes
    assert [axes.get_title() for axes in panels] == list(errors)
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["even", "stratified", "iid"]
    for axes, values in zip(panels, errors.values(), strict=True):
        for row in range(3):
            assert_allclose(axes.lines[row].get_xdata(), values[row])
            assert set(np.asarray(axes.lines[row].get_ydata())) == {row}
        (bars,) = axes.containers
        assert_allclose(bars.lines[0].get_xdata(), values.mean(1))
        margins = 2 * np.std(values.numpy(), axis=1, ddof=1) / np.sqrt(7)
        ends = np.array(bars.lines[2][0].get_segments())[:, :, 0]
        assert_allclose(ends[:, 1] - ends[:, 0], 2 * margins)


@pytest.mark.parametrize("events", [["attended"], ["attended", "other", "third"]])
def test_kept_events_have_a_panel_each_and_a_line_for_every_way(events):
    heights = {"not sticky": random(5, len(events)), "sticky": random(7, len(events))}
    panels = draw_kept_events(heights, events).axes
    assert [axes.get_title() for axes in panels] == events
    for column, axes in enumerate(panels):
        assert [line.get_label() for line in axes.lines] == list(heights)
        for line, values in zip(axes.lines, heights.values(), strict=True):
            assert_allclose(line.get_xdata(), np.arange(len(values)))
            assert_allclose(line.get_ydata(), values[:, column])
        assert len({(line.get_linestyle(), line.get_marker()) for line in axes.lines}) == 2
