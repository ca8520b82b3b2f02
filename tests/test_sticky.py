"""Sticky memories: the histogram against quadrature, the locations against bisection and against their distribution."""

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from infmem.sticky import attention_histogram, provenance, sample_locations

METHODS = ["stratified", "iid", "left_edge"]
# Empty bins at both ends and in the middle: nothing may ever be drawn from them.
HOLLOW = torch.tensor([[0, 0.1, 0.25, 0, 0, 0.05, 0.6, 0], [0.5, 0, 0, 0, 0, 0, 0, 0.5]], dtype=torch.float64)


def cdf(probabilities: torch.Tensor, t: torch.Tensor) -> np.ndarray:
    """The distribution function of one histogram, at every t."""
    return np.interp(t, np.linspace(0, 1, len(probabilities) + 1), np.append(0, np.cumsum(probabilities.numpy())))


# --- the histogram ----------------------------------------------------------------------------------------------------


def test_histogram_is_an_integral_over_every_bin(uniform):
    mu, sigma_sq = uniform(2, 3, 5), (0.01 + uniform(2, 3, 5)) ** 2
    histogram = attention_histogram(mu, sigma_sq, 19)
    assert histogram.shape == (2, 19)
    assert_allclose(histogram, oracles.histogram_by_quadrature(mu.numpy(), sigma_sq.numpy(), 19), rtol=1e-10)
    assert_allclose(histogram.sum(-1), 1, rtol=1e-14)


@given(mu=st.floats(0, 1), sigma=st.floats(1e-3, 2), num_bins=st.integers(1, 40))
def test_histogram_is_a_distribution_around_mu(mu, sigma, num_bins):
    one = torch.full((1, 1, 1), mu, dtype=torch.float64)
    histogram = attention_histogram(one, torch.full_like(one, sigma**2), num_bins)[0]
    assert histogram.min() >= 0
    assert_allclose(histogram.sum(), 1, rtol=1e-12)
    mirrored = attention_histogram(1 - one, torch.full_like(one, sigma**2), num_bins)[0]
    assert_allclose(mirrored, histogram.flip(0), rtol=1e-6, atol=1e-12)
    assert histogram[min(int(mu * num_bins), num_bins - 1)] >= histogram.max() - 1e-9


