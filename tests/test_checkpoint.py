import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_config

from infmem.checkpoint import load_checkpoint, save_checkpoint, write_text
from infmem.config import to_dict
from infmem.presets import build_model


@pytest.fixture
def trained():
    """A model whose optimiser has averages, and its configuration."""
    config = tiny_config()
    model = build_model(config.model, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    logits, _ = model(torch.arange(14).reshape(2, 7))
    logits.square().mean().backward()
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return config, model, optimizer


def test_everything_comes_back(trained, tmp_path):
    config, model, optimizer = trained
    path = tmp_path / "deep" / "checkpoint.safetensors"
    save_checkpoint(path, to_dict(config), 11, 2.5, model, optimizer)
    checkpoint = load_checkpoint(path)
    other = build_model(config.model, seed=2)
    other_optimizer = torch.optim.Adam(other.parameters(), fused=True)
    checkpoint.load_into(other, other_optimizer)
    assert (checkpoint.config, checkpoint.step, checkpoint.seconds) == (to_dict(config), 11, 2.5)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        for name, value in optimizer.state[mine].items():
            assert torch.equal(value, other_optimizer.state[theirs][name]), name
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "no temporary file may stay"


def test_weights_alone(trained, tmp_path):
    config, model, _ = trained
    save_checkpoint(tmp_path / "model.safetensors", to_dict(config), 1, 0.0, model, None)
    checkpoint = load_checkpoint(tmp_path / "model.safetensors")
    assert not checkpoint.optimizer
    with pytest.raises(ValueError, match="optimiser lack"):
        checkpoint.load_into(model, torch.optim.Adam(model.parameters(), fused=True))


def test_weights_that_are_kept_in_bfloat16_are_read_into_float32(trained, tmp_path):
    config, model, _ = trained
    halves = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    kept = build_model(config.model).bfloat16()
    kept.load_state_dict(halves)
    save_checkpoint(tmp_path / "half.safetensors", to_dict(config), 1, 0.0, kept, None)
    other = build_model(config.model, seed=2)
    load_checkpoint(tmp_path / "half.safetensors").load_into(other)
    for name, tensor in other.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, halves[name].float()), name


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_file_is_refused(trained, tmp_path, share):
    config, model, optimizer = trained
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, to_dict(config), 1, 0.0, model, optimizer)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_checkpoint(path)


def test_a_pickle_is_refused_and_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (write_text, (tmp_path / "executed", "boo"))

    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_other_safetensors_files_are_refused(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_file({"x": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="not a checkpoint of infmem"):
        load_checkpoint(path)
    save_file({"x": torch.ones(2)}, path, {"format": "infmem 1", "config": "{", "step": "1", "seconds": "0"})
    with pytest.raises(ValueError, match="damaged header"):
        load_checkpoint(path)
    save_file({"x": torch.ones(2)}, path, {"format": "infmem 1", "config": json.dumps({}), "seconds": "0"})
    with pytest.raises(ValueError, match="damaged header"):
        load_checkpoint(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint at"):
        load_checkpoint(tmp_path / "checkpoint.safetensors")


def test_another_models_weights_are_refused(trained, tmp_path):
    config, model, optimizer = trained
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, to_dict(config), 1, 0.0, model, optimizer)
    checkpoint = load_checkpoint(path)
    with pytest.raises(ValueError, match="weights lack"):
        checkpoint.load_into(build_model(tiny_config("transformer-xl").model))
    wider = tiny_config().model
    wider = type(wider)(**{**vars(wider), "d_ff": 17})
    before = build_model(wider)
    with pytest.raises(ValueError, match=r"inner\.weight of sizes \(10, 12\), the model needs \(17, 12\)"):
        checkpoint.load_into(before)
    untouched = build_model(wider)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), untouched.parameters(), strict=True))


def test_text_is_written_whole(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert len(list(path.parent.iterdir())) == 1
