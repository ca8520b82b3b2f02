"""Errors of a memory by age, against what the memory itself gives back of white noise."""

import pytest
import torch
from torch.testing import assert_close

from infmem import LongTermMemory, MemoryConfig
from infmem.memory.operators import build_basis
from infmem.microscope import memory_errors

LENGTH, UPDATES = 7, 3
SIZES = {"num_basis": 10, "num_samples": 13, "num_bins": 5}
CONFIGS = {
    "paper": MemoryConfig.paper(**SIZES, sigmas=(0.1,), gate=False),
    "released": MemoryConfig.released(**SIZES, sigmas=(0.1,), gate=False),
    "best": MemoryConfig.best(**SIZES, sigmas=(0.05, 0.1)),
    "exact": MemoryConfig.exact(num_basis=10),
    "sticky": MemoryConfig.paper(**SIZES, sigmas=(0.1,), gate=False, sticky="iid"),
    "even": MemoryConfig.best(**SIZES, sigmas=(0.1,), sticky="stratified", placement="even"),
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
    rule = {"paper": 0.0, "sticky": 0.0, "best": 0.0, "even": 0.0, "exact": 0.5, "released": 0.0}[name]
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
