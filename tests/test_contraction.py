"""Making room for the new: the update against a refit point by point, what it forgets against plain bookkeeping."""

import functools
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from infmem.basis import GaussianBasis
from infmem.contraction import (
    Update,
    UpdateOperators,
    age_map,
    contracted_positions,
    scaled_tau,
    update,
    update_operators,
    validate_tau,
)
from infmem.recurrence import (
    LinearRecurrence,
    exact_recurrence,
    half_life,
    linear_recurrence,
    retained_energy,
    retained_mass,
)
from infmem.signal import effective_degrees_of_freedom, fit, padding_positions, positions, read, ridge_operator

TAU = 0.7
PADDING = torch.tensor([-0.4, -0.2, -0.05, 1.03, 1.17], dtype=torch.float64)
BAD_SHARES = [0.0, 1.0, -0.1, 1.5, math.nan]


def released(
    num_samples: int = 512, length: int = 1024
) -> tuple[GaussianBasis, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Basis, samples, new tokens and padding of the released sorting code's updates."""
    basis = GaussianBasis.grid(512, (0.01, 0.05), dtype=torch.float64)
    padding = padding_positions(num_samples + length, shift=1 / (2 * length + num_samples))
    return basis, positions(num_samples), positions(length), padding


@functools.cache
def released_recurrence() -> LinearRecurrence:
    basis, past, new, padding = released()
    return linear_recurrence(basis.evaluate(past), update_operators(basis, past, new, 0.75, 1.0, padding))


@pytest.fixture
def small_recurrence(uneven_basis, uniform) -> LinearRecurrence:
    past = uniform(13)
    operators = update_operators(uneven_basis, past, positions(17), TAU, 0.3)
    return linear_recurrence(uneven_basis.evaluate(past), operators)


# --- shares and positions ---------------------------------------------------------------------------------------------


def test_scaled_tau_is_the_share_of_the_past():
    assert scaled_tau(300, 100) == 0.75
    assert scaled_tau(1, 3) == 0.25
    assert scaled_tau(10**6, 1) == 63 / 64
    assert scaled_tau(300, 100, tau_max=0.6) == 0.6


@given(counts=st.lists(st.integers(5, 60), min_size=1, max_size=9))
def test_scaled_tau_keeps_equal_room_for_all_tokens(counts):
    totals = np.cumsum(counts).tolist()
    updates = [Update(new, scaled_tau(past, new, 0.9999)) for past, new in zip(totals[:-1], counts[1:], strict=True)]
    t = positions(totals[-1]) - 1e-3 / totals[-1]  # not on the border between two updates
    tokens, ages = age_map(t, counts[0], updates)
    assert_allclose(tokens, totals[-1] * t, rtol=1e-10)
    expected = [sum(token < total for total in totals[:-1]) for token in tokens.tolist()]
    assert ages.tolist() == expected


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_contraction_leaves_the_past_tau_and_the_new_the_rest(uniform, shape):
    past, new = uniform(*shape, 13), uniform(17)
    result = contracted_positions(past, new, TAU)
    assert result.shape == (*shape, 30)
    for index in np.ndindex(*shape):
        expected = [np.interp(t, [0, 1], [0, TAU]) for t in past[index].tolist()]
        expected += [np.interp(t, [0, 1], [TAU, 1]) for t in new.tolist()]
        assert_allclose(result[index], expected, rtol=1e-13)


# --- the update -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [None, PADDING])
@pytest.mark.parametrize("per_row", [False, True])
def test_update_is_a_refit_point_by_point(uneven_basis, normal, uniform, padding, per_row):
    coefficients, x, new = normal(2, 7, 11), normal(2, 17, 11), uniform(17)
    locations = uniform(2, 13) if per_row else uniform(13)
    operators = update_operators(uneven_basis, locations, new, TAU, 0.3, padding)
    updated = update(coefficients, x, uneven_basis.evaluate(locations), operators)
    for row, points in enumerate(locations.expand(2, 13)):
        expected = oracles.update_by_refit(
            coefficients[[row]].numpy(),
            x[[row]].numpy(),
            uneven_basis.centers.numpy(),
            uneven_basis.sigmas.numpy(),
            TAU,
            points.numpy(),
            TAU * points.numpy(),
            TAU + (1 - TAU) * new.numpy(),
            0.3,
            None if padding is None else padding.numpy(),
        )
        assert_allclose(updated[[row]], expected, rtol=1e-9, atol=1e-11)


def test_samples_may_go_elsewhere_than_they_came_from(uneven_basis, normal, uniform):
    coefficients, x, new, locations = normal(2, 7, 11), normal(2, 17, 11), uniform(17), uniform(2, 13)
    operators = update_operators(uneven_basis, positions(13), new, TAU, 0.3)
    updated = update(coefficients, x, uneven_basis.evaluate(locations), operators)
    expected = oracles.update_by_refit(
        coefficients.numpy(),
        x.numpy(),
        uneven_basis.centers.numpy(),
        uneven_basis.sigmas.numpy(),
        TAU,
        locations.numpy(),
        TAU * positions(13).numpy(),
        TAU + (1 - TAU) * new.numpy(),
        0.3,
    )
    assert_allclose(updated, expected, rtol=1e-9, atol=1e-11)


def test_operators_are_the_halves_of_one_ridge_operator(uneven_basis, uniform):
    past, new = uniform(13), uniform(17)
    operators = update_operators(uneven_basis, past, new, TAU, 0.3, PADDING)
    whole = ridge_operator(uneven_basis, contracted_positions(past, new, TAU), 0.3, PADDING)
    assert_allclose(operators.past, whole[:13], rtol=0)
    assert_allclose(operators.new, whole[13:], rtol=0)


@pytest.mark.parametrize("tau", [0.5, 0.75])
def test_the_old_signal_is_contracted(tau):
    basis, t = GaussianBasis.grid(64, (0.03, 0.06), dtype=torch.float64), positions(400)
    x = torch.stack([(5 * t).sin(), t**2, torch.ones_like(t)], dim=-1).unsqueeze(0)
    old = fit(x, ridge_operator(basis, t, 1e-6))
    samples, new = positions(400, "midpoints"), positions(100, "midpoints")
    last = read(old, basis, torch.ones(1, dtype=torch.float64))  # a step would ring: go on where the old signal ends
    operators = update_operators(basis, samples, new, tau, 1e-6)
    updated = update(old, last.expand(1, 100, 3), basis.evaluate(samples), operators)
    within, after = torch.linspace(0, tau, 50).double(), torch.linspace(tau, 1, 50).double()
    assert_allclose(read(updated, basis, within), read(old, basis, within / tau), atol=0.02)
    assert_allclose(read(updated, basis, after), last.expand(1, 50, 3), atol=0.02)


@pytest.mark.parametrize("padding", [None, PADDING])
def test_update_is_a_linear_recurrence(uneven_basis, normal, uniform, padding):
    past, coefficients = uniform(13), normal(2, 7, 11)
    operators = update_operators(uneven_basis, past, positions(17), TAU, 0.3, padding)
    samples = uneven_basis.evaluate(past)
    transition, write = linear_recurrence(samples, operators)
    by_steps = by_powers = coefficients
    for _ in range(3):
        x = normal(2, 17, 11)
        by_steps, by_powers = update(by_steps, x, samples, operators), transition @ by_powers + write @ x
        assert_allclose(by_steps, by_powers, rtol=0, atol=1e-10)


@pytest.mark.parametrize("padding", [None, PADDING])
def test_exact_update_refits_all_of_the_old_signal(uneven_basis, normal, padding):
    """Least squares over a thousand weighted points of the old signal stand for the integral."""
    num_points, new, ridge, coefficients, x = 1009, positions(17), 0.3, normal(7, 11), normal(17, 11)
    nodes = (np.arange(num_points) + 0.5) / num_points
    weight = math.sqrt(17 * TAU / (1 - TAU) / num_points)
    centers, sigmas = uneven_basis.centers.numpy(), uneven_basis.sigmas.numpy()
    old = oracles.basis_values(nodes, centers, sigmas) @ coefficients.numpy()
    placed = [weight * oracles.basis_values(TAU * nodes, centers, sigmas)]
    placed.append(oracles.basis_values(TAU + (1 - TAU) * new.numpy(), centers, sigmas))
    zeros = [] if padding is None else [oracles.basis_values(padding.numpy(), centers, sigmas)]
    design = np.concatenate([*placed, *zeros, math.sqrt(ridge) * np.eye(7)])
    targets = np.concatenate([weight * old, x.numpy(), np.zeros((len(design) - num_points - 17, 11))])
    expected = np.linalg.lstsq(design, targets, rcond=None)[0]
    transition, write = exact_recurrence(uneven_basis, new, TAU, ridge, padding)
    assert_allclose(transition @ coefficients + write @ x, expected, rtol=0, atol=1e-4)


def test_exact_update_is_what_many_samples_tend_to(uneven_basis):
    """With as many samples as make a unit of the memory count the same, sampling is a coarse exact contraction."""
    length, tau = 300, 0.75
    past = positions(900, "midpoints")
    operators = update_operators(uneven_basis, past, positions(length), tau, 0.3)
    sampled = linear_recurrence(uneven_basis.evaluate(past), operators)
    for exact, coarse in zip(exact_recurrence(uneven_basis, positions(length), tau, 0.3), sampled, strict=True):
        assert_allclose(exact, coarse, rtol=0, atol=2e-4)


def test_recurrence_has_the_type_of_the_operators(uneven_basis):
    samples = uneven_basis.to(torch.float32).evaluate(positions(13).float())
    recurrence = linear_recurrence(samples, update_operators(uneven_basis, positions(13), positions(17), TAU, 0.3))
    assert recurrence.transition.dtype == recurrence.write.dtype == torch.float64


def test_gradients(uneven_basis, normal, uniform):
    past, new = uniform(2, 3).requires_grad_(), uniform(5).requires_grad_()
    coefficients, x = normal(2, 7, 2).requires_grad_(), normal(2, 5, 2).requires_grad_()

    def updated(coefficients, x, past, new):
        operators = update_operators(uneven_basis, past, new, TAU, 0.3)
        return update(coefficients, x, uneven_basis.evaluate(past), operators)

    assert gradcheck(updated, (coefficients, x, past, new))


# --- what is retained -------------------------------------------------------------------------------------------------


def signal_after(basis: GaussianBasis, recurrence: LinearRecurrence, x: np.ndarray, age: int) -> Callable:
    """The signal at t, `age` empty updates after writing x: by the recurrence's matrices and the oracle's basis."""
    coefficients = recurrence.write.numpy() @ x
    for _ in range(age):
        coefficients = recurrence.transition.numpy() @ coefficients
    return lambda t: oracles.basis_values(t, basis.centers.numpy(), basis.sigmas.numpy()) @ coefficients


def test_mass_is_the_integral_of_what_is_left(uneven_basis, small_recurrence):
    signals = [signal_after(uneven_basis, small_recurrence, np.ones(17), age) for age in range(5)]
    masses = np.array([oracles.integrate(signal, 0.0, 1.0) for signal in signals])
    assert_allclose(retained_mass(uneven_basis, small_recurrence, 4), masses / masses[0], rtol=1e-10)


def test_energy_is_the_integral_of_the_square_of_what_is_left(uneven_basis, small_recurrence):
    def energy(age: int) -> float:
        signals = [signal_after(uneven_basis, small_recurrence, impulse, age) for impulse in np.eye(17)]
        return sum(oracles.integrate(lambda t, signal=signal: signal(t) ** 2, 0.0, 1.0) for signal in signals)

    energies = np.array([energy(age) for age in range(4)])
    assert_allclose(retained_energy(uneven_basis, small_recurrence, 3), energies / energies[0], rtol=1e-10)


def test_age_zero_is_everything(uneven_basis, small_recurrence):
    assert retained_mass(uneven_basis, small_recurrence, 0).tolist() == [1.0]
    assert retained_energy(uneven_basis, small_recurrence, 0).tolist() == [1.0]


def test_the_released_memory_halves_later_than_its_eigenvalues_say():
    basis, recurrence = released()[0], released_recurrence()
    radius = torch.linalg.eigvals(recurrence.transition).abs().max().item()
    mass, energy = retained_mass(basis, recurrence, 8), retained_energy(basis, recurrence, 8)
    assert radius == pytest.approx(0.53, abs=5e-3)
    assert math.log(0.5) / math.log(radius) == pytest.approx(1.1, abs=0.05)
    assert half_life(mass) == pytest.approx(2.4, abs=0.05)
    assert half_life(energy) < half_life(mass)
    assert_allclose(mass[1:] / mass[:-1], 0.75, atol=5e-3)


def test_room_after_a_released_update():
    basis, past, new, padding = released()
    shares = effective_degrees_of_freedom(basis, contracted_positions(past, new, 0.75), 1.0, padding)
    assert_allclose([shares[:512].sum(), shares[512:].sum()], [82.0, 29.8], atol=0.05)


@pytest.mark.parametrize(
    ("shares", "age"),
    [
        ([1.0, 0.5], 1.0),
        ([1.0, 0.6, 0.4], 1.5),
        ([1.0, 0.9, 0.8, 0.4], 2.75),
        ([1.0, 0.2, 0.1], 0.625),
        ([1.0], math.inf),
    ],
)
def test_half_life_is_where_a_half_is_left(shares, age):
    assert half_life(torch.tensor(shares, dtype=torch.float64)) == pytest.approx(age)


def test_what_never_halves_lives_for_ever():
    assert half_life(torch.tensor([1.0, 0.9, 0.51])) == math.inf


# --- the age map ------------------------------------------------------------------------------------------------------


def test_age_map_follows_every_token_back(uniform):
    taus, lengths = [0.5, 0.75, 0.6, 0.9], [10, 7, 13, 5, 11]
    updates = [Update(new, tau) for new, tau in zip(lengths[1:], taus, strict=True)]
    t = torch.cat([uniform(101), torch.tensor([1.0, 0.9, 0.54], dtype=torch.float64)])
    tokens, ages = age_map(t, lengths[0], updates)
    assert_allclose(tokens, [oracles.age_of(point, taus, lengths) for point in t.tolist()], rtol=1e-10)
    borders = np.cumsum(lengths[:-1])
    assert ages.tolist() == [sum(token <= border + 1e-9 for border in borders) for token in tokens.tolist()]


def test_age_map_of_a_first_fit_is_a_line(uniform):
    t = uniform(17)
    tokens, ages = age_map(t, 10, [])
    assert_allclose(tokens, 10 * t, rtol=1e-14)
    assert (ages == 0).all()


def test_age_map_leaves_its_argument_alone(uniform):
    t = uniform(17)
    before = t.clone()
    age_map(t, 10, [Update(7, 0.5, positions(13))])
    assert torch.equal(t, before)


def test_even_locations_are_plain_contraction(uniform):
    t = uniform(101)
    plain = age_map(t, 10, [Update(7, 0.5), Update(13, 0.75)])
    even = age_map(t, 10, [Update(7, 0.5, positions(11)), Update(13, 0.75, positions(29))])
    for ours, theirs in zip(even, plain, strict=True):
        assert_allclose(ours, theirs, rtol=1e-10)


def test_age_map_follows_sticky_locations(uniform):
    locations, tau = uniform(13).sort().values, 0.75
    at_samples = tau * positions(13) * (1 - 1e-12)
    tokens, ages = age_map(at_samples, 10, [Update(7, tau, locations)])
    assert_allclose(tokens, 10 * locations, rtol=1e-9)
    assert (ages == 1).all()
    pairs = [(0.0, at_samples[0].item()), *pairwise(at_samples.tolist())]
    between = torch.tensor([0.25 * left + 0.75 * right for left, right in pairs], dtype=torch.float64)
    table = [0.0, *locations.tolist()]
    expected = [10 * (0.25 * left + 0.75 * right) for left, right in pairwise(table)]
    assert_allclose(age_map(between, 10, [Update(7, tau, locations)])[0], expected, rtol=1e-9)


def test_age_map_tells_what_the_memory_holds():
    """Write every token's own number, with locations drawn in unevenly, and read the numbers back from the signal."""
    basis, tau, count = GaussianBasis.grid(96, (0.02, 0.04), dtype=torch.float64), 0.75, 200
    coefficients = fit(100 * positions(400).reshape(1, -1, 1), ridge_operator(basis, positions(400), 1e-7))
    updates = []
    for first, power in ((100, 2.0), (200, 0.7)):
        locations = positions(count) ** power  # sample i of M goes to i/M, wherever it came from
        x = (first + 100 * positions(400)).reshape(1, -1, 1)
        operators = update_operators(basis, positions(count), positions(400), tau, 1e-7)
        coefficients = update(coefficients, x, basis.evaluate(locations), operators)
        updates.append(Update(100, tau, locations))
    t = torch.linspace(0.05, 1, 200).double()
    tokens, ages = age_map(t, 100, updates)
    smooth = torch.stack([(t - border).abs() for border in (tau, tau * tau ** (1 / 0.7))]).min(0).values > 0.04
    assert {0.0, 1.0, 2.0} == set(ages[smooth].tolist())
    assert_allclose(read(coefficients, basis, t)[0, smooth, 0], tokens[smooth], atol=3)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", BAD_SHARES)
def test_a_share_that_is_none(uneven_basis, tau):
    t = positions(5)
    message = rf"tau must be in \(0, 1\), got {tau}"
    with pytest.raises(ValueError, match=f"^{message}"):
        validate_tau(tau)
    with pytest.raises(ValueError, match=message):
        contracted_positions(t, t, tau)
    with pytest.raises(ValueError, match=message):
        update_operators(uneven_basis, t, t, tau, 1.0)
    with pytest.raises(ValueError, match=message):
        age_map(t, 10, [Update(7, 0.5), Update(7, tau)])
    with pytest.raises(ValueError, match=rf"tau_max must be in \(0, 1\), got {tau}"):
        scaled_tau(10, 10, tau)


def test_counts_that_are_none(uneven_basis, small_recurrence):
    with pytest.raises(ValueError, match=r"num_past must be at least 1 token, got 0"):
        scaled_tau(0, 10)
    with pytest.raises(ValueError, match=r"num_new must be at least 1 token, got 0"):
        scaled_tau(10, 0)
    with pytest.raises(ValueError, match=r"num_first must be at least 1 token, got 0"):
        age_map(positions(5), 0, [])
    for retained in (retained_mass, retained_energy):
        with pytest.raises(ValueError, match=r"num_updates must be >= 0, got -1"):
            retained(uneven_basis, small_recurrence, -1)


def test_an_exact_update_without_a_unique_solution():
    twins = GaussianBasis(torch.tensor([0.5, 0.5]).double(), torch.tensor([0.1, 0.1]).double())
    with pytest.raises(ValueError, match=r"no unique solution with ridge=0.0"):
        exact_recurrence(twins, positions(5), TAU, ridge=0.0)
    with pytest.raises(ValueError, match=r"ridge must be >= 0, got -1"):
        exact_recurrence(twins, positions(5), TAU, ridge=-1.0)
    with pytest.raises(ValueError, match=r"tau must be in \(0, 1\), got 1"):
        exact_recurrence(twins, positions(5), 1.0, ridge=1.0)


def test_an_update_without_a_unique_solution(uneven_basis):
    with pytest.raises(ValueError, match=r"no unique solution with ridge=0.0"):
        update_operators(uneven_basis, positions(1), positions(1), TAU, 0.0)
    with pytest.raises(ValueError, match=r"ridge must be >= 0, got -1.0"):
        update_operators(uneven_basis, positions(13), positions(17), TAU, -1.0)


def test_tensors_that_do_not_fit(uneven_basis, normal):
    coefficients, x, samples = normal(2, 7, 11), normal(2, 17, 11), normal(13, 7)
    operators = UpdateOperators(normal(13, 7), normal(17, 7))
    with pytest.raises(ValueError, match=r"update: x must have the axes .* d_model = 11, got d_model = 5"):
        update(coefficients, x[..., :5], samples, operators)
    with pytest.raises(ValueError, match=r"update: samples must have the axes .* basis = 7, got basis = 5"):
        update(coefficients, x, samples[:, :5], operators)
    with pytest.raises(ValueError, match=r"update: coefficients must have the axes .*, got 2 axes"):
        update(coefficients[0], x, samples, operators)
    with pytest.raises(ValueError, match=r"update: all tensors must be on one device, got x on meta"):
        update(coefficients, x.to("meta"), samples, operators)
    with pytest.raises(ValueError, match=r"linear_recurrence: samples must have the axes .*, got 3 axes"):
        linear_recurrence(normal(2, 13, 7), operators)
    with pytest.raises(ValueError, match=r"age_map: t must be a tensor of type float"):
        age_map(torch.arange(3), 10, [])
