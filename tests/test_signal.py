"""Tokens to a signal and back, against least squares and refits; resolution against the recorded numbers."""

import functools
import math

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from infmem.basis import GaussianBasis
from infmem.signal import (
    effective_degrees_of_freedom,
    fit,
    padding_positions,
    positions,
    read,
    regression_error,
    ridge_operator,
)

PADDING = torch.tensor([-0.4, -0.2, -0.05, 1.03, 1.17], dtype=torch.float64)


def design(basis: GaussianBasis, t: torch.Tensor) -> np.ndarray:
    """Psi, by the oracle."""
    return oracles.basis_values(t, basis.centers.numpy(), basis.sigmas.numpy())


def padding_rows(basis: GaussianBasis, padding: torch.Tensor | None) -> np.ndarray | None:
    return None if padding is None else design(basis, padding)


@functools.cache
def released(num_basis: int = 512) -> GaussianBasis:
    """The basis of the released sorting code."""
    return GaussianBasis.grid(num_basis, (0.01, 0.05), dtype=torch.float64)


# --- positions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 17])
def test_tokens_sit_at_the_ends_or_the_middles_of_equal_parts(length):
    edges = np.linspace(0, 1, length + 1)
    assert_allclose(positions(length), edges[1:], rtol=1e-14)
    assert_allclose(positions(length, "midpoints"), (edges[1:] + edges[:-1]) / 2, rtol=1e-14)
    assert positions(length).dtype == torch.float64
    assert positions(length, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("length", [1, 2, 3, 4, 16, 17])
def test_padding_continues_the_midpoints(length):
    everything = torch.cat([padding_positions(length), positions(length, "midpoints")]).sort().values
    num_points, shift = (2 * length, 1 / (2 * length)) if length % 2 == 0 else (2 * length - 1, 1 / length)
    assert_allclose(everything, np.linspace(-0.5 + shift, 1.5 - shift, num_points), rtol=1e-12, atol=1e-14)
    if length > 1:
        assert_allclose(everything.diff(), 1 / length, rtol=1e-12)
    assert padding_positions(length, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize(("num_samples", "length"), [(13, 17), (16, 17), (512, 1024)])
def test_padding_with_the_released_shift(num_samples, length):
    shift = 1 / (2 * length + num_samples)
    grid = [
        -0.5 + shift + i * (2 - 2 * shift) / (2 * (length + num_samples) - 1) for i in range(2 * (length + num_samples))
    ]
    outside = [t for t in grid if t < 0 or t > 1]
    padding = padding_positions(length + num_samples, shift=shift)
    assert_allclose(padding, outside, rtol=1e-12, atol=1e-14)
    assert_allclose(padding, 1 - padding.flip(0), rtol=1e-12, atol=1e-14)


# --- the ridge operator -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("padding", [None, PADDING])
def test_operator_is_least_squares(uneven_basis, uniform, ridge, padding):
    t = uniform(17)
    expected = oracles.ridge_operator_by_lstsq(design(uneven_basis, t), ridge, padding_rows(uneven_basis, padding))
    assert_allclose(ridge_operator(uneven_basis, t, ridge, padding), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("padding", [None, PADDING])
def test_operators_of_a_batch(uneven_basis, uniform, padding):
    t = uniform(2, 3, 17)
    operators = ridge_operator(uneven_basis, t, 0.5, padding)
    assert operators.shape == (2, 3, 17, 7)
    for index in np.ndindex(2, 3):
        assert_allclose(operators[index], ridge_operator(uneven_basis, t[index], 0.5, padding), rtol=1e-10, atol=1e-14)


def test_operator_is_solved_in_float64_whatever_comes(uniform):
    wide = GaussianBasis.grid(17, (0.2,), dtype=torch.float64)  # so wide that float32 could not tell them apart
    t, padding = uniform(29).float(), PADDING.float()
    operator = ridge_operator(wide.to(torch.float32), t, 1e-5, padding)
    wide = wide.to(torch.float32).to(torch.float64)
    exact = oracles.ridge_operator_by_lstsq(design(wide, t.double()), 1e-5, design(wide, padding.double()))
    assert operator.dtype == torch.float32
    assert_allclose(operator, exact, rtol=1e-5, atol=1e-5)


@given(weights=st.lists(st.floats(-3, 3), min_size=7, max_size=7), ridge=st.sampled_from([0.0, 1e-12]))
def test_without_a_ridge_any_signal_of_the_basis_comes_back(uneven_basis, weights, ridge):
    coefficients, t = torch.tensor(weights, dtype=torch.float64).reshape(1, 7, 1), positions(17)
    fitted = fit(read(coefficients, uneven_basis, t), ridge_operator(uneven_basis, t, ridge))
    assert_allclose(fitted, coefficients, rtol=0, atol=1e-8)


def test_an_endless_ridge_forgets(uneven_basis):
    assert ridge_operator(uneven_basis, positions(17), 1e12).abs().max() < 1e-10


# --- fit, read and their error ----------------------------------------------------------------------------------------


def test_fit_and_read_are_matrix_products(uneven_basis, normal, uniform):
    x, operator, t = normal(2, 17, 11), normal(17, 7), uniform(5)
    coefficients = fit(x, operator)
    assert_allclose(coefficients, np.stack([operator.numpy().T @ row for row in x.numpy()]), rtol=1e-12, atol=1e-13)
    expected = np.stack([design(uneven_basis, t) @ row for row in coefficients.numpy()])
    assert_allclose(read(coefficients, uneven_basis, t), expected, rtol=1e-12, atol=1e-12)


def test_read_answers_in_the_type_of_the_memory(uneven_basis, normal, uniform):
    assert read(normal(2, 7, 11).float(), uneven_basis, uniform(5)).dtype == torch.float32


@pytest.mark.parametrize("padding", [None, PADDING])
def test_regression_error_is_the_lost_share(uneven_basis, normal, uniform, padding):
    x, t = normal(2, 17, 11), uniform(17)
    psi = design(uneven_basis, t)
    operator = oracles.ridge_operator_by_lstsq(psi, 0.3, padding_rows(uneven_basis, padding))
    lost = [np.sum((row - psi @ operator.T @ row) ** 2) / np.sum(row**2) for row in x.numpy()]
    assert_allclose(regression_error(x, uneven_basis, t, 0.3, padding), lost, rtol=1e-10)


def test_regression_error_from_nothing_lost_to_everything(uneven_basis, normal):
    t = positions(17)
    in_the_basis = read(normal(2, 7, 11), uneven_basis, t)
    assert regression_error(in_the_basis, uneven_basis, t, 1e-13).max() < 1e-12
    assert_allclose(regression_error(in_the_basis, uneven_basis, t, 1e13), 1.0, rtol=1e-8)


# --- what padding and the ridge do to the released memory -------------------------------------------------------------


@pytest.mark.parametrize(("padded", "edge"), [(True, 0.545), (False, 0.992)])
def test_a_constant_at_the_outermost_tokens(padded, edge):
    t = positions(1024, "midpoints")
    operator = ridge_operator(released(), t, 1.0, padding_positions(1024) if padded else None)
    signal = read(fit(torch.ones(1, 1024, 1, dtype=torch.float64), operator), released(), t)[0, :, 0]
    assert_allclose(signal[[0, -1]], edge, atol=5e-4)
    assert_allclose(signal[512], 1.0, atol=1e-3)


@pytest.mark.parametrize(("num_basis", "total"), [(512, 111.7), (1024, 114.8)])
def test_degrees_of_freedom_of_the_released_fit(num_basis, total):
    shares = effective_degrees_of_freedom(
        released(num_basis), positions(1024, "midpoints"), 1.0, padding_positions(1024)
    )
    assert_allclose(shares.sum(), total, atol=0.05)


@pytest.mark.parametrize("padding", [None, PADDING])
def test_degrees_of_freedom_are_sensitivities(uneven_basis, uniform, normal, padding):
    t = uniform(17)
    shares = effective_degrees_of_freedom(uneven_basis, t, 0.3, padding)
    rows = padding_rows(uneven_basis, padding)
    assert_allclose(shares.sum(), oracles.degrees_of_freedom(design(uneven_basis, t), 0.3, rows), rtol=1e-10)
    operator = ridge_operator(uneven_basis, t, 0.3, padding)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: read(fit(x.reshape(1, 17, 1), operator), uneven_basis, t).flatten(), normal(17)
    )
    assert_allclose(shares, jacobian.diagonal(), rtol=1e-10)
    assert ((shares > 0) & (shares < 1)).all()


def test_without_a_ridge_every_function_is_a_degree_of_freedom(uneven_basis):
    assert_allclose(effective_degrees_of_freedom(uneven_basis, positions(17), 0.0).sum(), 7, rtol=1e-9)


# --- gradients --------------------------------------------------------------------------------------------------------


def test_gradients(uneven_basis, normal, uniform):
    x, t, where = normal(2, 13, 3).requires_grad_(), uniform(13).requires_grad_(), uniform(5).requires_grad_()
    assert gradcheck(lambda p: ridge_operator(uneven_basis, p, 0.3, PADDING), (t,))
    assert gradcheck(lambda x, p, w: read(fit(x, ridge_operator(uneven_basis, p, 0.3)), uneven_basis, w), (x, t, where))
    assert gradcheck(lambda x: regression_error(x, uneven_basis, t.detach(), 0.3), (x,))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, -1])
