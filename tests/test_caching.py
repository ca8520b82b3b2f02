import pytest
import torch

from infmem.caching import cached_tensors, held_tensors
from infmem.models.layers import RelativeAttention, sinusoids


@cached_tensors(maxsize=2)
def products(length: int) -> torch.Tensor:
    return torch.ones(length, 3) @ torch.full((3, length), 1 / 3)


def test_mixed_precision_of_the_first_call_leaves_no_trace() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        first = products(5)
        assert (first @ first).dtype == torch.bfloat16, "the caller goes on in mixed precision"
    assert first.dtype == torch.float32
    assert products(5) is first


def test_positions_are_exact_in_mixed_precision() -> None:
    """In bfloat16 the distances 1,001 and 1,002 would be one."""
    attention, length = RelativeAttention(12, 3), 1013  # a length that no other test has
    with torch.autocast("cpu", torch.bfloat16):
        encoded = attention._distances(length)
    expected = sinusoids(torch.arange(length, -1, -1, dtype=torch.float32), 12)
    torch.testing.assert_close(encoded, expected, rtol=0, atol=0)


def test_results_live_as_long_as_they_are_held() -> None:
    with held_tensors() as held:
        kept = products(7)
        products(11), products(13)  # the cache has room for two
    assert held[0] is kept
    products(17)
    assert len(held) == 3, "what is asked for later is not held"


def test_an_error_ends_the_holding() -> None:
    with pytest.raises(ZeroDivisionError), held_tensors() as held:
        raise ZeroDivisionError
    products(19)
    assert held == []
