"""Costs against loops over sizes, and against PyTorch's own count of what the library does."""

from itertools import product

import pytest
import torch
from tiny import TINY
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from infmem import LongTermMemory, MemoryConfig, cost
from infmem.attention import expected_value
from infmem.benchmark.read import read_densities
from infmem.benchmark.stream import CachedTransformer
from infmem.cost import Cost, ReadSizes
from infmem.memory.operators import build_basis
from infmem.presets import build_model, model_config

SIZES = ReadSizes(batch=2, query_pos=5, num_heads=3, d_head=11, num_basis=7)


def counted(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.fixture
def memory() -> LongTermMemory:
    config = MemoryConfig.best(num_basis=7, sigmas=(0.1,), num_samples=13, own_query=False)
    return LongTermMemory(SIZES.d_model, SIZES.num_heads, config)


@pytest.mark.parametrize("textbook", [False, True])
def test_densities_cost_what_pytorch_counts(memory, textbook):
    query, coefficients = torch.randn(2, 5, 33), torch.randn(2, 7, 33)
    count = counted(lambda: memory._density(query, coefficients, memory.key.weight, textbook))
    expected = (cost.textbook_densities if textbook else cost.collapsed_densities)(SIZES)
    assert count == expected.products


@pytest.mark.parametrize("backward", [False, True])
def test_a_read_costs_what_pytorch_counts(backward):
    basis = build_basis(MemoryConfig.best(num_basis=7, sigmas=(0.1,)), torch.float32)
    inputs = [torch.rand(2, 3, 5), torch.rand(2, 3, 5), torch.randn(2, 3, 7, 11)]
    for tensor in inputs:
        tensor.requires_grad_()

    def read():
        result = read_densities(basis, False, *inputs)
        if backward:
            torch.autograd.grad(result, inputs, torch.ones_like(result))

    assert counted(read) == cost.expected_read(SIZES, backward=backward).products


def test_exponentials_and_bytes_of_a_read_against_a_loop():
    weights = sum(1 for _ in product(range(2), range(3), range(5), range(7)))
    numbers = [torch.empty(2, 3, 5), torch.empty(2, 3, 5), torch.empty(2, 3, 7, 11), torch.empty(2, 5, 33)]
    assert cost.expected_read(SIZES)[1:] == (weights, sum(tensor.nbytes for tensor in numbers))
    mu, sigma_sq, values, result = (tensor.nbytes for tensor in numbers)
    gradients = mu + sigma_sq + values
    moved = 2 * gradients + result + gradients + result  # read forward and backward, written, and both of the result
    assert cost.expected_read(SIZES, backward=True)[1:] == (2 * weights, moved)


def test_a_read_in_bfloat16_moves_half_of_its_values():
    whole, half = cost.expected_read(SIZES).bytes, cost.expected_read(SIZES, itemsize=2).bytes
    assert whole - half == torch.empty(2, 3, 7, 11).nbytes // 2 + torch.empty(2, 5, 33).nbytes // 2


def test_a_step_of_the_memory_costs_what_pytorch_counts():
    config = MemoryConfig.best(num_basis=7, sigmas=(0.1,), num_samples=13)
    memory = LongTermMemory(SIZES.d_model, SIZES.num_heads, config)
    segment, state = torch.randn(2, 5, 33), memory.empty(2)
    state = memory.write(segment, state)
    memory(segment, segment, state)  # builds what is cached
    assert counted(lambda: memory(segment, segment, state)) == cost.memory_step(SIZES, num_new=5).products


def test_full_attention_costs_what_pytorch_counts():
    query, keys, values = torch.randn(2, 3, 5, 11), torch.randn(2, 3, 17, 11), torch.randn(2, 3, 17, 11)
    weights = functional.softmax(query @ keys.mT, dim=-1)
    by_hand = counted(lambda: expected_value(functional.softmax(query @ keys.mT, dim=-1), values))
    assert by_hand == cost.full_attention(SIZES, key_pos=17).products
    assert weights.numel() == cost.full_attention(SIZES, key_pos=17).exponentials
    numbers = query.nbytes + keys.nbytes + values.nbytes + query.nbytes
    assert cost.full_attention(SIZES, key_pos=17).bytes == numbers
    step = counted(lambda: [torch.randn(10, 33) @ torch.randn(33, 33) for _ in range(4)]) + by_hand
    assert cost.attention_step(SIZES, key_pos=17).products == step


def test_backward_attention_makes_its_scores_again_and_four_more_products():
    forward, both = (cost.full_attention(SIZES, 17, backward=backward) for backward in (False, True))
    assert both.products == forward.products * 7 // 2
    assert both.exponentials == 2 * forward.exponentials
    assert both.bytes > 2 * forward.bytes


def test_costs_add_up_and_sizes_are_checked():
    assert Cost(1, 2, 3).plus(Cost(4)) == Cost(5, 2, 3)
    with pytest.raises(ValueError, match="num_heads must be at least 1, got 0"):
        ReadSizes(num_heads=0)


def read_counted(model, tokens: torch.Tensor) -> list[int]:
    """Operations of each segment in turn."""
    state, counts = None, []
    for segment in tokens.split(7, dim=1):
        caches = model(segment, state)  # once beforehand: operators are built once and kept
        counts.append(counted(lambda segment=segment, state=state: model(segment, state)))
        state = caches[1]
    return counts


MODELS = {
    "infinite-former": {},
    "transformer-xl": {},
    "compressive-transformer": {"length": 6, "rate": 2},
    "compressive-transformer, pooled": {"length": 3, "rate": 4, "compression": "max_pool"},
    "window": {},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_segment_costs_what_pytorch_counts(name):
    config = model_config(name.split(",")[0], TINY, memory_options=MODELS[name])
    model = build_model(config).eval()
    tokens = torch.randint(0, 20, (1, 70), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the fused one is not counted on a CPU
        counts = read_counted(model, tokens)
    assert counts == [cost.segment_products(model.config, 7 * number, 7) for number in range(10)]
    assert counts[-1] == counts[-3] or name.startswith("compressive")  # whose groups may not fit a segment
    assert counts[-1] == cost.segment_products(model.config, 7_000_000, 7) or name.startswith("compressive")


def test_a_segment_with_a_cache_costs_what_pytorch_counts():
    model = CachedTransformer(TINY.sizes).eval()
    tokens, caches = torch.zeros(1, 7, dtype=torch.int64), model.cache(1, 70)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for num_past in (0, 7, 63):
            count = counted(lambda past=num_past: model.read(tokens, caches, past))
            assert count == cost.cached_segment_products(TINY.sizes, num_past, 7)
    assert cost.cached_state_bytes(TINY.sizes, 70) == sum(cache.nbytes for cache in caches)