def test_no_tokens(length):
    with pytest.raises(ValueError, match=f"length must be at least 1 token, got {length}: .* to place"):
        positions(length)
    with pytest.raises(ValueError, match=f"length must be at least 1 token, got {length}: .* to pad"):
        padding_positions(length)


def test_an_unknown_rule(without_type_checker):
    with pytest.raises(ValueError, match=r"rule must be 'end_points' or 'midpoints', got 'middle'"):
        positions(3, "middle")


@pytest.mark.parametrize("ridge", [-1e-3, math.nan])
def test_a_ridge_below_zero(uneven_basis, ridge):
    with pytest.raises(ValueError, match=f"ridge must be >= 0, got {ridge}"):
        ridge_operator(uneven_basis, positions(17), ridge)


def test_no_positions(uneven_basis):
    with pytest.raises(ValueError, match=r"positions must hold at least one token, got none"):
        ridge_operator(uneven_basis, torch.zeros(0), 1.0)


@pytest.mark.parametrize("t", [positions(1), positions(3), torch.full((17,), 0.5)])
def test_a_fit_without_a_unique_solution(uneven_basis, t):
    with pytest.raises(
        ValueError, match=rf"no unique solution with ridge=0.0, 7 basis functions and {len(t)} positions"
    ):
        ridge_operator(uneven_basis, t, 0.0)


