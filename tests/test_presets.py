import pytest
import torch

from infmem import InfiniteFormer, TransformerXL, WindowTransformer
from infmem.presets import MODEL_NAMES, PRESETS, build_model, choose_device, model_config, preset
from infmem.tasks import TASKS
from infmem.tasks.sorting import first_visible


@pytest.mark.parametrize("name", PRESETS)
def test_all_models_of_a_preset_share_their_sizes(name):
    sizes = preset(name)
    models = {model: model_config(model, sizes) for model in ("infinite-former", "transformer-xl", "window")}
    for field in ("vocab_size", "d_model", "num_heads", "num_layers", "d_ff", "dropout"):
        assert len({getattr(config, field) for config in models.values()}) == 1
    infinite, recurrent = models["infinite-former"], models["transformer-xl"]
    assert recurrent.memory_length == infinite.memory_length + infinite.memory.num_basis


def test_the_classroom_asks_for_more_than_the_transformer_xl_can_see():
    sizes = preset("classroom")
    config = model_config("transformer-xl", sizes)
    segments = -(-(sizes.length + 20) // sizes.segment_length)
    assert sizes.length >= 384 and segments >= 10
    assert config.num_layers * config.memory_length + sizes.segment_length <= sizes.length / 2
    first = first_visible(sizes.length, sizes.segment_length, config.num_layers, config.memory_length)
    assert first.min() >= sizes.length / 2
    assert len(first.unique()) == 1, "one segment must hold the whole answer"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("infinite-former", InfiniteFormer), ("transformer-xl", TransformerXL), ("window", WindowTransformer)],
)
def test_models_are_built_alike_from_a_seed(name, kind):
    config = model_config(name, preset("classroom"))
    before = torch.get_rng_state()
    one, same, other = build_model(config, 3), build_model(config, 3), build_model(config, 5)
    assert torch.equal(torch.get_rng_state(), before), "PyTorch's own randomness must stay as it was"
    assert type(one) is kind
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.embedding.weight, other.embedding.weight)


def test_memory_presets_reach_the_model():
    assert model_config("infinite-former", preset("small"), "released").memory.own_query is False
    assert model_config("infinite-former", preset("small"), "paper").memory.gate is True
    assert model_config("infinite-former", preset("small"), "best").memory.contraction == "exact"


@pytest.mark.parametrize("model", MODEL_NAMES.values())
def test_a_task_decides_the_number_of_tokens(model):
    sizes = preset("classroom")
    for name, task in TASKS.items():
        assert model_config(model, sizes, task=name).vocab_size == task.vocab_size
    assert model_config(model, sizes) == model_config(model, sizes, task="sorting")


def test_unknown_names_are_refused(without_type_checker):
    with pytest.raises(ValueError, match="preset must be one of classroom, small, full, got 'large'"):
        preset("large")
    with pytest.raises(ValueError, match="model must be one of infinite-former"):
        model_config("compressive", preset("small"))
    with pytest.raises(ValueError, match="memory must be one of best, paper, released"):
        model_config("infinite-former", preset("small"), "worst")
    with pytest.raises(ValueError, match="device must be auto, cpu or cuda"):
        choose_device("tpu")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="finds no CUDA GPU"):
        choose_device("cuda")