def test_heads_and_queries_count_alike(uniform):
    mu, sigma_sq = uniform(2, 3, 5), 0.01 + uniform(2, 3, 5)
    flat = attention_histogram(mu.reshape(2, 1, 15).flip(-1), sigma_sq.reshape(2, 1, 15).flip(-1), 19)
    assert_allclose(attention_histogram(mu, sigma_sq, 19), flat, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_without_mass_inside_is_even(dtype):
    mu = torch.tensor([50.0, -50.0], dtype=dtype).reshape(2, 1, 1)
    histogram = attention_histogram(mu, torch.full_like(mu, 1e-3), 19)
    assert histogram.dtype == dtype
    assert_allclose(histogram, 1 / 19, rtol=1e-6)


def test_gradients(uniform):
    mu, sigma_sq = uniform(2, 3, 2).requires_grad_(), (0.01 + uniform(2, 3, 2)).requires_grad_()
    assert gradcheck(lambda mu, sigma_sq: attention_histogram(mu, sigma_sq, 7), (mu, sigma_sq))


# --- locations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_locations_are_the_inverse_of_the_distribution_function(generator, method):
    seed = generator.get_state()
    locations = sample_locations(HOLLOW, 13, generator, method)
    u = torch.rand(2, 13, generator=generator.set_state(seed), dtype=torch.float64).numpy()
    u = (np.arange(13) + u) / 13 if method == "stratified" else np.sort(u)
    for row in range(2):
        expected = np.array([oracles.inverse_cdf_by_bisection(HOLLOW[row].tolist(), value) for value in u[row]])
        if method == "left_edge":
            expected = np.floor(8 * expected) / 8
        assert_allclose(locations[row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_locations_are_sorted_and_never_from_an_empty_bin(generator, method):
    for _ in range(20):
        locations = sample_locations(HOLLOW, 29, generator, method)
        assert (locations.diff(dim=-1) >= 0).all() and ((locations >= 0) & (locations <= 1)).all()
        for row, points in enumerate(locations):
            assert HOLLOW[row, (8 * points).long()].min() > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("extreme", [0.0, 1 - 2**-53])
def test_the_extreme_random_numbers_are_not_from_an_empty_bin_either(monkeypatch, method, extreme):
    monkeypatch.setattr(torch, "rand", lambda shape, **kwargs: torch.full(shape, extreme, dtype=torch.float64))
    for row, point in enumerate(sample_locations(HOLLOW, 1, method=method).flatten().tolist()):
        filled = HOLLOW[row].nonzero().flatten() / 8
        edge = filled[0] if extreme == 0 else filled[-1]
        assert edge <= point <= edge + 1 / 8


def test_one_stratified_location_from_every_share_of_the_probability(generator):
    for row, points in enumerate(sample_locations(HOLLOW, 29, generator)):
        assert np.floor(29 * cdf(HOLLOW[row], points)).tolist() == list(range(29))


@pytest.mark.parametrize("method", METHODS)
def test_locations_follow_the_histogram(generator, uniform, method):
    probabilities = uniform(1, 19)
    probabilities /= probabilities.sum()
    count = 40_000
    points = sample_locations(probabilities, count, generator, method)[0].numpy() + 1e-6
    shares = np.histogram(points, np.linspace(0, 1, 20))[0] / count
    expected = probabilities[0].numpy()
    noise = 0.0 if method == "stratified" else 4.5 * np.sqrt(expected / count)
    assert (np.abs(shares - expected) <= noise + 2 / count).all()  # stratified: at most one more or less at each edge
    within = 19 * points % 1
    if method == "left_edge":
        assert within.max() < 1e-4
    else:  # straight within each bin: the numbers inside the bins are even
        assert_allclose(np.histogram(within, 10, (0, 1))[0] / count, 0.1, atol=0.01)


def test_stratified_locations_have_far_less_noise(generator):
    even = torch.full((500, 8), 1 / 8, dtype=torch.float64)
    variances = {m: sample_locations(even, 64, generator, m).mean(-1).var().item() for m in METHODS}
    assert variances["iid"] == pytest.approx(1 / 12 / 64, rel=0.3)
    assert variances["left_edge"] == pytest.approx((1 - 1 / 64) / 12 / 64, rel=0.3)
    assert variances["stratified"] == pytest.approx(1 / 12 / 64**3, rel=0.3)


def test_left_edges(generator):
    points = sample_locations(HOLLOW, 29, generator, "left_edge")
    assert set(points[0].tolist()) == {1 / 8, 2 / 8, 5 / 8, 6 / 8}
    assert set(points[1].tolist()) == {0.0, 7 / 8}


def test_left_edges_are_exact_in_float64(generator):
    points = sample_locations(torch.full((1, 19), 1 / 19, dtype=torch.float64), 500, generator, "left_edge")[0]
    assert set(points.tolist()) == {k / 19 for k in range(19)}


@pytest.mark.parametrize("method", METHODS)
def test_the_scale_of_the_rows_does_not_matter(generator, method):
    seed = generator.get_state()
    locations = sample_locations(HOLLOW, 13, generator, method)
    again = sample_locations(3 * HOLLOW, 13, generator.set_state(seed), method)
    assert_allclose(again, locations, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_drawn_apart_and_repeat_with_the_generator(generator, method):
    probabilities = torch.full((2, 64), 1 / 64)
    seed = generator.get_state()
    first = sample_locations(probabilities, 13, generator, method)
    assert first.dtype == torch.float32
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, sample_locations(probabilities, 13, generator, method))
    assert torch.equal(first, sample_locations(probabilities, 13, generator.set_state(seed), method))


def test_stratified_is_the_default(generator):
    seed = generator.get_state()
    default = sample_locations(HOLLOW, 13, generator)
    assert torch.equal(default, sample_locations(HOLLOW, 13, generator.set_state(seed), "stratified"))


# --- provenance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_provenance_names_the_bin_and_its_density(generator, method):
    locations = sample_locations(HOLLOW, 13, generator, method)
    bins, densities = provenance(locations, HOLLOW)
    for row, i in np.ndindex(2, 13):
        expected = next(k for k in range(8) if locations[row, i] < (k + 1) / 8)
        assert bins[row, i] == expected
        assert densities[row, i].item() == pytest.approx(HOLLOW[row, expected].item() * 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_provenance_of_left_edges(generator, dtype):
    num_bins = 100
    probabilities = torch.arange(2 * num_bins, dtype=dtype).reshape(2, num_bins) % 2  # only the odd bins
    locations = sample_locations(probabilities, 500, generator, "left_edge")
    assert (provenance(locations, probabilities).bin % 2 == 1)[0].all()


def test_provenance_at_the_ends():
    source = provenance(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.15, 0.6]]))
    assert source.bin.tolist() == [[0, 2]]
    assert_allclose(source.density, [[0.75, 1.8]], rtol=1e-6)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_counts_that_are_none():
    half = torch.full((2, 3, 5), 0.5)
    with pytest.raises(ValueError, match=r"num_bins must be at least 1, got 0"):
        attention_histogram(half, half, 0)
    with pytest.raises(ValueError, match=r"num_samples must be at least 1, got 0"):
        sample_locations(HOLLOW, 0)


def test_a_generator_of_another_device(generator):
    with pytest.raises(ValueError, match=r"generator must be on the device of the probabilities \(meta\), got .* cpu"):
        sample_locations(HOLLOW.to("meta"), 13, generator)


def test_an_unknown_method(without_type_checker):
    with pytest.raises(ValueError, match=r"method must be 'stratified', 'iid' or 'left_edge', got 'even'"):
        sample_locations(HOLLOW, 13, method="even")


def test_tensors_that_do_not_fit():
    half = torch.full((2, 3, 5), 0.5)
    with pytest.raises(ValueError, match=r"attention_histogram: sigma_sq must have the axes .* query_pos = 5"):
        attention_histogram(half, half[..., :2], 19)
    with pytest.raises(ValueError, match=r"attention_histogram: mu must have the axes .*, got 2 axes"):
        attention_histogram(half[0], half, 19)
    with pytest.raises(
        ValueError, match=r"attention_histogram: all tensors must be on one device, got sigma_sq on meta"
    ):
        attention_histogram(half, half.to("meta"), 19)
    with pytest.raises(ValueError, match=r"sample_locations: probabilities must be a tensor of type float"):
        sample_locations(torch.ones(2, 19, dtype=torch.long), 13)
    with pytest.raises(ValueError, match=r'sample_locations: probabilities must have the axes "batch bin"'):
        sample_locations(torch.ones(19), 13)
    with pytest.raises(ValueError, match=r"provenance: probabilities must have the axes .* batch = 2, got batch = 3"):
        provenance(torch.zeros(2, 13), torch.ones(3, 19))


@pytest.mark.parametrize("method", ["stratified", "iid", "left_edge"])
def test_a_row_without_attention_is_sampled_evenly(method, generator):
    t = sample_locations(torch.zeros(2, 19, dtype=torch.float64), 1300, generator, method)
    counts = torch.stack([torch.bincount((row * 19 + 1e-9).long(), minlength=19) for row in t])
    assert counts.min() > 30 and counts.max() < 120
