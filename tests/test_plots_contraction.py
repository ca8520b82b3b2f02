import matplotlib.colors
import numpy as np
import torch
from numpy.testing import assert_allclose

from infmem.plots import (
    draw_forgetting,
    draw_powers,
    draw_read_back,
    draw_room,
    draw_token_map,
    draw_written,
)
from infmem.plots.style import COLORMAP


def random(*sizes: int) -> torch.Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def stairs(num_updates: int, num_positions: int) -> torch.Tensor:
    """Row k holds segments 1 to k + 1, each on an equal share of the positions."""
    t = (torch.arange(num_positions, dtype=torch.float64) + 0.5) / num_positions
    return torch.stack([(t * (row + 1)).ceil() for row in range(num_updates + 1)])


def test_room_is_an_image_of_the_segments_with_a_named_scale():
    figure = draw_room(stairs(6, 13))
    axes, bar = figure.axes
    (image,) = axes.images
    assert_allclose(image.get_array(), stairs(6, 13))
    assert image.get_cmap().name == COLORMAP
    assert (image.norm.vmin, image.norm.vmax) == (1, 7)
    assert image.get_extent() == [0, 1, 6.5, -0.5]
    assert bar.get_ylabel() == "segment"
    assert (axes.get_xlabel()[:10], axes.get_ylabel()) == ("position t", "updates")


def test_room_before_any_update_is_one_row():
    (image,) = draw_room(torch.ones(1, 5)).axes[0].images
    assert image.get_array().shape == (1, 5)
    assert image.norm.vmax > image.norm.vmin


def test_what_was_written_and_what_is_remembered_are_cut_by_segment():
    segments, t = stairs(2, 23), (torch.arange(23, dtype=torch.float64) + 0.5) / 23
    tokens, signal = random(3 * 7), random(23)
    above, middle, below, _ = draw_written(tokens, t, signal, segments, room=0.31).axes
    assert len(above.lines) == len(middle.lines) == 3
    for number, (written, remembered) in enumerate(zip(above.lines, middle.lines, strict=True)):
        assert_allclose(written.get_xdata(), np.arange(7 * number, 7 * number + 7) + 1)
        assert_allclose(written.get_ydata(), tokens[7 * number : 7 * number + 7])
        here = segments[-1] == number + 1
        assert_allclose(remembered.get_xdata(), t[here])
        assert_allclose(remembered.get_ydata(), signal[here])
        assert matplotlib.colors.same_color(written.get_color(), remembered.get_color())
    assert above.get_ylim() == middle.get_ylim()
    (shaded,) = middle.patches
    assert_allclose([shaded.get_x(), shaded.get_width()], [0, 0.31])
    (image,) = below.images
    assert_allclose(image.get_array(), segments)


def test_token_map_has_a_line_for_each_name():
    t, lines = torch.linspace(0, 1, 11), {"plain": random(11).abs(), "sticky": random(2, 11)[1].abs()}
    (axes,) = draw_token_map(t, lines).axes
    assert [line.get_label() for line in axes.lines] == list(lines)
    for line, numbers in zip(axes.lines, lines.values(), strict=True):
        assert_allclose(line.get_xdata(), t)
        assert_allclose(line.get_ydata(), numbers)
    assert len({line.get_linestyle() for line in axes.lines}) == 2


def test_read_back_stands_beside_what_was_written():
    written = {"ones": torch.ones(7, dtype=torch.float64), "noise": random(7)}
    remembered = {"ones": random(3, 7), "noise": random(6, 7)[3:]}
    figure = draw_read_back(written, remembered, ages=[1, 4, 9])
    panels = np.array(figure.axes[:6]).reshape(2, 3)
    assert [axes.get_title() for axes in panels[0]] == ["after 1 update", "after 4 updates", "after 9 updates"]
    assert [axes.get_ylabel() for axes in panels[:, 0]] == ["ones", "noise"]
    for row, name in zip(panels, written, strict=True):
        for axes, values in zip(row, remembered[name], strict=True):
            tokens, read = axes.lines
            assert_allclose(tokens.get_ydata(), written[name])
            assert_allclose(read.get_ydata(), values)
            assert_allclose(read.get_xdata(), np.arange(1, 8) / 7)
            assert axes.get_ylim()[0] <= 0 <= axes.get_ylim()[1]


def test_forgetting_shows_mass_energy_and_the_radius_s_powers():
    mass, energy = random(11).abs(), random(13)[2:].abs()
    (axes,) = draw_forgetting(mass, energy, 0.7).axes
    curves = {line.get_label(): line for line in axes.lines}
    assert_allclose(curves["mass"].get_ydata(), mass)
    assert_allclose(curves["energy"].get_ydata(), energy)
    assert_allclose(curves["powers of the spectral radius"].get_ydata(), 0.7 ** np.arange(11))
    (axes,) = draw_forgetting(mass, energy).axes
    assert "powers of the spectral radius" not in {line.get_label() for line in axes.lines}


def test_powers_are_logarithmic():
    norms = random(7).abs()
    (axes,) = draw_powers(norms, 0.3, "a norm").axes
    curves = {line.get_label(): line for line in axes.lines}
    assert_allclose(curves["a norm"].get_ydata(), norms)
    assert_allclose(curves["powers of the spectral radius"].get_ydata(), 0.3 ** np.arange(7))
    assert axes.get_yscale() == "log"


def test_a_figure_is_drawn_into_again():
    figure = draw_powers(torch.ones(3), 0.5, "norm")
    assert draw_room(stairs(1, 5), figure=figure) is figure
    assert len(figure.axes) == 2 and not figure.axes[0].lines
