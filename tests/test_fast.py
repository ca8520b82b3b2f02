import dataclasses
from functools import partial

import pytest
import torch
from tiny import recall_config, tiny_config

from infmem.distributed import Workers
from infmem.fast import compiled, fast_is_sensible, has_cpp_compiler
from infmem.presets import build_model
from infmem.run import Run
from infmem.training import BatchReader, TrainingConfig, train_batch

# PyTorch's own, while it compiles.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]
MODELS = ["infinite-former", "compressive-transformer", "transformer-xl", "window"]


def without_dropout(model: str, **changes) -> TrainingConfig:
    """Compiled layers draw their dropout in another order: the same randomness drops other hidden states."""
    config = tiny_config(model, segment_length=17, **changes)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))


def losses(run: Run, steps: int = 50) -> torch.Tensor:
    run.model.train()
    return torch.stack([run.train_step()["loss"] for _ in range(steps)])


def compile_with(backend: str, run: Run) -> Run:
    """Let a run take its steps with compiled layers."""
    reader = BatchReader(compiled(run.model, backend), run.config)
    workers = Workers(torch.device("cpu"))
    run._take_step = partial(train_batch, reader, run.optimizer, run.config, *run.generators.values(), workers)
    return run


@pytest.mark.parametrize("model", [*MODELS, "many_functions", "sampled", "sticky"])
def test_compiled_layers_give_the_losses_of_fifty_steps(model, without_type_checker):
    """Compiled as far as gradients go, but without C++, which would take a minute each."""
    config = without_dropout(model, steps=50)
    fast = losses(compile_with("aot_eager", Run(config, None)))
    assert fast[-5:].mean() < fast[0] - 0.3, "nothing was learnt, so nothing could differ"
    torch.testing.assert_close(fast, losses(Run(config, None)), rtol=1e-4, atol=1e-4)


def test_compiled_layers_give_the_losses_of_recall(without_type_checker):
    """Whose gradient comes from every segment: two here, of which the second reads the long-term memory."""
    config = recall_config(segment_length=35, steps=10)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))
    fast = losses(compile_with("aot_eager", Run(config, None)), 10)
    torch.testing.assert_close(fast, losses(Run(config, None), 10), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not has_cpp_compiler(), reason="compiling for a CPU needs a C++ compiler: install g++ or clang++")
@pytest.mark.parametrize("model", ["window", *(pytest.param(model, marks=pytest.mark.slow) for model in MODELS[:3])])
def test_the_fast_step_of_a_cpu_gives_the_losses_of_fifty_steps(model, without_type_checker):
    config = without_dropout(model, steps=50)
    if model == "window":
        config = dataclasses.replace(config, segment_length=43)  # one segment: each layer is compiled once
    fast = Run(config, None, fast=True)
    assert fast.fast
    torch.testing.assert_close(losses(fast), losses(Run(config, None)), rtol=1e-3, atol=1e-3)


def test_what_is_compiled_is_a_twin_that_shares_weights():
    model = build_model(without_dropout("infinite-former").model)
    twin = compiled(model)
    assert all(one is two for one, two in zip(model.parameters(), twin.parameters(), strict=True))
    assert "forward" in vars(twin.blocks[0].attention) and "forward" not in vars(model.blocks[0].attention)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"compiling for a CPU needs a C\+\+ compiler"):
        Run(tiny_config(), None, fast=True)


def test_compiling_for_a_cpu_is_left_to_who_asks_for_it():
    assert not fast_is_sensible(build_model(tiny_config("window").model))
