"""Errors of a memory by age, against what the memory itself gives back of white noise."""

import dataclasses
import math

import pytest
import torch
from torch.testing import assert_close

from infmem import LongTermMemory, MemoryConfig
from infmem.contraction import Update, age_map
from infmem.memory.operators import build_basis, position_rules, sampling_locations, zero_padding
from infmem.microscope import fact_errors, memory_errors
from infmem.microscope.errors import _spread
from infmem.recurrence import exact_recurrence
from infmem.signal import positions
from infmem.sticky import sample_locations

LENGTH, UPDATES = 7, 3
SIZES = {"num_basis": 10, "num_samples": 13, "num_bins": 5}
SCALED = SIZES | {"schedule": "scaled", "ridge": 0.1, "gate": False}
CONFIGS = {
    "paper": MemoryConfig.paper(**SIZES, sigmas=(0.1,), gate=False),
    "released": MemoryConfig.released(**SIZES, sigmas=(0.1,), gate=False),
    "scaled": MemoryConfig.paper(**SCALED, sigmas=(0.05, 0.1)),
    "best": MemoryConfig.best(num_basis=10),
    "sticky": MemoryConfig.paper(**SIZES, sigmas=(0.1,), gate=False, sticky="iid"),
    "even": MemoryConfig.paper(**SCALED, sigmas=(0.1,), sticky="stratified", placement="even"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_errors_are_those_of_a_memory_that_was_really_written(name):
    """One-hot tokens: a read of the signal gives the weight of every token. Integrals by the midpoint rule."""
    config, num_tokens = CONFIGS[name], LENGTH * (1 + UPDATES)
    memory = LongTermMemory(num_tokens, 1, config).double()
    tokens, state = torch.eye(num_tokens, dtype=torch.float64)[None], memory.empty(1)
    generator = torch.Generator().manual_seed(0)
    shares = []
    for part in tokens.split(LENGTH, 1):
        past = state.num_tokens.item()
        shares.append(0.75 if config.schedule == "fixed" else past / (past + LENGTH))
        # The first write draws too, without need: with numbers of its own.
        state = memory.write(part, state, generator=generator if past else torch.Generator())
    basis = build_basis(config)

    def weights(t):
        return (basis.evaluate(t) @ state.coefficients[0]).detach()  # place by token

    found = memory_errors(config, LENGTH, UPDATES, torch.Generator().manual_seed(0))
    rule = {"paper": 0.0, "sticky": 0.0, "scaled": 0.0, "even": 0.0, "best": 0.5, "released": 0.0}[name]
    for age in range(UPDATES + 1):
        segment = UPDATES - age
        mine = slice(segment * LENGTH, (segment + 1) * LENGTH)
        shift = 0.5 if name == "released" and segment == 0 else rule
        low, high = (0.0, 1.0) if segment == 0 else (shares[segment], 1.0)
        for share in shares[segment + 1 :]:
            low, high = low * share, high * share
        places = low + (high - low) * (torch.arange(1, LENGTH + 1, dtype=torch.float64) - shift) / LENGTH
        error = (weights(places) - torch.eye(num_tokens, dtype=torch.float64)[mine]).square().sum(-1).mean().sqrt()
        assert_close(found.token[age], error, rtol=1e-7, atol=1e-9)
        t = low + (high - low) * (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
        wanted = torch.zeros(num_tokens, dtype=torch.float64)
        wanted[mine] = 1 / LENGTH
        error = (weights(t).mean(0) - wanted).norm() / wanted.norm()
        assert_close(found.segment_mean[age], error, rtol=1e-5, atol=1e-7)
        t = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
        error = (weights(t).mean(0)[mine] * num_tokens - 1).square().mean().sqrt()
        assert_close(found.whole_mean[age], error, rtol=1e-4, atol=1e-6)


def test_independent_draws_do_more_harm_than_an_empty_memory():
    """What sticky memories suffer from: the noise of where they are sampled adds up, update by update."""
    sizes = {"num_basis": 64, "num_samples": 64}
    errors = {
        sticky: memory_errors(MemoryConfig.paper(**sizes, sticky=sticky), 64, 5, torch.Generator().manual_seed(0))
        for sticky in ("none", "iid")
    }
    assert errors["none"].token.max() < 1 < errors["iid"].token[-1]
    assert errors["iid"].segment_mean[-1] > 3 * errors["none"].segment_mean[-1]


def test_wrong_numbers_are_named():
    with pytest.raises(ValueError, match="segment_length must be at least 1 token, got 0"):
        memory_errors(MemoryConfig.best(num_basis=8), 0, 1)
    with pytest.raises(ValueError, match="num_updates must be >= 0, got -1"):
        memory_errors(MemoryConfig.best(num_basis=8), 5, -1)


FACT_CONFIGS = {
    "paper": MemoryConfig.paper(**SIZES, sigmas=(0.1,)),
    "best": MemoryConfig.best(num_basis=10),
    "iid": MemoryConfig.paper(**SIZES, sigmas=(0.1,), sticky="iid"),
    "iid, even": MemoryConfig.paper(**SIZES, sigmas=(0.1,), sticky="iid", placement="even"),
    "stratified": MemoryConfig.paper(**SCALED, sigmas=(0.1,), sticky="stratified"),
    "stratified, even": MemoryConfig.paper(**SCALED, sigmas=(0.1,), sticky="stratified", placement="even"),
    "midpoints": MemoryConfig.paper(**SCALED, sigmas=(0.1,), sticky="iid", placement="even", positions="midpoints"),
}
FACT, SIGMA, SHARE = 2, 0.03, 0.8


def normal_mass(low: float, high: float, mean: float) -> float:
    ends = [0.5 * (1 + math.erf((end - mean) / (SIGMA * math.sqrt(2)))) for end in (low, high)]
    return ends[1] - ends[0]


@pytest.mark.parametrize("name", FACT_CONFIGS)
def test_fact_errors_are_those_of_a_plain_loop(name):
    """Ridge regressions solved one after another; of the library, only the draws, the grids and the exact update."""
    config, rows = FACT_CONFIGS[name], 3
    num_tokens = LENGTH * (1 + UPDATES)
    found = fact_errors(
        config,
        LENGTH,
        UPDATES,
        fact=FACT,
        sigma=SIGMA,
        share=SHARE,
        rows=rows,
        generator=torch.Generator().manual_seed(0),
    )
    basis, generator = build_basis(config), torch.Generator().manual_seed(0)
    first_rule, rule = position_rules(config)

    def regression(places, padding):
        """What maps values at these places to coefficients: zeros beside the memory are fitted too."""
        design = basis.evaluate(places if padding is None else torch.cat([places, padding])).mT
        gram = design @ design.mT + config.ridge * torch.eye(10, dtype=torch.float64)
        return torch.linalg.inv(gram) @ design[:, : len(places)]

    one_hot = torch.eye(num_tokens, dtype=torch.float64)
    grid = positions(LENGTH, first_rule)
    coefficients = [regression(grid, zero_padding(config, 0, LENGTH)) @ one_hot[:LENGTH]] * rows
    places = [grid[FACT].item()] * rows
    for age in range(UPDATES + 1):
        for row in range(rows):
            weights = basis.evaluate(torch.tensor([places[row]], dtype=torch.float64))[0] @ coefficients[row]
            others = sum(weight.item() ** 2 for token, weight in enumerate(weights) if token != FACT)
            own = weights[FACT].item()
            assert found.place[age, row].item() == pytest.approx(places[row], rel=1e-9)
            assert found.error[age, row].item() == pytest.approx(math.sqrt(others + (own - 1) ** 2), rel=1e-6)
            scale = own / (others + own**2)  # the best one
            scaled = math.sqrt(scale**2 * others + (scale * own - 1) ** 2)
            assert found.scaled_error[age, row].item() == pytest.approx(scaled, rel=1e-6)
        if age == UPDATES:
            break
        past = LENGTH * (age + 1)
        tau = config.tau if config.schedule == "fixed" else past / (past + LENGTH)
        new, new_places = one_hot[past : past + LENGTH], tau + (1 - tau) * positions(LENGTH, rule)
        histogram = [
            [
                SHARE * normal_mass(b / 5, (b + 1) / 5, place) / normal_mass(0, 1, place) + (1 - SHARE) / 5
                for b in range(5)
            ]
            for place in places
        ]
        locations = positions(13, rule).expand(rows, -1)
        if config.sticky != "none":
            drawn = torch.tensor(histogram, dtype=torch.float64)
            locations = sample_locations(drawn, 13, generator, config.sticky)
        padding = zero_padding(config, 13, LENGTH)
        for row in range(rows):
            if config.contraction == "exact":
                transition, write = exact_recurrence(basis, positions(LENGTH, rule), tau, config.ridge)
                coefficients[row] = transition @ coefficients[row] + write @ new
            else:
                moved = positions(13, rule) if config.placement == "even" else locations[row]
                values = torch.cat([basis.evaluate(locations[row]) @ coefficients[row], new])
                coefficients[row] = regression(torch.cat([tau * moved, new_places]), padding) @ values
            if config.placement == "even":
                old = [0.0, *locations[row].tolist(), 1.0]
                spread = [0.0, *positions(13, rule).tolist(), 1.0]
                place = places[row]
                left = max(index for index, location in enumerate(old[:-1]) if location < place)
                part = (place - old[left]) / (old[left + 1] - old[left])
                places[row] = spread[left] + part * (spread[left + 1] - spread[left])
            places[row] *= tau


def test_spread_samples_keep_a_fact_that_even_samples_forget(generator):
    """Sticky memories do what they are for if what was attended gets more room, and not at its own address."""
    plain = MemoryConfig.paper(num_basis=64, num_samples=64, gate=False)
    sticky = dataclasses.replace(plain, sticky="stratified")
    spread = dataclasses.replace(sticky, placement="even")
    attention = {"fact": 31, "sigma": 0.02, "rows": 5, "generator": generator}
    forgot, at_address, kept = (fact_errors(config, 64, 11, **attention) for config in (plain, sticky, spread))
    assert forgot.scaled_error[-1].min() > 0.95 > 0.7 > kept.scaled_error[-1].max()
    assert_close(kept.scaled_error[-1], kept.scaled_error[0], atol=0.05, rtol=0)
    assert at_address.error[-1].mean() > 1 > kept.error[-1].max()


def test_a_token_that_spread_samples_move_is_found_again_by_the_age_map(generator):
    config = MemoryConfig.paper(num_basis=16, num_samples=64, sticky="stratified", placement="even")
    old = sample_locations(torch.full((5, 7), 1 / 7, dtype=torch.float64), 64, generator)
    place = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    moved = _spread(place, old, sampling_locations(config))
    for row in range(5):
        token, age = age_map(0.75 * moved[row : row + 1], 10, [Update(10, 0.75, old[row])])
        assert_close(token, 10 * place[row : row + 1])
        assert age.item() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segment_length": 0}, "segment_length must be at least 1 token, got 0"),
        ({"num_updates": -1}, "num_updates must be >= 0, got -1"),
        ({"fact": 5}, "fact must be a token of the first segment, 0 to 4, got 5"),
        ({"fact": -1}, "fact must be a token of the first segment, 0 to 4, got -1"),
        ({"sigma": 0.0}, "sigma must be > 0, got 0.0"),
        ({"share": 1.5}, "share must be in"),
        ({"rows": 0}, "rows must be at least 1, got 0"),
    ],
)
def test_wrong_numbers_about_a_fact_are_named(change, message):
    numbers = {"config": MemoryConfig.best(num_basis=8), "segment_length": 5, "num_updates": 1} | change
    with pytest.raises(ValueError, match=message):
        fact_errors(**numbers)