def test_one_fit_of_a_batch_without_a_unique_solution(uneven_basis):
    with pytest.raises(ValueError, match=r"no unique solution"):
        ridge_operator(uneven_basis, torch.stack([positions(17), torch.full((17,), 0.5).double()]), 0.0)


def test_a_fit_without_a_unique_solution_is_never_taken_for_one(uneven_basis, uniform):
    for t in uniform(100, 5):
        with pytest.raises(ValueError, match=r"no unique solution"):
            ridge_operator(uneven_basis, t, 0.0)


def test_many_tokens_at_few_places_have_no_unique_fit_either(uneven_basis, uniform):
    for t in uniform(500, 3).repeat(1, 4):
        with pytest.raises(ValueError, match=r"no unique solution"):
            ridge_operator(uneven_basis, t, 0.0)


def test_tensors_that_do_not_fit(uneven_basis, normal):
    x, operator = normal(2, 17, 11), normal(17, 7)
    with pytest.raises(ValueError, match=r"fit: operator must have the axes .* pos = 17, got pos = 13"):
        fit(x, operator[:13])
    with pytest.raises(ValueError, match=r'fit: x must have the axes "batch pos d_model", got 2 axes'):
        fit(x[0], operator)
    with pytest.raises(ValueError, match=r"fit: all tensors must be on one device, got operator on meta"):
        fit(x, operator.to("meta"))
    with pytest.raises(ValueError, match=r"one row per basis function \(7\), got 11"):
        read(x.mT, uneven_basis, positions(5))
    with pytest.raises(ValueError, match=r"read: t must be a tensor of type float, got torch.int64"):
        read(x[:, :7], uneven_basis, torch.arange(5))
    with pytest.raises(ValueError, match=r"ridge_operator: positions must be a tensor"):
        ridge_operator(uneven_basis, [0.5], 1.0)
    with pytest.raises(ValueError, match=r'padding must have the axes "padding_pos", got 2 axes'):
        ridge_operator(uneven_basis, positions(17), 1.0, PADDING.reshape(1, 5))
    with pytest.raises(ValueError, match=r"regression_error: positions must have the axes .* got pos = 13"):
        regression_error(x, uneven_basis, positions(13), 1.0)


@pytest.mark.parametrize("num_places", [3, 5, 6])
def test_many_tokens_at_few_places_have_no_unique_fit(num_places, uneven_basis, uniform):
    for places in uniform(50, num_places):
        with pytest.raises(ValueError, match=r"no unique solution"):
            ridge_operator(uneven_basis, places.repeat(5), 0.0)
