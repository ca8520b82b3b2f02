"""The pictures of language hold what they were given."""

import math

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection

from infmem.plots import draw_perplexity_by_position, draw_places
from infmem.plots.language import COLUMNS, LETTER_PIXELS, Excerpt, lines_around, printable


def curve(factor, starts=(0, 64, 128)):
    return [
        {"start": start, "end": 2 * start, "ppl": factor * (100 - n), "low": factor * 90, "high": factor * 110}
        for n, start in enumerate(starts)
    ]


def test_perplexity_is_drawn_with_its_interval_and_beside_a_baseline():
    left, right = draw_perplexity_by_position({"window": curve(3), "gpt2": curve(2, (0, 64))}, "gpt2", "a title").axes
    first, second = left.lines
    np.testing.assert_allclose(first.get_ydata(), [300, 297, 294])
    np.testing.assert_allclose(second.get_ydata(), [200, 198])
    np.testing.assert_allclose(first.get_xdata(), [32 * math.sqrt(2), 64 * math.sqrt(2), 128 * math.sqrt(2)])
    band = left.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (270, 330)
    ratio = right.lines[0].get_ydata()
    np.testing.assert_allclose(ratio[:2], 1.5)
    assert math.isnan(ratio[2]), "the baseline has no document that is so long"
    assert set(right.lines[1].get_ydata()) == {1.0}
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["window", "gpt2"]
    assert right.get_ylabel() == "perplexity / that of gpt2" and left.get_xscale() == "log"


@pytest.mark.parametrize("baseline", [None, "transformer-xl"])
def test_without_a_baseline_there_is_one_panel(baseline):
    (axes,) = draw_perplexity_by_position({"window": curve(1)}, baseline).axes
    assert axes.get_legend() is not None


def test_nothing_recorded_is_written_into_the_picture():
    (axes,) = draw_perplexity_by_position({}, "gpt2").axes
    assert [text.get_text() for text in axes.texts] == ["Nothing is recorded yet."] and not axes.lines


def test_lines_around_a_token_keep_the_text_and_its_line_breaks():
    texts = ["ab\n", "cd", "ef", "\n\n", "gh"]
    pieces = list(lines_around(texts, center=2))
    assert pieces == [(0, 0, "ab", 0), (1, 0, "cd", 1), (1, 2, "ef", 2)]
    assert list(lines_around(texts, center=4)) == [(0, 0, "cd", 1), (0, 2, "ef", 2), (2, 0, "gh", 4)]
    assert list(lines_around(texts, center=0)) == [(0, 0, "ab↵", 0), *pieces[1:]]
    shown = [(0, 0, "ab", 0), (1, 0, "cd", 1), (1, 2, "ef", 2), (1, 4, "↵", 3), (2, 0, "↵", 3)]
    assert list(lines_around(texts, center=3)) == shown, "a line's end that is asked for can be seen"


def test_long_lines_are_broken():
    pieces = list(lines_around(["abcde", "fgh"], center=1, lines=3, columns=3))
    assert pieces == [(0, 0, "abc", 0), (1, 0, "de", 0), (1, 2, "f", 1), (2, 0, "gh", 1)]


def test_far_away_tokens_are_not_looked_at():
    texts = ["x"] * 100_000
    pieces = list(lines_around(texts, center=50_000))
    assert len(pieces) == 3 * COLUMNS and any(token == 50_000 for *_, token in pieces)


def test_letters_without_a_picture_are_dots():
    assert printable("a\x00\u4e00é\tb\r\n") == "a··é    b\n"


def test_places_show_density_marks_and_coloured_tokens():
    t = torch.linspace(0, 1, 11)
    texts, shades = ["one ", "two ", "$three$"], np.array([0.0, 0.5, 1.0])
    excerpts = [Excerpt("first", texts, 1, shades), Excerpt("second", texts, 2, shades)]
    figure = draw_places((t, 1 + t), {"a": 0.25}, torch.tensor([0.0, 0.4, 1.0]), excerpts)
    assert draw_places((t, 1 + t), {"a": 0.25}, torch.tensor([0.0, 0.4, 1.0]), excerpts, figure=figure) is figure
    density, text = figure.axes
    (mark,) = density.lines
    assert list(mark.get_xdata()) == [0.25, 0.25] and mark.get_ydata()[1] == pytest.approx(1.25)
    assert density.texts[0].get_text() == "a"
    assert [part.get_text() for part in text.texts] == ["first", "one two $three$", "second", "one two $three$"]
    (boxes,) = (part for part in text.collections if isinstance(part, PolyCollection))
    assert len(boxes.get_paths()) == 6
    np.testing.assert_allclose(boxes.get_facecolors()[:, 3], 0.6 * np.array([0, 0.5, 1, 0, 0.5, 1]))
    assert [color[3] for color in boxes.get_edgecolors()] == [0, 1, 0, 0, 0, 1]
    last = boxes.get_paths()[2].vertices
    assert (last[:, 0].min(), last[:, 0].max()) == (8, 15)


def test_boxes_meet_letters():
    """A letter is as wide on the screen as a column of the axes."""
    text = "m" * COLUMNS
    figure = draw_places(
        (torch.linspace(0, 1, 3), torch.ones(3)), {}, torch.tensor([0.0, 1.0]), [Excerpt("all", [text], 0, np.ones(1))]
    )
    figure.canvas.draw()
    (_, line) = figure.axes[1].texts
    assert line.get_window_extent().width == pytest.approx(LETTER_PIXELS * COLUMNS, abs=2)
    assert figure.axes[1].get_window_extent().width == pytest.approx(LETTER_PIXELS * COLUMNS, abs=0.01)
