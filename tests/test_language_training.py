import dataclasses
from functools import partial
from typing import get_args

import pytest
import torch
from tiny import tiny_language_config, tiny_tokens
from torch.nn import functional
from torch.testing import assert_close

from infmem.fast import compiled
from infmem.language.sizes import SIZES, LanguageModelName, language_model, num_parameters
from infmem.language.training import LanguageRun, load_language_run, state_from, state_tensors
from infmem.run import METRICS, read_metrics
from infmem.tasks.sorting import IGNORE

TOKENS = tiny_tokens()
MODELS = [name for name in get_args(LanguageModelName) if name not in ("transformer-xl-long", "transformer-xl-inside")]


@pytest.mark.parametrize("size", SIZES)
def test_all_models_have_equally_many_parameters(size, without_type_checker):
    own = language_model("infinite-former-own", SIZES[size])
    wanted = num_parameters(own)
    for name in get_args(LanguageModelName):
        if name != "transformer-xl-inside":
            assert num_parameters(language_model(name, SIZES[size])) == pytest.approx(wanted, rel=0.01), name
    assert own.d_ff == SIZES[size].sizes.d_ff and (own.memory.projections, own.memory.own_query) == ("own", False)
    inside = language_model("transformer-xl-inside", SIZES[size])
    assert all(getattr(own, field.name) == getattr(inside, field.name) for field in dataclasses.fields(inside))
    assert num_parameters(inside) < 0.96 * wanted
    if size == "gpu":
        assert 10e6 < wanted < 25e6
    with pytest.raises(ValueError, match="model must be one of window, "):
        language_model("lstm", SIZES[size])


def test_all_infinite_formers_but_one_share_projections_and_have_a_wider_feed_forward():
    size = SIZES["classroom"]
    formers = [name for name in get_args(LanguageModelName) if name.startswith("infinite-former")]
    configs = {name: language_model(name, size) for name in formers}
    assert [name for name in formers if configs[name].memory.projections == "own"] == ["infinite-former-own"]
    assert [name for name in formers if configs[name].d_ff == size.sizes.d_ff] == ["infinite-former-own"]
    assert all(config.memory.silent_start and not config.memory.own_query for config in configs.values())
    shared = dataclasses.replace(configs["infinite-former-own"].memory, projections="shared")
    assert shared == configs["infinite-former"].memory


@pytest.mark.parametrize(("model", "stop"), [*((model, 4) for model in MODELS), ("infinite-former", 1)])
def test_an_interrupted_run_goes_on_bit_for_bit(model, stop, tmp_path):
    """Also before anything was written to the long-term memory, when its weights have no gradient yet."""
    config = tiny_language_config(model, steps=7)
    whole = LanguageRun(config, TOKENS, tmp_path / "whole")
    assert whole.train()
    first = LanguageRun(config, TOKENS, tmp_path / "parts")
    assert not first.train(until=0.0, log_every=stop)
    assert first.step == stop
    second = LanguageRun(config, TOKENS, tmp_path / "parts", resume=True)
    assert second.step == stop and second.state is not None
    assert second.train()
    for one, two in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, two)
    rows, expected = read_metrics(tmp_path / "parts"), read_metrics(tmp_path / "whole")
    for row, other in zip(rows, expected, strict=True):
        assert {name: row[name] for name in METRICS[:-1]} == {name: other[name] for name in METRICS[:-1]}


def test_the_loss_is_that_of_each_row_read_alone(monkeypatch):
    """A step's loss from the weights before it: documents one by one from their start, with a fresh state each."""
    config = tiny_language_config(steps=9)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0), learning_rate=1e-30)
    run = LanguageRun(config, TOKENS, None)
    found = [run.train_step()["loss"].item() for _ in range(9)]
    states, run.model = {}, run.model.eval()
    for step in range(9):
        batch, losses, auxiliary = run.reader.batch(step), [], []
        for row in range(3):
            state = None if batch.begins[row] else states[row]
            logits, states[row] = run.model(batch.tokens[row : row + 1], state)
            losses.append(functional.cross_entropy(logits[0], batch.targets[row], reduction="sum", ignore_index=IGNORE))
            auxiliary.append(states[row].auxiliary_loss)
        asked = (batch.targets != IGNORE).sum()
        assert_close(torch.tensor(found[step]), (sum(losses) / asked).detach(), rtol=1e-4, atol=1e-4)


