"""Places on a memory and the tokens that are there, held against the memory's own bookkeeping."""

import math

import numpy as np
import pytest
import torch
from tiny import tiny_language_config

from infmem.language.looking import SHARES, first_with_memory, look
from infmem.microscope import trace
from infmem.models.infinite_former import InfiniteFormer
from infmem.presets import build_model


@pytest.fixture(scope="module")
def segments():
    model = build_model(tiny_language_config().model, seed=3).eval()
    assert isinstance(model, InfiniteFormer)
    tokens = torch.randint(0, 30, (2, 23), generator=torch.Generator().manual_seed(1))
    return trace(model, tokens, segment_length=4)


def share_below(t, mu, sigma):
    """Of a normal density on [0, 1], the part below t."""

    def below(x):
        return 0.5 * (1 + math.erf((x - mu) / sigma / math.sqrt(2)))

    return (below(t) - below(0)) / (below(1) - below(0))


def test_places_are_quartiles_of_the_density_on_the_memory(segments):
    first = first_with_memory(segments)
    assert first == 8, "segments of 4: one is in the short-term memory, and one is written"
    for position in (first, 13, 22):
        for layer, head, row in ((0, 0, 0), (1, 2, 1)):
            found = look(segments, position, layer, head, row)
            part = segments[position // 4].layers[layer]
            assert found.mu == part.mu[row, head, position % 4].item()
            assert found.sigma == pytest.approx(part.sigma_sq[row, head, position % 4].sqrt().item())
            for place, share in zip(found.places, SHARES, strict=True):
                assert share_below(place.t, found.mu, found.sigma) == pytest.approx(share, abs=2e-3)
            assert torch.trapezoid(found.density, found.t).item() == pytest.approx(1)


def test_every_token_has_equal_room_in_this_memory(segments):
    """Its share of the past follows the number of tokens, so token i of n lies between (i - 1) / n and i / n."""
    found = look(segments, 22, 1, 0)
    segment = segments[22 // 4]
    assert len(found.weights) == segment.num_written == 16
    for place in found.places:
        assert place.token == math.ceil(place.t * 16) - 1
        assert place.age == 3 - place.token // 4
    middle = (np.arange(16) + 0.5) / 16
    expected = np.interp(middle, found.t.numpy(), found.density.numpy())
    np.testing.assert_allclose(found.weights, expected, rtol=1e-6)


@pytest.mark.parametrize("position", [0, 7, 23])
def test_where_no_memory_was_read_there_is_no_place(segments, position):
    with pytest.raises(ValueError, match=f"at position {position} no memory was read: choose one from 8"):
        look(segments, position, 0, 0)


def test_a_short_text_has_no_memory(segments):
    with pytest.raises(ValueError, match="read a text of at least three segments"):
        first_with_memory(segments[:2])
