"""Gaussian basis functions against numerical integration."""

import math

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from infmem.basis import GaussianBasis, gaussian_density, gaussian_mass

WIDTHS = (0.03, 0.11)


def float64(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# --- densities and masses ---------------------------------------------------------------------------------------------


def test_density_is_the_bell_curve(normal):
    t, mean, sigma = normal(5, 1), normal(7), normal(7).exp()
    expected = oracles.basis_values(t.squeeze(-1), mean.numpy(), sigma.numpy())
    assert_allclose(gaussian_density(t, mean, sigma**2), expected, rtol=1e-12)


@pytest.mark.parametrize("limits", [(0.0, 1.0), (-0.7, 0.2), (-math.inf, 0.1), (0.3, math.inf), (0.4, 0.4)])
def test_mass_is_the_integral_of_the_density(limits):
    mean, sigma = float64(-0.3, 0.0, 0.45, 1.0, 1.2), float64(0.2, 0.01, 0.9, 0.05, 0.3)
    expected = [oracles.gaussian_mass(*pair, *limits) for pair in zip(mean.numpy(), sigma.numpy(), strict=True)]
    assert_allclose(gaussian_mass(mean, sigma**2, *limits), expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("sign", [-1, 1])
def test_mass_keeps_its_digits_in_both_tails(sign):
    near, far = float64(6, 9, 14), float64(6.5, 10, 15)
    low, high = (near, far) if sign > 0 else (-far, -near)
    expected = [oracles.gaussian_mass(0.0, 1.0, *pair) for pair in zip(low.numpy(), high.numpy(), strict=True)]
    assert_allclose(gaussian_mass(float64(0), float64(1), low, high), expected, rtol=1e-10)


def test_gradients_of_density_and_mass(normal):
    t, mean, variance = normal(5).requires_grad_(), normal(5).requires_grad_(), normal(5).exp().requires_grad_()
    upper = (t.detach() + normal(5).exp()).requires_grad_()
    assert gradcheck(gaussian_density, (t, mean, variance))
    assert gradcheck(gaussian_mass, (mean, variance, t, upper))


# --- the grid ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_basis", "sigmas"), [(14, WIDTHS), (7, (0.2,)), (15, (0.3, 0.1, 0.2)), (2, (0.1,))])
def test_grid_has_every_width_at_every_centre(num_basis, sigmas):
    basis = GaussianBasis.grid(num_basis, sigmas, dtype=torch.float64)
    centers, widths = oracles.basis_grid(num_basis, sigmas)
    assert_allclose(basis.centers, centers, rtol=0, atol=1e-15)
    assert_allclose(basis.sigmas, widths, rtol=0)
    assert basis.num_basis == num_basis


def test_a_single_centre_sits_in_the_middle():
    basis = GaussianBasis.grid(2, WIDTHS)
    assert basis.centers.tolist() == [0.5, 0.5]
    assert basis.sigmas.tolist() == pytest.approx(WIDTHS)


def test_types_and_devices():
    basis = GaussianBasis.grid(14, WIDTHS)
    assert basis.centers.dtype == basis.sigmas.dtype == torch.float32
    wide = basis.to(torch.float64)
    assert wide.centers.dtype == wide.sigmas.dtype == torch.float64
    abstract = GaussianBasis.grid(14, WIDTHS, device="meta", dtype=torch.float64)
    assert abstract.centers.device.type == abstract.sigmas.device.type == "meta"
    assert abstract.centers.dtype == abstract.sigmas.dtype == torch.float64
    with pytest.raises(AttributeError):
        basis.centers = torch.zeros(14)


# --- values, expectations, integrals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 5)])
def test_values(uneven_basis, uniform, shape):
    t = 2 * uniform(*shape) - 0.5
    expected = oracles.basis_values(t, uneven_basis.centers.numpy(), uneven_basis.sigmas.numpy())
    assert_allclose(uneven_basis.evaluate(t), expected, rtol=1e-12)


def test_values_in_float32(uneven_basis, uniform):
    t = uniform(17)
    narrow = uneven_basis.to(torch.float32).evaluate(t.float())
    assert narrow.dtype == torch.float32
    assert_allclose(narrow, uneven_basis.evaluate(t), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("unit_interval", [False, True])
@given(mu=st.floats(0, 1), sigma=st.floats(1e-3, 3))
def test_expectation_is_an_integral(uneven_basis, unit_interval, mu, sigma):
    centers, sigmas = uneven_basis.centers.numpy(), uneven_basis.sigmas.numpy()
    expected = oracles.expectation_by_quadrature(mu, sigma**2, centers, sigmas, unit_interval)
    read = uneven_basis.expectation(*float64(mu, sigma**2), unit_interval=unit_interval)
    assert_allclose(read, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("unit_interval", [False, True])
def test_expectation_keeps_the_axes(uneven_basis, uniform, unit_interval):
    mu, sigma_sq = uniform(2, 3, 5), uniform(2, 3, 5)
    read = uneven_basis.expectation(mu, sigma_sq, unit_interval=unit_interval)
    assert read.shape == (2, 3, 5, 7)
    one = uneven_basis.expectation(mu[1, 2, 4], sigma_sq[1, 2, 4], unit_interval=unit_interval)
    assert_allclose(read[1, 2, 4], one, rtol=1e-14)


@pytest.mark.parametrize("unit_interval", [False, True])
def test_a_density_without_width_reads_one_point(uneven_basis, uniform, unit_interval):
    mu = 0.1 + 0.8 * uniform(5)
    read = uneven_basis.expectation(mu, torch.full_like(mu, 1e-12), unit_interval=unit_interval)
    assert_allclose(read, uneven_basis.evaluate(mu), rtol=1e-7, atol=1e-12)


def test_a_density_without_limits_reads_the_mean_of_the_unit_interval(uneven_basis, uniform):
    mu = uniform(5)
    read = uneven_basis.expectation(mu, torch.full_like(mu, 1e6), unit_interval=True)
    assert_allclose(read, uneven_basis.integrals().expand(5, 7), rtol=1e-5)


def test_integrals(uneven_basis):
    pairs = zip(uneven_basis.centers.numpy(), uneven_basis.sigmas.numpy(), strict=True)
    expected = [oracles.gaussian_mass(center, sigma, 0.0, 1.0) for center, sigma in pairs]
    assert_allclose(uneven_basis.integrals(), expected, rtol=1e-11)


def test_inner_products(uneven_basis):
    functions = list(zip(uneven_basis.centers.numpy(), uneven_basis.sigmas.numpy(), strict=True))
    expected = [[oracles.gaussian_overlap(*one, *other, 0.0, 1.0) for other in functions] for one in functions]
    assert_allclose(uneven_basis.inner_products(), np.array(expected), rtol=1e-9, atol=1e-15)


def test_inner_products_with_another_basis(uneven_basis):
    other = [(0.2, 0.03), (0.9, 0.4)]
    functions = list(zip(uneven_basis.centers.numpy(), uneven_basis.sigmas.numpy(), strict=True))
    expected = [[oracles.gaussian_overlap(*mine, *theirs, 0.0, 1.0) for theirs in other] for mine in functions]
    products = uneven_basis.inner_products(GaussianBasis(float64(0.2, 0.9), float64(0.03, 0.4)))
    assert_allclose(products, np.array(expected), rtol=1e-9, atol=1e-15)


def test_a_stretched_basis_is_the_basis_seen_through_a_lens(uneven_basis, uniform):
    t = uniform(5, 3)
    assert_allclose(uneven_basis.stretched(0.7).evaluate(t), 0.7 * uneven_basis.evaluate(0.7 * t), rtol=1e-12)
    with pytest.raises(ValueError, match=r"tau must be > 0, got 0"):
        uneven_basis.stretched(0.0)


@pytest.mark.parametrize(
    ("centers", "regions"),
    [
        ((0.05, 0.2, 0.4, 0.6, 0.9), (1, 3, 1)),
        ((0.2, 0.4), (0, 2, 0)),
        ((0.9, 0.5, 0.05), (3, 0, 0)),  # in another order nothing is spared
        ((0.5, -2.0, 0.5, 0.5), (2, 2, 0)),
        ((0.5, 1.02, 0.5), (0, 1, 2)),
    ],
)
def test_only_functions_near_an_end_lose_mass(centers, regions):
    basis = GaussianBasis(float64(*centers), torch.full((len(centers),), 0.02, dtype=torch.float64))
    assert basis.regions == regions
    mu, sigma_sq = float64(0.02, 0.3, 0.999), float64(0.5, 1e-4, 0.01)
    expected = oracles.expectation_by_quadrature(
        mu.numpy(), sigma_sq.numpy(), basis.centers.numpy(), basis.sigmas.numpy(), unit_interval=True
    )
    assert_allclose(basis.expectation(mu, sigma_sq, unit_interval=True), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("unit_interval", [False, True])
def test_gradients_of_values_and_expectations(uneven_basis, uniform, unit_interval):
    mu, sigma_sq = uniform(2, 3).requires_grad_(), (0.01 + uniform(2, 3)).requires_grad_()
    assert gradcheck(uneven_basis.evaluate, (mu,))
    assert gradcheck(lambda m, s: uneven_basis.expectation(m, s, unit_interval=unit_interval), (mu, sigma_sq))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_basis", "sigmas", "message"),
    [
        (0, WIDTHS, "num_basis must be a positive multiple"),
        (-2, WIDTHS, "num_basis must be a positive multiple"),
        (7, WIDTHS, r"multiple of the number of widths \(2\), got 7"),
        (7, (), "at least one width"),
        (14, (0.1, 0.0), "every width in sigmas must be > 0, got 0.0"),
        (14, (-0.1, 0.1), "every width in sigmas must be > 0, got -0.1"),
        (7, (math.nan,), "got nan"),
        (7, (math.inf,), "got inf"),
    ],
)
def test_a_grid_that_cannot_be(num_basis, sigmas, message):
    with pytest.raises(ValueError, match=message):
        GaussianBasis.grid(num_basis, sigmas)


@pytest.mark.parametrize(
    ("centers", "sigmas"),
    [((), ()), ((0.0, 1.0), (0.1, 0.1, 0.1)), ((0.0, 1.0), (0.1, 0.0)), ((0.0, 1.0), (0.1, -0.1))],
)
def test_functions_that_cannot_be(without_type_checker, centers, sigmas):
    with pytest.raises(ValueError, match=r"centers|sigmas|width"):
        GaussianBasis(float64(*centers), float64(*sigmas))


def test_tensors_that_do_not_fit(uneven_basis):
    with pytest.raises(ValueError, match=r"sigma_sq must have the axes .* got \*shape = \(3,\)"):
        uneven_basis.expectation(torch.ones(5), torch.ones(3))
    with pytest.raises(ValueError, match=r"t must be a tensor of type float"):
        uneven_basis.evaluate(torch.arange(5))
    with pytest.raises(ValueError, match=r"sigma_sq on meta"):
        uneven_basis.expectation(torch.ones(5), torch.ones(5, device="meta"))
    with pytest.raises(ValueError, match=r"variance must be a tensor"):
        gaussian_density(torch.ones(5), torch.ones(5), 1.0)
    with pytest.raises(ValueError, match=r"upper must be a tensor of type float"):
        gaussian_mass(torch.ones(5), torch.ones(5), 0.0, torch.ones(5, dtype=torch.long))
