"""The pictures of the microscope hold what they were given."""

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection

from infmem.plots.microscope import (
    draw_densities,
    draw_microscope,
    draw_retention,
    draw_symbols,
    draw_token_weights,
    mean_density,
)

EDGES = torch.tensor([0.0, 0.2, 0.7, 1.0], dtype=torch.float64)


def inner_edges(axes):
    """Places of the vertical lines between writes."""
    lines = next(each for each in axes.collections if isinstance(each, LineCollection))
    return [segment[0, 0] for segment in lines.get_segments()]


def test_densities_are_means_over_queries(uniform):
    densities = {"a": (uniform(3, 5), 0.01 + 0.1 * uniform(3, 5)), "b": (uniform(2, 7), 0.01 + 0.1 * uniform(2, 7))}
    edges = {"a": EDGES, "b": torch.tensor([0.0, 0.5, 1.0])}
    panels = draw_densities(densities, edges).axes
    for axes, (name, (mu, sigma_sq)) in zip(panels, densities.items(), strict=True):
        assert axes.get_title() == name and axes.get_ylim()[0] == 0
        assert [line.get_label() for line in axes.lines] == [f"head {head}" for head in range(1, len(mu) + 1)]
        for head, line in enumerate(axes.lines):
            normal = torch.distributions.Normal(mu[head], sigma_sq[head].sqrt())
            expected = normal.log_prob(torch.as_tensor(line.get_xdata())[:, None]).exp().mean(-1)
            np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)
        assert inner_edges(axes) == edges[name][1:-1].tolist()
    assert [axes.get_legend() is not None for axes in panels] == [False, True]


def test_mean_density_of_one_is_its_density():
    t, density = mean_density(torch.tensor([0.3]), torch.tensor([0.04]))
    assert density.max() == pytest.approx(1 / np.sqrt(2 * np.pi * 0.04), rel=1e-4)
    assert (t[0], t[-1]) == (-0.1, 1.1)


def test_symbols_share_their_colours_and_stand_upright(uniform):
    pictures = {
        name: {"decoded": factor * uniform(11, 7), "true": uniform(11, 7)} for name, factor in [("a", 1), ("b", 2)]
    }
    edges = {"a": EDGES, "b": torch.tensor([0.0, 0.5, 1.0])}
    *panels, bar = draw_symbols(pictures, edges).axes
    expected = [("a", "decoded"), ("b", "decoded"), ("a", "true"), ("b", "true")]
    for axes, (name, title) in zip(panels, expected, strict=True):
        (image,) = axes.images
        assert axes.get_title() == f"{name}: {title}"
        np.testing.assert_array_equal(image.get_array(), pictures[name][title].numpy().T)
        assert image.get_clim() == (0, pytest.approx(float(pictures["b"]["decoded"].max())))
        assert image.origin == "lower"
        assert image.get_extent()[:2] == pytest.approx((-0.05, 1.05))  # pixels are centred on t = 0 and t = 1
        assert inner_edges(axes) == edges[name][1:-1].tolist()
    assert bar.get_ylabel() == "share"


def test_retention_counts_segments_from_1(uniform):
    retained = {"scaled": uniform(5), "fixed": uniform(5)}
    (axes,) = draw_retention(retained).axes
    for line, (name, values) in zip(axes.lines, retained.items(), strict=True):
        assert line.get_label() == name and list(line.get_xdata()) == [1, 2, 3, 4, 5]
        np.testing.assert_array_equal(line.get_ydata(), values)


def test_token_weights_are_multiples_of_the_even_weight(uniform):
    weights = {"head 1": uniform(13), "head 2": 5 * uniform(13)}
    (axes,) = draw_token_weights(weights, segment_length=3).axes
    for line, (name, values) in zip(axes.lines, weights.items(), strict=False):
        assert line.get_label() == name and list(line.get_xdata()) == list(range(1, 14))
        np.testing.assert_allclose(line.get_ydata(), 13 * values / values.sum())
        assert np.mean(line.get_ydata()) == pytest.approx(1)
    assert axes.lines[2].get_label() == "even: counting"


@pytest.mark.parametrize("num_segments", [1, 2, 3, 5, 11])
def test_ticks_stand_at_ends_of_segments(num_segments):
    (axes,) = draw_token_weights({"even": torch.ones(32 * num_segments)}, segment_length=32).axes
    ticks = axes.get_xticks()
    assert 2 <= len(ticks) <= 8 and all(tick % 32 == 0 for tick in ticks)


def test_microscope_shows_all_its_parts_and_can_be_drawn_again(uniform):
    pictures = {"decoded": uniform(11, 7), "true": uniform(11, 7)}
    density = uniform(3), 0.01 + uniform(3)
    figure = draw_microscope(density, pictures, torch.ones(6), EDGES, 2)
    weights = 1 + uniform(6)
    assert draw_microscope(density, pictures, weights, EDGES, 2, figure=figure) is figure
    head, first, second, _, tokens = figure.axes
    np.testing.assert_allclose(head.lines[0].get_ydata(), mean_density(*density)[1])
    for axes, shares in zip((first, second), pictures.values(), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), shares.numpy().T)
    np.testing.assert_allclose(tokens.lines[0].get_ydata(), 6 * weights / weights.sum())
