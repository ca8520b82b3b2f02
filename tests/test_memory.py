"""The long-term memory as a whole: what it writes and reads, row by row, with every option, and what it refuses."""

import dataclasses
import math
from typing import TypeVar

import numpy as np
import oracles
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.testing import assert_close

from infmem import LongTermMemory, MemoryConfig, MemoryState, attention, sticky
from infmem.memory import (
    MemoryReading,
    Projections,
    first_operator,
    load_state,
    sampling_locations,
    save_state,
    update_recurrence,
)
from infmem.memory.operators import build_basis
from infmem.models import InfiniteFormer, InfiniteFormerConfig
from infmem.presets import PRESETS, model_config

Module = TypeVar("Module", bound=nn.Module)

D_MODEL, NUM_HEADS, BATCH, POS, QUERY_POS = 33, 3, 2, 17, 5
SIZES = {"num_basis": 10, "sigmas": (0.0625, 0.125), "num_samples": 13, "num_bins": 7}
CENTERS, SIGMAS = oracles.basis_grid(SIZES["num_basis"], SIZES["sigmas"])
PAPER = MemoryConfig.paper(**SIZES)
SHARED = MemoryConfig.paper(**SIZES, projections="shared")
STICKY = [{"sticky": method, "placement": placement} for method in ("stratified", "iid", "left_edge")
          for placement in ("address", "even")]  # fmt: skip


