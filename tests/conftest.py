"""Fixtures that several test files share. infmem is imported inside them: the hook that checks shapes comes first."""

import os
import zlib

import jaxtyping
import pytest
import torch
from hypothesis import settings

# Without a GPU kernels run in Triton's interpreter. Triton reads this once, whoever imports it first.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# The same few examples each time, so that nobody's change fails for what another has drawn; `make fuzz` draws anew.
settings.register_profile("quick", max_examples=20, deadline=None, derandomize=True)
settings.register_profile("fuzz", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def generator(request) -> torch.Generator:
    """A source of randomness of each test's own, so that neither the order nor the choice of tests changes it."""
    return torch.Generator().manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def normal(generator):
    """`normal(2, 3)`: standard normal float64 numbers."""
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def uniform(generator):
    """`uniform(2, 3)`: float64 numbers from [0, 1)."""
    return lambda *shape: torch.rand(shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="session")
def uneven_basis():
    """Seven functions with uneven centres and widths, so that an index in the wrong place shows."""
    from infmem.basis import GaussianBasis

    centers = torch.tensor([-0.03, 0.11, 0.29, 0.5, 0.62, 0.83, 1.02], dtype=torch.float64)
    sigmas = torch.tensor([0.05, 0.13, 0.07, 0.11, 0.05, 0.19, 0.09], dtype=torch.float64)
    return GaussianBasis(centers, sigmas)


@pytest.fixture
def without_type_checker(monkeypatch):
    """The annotations unchecked, as a user runs the library: wrong words and numbers meet the library's own checks."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def fresh_compiler():
    """Nothing compiled by the test before: all functions whose annotations are checked count as one, with one limit."""
    torch._dynamo.reset()
