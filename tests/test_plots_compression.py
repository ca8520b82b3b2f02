import numpy as np
import torch
from matplotlib.colors import to_hex

from infmem import plots
from infmem.plots.style import BLUE, GREEN, ORANGE, SKY

GONE = "#e0e0e0"


def cells_of(axes, row: float) -> list[tuple[float, float, str]]:
    """Start, end and colour of every cell in a row, from left to right."""
    cells = []
    for collection in axes.collections:
        color = to_hex(collection.get_facecolor()[0]).upper()
        for path in collection.get_paths():
            (low, bottom), (high, top) = path.vertices.min(0), path.vertices.max(0)
            if bottom < row < top:
                cells.append((float(low), float(high), color))
    return sorted(cells)


def cells(start: float, *parts: tuple[int, float, str]) -> list[tuple[float, float, str]]:
    """The same for `count` cells of a width and colour, one after another."""
    expected = []
    for count, width, color in parts:
        for _ in range(count):
            expected.append((float(start), float(start + width), color.upper()))
            start += width
    return expected


def test_every_token_lies_in_the_memory_that_it_is_in() -> None:
    (axes,) = plots.draw_two_memories([(0, 0, 3), (4, 4, 3)], segment=5, rate=2).axes
    assert cells_of(axes, 1) == cells(0, (3, 1, ORANGE), (5, 1, GREEN))
    expected = cells(0, (4, 1, GONE), (1, 2, BLUE), (1, 2, SKY), (3, 1, ORANGE), (5, 1, GREEN))
    assert cells_of(axes, 2) == expected
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(token) for token in range(1, 17)]
    names = [entry.get_text() for entry in axes.get_legend().get_texts()]
    assert names == ["gone", "compressed memory", "short-term memory", "the segment"]


def lines_of(axes) -> list[tuple[float, float]]:
    """Middle and height of each short line that gives something back."""
    segments = [segment for collection in axes.collections for segment in collection.get_segments()]
    return [(float(segment[:, 0].mean()), float(segment[0, 1])) for segment in segments]


def test_what_each_compression_gives_back_lies_over_its_tokens() -> None:
    signal = torch.rand(5, 3)
    given_back = {"one": torch.rand(5, 3), "two": torch.rand(5, 3)}
    given_back["two"][1:3] = torch.nan
    figure = plots.draw_given_back(signal, given_back)
    panels = np.array(figure.axes).reshape(3, 2)
    for column, (name, said) in zip(panels.T, given_back.items(), strict=True):
        assert column[0].get_title() == name
        for number, axes in enumerate(column):
            np.testing.assert_allclose(axes.lines[0].get_ydata(), signal[:, number])
            told = [(token + 1, said[token, number]) for token in range(5) if not said[token, number].isnan()]
            np.testing.assert_allclose(lines_of(axes), told, rtol=1e-6)
    assert [axes.get_ylabel() for axes in panels[:, 0]] == ["how often?", "was there?", "up or down?"]


def test_the_view_has_tokens_at_their_age_keys_in_a_row_and_what_is_given_back() -> None:
    signal, said = torch.rand(20, 3), torch.full((13, 3), torch.nan)
    said[4:10] = torch.rand(6, 3)
    top, *panels = plots.draw_compressed_view(signal, said, (4, 6, 3, 5), rate=2).axes
    compressed = [(1, 1, BLUE), (1, 1, BLUE), (1, 1, SKY), (1, 1, SKY), (1, 1, BLUE), (1, 1, BLUE)]
    assert cells_of(top, 1) == cells(0, (4, 1, GONE), *compressed, (3, 1, ORANGE), (5, 1, GREEN))
    assert cells_of(top, 0) == cells(7, (1, 1, BLUE), (1, 1, SKY), (1, 1, BLUE), (3, 1, ORANGE), (5, 1, GREEN))
    assert [list(line.get_xdata()) for line in top.lines] == [[4, 7], [10, 10]]
    for number, axes in enumerate(panels):
        np.testing.assert_allclose(axes.lines[0].get_ydata(), signal[:13, number])
        np.testing.assert_allclose(lines_of(axes), [(t + 0.5, said[t, number]) for t in range(4, 10)], rtol=1e-6)


def test_tokens_that_were_not_kept_are_gone() -> None:
    said = torch.full((6, 3), torch.nan)
    said[2], said[3] = 1, 1
    top = plots.draw_compressed_view(torch.rand(8, 3), said, (0, 4, 2, 2), rate=2).axes[0]
    assert cells_of(top, 1)[:4] == cells(0, (2, 1, GONE), (2, 1, SKY))


def test_errors_fall_on_the_left_and_weights_stand_on_the_right() -> None:
    errors = {"mean pool": [1.0, 1.0, 1.0], "learned": [1.0, 0.5, 0.2]}
    strengths = {"learned": [3.0, 1.0], "otherwise": [0.5, 2.0]}
    left, right = plots.draw_compression_learning(errors, strengths).axes
    assert {line.get_label(): line.get_ydata().tolist() for line in left.lines} == errors
    assert left.get_yscale() == "log"
    bars = {container.get_label(): [bar.get_height() for bar in container] for container in right.containers}
    assert bars == strengths
    middles = [[bar.get_x() + bar.get_width() / 2 for bar in container] for container in right.containers]
    np.testing.assert_allclose(np.mean(middles, axis=0), [1, 2])
    assert to_hex(right.patches[0].get_facecolor()) == to_hex(left.lines[1].get_color())  # a name has one colour