def randomize(module: Module, generator: torch.Generator, scale: float = 0.4) -> Module:
    """Give every parameter normal values, biases too, whatever the initialisation of the module is."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return module


def make_memory(config: MemoryConfig, generator: torch.Generator) -> LongTermMemory:
    return randomize(LongTermMemory(D_MODEL, NUM_HEADS, config).double(), generator)


def projections_beside(normal) -> Projections:
    """Weights of an attention beside a memory."""
    return Projections(*(0.4 * normal(D_MODEL, D_MODEL) for _ in Projections._fields))


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def read_several(
    memory: LongTermMemory, query: Tensor, chunks: list[Tensor], seed: int = 0
) -> tuple[Tensor, MemoryState, MemoryReading]:
    """The last of several calls, each of which writes a chunk and reads with the same query."""
    state, generator = None, torch.Generator().manual_seed(seed)
    for chunk in chunks:
        z, state, reading = memory(query, chunk, state, generator=generator)
    return z, state, reading


def zeros_beside(num_tokens: int) -> np.ndarray:
    """The midpoints of `num_tokens` tokens, continued beyond both ends by half of their number."""
    outside = (np.arange(num_tokens // 2) + 0.5) / num_tokens
    return np.concatenate([-outside, 1 + outside])


# --- against the oracles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(16, 16, 16, 16), (17, 17, 17), (16, 7, 1, 12), (1, 2, 30)])
@pytest.mark.parametrize("tau", [0.75, 0.5])
def test_released_preset_gives_the_numbers_of_the_released_code(lengths, tau, generator, normal) -> None:
    memory = make_memory(MemoryConfig.released(**SIZES, tau=tau), generator)
    sizes = {name: SIZES[name] for name in ("num_basis", "num_samples", "sigmas")}
    released = oracles.ReleasedMemory(arrays(memory), NUM_HEADS, tau=tau, **sizes)
    state = None
    for length in lengths:
        query, new = normal(BATCH, QUERY_POS, D_MODEL), normal(BATCH, length, D_MODEL)
        z, state, reading = memory(query, new, state)
        for actual, expected in zip((z, reading.kl, state.coefficients), released(query, new), strict=True):
            assert_close(actual, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_released_preset_with_the_released_widths(generator, normal) -> None:
    config = MemoryConfig.released(num_basis=22, num_samples=13)
    memory = make_memory(config, generator)
    released = oracles.ReleasedMemory(arrays(memory), NUM_HEADS, num_basis=22, num_samples=13)
    state = None
    for length in (11, 16, 11):
        query, new = normal(BATCH, QUERY_POS, D_MODEL), normal(BATCH, length, D_MODEL)
        z, state, reading = memory(query, new, state)
        for actual, expected in zip((z, reading.kl, state.coefficients), released(query, new), strict=True):
            assert_close(actual, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_released_preset_has_the_weights_of_the_released_code() -> None:
    names = {"key.weight", "value.weight", "out.weight", "to_mu.weight", "to_sigma_sq.weight"}
    assert set(LongTermMemory(6, 2, MemoryConfig.released()).state_dict()) == names | {"gate.weight", "gate.bias"}


@pytest.mark.parametrize("rule", ["end_points", "midpoints"])
@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("schedule", ["fixed", "scaled"])
def test_written_coefficients_equal_a_refit(rule, padding, schedule, generator, normal) -> None:
    config = MemoryConfig(**SIZES, ridge=0.3, tau=0.6, positions=rule, padding=padding, schedule=schedule, gate=False)
    memory = make_memory(config, generator)
    lengths, state, expected = (17, 12, 5), memory.empty(BATCH), None

    def placed(length):
        return (np.arange(1, length + 1) - (0.5 if rule == "midpoints" else 0.0)) / length

    for index, length in enumerate(lengths):
        new, past = normal(BATCH, length, D_MODEL), sum(lengths[:index])
        state = memory.write(new, state)
        if expected is None:
            zeros = oracles.basis_values(zeros_beside(length), CENTERS, SIGMAS) if padding else None
            design = oracles.basis_values(placed(length), CENTERS, SIGMAS)
            operator = oracles.ridge_operator_by_lstsq(design, config.ridge, zeros)
            expected = np.stack([operator.T @ chunk for chunk in new.numpy()])
        else:
            tau = config.tau if schedule == "fixed" else past / (past + length)
            locations = placed(config.num_samples)
            expected = oracles.update_by_refit(
                expected,
                new.numpy(),
                CENTERS,
                SIGMAS,
                tau,
                locations,
                past_positions=tau * locations,
                new_positions=tau + (1 - tau) * placed(length),
                ridge=config.ridge,
                padding_positions=zeros_beside(config.num_samples + length) if padding else None,
            )
        assert_close(state.coefficients, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
        assert state.num_tokens.tolist() == [past + length] * BATCH


def test_scaled_tau_stops_at_its_limit(generator, normal) -> None:
    config = dataclasses.replace(PAPER, schedule="scaled", tau_max=0.55)
    memory = make_memory(config, generator)
    state = memory.write(normal(BATCH, 17, D_MODEL), memory.empty(BATCH))
    new = normal(BATCH, 5, D_MODEL)
    fixed = LongTermMemory(D_MODEL, NUM_HEADS, dataclasses.replace(PAPER, tau=0.55)).double()
    fixed.load_state_dict(memory.state_dict())
    assert_close(memory.write(new, state), fixed.write(new, state))


@pytest.mark.parametrize("changes", STICKY, ids=lambda changes: "-".join(changes.values()))
def test_sticky_write_equals_a_refit_of_the_drawn_samples(changes, generator, normal) -> None:
    memory = make_memory(dataclasses.replace(PAPER, **changes, gate=False), generator)
    new = normal(BATCH, POS, D_MODEL)
    probabilities = torch.rand(BATCH, SIZES["num_bins"], generator=generator, dtype=torch.float64)
    histogram = probabilities / probabilities.sum(-1, keepdim=True)
    coefficients = normal(BATCH, SIZES["num_basis"], D_MODEL)
    state = MemoryState(coefficients, torch.full((BATCH,), 7), histogram)
    written = memory.write(new, state, generator=torch.Generator().manual_seed(3)).coefficients
    drawn = sticky.sample_locations(
        histogram, SIZES["num_samples"], torch.Generator().manual_seed(3), changes["sticky"]
    ).numpy()
    evenly = np.arange(1, SIZES["num_samples"] + 1) / SIZES["num_samples"]
    for row in range(BATCH):
        expected = oracles.update_by_refit(
            coefficients[row : row + 1].numpy(),
            new[row : row + 1].numpy(),
            CENTERS,
            SIGMAS,
            PAPER.tau,
            drawn[row],
            past_positions=PAPER.tau * (drawn[row] if changes["placement"] == "address" else evenly),
            new_positions=PAPER.tau + (1 - PAPER.tau) * np.arange(1, POS + 1) / POS,
            ridge=PAPER.ridge,
            padding_positions=zeros_beside(SIZES["num_samples"] + POS),
        )
        assert_close(written[row : row + 1], torch.from_numpy(expected), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("textbook", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("own_query", [False, True])
def test_read_equals_the_textbook_by_loops(textbook, bias, own_query, generator, normal) -> None:
    memory = make_memory(dataclasses.replace(PAPER, bias=bias, own_query=own_query, sigma_0=0.125), generator)
    query = normal(BATCH, QUERY_POS, D_MODEL)
    coefficients = normal(BATCH, SIZES["num_basis"], D_MODEL)
    z, reading = memory.read(query, memory.empty(BATCH)._replace(coefficients=coefficients), textbook=textbook)
    projected = query @ memory.query.weight.detach().T if own_query else query
    expected = oracles.gaussian_attention_by_loops(
        coefficients.numpy(), projected.numpy(), arrays(memory), NUM_HEADS, CENTERS, SIGMAS, sigma_0=0.125
    )
    for actual, by_loops in zip((z, *reading), expected, strict=True):
        assert_close(actual, torch.from_numpy(by_loops), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("textbook", [False, True])
@pytest.mark.parametrize("own_query", [False, True])
def test_read_with_shared_projections_equals_the_textbook_by_loops(textbook, own_query, generator, normal) -> None:
    memory = make_memory(dataclasses.replace(SHARED, own_query=own_query), generator)
    query, coefficients = normal(BATCH, QUERY_POS, D_MODEL), normal(BATCH, SIZES["num_basis"], D_MODEL)
    state, shared = memory.empty(BATCH)._replace(coefficients=coefficients), projections_beside(normal)
    z, reading = memory.read(query, state, projections=shared, textbook=textbook)
    projected = query @ memory.query.weight.detach().T if own_query else query
    weights = arrays(memory) | {f"{name}.weight": weight.numpy() for name, weight in shared._asdict().items()}
    expected = oracles.gaussian_attention_by_loops(
        coefficients.numpy(), projected.numpy(), weights, NUM_HEADS, CENTERS, SIGMAS
    )
    for actual, by_loops in zip((z, *reading), expected, strict=True):
        assert_close(actual, torch.from_numpy(by_loops), rtol=1e-10, atol=1e-10)


def test_a_memory_that_shares_projections_has_one_factor_a_head_instead() -> None:
    config = MemoryConfig.best(**SIZES, own_query=False, projections="shared")
    sizes = {
        name: tuple(weight.shape) for name, weight in LongTermMemory(D_MODEL, NUM_HEADS, config).named_parameters()
    }
    maps = {f"{name}.weight": (1, SIZES["num_basis"]) for name in ("to_mu", "to_sigma_sq")}
    assert sizes == maps | {"head_scale": (NUM_HEADS,), "to_mu.bias": (1,), "to_sigma_sq.bias": (1,)}


def test_smallest_variance_is_respected(generator, normal) -> None:
    memory = make_memory(dataclasses.replace(PAPER, sigma_sq_min=0.6), generator)
    _, _, reading = memory(normal(BATCH, QUERY_POS, D_MODEL), normal(BATCH, POS, D_MODEL))
    assert (reading.sigma_sq == 0.6).any() and (reading.sigma_sq > 0.6).any() and (reading.sigma_sq >= 0.6).all()


def test_read_on_the_unit_interval_equals_quadrature(generator, normal) -> None:
    memory = make_memory(dataclasses.replace(PAPER, interval="unit"), generator)
    query, state = normal(BATCH, QUERY_POS, D_MODEL), memory.empty(BATCH)
    state = state._replace(coefficients=normal(*state.coefficients.shape))
    z, (mu, sigma_sq, _) = memory.read(query, state)
    weights = oracles.expectation_by_quadrature(
        mu.detach().numpy(), sigma_sq.detach().numpy(), CENTERS, SIGMAS, unit_interval=True
    )
    values = (state.coefficients.numpy() @ memory.value.weight.detach().numpy().T).reshape(BATCH, -1, NUM_HEADS, 11)
    heads = np.einsum("bhqn,bnhd->bqhd", weights, values).reshape(BATCH, QUERY_POS, D_MODEL)
    assert_close(z, torch.from_numpy(heads @ memory.out.weight.detach().numpy().T), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("method", ["none", "stratified"])
def test_histogram_is_of_the_last_attention_where_it_is_needed(method, generator, normal) -> None:
    memory = make_memory(dataclasses.replace(PAPER, sticky=method), generator)
    query = normal(BATCH, QUERY_POS, D_MODEL)
    _, state, reading = memory(query, normal(BATCH, POS, D_MODEL), generator=generator)
    if method == "none":
        assert_close(state.histogram, memory.empty(BATCH).histogram)
    else:
        mu, sigma_sq = reading.mu.detach().numpy(), reading.sigma_sq.detach().numpy()
        expected = oracles.histogram_by_quadrature(mu, sigma_sq, SIZES["num_bins"])
        assert_close(state.histogram, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
        assert not state.histogram.requires_grad


# --- properties -------------------------------------------------------------------------------------------------------


def test_empty_memory_reads_zeros(generator, normal) -> None:
    memory = make_memory(PAPER, generator)
    z, state, _ = memory(normal(BATCH, QUERY_POS, D_MODEL))
    assert (z == 0).all() and (state.coefficients == 0).all() and (state.num_tokens == 0).all()


def test_a_call_writes_first_and_then_reads(generator, normal) -> None:
    memory = make_memory(PAPER, generator)
    query, new = normal(BATCH, QUERY_POS, D_MODEL), normal(BATCH, POS, D_MODEL)
    z, state, reading = memory(query, new)
    written = memory.write(new, memory.empty(BATCH))
    assert_close(state, written)
    assert_close((z, reading), memory.read(query, written))
    assert z.abs().max() > 0.01


def test_reading_changes_no_state_and_writing_not_the_one_given(generator, normal) -> None:
    memory = make_memory(PAPER, generator)
    query, new = normal(BATCH, QUERY_POS, D_MODEL), normal(BATCH, POS, D_MODEL)
    _, state, _ = memory(query, new)
    before = MemoryState(*(part.clone() for part in state))
    _, after_reading, _ = memory(query, None, state)
    assert_close(after_reading, before, rtol=0, atol=0)
    memory(query, new, state)
    assert_close(state, before, rtol=0, atol=0)


@pytest.mark.parametrize("contraction", ["sampled", "exact"])
def test_the_past_lies_below_tau_and_the_new_above(contraction, generator) -> None:
    sizes = {"num_basis": 21, "sigmas": (0.05,), "num_samples": 97}
    config = MemoryConfig.best(**sizes, contraction=contraction, schedule="fixed", tau=0.5, ridge=1e-3)
    memory = make_memory(config, generator)
    state = memory.write(torch.full((1, 53, D_MODEL), 2.0).double(), memory.empty(1))
    state = memory.write(torch.full((1, 53, D_MODEL), -3.0).double(), state)
    old, new = memory.basis.to(torch.float64).evaluate(torch.tensor([0.25, 0.75]).double()) @ state.coefficients[0]
    assert_close(old, torch.full_like(old, 2.0), rtol=0.1, atol=0)
    assert_close(new, torch.full_like(new, -3.0), rtol=0.1, atol=0)


def test_gate_weighs_what_is_written(generator, normal) -> None:
    memory = make_memory(PAPER, generator)
    new, empty = normal(BATCH, POS, D_MODEL), memory.empty(BATCH)
    ungated = LongTermMemory(D_MODEL, NUM_HEADS, dataclasses.replace(PAPER, gate=False)).double()
    with torch.no_grad():
        memory.gate.weight.zero_()
        memory.gate.bias.fill_(-1.0)
    whole = ungated.write(new, empty).coefficients
    assert_close(memory.write(new, empty).coefficients, torch.tensor(-1.0).double().sigmoid() * whole)


def test_state_keeps_its_size_over_many_updates(normal) -> None:
    memory = LongTermMemory(D_MODEL, NUM_HEADS, MemoryConfig.best(**SIZES))
    state = memory.empty(BATCH)
    for update in range(50):
        state = memory.write(normal(BATCH, POS, D_MODEL).float(), state).detach()
        assert sum(part.untyped_storage().nbytes() for part in state) == memory.state_bytes(BATCH)
        assert state.num_tokens.tolist() == [POS * (update + 1)] * BATCH
    assert torch.isfinite(state.coefficients).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_bytes_are_those_of_the_tensors(dtype) -> None:
    memory = LongTermMemory(D_MODEL, NUM_HEADS, PAPER).to(dtype)
    numbers = BATCH * (SIZES["num_basis"] * D_MODEL + SIZES["num_bins"])
    assert memory.state_bytes(BATCH) == sum(part.nbytes for part in memory.empty(BATCH))
    assert memory.state_bytes(BATCH) == numbers * dtype.itemsize + BATCH * 8


SCALED = {"schedule": "scaled", "ridge": 0.1, "gate": False}
# Of the mean and of single values; without a limit to tau, samples would reach a mean of 1.7 and values of 2.8.
DRIFTS = [
    (MemoryConfig.paper(**SCALED, num_basis=128, num_samples=128), 0.03, 0.25),
    (MemoryConfig.best(num_basis=128), 1e-3, 0.02),
]


@pytest.mark.parametrize("config, mean_drift, drift", DRIFTS, ids=["sampled", "best"])
def test_constant_signal_does_not_drift_under_the_scaled_schedule(config, mean_drift, drift) -> None:
    memory = LongTermMemory(2, 1, config)
    ones, inside = torch.ones(1, 128, 2), torch.linspace(0.02, 0.98, 97)
    state, held = memory.empty(1), []
    for _ in range(1000):
        state = memory.write(ones, state).detach()
        held.append(memory.basis.evaluate(inside) @ state.coefficients[0])
    assert (torch.stack(held).mean(dim=(1, 2)) - 1).abs().max() < mean_drift
    assert (torch.stack(held) - 1).abs().max() < drift


def test_the_best_memory_counts() -> None:
    """A head that looks everywhere reads the mean of all that was written, each token weighted alike."""
    torch.manual_seed(0)
    tokens = torch.randn(1, 16 * 37, 1, dtype=torch.float64)
    memory = LongTermMemory(1, 1, MemoryConfig.best(num_basis=53)).double()
    state = memory.empty(1)
    for segment in tokens.split(37, dim=1):
        state = memory.write(segment, state)
    everywhere = memory.basis.expectation(
        torch.tensor([0.5]).double(), torch.tensor([1e4]).double(), unit_interval=True
    )
    read = everywhere @ state.coefficients[0]
    assert_close(read, tokens.mean(dim=1), rtol=0, atol=0.02 * tokens.std().item() / math.sqrt(16 * 37))


def test_an_exact_contraction_has_no_samples_to_draw() -> None:
    with pytest.raises(ValueError, match=r"contraction 'exact' keeps all of the old signal, so sticky must be 'none'"):
        MemoryConfig(contraction="exact", sticky="iid")
    with pytest.raises(ValueError, match="sticky must be 'none', got 'stratified'"):
        MemoryConfig.best(sticky="stratified")
    assert MemoryConfig.best(contraction="sampled", sticky="stratified").sticky == "stratified"


def test_state_survives_a_file(tmp_path, generator, normal) -> None:
    memory = make_memory(dataclasses.replace(PAPER, sticky="stratified"), generator)
    query = normal(BATCH, QUERY_POS, D_MODEL)
    chunks = [normal(BATCH, POS, D_MODEL) for _ in range(3)]
    _, state, _ = read_several(memory, query, chunks[:2])
    save_state(state, tmp_path / "state.safetensors")
    loaded = load_state(tmp_path / "state.safetensors")
    assert_close(loaded, state.detach(), rtol=0, atol=0)
    expected, actual = (
        memory(query, chunks[2], each, generator=torch.Generator().manual_seed(1)) for each in (state, loaded)
    )
    assert_close(actual, expected, rtol=0, atol=0)


def test_state_moves_its_signal_and_leaves_its_counts_on_the_cpu() -> None:
    state = LongTermMemory(D_MODEL, NUM_HEADS, PAPER).empty(BATCH).to("meta")
    assert [part.device.type for part in state] == ["meta", "cpu", "meta"]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_reset_empties_some_rows_and_leaves_the_others(generator, normal) -> None:
    memory = make_memory(dataclasses.replace(PAPER, sticky="iid"), generator)
    query, new = normal(3, QUERY_POS, D_MODEL), normal(3, POS, D_MODEL)
    _, state, _ = memory(query, new, generator=generator)
    before = MemoryState(*(part.clone() for part in state))
    reset = state.reset(torch.tensor([False, True, False]))
    assert_close(state, before, rtol=0, atol=0)
    for row, expected in enumerate((state, memory.empty(3), state)):
        assert_close([part[row] for part in reset], [part[row] for part in expected], rtol=0, atol=0)


OPTIONS = [{}, {"schedule": "scaled"}, {"schedule": "scaled", "sticky": "stratified"}, *STICKY]


@pytest.mark.parametrize("changes", OPTIONS, ids=lambda changes: "-".join(changes.values()) or "paper")
def test_rows_of_mixed_ages_behave_as_if_each_were_alone(changes, generator, normal, monkeypatch) -> None:
    sample_locations = sticky.sample_locations

    def the_same_for_every_row(probabilities, count, _generator, method):
        rows = [sample_locations(row[None], count, torch.Generator().manual_seed(1), method) for row in probabilities]
        return torch.cat(rows)

    monkeypatch.setattr(sticky, "sample_locations", the_same_for_every_row)
    memory = make_memory(dataclasses.replace(PAPER, **changes), generator)
    query, num_rows = normal(3, QUERY_POS, D_MODEL), 3
    chunks = [normal(num_rows, length, D_MODEL) for length in (17, 11, 7, 11)]
    first_chunks = (0, 2, 3)  # where each row's document starts: at last the rows have seen 46, 18 and 11 tokens
    state = memory.empty(num_rows)
    for index, chunk in enumerate(chunks):
        state = state.reset(torch.tensor([index > 0 and index == first for first in first_chunks]))
        z, state, reading = memory(query, chunk, state)
    assert state.num_tokens.tolist() == [46, 18, 11]
    for row, first in enumerate(first_chunks):
        alone = read_several(memory, query[row : row + 1], [chunk[row : row + 1] for chunk in chunks[first:]])
        together = (z[row : row + 1], *([part[row : row + 1] for part in parts] for parts in (state, reading)))
        assert_close(together, (alone[0], list(alone[1]), list(alone[2])), rtol=1e-9, atol=1e-9)


def test_gradient_reaches_every_row_of_mixed_ages(generator, normal) -> None:
    memory = make_memory(dataclasses.replace(PAPER, schedule="scaled"), generator)
    first, second = (normal(3, POS, D_MODEL).requires_grad_() for _ in range(2))
    state = memory.write(first, memory.empty(3)).reset(torch.tensor([False, True, False]))
    memory.write(second, state).coefficients.sum().backward()
    assert [bool(row.any()) for row in first.grad] == [True, False, True]
    assert all(bool(row.any()) for row in second.grad)


# --- options ----------------------------------------------------------------------------------------------------------

CHANGES = [
    {"schedule": "scaled"},
    {"schedule": "scaled", "tau_max": 0.3},
    {"tau": 0.5},
    {"positions": "midpoints"},
    {"positions": "released"},
    {"padding": False},
    {"interval": "unit"},
    {"gate": False},
    {"bias": False},
    {"own_query": False},
    {"ridge": 0.1},
    {"num_samples": 11},
    {"sigmas": (0.05, 0.2)},
    {"sigma_sq_min": 0.9},
    *STICKY,
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: "-".join(map(str, changes.values())))
def test_every_option_is_finite_and_makes_a_difference(changes, generator, normal) -> None:
    default = make_memory(PAPER, generator)
    changed = LongTermMemory(D_MODEL, NUM_HEADS, dataclasses.replace(PAPER, **changes)).double()
    changed.load_state_dict({name: default.state_dict()[name] for name in changed.state_dict()})
    query = normal(BATCH, QUERY_POS, D_MODEL)
    chunks = [normal(BATCH, POS, D_MODEL) for _ in range(3)]
    (expected, *_), (actual, state, reading) = (read_several(memory, query, chunks) for memory in (default, changed))
    assert all(torch.isfinite(part).all() for part in (actual, state.coefficients, state.histogram, *reading))
    assert (actual - expected).abs().max() > 1e-3


def test_sticky_sampling_follows_the_generator(generator, normal) -> None:
    memory = make_memory(dataclasses.replace(PAPER, sticky="stratified"), generator)
    query = normal(BATCH, QUERY_POS, D_MODEL)
    chunks = [normal(BATCH, POS, D_MODEL) for _ in range(3)]
    first, again, other = (read_several(memory, query, chunks, seed)[0] for seed in (1, 1, 2))
    assert_close(first, again, rtol=0, atol=0)
    assert (first - other).abs().max() > 1e-6


BEST = {
    "schedule": "scaled",
    "ridge": 0.1,
    "gate": False,
    "contraction": "exact",
    "positions": "midpoints",
    "padding": False,
    "interval": "unit",
}


@pytest.mark.parametrize(
    "config, is_stable",
    [
        (MemoryConfig.paper(), True),
        (MemoryConfig.released(), True),
        (MemoryConfig.best(num_basis=127), True),
        (MemoryConfig.best(num_basis=127, contraction="sampled"), True),
        (MemoryConfig.best(num_basis=127, contraction="sampled", num_samples=127), False),
    ],
    ids=["paper", "released", "best", "best, sampled", "as many samples as functions"],
)
def test_what_an_update_keeps_of_a_long_past_grows_only_with_too_few_samples(config, is_stable) -> None:
    tau = config.tau if config.schedule == "fixed" else config.tau_max
    transition = update_recurrence(config, 131, tau, torch.float64, torch.device("cpu")).transition
    assert (torch.linalg.eigvals(transition).abs().max() < 1) == is_stable


def test_the_presets_say_what_they_change() -> None:
    assert MemoryConfig.paper() == MemoryConfig()
    for config, changes in [
        (MemoryConfig.paper(sticky="iid"), {"sticky": "iid"}),
        (MemoryConfig.released(), {"positions": "released", "bias": False, "own_query": False}),
        (MemoryConfig.released(bias=True), {"positions": "released", "own_query": False}),
        (MemoryConfig.best(tau_max=0.9), {**BEST, "sigmas": (1 / 768,), "num_samples": 1024, "tau_max": 0.9}),
        (MemoryConfig.best(num_basis=8), {**BEST, "sigmas": (1 / 12,), "num_samples": 16, "num_basis": 8}),
    ]:
        assert config == dataclasses.replace(MemoryConfig(), **changes)
    with pytest.raises(ValueError, match="num_basis must be"):
        MemoryConfig.best(num_basis=0)


def test_defaults_are_the_released_constants() -> None:
    config = MemoryConfig.released()
    assert (config.num_basis, config.sigmas, config.ridge, config.num_samples, config.tau) == (
        512, (0.01, 0.05), 1.0, 512, 0.75,
    )  # fmt: skip
    assert (config.schedule, config.padding, config.interval, config.sticky) == ("fixed", True, "line", "none")
    assert (config.gate, config.sigma_0, config.sigma_sq_min) == (True, 0.05, 1e-6)


def test_operators_are_kept_and_have_the_wanted_type() -> None:
    assert first_operator(PAPER, 19) is first_operator(PAPER, 19)
    assert first_operator(PAPER, 19, torch.float64).dtype == torch.float64
    recurrence = update_recurrence(PAPER, 19, 0.75, torch.float64)
    assert [matrix.dtype for matrix in recurrence] == [torch.float64] * 2
    released = sampling_locations(dataclasses.replace(PAPER, positions="released"))
    assert_close(released, torch.arange(1, 14, dtype=torch.float64) / 13)
    for cached in (first_operator, update_recurrence):
        assert cached.cache_info().maxsize is not None


# --- gradients --------------------------------------------------------------------------------------------------------


def test_collapsed_scores_give_the_same_result_and_gradients_as_all_scores(generator, normal) -> None:
    memory = make_memory(PAPER, generator)
    query, new = (normal(BATCH, pos, D_MODEL).requires_grad_() for pos in (QUERY_POS, POS))
    outputs, gradients = [], []
    for textbook in (False, True):
        z, _, reading = memory(query, new, textbook=textbook)
        outputs.append((z, *reading))
        loss = z.square().sum() + reading.kl.sum() + reading.mu.sum()
        gradients.append(torch.autograd.grad(loss, [query, new, *memory.parameters()]))
    assert_close(*outputs, rtol=1e-10, atol=1e-10)
    assert_close(*gradients, rtol=1e-8, atol=1e-8)
    assert all(bool(gradient.any()) for gradient in gradients[0])
    collapsed, textbook = (memory.float()(query.float(), new.float(), textbook=value)[0] for value in (False, True))
    assert_close(collapsed, textbook, rtol=1e-5, atol=1e-5)


def test_with_shared_projections_too_and_the_gradients_reach_them(generator, normal) -> None:
    memory, shared = make_memory(SHARED, generator), projections_beside(normal)
    query, new = normal(BATCH, QUERY_POS, D_MODEL), normal(BATCH, POS, D_MODEL)
    learned = [tensor.requires_grad_() for tensor in (query, new, *shared, *memory.parameters())]
    outputs, gradients = [], []
    for textbook in (False, True):
        z, _, reading = memory(query, new, projections=shared, textbook=textbook)
        outputs.append((z, *reading))
        gradients.append(torch.autograd.grad(z.square().sum() + reading.kl.sum() + reading.mu.sum(), learned))
    assert_close(*outputs, rtol=1e-10, atol=1e-10)
    assert_close(*gradients, rtol=1e-8, atol=1e-8)
    assert all(bool(gradient.any()) for gradient in gradients[0])


def test_only_the_textbook_forms_scores(normal, generator, monkeypatch) -> None:
    memory, calls, scores = make_memory(PAPER, generator), [], attention.scores

    def recording(query, keys):
        calls.append(textbook)
        return scores(query, keys)

    monkeypatch.setattr(attention, "scores", recording)
    for textbook in (False, True):
        memory(normal(BATCH, QUERY_POS, D_MODEL), normal(BATCH, POS, D_MODEL), textbook=textbook)
    assert calls == [True]


@pytest.mark.parametrize("projections", ["own", "shared"])
def test_gradients_equal_finite_differences(projections, generator, normal) -> None:
    config = MemoryConfig(num_basis=4, sigmas=(0.25, 0.5), num_samples=5, num_bins=3, projections=projections)
    memory = randomize(LongTermMemory(6, 3, config).double(), generator, scale=0.5)
    names = [name for name, _ in memory.named_parameters()]
    inputs = [normal(2, 3, 6), normal(2, 5, 6), normal(2, 4, 6), *(0.5 * normal(6, 6) for _ in Projections._fields)]

    def call(query, new, coefficients, key, value, out, *parameters):
        state = MemoryState(coefficients, torch.tensor([7, 0]), torch.full((2, 3), 1 / 3).double())
        shared = Projections(key, value, out) if projections == "shared" else None
        z, state, reading = functional_call(
            memory, dict(zip(names, parameters, strict=True)), (query, new, state), {"projections": shared}
        )
        return z, state.coefficients, reading.kl

    inputs += [parameter.detach().clone() for parameter in memory.parameters()]
    assert gradcheck(call, [tensor.requires_grad_() for tensor in inputs], fast_mode=True)


def test_gradient_flows_through_a_state_until_it_is_detached(generator, normal) -> None:
    memory = make_memory(PAPER, generator)
    query, new = normal(BATCH, QUERY_POS, D_MODEL), normal(BATCH, POS, D_MODEL)
    old = normal(BATCH, POS, D_MODEL).requires_grad_()
    state = memory.write(old, memory.empty(BATCH))
    (gradient,) = torch.autograd.grad(memory(query, new, state)[0].square().sum(), old, retain_graph=True)
    assert gradient.abs().max() > 1e-6
    z = memory(query, new, state.detach())[0]
    assert torch.autograd.grad(z.square().sum(), old, allow_unused=True) == (None,)


def test_training_works_after_inference_mode() -> None:
    memory, new = LongTermMemory(6, 2, PAPER), torch.ones(2, 23, 6)  # 23: a length that no other test has
    with torch.inference_mode():
        memory(new, new, memory.write(new, memory.empty(2)))
    z, _, _ = memory(new, new, memory.write(new, memory.empty(2)).detach())
    z.sum().backward()


# --- mixed precision --------------------------------------------------------------------------------------------------


def test_autocast_leaves_state_and_densities_in_float32(generator, normal) -> None:
    memory = make_memory(dataclasses.replace(PAPER, own_query=False), generator).float()
    query, first, second = (normal(BATCH, pos, D_MODEL).float() for pos in (QUERY_POS, POS, POS))
    before = memory.write(first, memory.empty(BATCH))
    _, expected_state, _ = memory(query, second, before)
    expected_z, expected_reading = memory.read(query, before)
    with torch.autocast("cpu", torch.bfloat16):
        _, state, _ = memory(query, second, before)
        z, reading = memory.read(query, before)
    assert state.coefficients.dtype == torch.float32
    assert_close(state.coefficients, expected_state.coefficients, rtol=0.02, atol=0.02)
    assert_close(reading, expected_reading, rtol=1e-6, atol=1e-6)
    assert_close(z.float(), expected_z, rtol=0.05, atol=0.05)


def test_autocast_changes_nothing_of_an_ungated_write(generator, normal) -> None:
    memory = make_memory(dataclasses.replace(PAPER, gate=False), generator).float()
    first, second = (normal(BATCH, POS, D_MODEL).float() for _ in range(2))
    expected = memory.write(second, memory.write(first, memory.empty(BATCH)))
    with torch.autocast("cpu", torch.bfloat16):
        actual = memory.write(second, memory.write(first, memory.empty(BATCH)))
    assert_close(actual, expected, rtol=0, atol=0)


def test_weights_in_bfloat16_leave_state_and_densities_in_float32(normal, generator) -> None:
    memory = make_memory(PAPER, generator).bfloat16()
    query, first, second = (normal(BATCH, pos, D_MODEL).bfloat16() for pos in (QUERY_POS, POS, POS))
    rounded = LongTermMemory(D_MODEL, NUM_HEADS, PAPER)
    rounded.load_state_dict(memory.state_dict())
    (z, state, reading), (expected_z, expected_state, expected_reading) = (
        read_several(each, query.to(dtype), [first.to(dtype), second.to(dtype)])
        for each, dtype in ((memory, torch.bfloat16), (rounded, torch.float32))
    )
    assert (z.dtype, state.coefficients.dtype, reading.mu.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert memory.state_bytes(BATCH) == rounded.state_bytes(BATCH)
    assert_close(state, expected_state, rtol=0.02, atol=0.02)
    assert_close(reading.mu, expected_reading.mu, rtol=0.02, atol=0.02)
    assert_close(z.float(), expected_z, rtol=0.05, atol=0.05)


def test_shared_weights_in_bfloat16_leave_state_and_densities_in_float32(normal, generator) -> None:
    memory, shared = make_memory(SHARED, generator).bfloat16(), projections_beside(normal)
    rounded = LongTermMemory(D_MODEL, NUM_HEADS, SHARED)
    rounded.load_state_dict(memory.state_dict())
    query, new = normal(BATCH, QUERY_POS, D_MODEL).bfloat16(), normal(BATCH, POS, D_MODEL).bfloat16()
    (z, state, reading), (expected_z, expected_state, expected_reading) = (
        each(query.to(dtype), new.to(dtype), projections=Projections(*(part.bfloat16().to(dtype) for part in shared)))
        for each, dtype in ((memory, torch.bfloat16), (rounded, torch.float32))
    )
    assert (z.dtype, state.coefficients.dtype, reading.mu.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert_close(state, expected_state, rtol=0.02, atol=0.02)
    assert_close(reading.mu, expected_reading.mu, rtol=0.02, atol=0.02)
    assert_close(z.float(), expected_z, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("textbook", [False, True])
def test_a_state_of_another_precision_is_read_and_written(textbook, normal, generator) -> None:
    memory = make_memory(PAPER, generator).float()
    query, first, second = (normal(BATCH, pos, D_MODEL).float() for pos in (QUERY_POS, POS, POS))
    state = memory.write(first, memory.empty(BATCH))
    wide = state._replace(coefficients=state.coefficients.double())
    expected, actual = (memory(query, second, each, textbook=textbook) for each in (state, wide))
    assert (actual[0].dtype, actual[1].coefficients.dtype) == (torch.float32, torch.float64)
    assert_close(actual[0], expected[0], rtol=1e-4, atol=1e-4)
    assert_close(actual[1].coefficients.float(), expected[1].coefficients, rtol=1e-4, atol=1e-4)


# --- errors -----------------------------------------------------------------------------------------------------------

BAD_FIELDS = [
    ({"num_basis": 0}, "num_basis must be a positive multiple of the number of widths"),
    ({"num_basis": 11}, "num_basis must be a positive multiple of the number of widths"),
    ({"sigmas": ()}, "sigmas must name at least one width"),
    ({"sigmas": (0.01, 0.0)}, "every width in sigmas must be > 0, got 0.0"),
    ({"sigmas": (0.01, float("nan"))}, "every width in sigmas must be > 0, got nan"),
    ({"ridge": -0.1}, "ridge must be >= 0, got -0.1"),
    ({"ridge": float("inf")}, "ridge must be a finite number, got inf"),
    ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
    ({"num_bins": 0}, "num_bins must be at least 1, got 0"),
    ({"tau": 0.0}, r"tau must be in \(0, 1\), got 0.0"),
    ({"tau": 1.0}, r"tau must be in \(0, 1\), got 1.0"),
    ({"tau_max": 1.0}, r"tau_max must be in \(0, 1\), got 1.0"),
    ({"sigma_0": 0.0}, "sigma_0 must be > 0, got 0.0"),
    ({"kl_weight": -1.0}, "kl_weight must be >= 0, got -1.0"),
    ({"kl_weight": float("nan")}, "kl_weight must be a finite number, got nan"),
    ({"sigma_sq_min": 0.0}, "sigma_sq_min must be > 0, got 0.0"),
]


@pytest.mark.parametrize("changes, message", BAD_FIELDS, ids=str)
def test_bad_numbers_in_a_configuration_are_refused(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryConfig(**changes)


NAMED = ["contraction", "schedule", "positions", "interval", "sticky", "placement", "projections"]


@pytest.mark.parametrize("name", NAMED)
def test_bad_names_in_a_configuration_are_refused(name, without_type_checker) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'sometimes'"):
        MemoryConfig(**{name: "sometimes"})


@pytest.mark.parametrize("d_model, num_heads", [(33, 2), (33, 0), (0, 1)])
def test_heads_must_divide_the_width(d_model, num_heads) -> None:
    with pytest.raises(ValueError, match=rf"num_heads must be a divisor of d_model \({d_model}\), got {num_heads}"):
        LongTermMemory(d_model, num_heads, PAPER)


def test_a_batch_of_less_than_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="batch must be >= 0, got -1"):
        LongTermMemory(D_MODEL, NUM_HEADS, PAPER).empty(-1)


QUERY, NEW = (BATCH, QUERY_POS, D_MODEL), (BATCH, POS, D_MODEL)
BAD_INPUTS = [
    (torch.ones(QUERY), torch.ones(BATCH, 0, D_MODEL), "new must hold at least one position, got none"),
    (torch.ones(QUERY), torch.ones(BATCH + 1, POS, D_MODEL), "new must have the axes .* with batch = 2, got batch = 3"),
    (torch.ones(QUERY), torch.ones(BATCH, POS, 30), "new must have the axes .* with d_model = 33, got d_model = 30"),
    (torch.ones(QUERY), torch.ones(BATCH, D_MODEL), "new must have the axes .* got 2 axes"),
    (torch.ones(QUERY), torch.ones(NEW, dtype=torch.int64), "new must be a tensor of type float, got torch.int64"),
    (torch.ones(QUERY), torch.ones(NEW, device="meta"), "all tensors must be on one device, got new on meta"),
    (torch.ones(QUERY[:-1]), None, "query must have the axes .* got 2 axes"),
    (torch.ones(BATCH, QUERY_POS, 3), None, "query must have the axes .* with d_model = 33, got d_model = 3"),
    (torch.ones(QUERY, dtype=torch.bool), None, "query must be a tensor of type float, got torch.bool"),
    ([1.0], None, "query must be a tensor, got list"),
]  # fmt: skip


@pytest.mark.parametrize("query, new, message", BAD_INPUTS, ids=[message for *_, message in BAD_INPUTS])
def test_bad_tensors_are_refused(query, new, message) -> None:
    with pytest.raises(ValueError, match=message):
        LongTermMemory(D_MODEL, NUM_HEADS, PAPER)(query, new)


BAD_STATES = [
    ({"coefficients": torch.zeros(3, 10, D_MODEL)}, r"coefficients of sizes \(2, 10, 33\) .*, got \(3, 10, 33\)"),
    ({"coefficients": torch.zeros(2, 12, D_MODEL)}, r"coefficients of sizes \(2, 10, 33\) .*, got \(2, 12, 33\)"),
    ({"coefficients": torch.zeros(2, 10, 36)}, r"coefficients of sizes \(2, 10, 33\) .*, got \(2, 10, 36\)"),
    ({"num_tokens": torch.zeros(3, dtype=torch.int64)}, r"num_tokens must hold 2 counts on the CPU, got sizes \(3,\)"),
    ({"histogram": torch.zeros(2, 8)}, r"histogram must have sizes \(2, 7\) .*, got \(2, 8\)"),
    ({"histogram": torch.zeros(3, 7)}, r"histogram must have sizes \(2, 7\) .*, got \(3, 7\)"),
    ({"coefficients": torch.zeros(2, 10, D_MODEL, device="meta")}, "must be on one device, got cpu, meta and cpu"),
]


@pytest.mark.parametrize("changes, message", BAD_STATES, ids=[message for _, message in BAD_STATES])
def test_a_state_of_something_else_is_refused(changes, message) -> None:
    memory = LongTermMemory(D_MODEL, NUM_HEADS, PAPER)
    state = memory.empty(BATCH)._replace(**changes)
    with pytest.raises(ValueError, match=message):
        memory.read(torch.ones(QUERY), state)
    with pytest.raises(ValueError, match=message):
        memory.write(torch.ones(NEW), state)


@pytest.mark.parametrize("state", [(), torch.zeros(BATCH, 10, D_MODEL)], ids=["tuple", "tensor"])
def test_a_state_must_be_one(state, without_type_checker) -> None:
    with pytest.raises(ValueError, match=f"state must be the MemoryState of the last call, got {type(state).__name__}"):
        LongTermMemory(D_MODEL, NUM_HEADS, PAPER)(torch.ones(QUERY), None, state)


GOOD = Projections(*torch.zeros(3, D_MODEL, D_MODEL))
BAD_PROJECTIONS = [
    (PAPER, GOOD, r"projections must be None: this memory has its own \(projections='own'\)"),
    (SHARED, None, r"projections must be those of the attention beside this memory, .* got None: pass Projections\("),
    (SHARED, (*GOOD,), "projections must be those of the attention beside this memory, .* got tuple: pass"),
    *(
        (SHARED, GOOD._replace(**{name: bad}), rf"projections\.{name} must have sizes \(33, 33\), got {sizes}")
        for name in Projections._fields
        for bad, sizes in ((torch.zeros(D_MODEL, 30), r"\(33, 30\)"), (torch.zeros(D_MODEL), r"\(33,\)"))
    ),
    (SHARED, GOOD._replace(out=GOOD.out.to("meta")), "projections.out must be on the memory's device, cpu, got meta"),
]


@pytest.mark.parametrize("config, projections, message", BAD_PROJECTIONS, ids=[case[-1] for case in BAD_PROJECTIONS])
def test_projections_that_do_not_fit_are_refused(config, projections, message, without_type_checker) -> None:
    memory = LongTermMemory(D_MODEL, NUM_HEADS, config)
    with pytest.raises(ValueError, match=message):
        memory(torch.ones(QUERY), torch.ones(NEW), projections=projections)
    with pytest.raises(ValueError, match=message):
        memory.read(torch.ones(QUERY), memory.empty(BATCH), projections=projections)


def test_counts_stay_on_the_cpu_under_a_default_device() -> None:
    memory = LongTermMemory(D_MODEL, NUM_HEADS, PAPER)
    with torch.device("meta"):
        assert memory.empty(BATCH).num_tokens.device.type == "cpu"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["query", "new", "state.coefficients"])
def test_values_are_checked_on_request_only(bad, where) -> None:
    memory = LongTermMemory(D_MODEL, NUM_HEADS, PAPER)
    state = memory.empty(BATCH)
    tensors = {"query": torch.ones(QUERY), "new": torch.ones(NEW), "state.coefficients": state.coefficients}
    tensors[where][1, 2, 3] = bad
    calls = {
        "forward": lambda **options: memory(tensors["query"], tensors["new"], state, **options),
        "write": lambda **options: memory.write(tensors["new"], state, **options),
        "read": lambda **options: memory.read(tensors["query"], state, **options),
    }
    for name in {"query": ["forward", "read"], "new": ["forward", "write"]}.get(where, calls):
        calls[name]()
        with pytest.raises(ValueError, match=f"{where} must be finite, got 1 of"):
            calls[name](validate=True)


@pytest.mark.parametrize("rows", [torch.tensor([True]), torch.tensor([[True, False]]), torch.tensor([0, 1])])
def test_rows_to_reset_must_be_one_boolean_each(rows, without_type_checker) -> None:
    with pytest.raises(ValueError, match="rows must be 2 booleans"):
        LongTermMemory(D_MODEL, NUM_HEADS, PAPER).empty(BATCH).reset(rows)


def test_a_file_that_holds_no_state_is_refused(tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(ValueError, match=r"there is no state at .*state\.safetensors"):
        load_state(path)
    save_file({"coefficients": torch.zeros(2, 10, 33)}, path)
    with pytest.raises(ValueError, match="must hold coefficients, num_tokens, histogram, got coefficients"):
        load_state(path)
    save_state(LongTermMemory(D_MODEL, NUM_HEADS, PAPER).empty(BATCH), path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        load_state(path)


# --- numbers that products may be rounded to --------------------------------------------------------------------------


def rounded_to_tf32(x: torch.Tensor) -> torch.Tensor:
    """The nearest numbers with 10 bits after the first, which is what TF32 products look at."""
    bits = x.view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory", "rounded", "smallest", "largest"),
    [
        pytest.param("best", lambda x: x, 0, 1e-6, id="best, float32"),
        pytest.param("best", rounded_to_tf32, 1e-4, 1e-3, id="best, TF32"),
        pytest.param("best", lambda x: x.bfloat16().float(), 5e-4, 5e-3, id="best, bfloat16"),
        pytest.param("paper", lambda x: x, 0, 1e-5, id="paper, float32"),
        pytest.param("paper", rounded_to_tf32, 1e-3, 1e-2, id="paper, TF32"),
        pytest.param("paper", lambda x: x.bfloat16().float(), 5e-3, 5e-2, id="paper, bfloat16"),
    ],
)
def test_what_rounded_products_cost_after_eight_updates(memory, rounded, smallest, largest, generator) -> None:
    """A memory of the full preset, with the operands of every product rounded, is as wrong as README says."""
    config, held = model_config("infinite-former", PRESETS["full"], memory).memory, [None, None]
    for count in range(8):
        new = torch.randn(1, 1024, 31, generator=generator) + 2 * torch.randn(1, 1, 31, generator=generator)
        for which, (dtype, rounding) in enumerate([(torch.float64, lambda x: x), (torch.float32, rounded)]):
            x = rounding(torch.nn.functional.layer_norm(new, (31,)).to(dtype))
            if count == 0:
                held[which] = rounding(first_operator(config, 1024, dtype)).T @ x
            else:
                tau = config.tau if config.schedule == "fixed" else count / (count + 1)
                transition, write = update_recurrence(config, 1024, tau, dtype)
                held[which] = rounding(transition) @ rounding(held[which]) + rounding(write) @ x
    mean = torch.linspace(0.02, 0.98, 53, dtype=torch.float64)
    for sigma in (1.0, 0.1, 0.01):
        weights = build_basis(config).expectation(mean, torch.full_like(mean, sigma**2))
        expected, read = (weights @ coefficients.double() for coefficients in held)
        assert smallest <= (read - expected).norm() / expected.norm() <= largest


@pytest.mark.parametrize("projections", ["own", "shared"])
def test_a_memory_begins_as_its_configuration_says(projections):
    config = MemoryConfig.best(num_basis=32, initial_width=0.1, silent_start=True, projections=projections)
    model = InfiniteFormer(InfiniteFormerConfig(d_model=12, num_heads=3, num_layers=2, memory_length=5, memory=config))
    shared = Projections(*torch.randn(3, 12, 12)) if projections == "shared" else None
    for memory in (LongTermMemory(12, 3, config), *model.long_term_memories):
        z, _, reading = memory(torch.randn(2, 5, 12), torch.randn(2, 64, 12), projections=shared)
        assert z.count_nonzero() == 0
        assert torch.allclose(reading.sigma_sq.sqrt(), torch.tensor(0.1), rtol=0.5)


@pytest.mark.parametrize(
    "changes", [{"initial_width": 0.0}, {"initial_width": 6.0}, {"initial_width": 0.1, "bias": False}]
)
def test_an_initial_width_that_cannot_be_is_named(changes):
    with pytest.raises(ValueError, match="initial_width"):
        MemoryConfig(**changes)
