import numpy as np
import torch
from numpy.testing import assert_allclose

from infmem.plots.attention import (
    draw_gaussian_reads,
    draw_heads,
    draw_list_and_line,
    draw_reading_map,
    draw_regularizer,
)


def test_a_list_of_tokens_and_a_line_stand_side_by_side(normal):
    positions, x, weights = torch.linspace(0, 1, 7), normal(7), torch.softmax(normal(7), 0)
    t, signal, density = torch.linspace(-0.3, 1.2, 11), normal(11), torch.rand(11)
    tokens, line, bars, curve = draw_list_and_line(positions, x, weights, t, signal, density).axes
    assert_allclose(tokens.lines[0].get_xydata(), torch.stack([positions, x], dim=-1))
    assert_allclose([bar.get_height() for bar in bars.patches if bar.get_width() < 0.1], weights)
    assert_allclose(line.lines[0].get_xydata(), torch.stack([t, signal], dim=-1))
    assert_allclose(curve.lines[0].get_ydata(), density)
    assert tokens.get_ylim() == line.get_ylim() and curve.get_ylim()[1] > density.max()


def test_readings_stand_at_the_mean_of_their_density(normal):
    t, signal, densities = torch.linspace(-0.5, 1.5, 11), normal(11, 3), torch.rand(11, 2)
    mu, values = torch.tensor([0.3, 0.8]), normal(2, 3)
    figure = draw_gaussian_reads(t, signal, densities, mu, values, names=("a", "b", "c"))
    above, below = figure.axes
    curves, markers = above.lines[:3], above.lines[3:]
    for component, curve in enumerate(curves):
        assert_allclose(curve.get_ydata(), signal[:, component])
        assert curve.get_label() == "abc"[component]
    points = [(float(mu[density]), float(values[density, component])) for density in range(2) for component in range(3)]
    assert_allclose([marker.get_xydata()[0] for marker in markers], points)
    for density, curve in enumerate(below.lines):
        assert_allclose(curve.get_ydata(), densities[:, density])


def test_the_map_holds_every_reading_and_every_path(normal):
    mu, sigmas, values = torch.linspace(0, 1, 5), torch.tensor([0.01, 0.1, 1.0]), normal(3, 5)
    path = torch.tensor([[0.3, 0.1], [0.4, 0.2], [0.6, 0.05]])
    axes, bar = draw_reading_map(mu, sigmas, values, [path], label="height").axes
    assert_allclose(np.asarray(axes.collections[0].get_array()).reshape(3, 5), values)
    assert_allclose(axes.lines[0].get_xydata(), path)
    assert_allclose(axes.lines[1].get_xydata()[0], path[0])
    assert_allclose(axes.lines[2].get_xydata()[0], path[-1])
    assert bar.get_ylabel() == "height"


def test_the_regularizer_is_drawn_over_the_width():
    sigmas, divergence = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.0, 0.8, 2.0])
    (axes,) = draw_regularizer(sigmas, divergence, sigma_0=0.1).axes
    assert_allclose(axes.lines[0].get_xydata(), torch.stack([sigmas, divergence], dim=-1))
    assert set(axes.lines[1].get_xdata()) == {0.1}


def test_the_chosen_head_is_bold_and_densities_are_normal(normal):
    t, agreement = torch.linspace(-0.1, 1.1, 11, dtype=torch.float64), normal(3, 11)
    mu, sigma_sq = torch.tensor([0.2, 0.5, 0.7]).double(), torch.tensor([0.01, 0.09, 0.5]).double()
    above, below = draw_heads(t, agreement, mu, sigma_sq, sigma_0=0.3, chosen=2).axes
    for head in range(3):
        assert_allclose(above.lines[head].get_ydata(), agreement[head])
        expected = torch.distributions.Normal(mu[head], sigma_sq[head].sqrt()).log_prob(t).exp()
        assert_allclose(below.lines[head].get_ydata(), expected)
    assert [line.get_linewidth() == 3 for line in below.lines] == [False, False, True]
    pulled_to = torch.distributions.Normal(0.7, 0.3).log_prob(t).exp()
    (filled,) = (part for part in below.collections if part.get_label() == "of width sigma_0")
    assert_allclose(filled.get_paths()[0].vertices[:, 1].max(), pulled_to.max())