def test_what_is_read_can_be_learned():
    config = tiny_language_config(steps=60, learning_rate=0.03)
    tokens = tiny_tokens()
    tokens.splits["train"].tokens[:] = torch.arange(len(tokens.splits["train"].tokens)) % 5
    run = LanguageRun(config, tokens, None)
    losses = [run.train_step()["loss"].item() for _ in range(60)]
    assert sum(losses[-10:]) / 10 < 1.0 < losses[0]


def test_gradient_flows_through_as_many_segments_as_asked():
    one, two = (LanguageRun(tiny_language_config(grad_segments=n, steps=4), TOKENS, None) for n in (1, 2))
    assert len(one.reader) == 4 and len(two.reader) == 8
    assert all(torch.isfinite(two.train_step()["loss"]) for _ in range(4))
    assert two.state.num_seen.max() > one.model.memory_length


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # while PyTorch compiles
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "model",
    [
        "infinite-former",
        pytest.param("transformer-xl", marks=pytest.mark.slow),
        pytest.param("compressive-transformer", marks=pytest.mark.slow),
    ],
)
def test_compiled_layers_give_the_same_losses(model, without_type_checker, monkeypatch):
    """With rows that begin anew at their own times; as far as gradients go, but without C++."""
    monkeypatch.setattr("infmem.language.training.compiled", partial(compiled, backend="aot_eager"))
    config = tiny_language_config(model, steps=20)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))
    plain, fast = (LanguageRun(config, TOKENS, None, fast=fast) for fast in (False, True))
    losses = [torch.stack([run.train_step()["loss"] for _ in range(20)]) for run in (plain, fast)]
    assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)
    assert fast.fast and losses[0][-3:].mean() < losses[0][0] - 0.05, "nothing was learnt, so nothing could differ"


@pytest.mark.parametrize("model", ["compressive-transformer", "infinite-former", "infinite-former-sticky"])
def test_mixed_precision_gives_nearly_the_same_losses(model):
    config = tiny_language_config(model, steps=9)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))
    runs = [LanguageRun(dataclasses.replace(config, precision=p), TOKENS, None) for p in ("float32", "bfloat16")]
    exact, rough = (torch.stack([run.train_step()["loss"] for _ in range(9)]) for run in runs)
    assert rough.dtype == torch.float32 and not torch.equal(rough, exact)
    assert_close(rough, exact, rtol=0.05, atol=0.05)


def test_a_state_is_put_together_as_it_was():
    run = LanguageRun(tiny_language_config("infinite-former-sticky", steps=5), TOKENS, None)
    for _ in range(5):
        run.train_step()
    again = state_from(state_tensors(run.state), run.model, 3)
    for one, two in zip(
        (*again.short_term, *sum(map(tuple, again.long_term), ()), again.num_seen),
        (*run.state.short_term, *sum(map(tuple, run.state.long_term), ()), run.state.num_seen),
        strict=True,
    ):
        assert torch.equal(one, two)


def test_other_tokens_are_refused(tmp_path):
    config = tiny_language_config("window", steps=1)
    for change in ({"corpus": "other"}, {"corpus_hash": "f" * 16}):
        with pytest.raises(ValueError, match="name the text that it was trained on"):
            LanguageRun(dataclasses.replace(config, **change), TOKENS, None)
    with pytest.raises(ValueError, match="name the text that it was trained on"):
        LanguageRun(config, tiny_tokens(vocab_size=37), None)


def test_a_run_is_loaded_and_one_of_another_kind_is_refused(tmp_path):
    run = LanguageRun(tiny_language_config("window", steps=1), TOKENS, tmp_path)
    run.train()
    model, config = load_language_run(tmp_path)
    assert config == run.config
    for one, two in zip(model.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(ValueError, match="was trained with other options: steps"):
        LanguageRun(dataclasses.replace(config, steps=2), TOKENS, tmp_path, resume=True)
    from tiny import tiny_config

    from infmem.run import Run

    Run(tiny_config("window", steps=1), tmp_path / "sorting").train()
    with pytest.raises(ValueError, match="LanguageConfig lacks corpus, corpus_hash"):
        load_language_run(tmp_path / "sorting")
