import json

import pytest
from tiny import tiny_config

from infmem import InfiniteFormerConfig, MemoryConfig, TransformerXLConfig
from infmem.config import from_dict, parse_options, to_dict
from infmem.training import TrainingConfig


@pytest.mark.parametrize("model", ["infinite-former", "transformer-xl", "window"])
def test_a_configuration_survives_json(model):
    config = tiny_config(model, learning_rate=0.003)
    restored = from_dict(TrainingConfig, json.loads(json.dumps(to_dict(config))))
    assert restored == config
    assert type(restored.model) is type(config.model)


def test_nested_tuples_and_choices_survive():
    config = InfiniteFormerConfig(memory=MemoryConfig.released(num_basis=6, sigmas=(0.1, 0.2, 0.3), sticky="iid"))
    assert from_dict(InfiniteFormerConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_modle": 12}, "has no field d_modle"),
        ({"d_model": None}, "d_model must be of type int"),
        ({"d_model": "12"}, "d_model must be of type int, got '12'"),
        ({"d_model": True}, "d_model must be of type int, got True"),
        ({"dropout": "none"}, "dropout must be of type float"),
        ({"d_model": -12}, "d_model must be at least 1, got -12"),
        ({"d_model": 13}, "d_model must be even"),
        ({"num_heads": 5}, "num_heads must be a divisor"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"memory_length": -1}, "memory_length must be >= 0"),
    ],
)
def test_a_wrong_field_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        from_dict(TransformerXLConfig, to_dict(TransformerXLConfig()) | change)


def test_a_missing_field_is_named():
    entries = to_dict(MemoryConfig())
    del entries["ridge"]
    with pytest.raises(ValueError, match="MemoryConfig lacks ridge"):
        from_dict(MemoryConfig, entries)


def test_an_unknown_choice_is_named():
    with pytest.raises(ValueError, match=r"schedule must be one of fixed, scaled, got 'never'"):
        from_dict(MemoryConfig, to_dict(MemoryConfig()) | {"schedule": "never"})


@pytest.mark.parametrize("entries", [None, [1, 2], "text", 7])
def test_something_that_is_no_object_is_refused(entries):
    with pytest.raises(ValueError, match="must be an object"):
        from_dict(MemoryConfig, entries)


@pytest.mark.parametrize("model", [{}, {"class": "OtherConfig"}, None])
def test_an_unknown_model_is_refused(model):
    with pytest.raises(ValueError, match=r"model must be an object whose class is one of InfiniteFormerConfig"):
        from_dict(TrainingConfig, to_dict(tiny_config()) | {"model": model})


def test_a_list_that_is_none_is_refused():
    with pytest.raises(ValueError, match="sigmas must be a list"):
        from_dict(MemoryConfig, to_dict(MemoryConfig()) | {"sigmas": 0.1})


@pytest.mark.parametrize(
    "option, complaint",
    [
        ("schedule", "must read name=value"),
        ("speed=3", "has no field speed"),
        ("schedule=slow", "MemoryConfig.schedule must be one of fixed, scaled, got 'slow'"),
        ("num_basis=many", "MemoryConfig.num_basis must be of type int, got 'many'"),
        ("sigmas=0.1", "MemoryConfig.sigmas must be a list, got 0.1"),
    ],
)
def test_typed_options_are_refused_with_a_sentence(option, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_options(MemoryConfig, [option])
