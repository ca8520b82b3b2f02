import numpy as np
import pytest
import torch
from matplotlib.patches import FancyBboxPatch

from infmem import plots


def test_reach_shows_each_model_s_rooms_and_hides_what_cannot_reach():
    rooms = {"one": torch.rand(3, 7) + 0.01, "two": torch.rand(3, 7) + 0.01}
    rooms["two"][1, :4] = 0
    one, two, bar = plots.draw_reach(rooms).axes
    for axes, (name, room) in zip((one, two), rooms.items(), strict=True):
        assert axes.get_title(loc="left") == name
        shown = axes.images[0].get_array()
        np.testing.assert_array_equal(shown.mask, (room == 0).numpy())
        np.testing.assert_allclose(shown.filled(0), room.numpy())
        assert axes.images[0].origin == "lower"
        assert [label.get_text() for label in axes.get_yticklabels()] == ["tokens", "after layer 1", "after layer 2"]
    assert "basis functions" in bar.get_ylabel()


def test_sinusoids_have_a_column_for_each_distance():
    encodings = torch.rand(11, 6)
    image = plots.draw_sinusoids(encodings).axes[0].images[0]
    np.testing.assert_allclose(image.get_array(), encodings.mT.numpy())


def test_the_shift_shows_every_number_that_counts_in_its_cell():
    before, after = torch.arange(3 * 6.0).reshape(3, 6), torch.arange(100, 115.0).reshape(3, 5)
    left, right = plots.draw_relative_shift(before, after).axes
    cells = {text.get_position(): text.get_text() for text in left.texts}
    assert {(j, i): "" if j == 0 else str(6 * i + j) for i in range(3) for j in range(6)} == cells
    cells = {text.get_position(): text.get_text() for text in right.texts}
    assert {(j, i): str(100 + 5 * i + j) if j <= i + 2 else "" for i in range(3) for j in range(5)} == cells


def test_every_head_has_its_line_over_the_distances():
    scores = torch.rand(3, 7)
    lines = plots.draw_distance_scores(scores).axes[0].lines
    assert [line.get_label() for line in lines] == ["head 1", "head 2", "head 3"]
    for line, expected in zip(lines, scores, strict=True):
        np.testing.assert_allclose(line.get_ydata(), expected.numpy())
        assert list(line.get_xdata()) == list(range(7))


def test_memories_lie_end_to_end_oldest_first():
    (axes,) = plots.draw_memories([5, 5, 3], [0, 4, 4], [0, 1, 6]).axes
    bars = {container.get_label(): container.patches for container in axes.containers}
    for name, starts, counts in [
        ("long-term memory", [0, 0, 0], [0, 1, 6]),
        ("short-term memory", [0, 1, 6], [0, 4, 4]),
        ("the segment", [0, 5, 10], [5, 5, 3]),
    ]:
        assert [bar.get_x() for bar in bars[name]] == starts
        assert [bar.get_width() for bar in bars[name]] == counts


def test_the_diagram_of_a_layer_writes_the_shapes_into_its_boxes():
    names = ("segment", "short_term", "leaving", "long_term", "read_short", "read_long", "output")
    shapes = {name: (2, number, 7) for number, name in enumerate(names, start=11)}
    (axes,) = plots.draw_layer(shapes).axes
    words = [text.get_text() for text in axes.texts]
    for number in range(11, 18):
        assert sum(f"2 × {number} × 7" in text for text in words) == 1
    assert sum(isinstance(patch, FancyBboxPatch) for patch in axes.patches) == len(names)


@pytest.mark.parametrize("written", [True, False])
def test_what_a_head_reads_stands_at_its_tokens(written):
    weights, density = torch.rand(7), torch.rand(11)
    figure = plots.draw_segment_reading(weights, 23, 5, density if written else None, {0.0: 1, 0.5: 9, 1.0: 18})
    left, right = figure.axes
    bars = sorted(right.patches, key=lambda bar: bar.get_x() + bar.get_width() / 2)
    np.testing.assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in bars], np.arange(23, 30))
    np.testing.assert_allclose([bar.get_height() for bar in bars], weights.numpy(), rtol=1e-6)
    assert [len(container.patches) for container in right.containers] == [5, 2]
    if written:
        np.testing.assert_allclose(left.lines[0].get_ydata(), density.numpy())
        assert [label.get_text() for label in left.get_xticklabels()] == ["0\n(1)", "0.5\n(9)", "1\n(18)"]
    else:
        assert not left.lines and "nothing is written yet" in left.texts[0].get_text()


def test_costs_are_lines_over_lengths():
    lengths = torch.tensor([10, 100, 1000])
    costs = {"full attention": torch.tensor([1.0, 7.0, 13.0]), "infinite-former": torch.tensor([5.0, 5.0, 5.0])}
    (axes,) = plots.draw_costs(lengths, costs).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert {line.get_label(): line.get_ydata().tolist() for line in axes.lines} == {
        name: cost.tolist() for name, cost in costs.items()
    }
