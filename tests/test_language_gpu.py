"""What must hold on a GPU too for language models. `make test` leaves these out; `make gpu-test` runs them."""

import dataclasses

import pytest
import torch
from tiny import tiny_language_config, tiny_tokens
from torch.testing import assert_close

from infmem.language.evaluation import evaluate_language
from infmem.language.training import LanguageRun
from infmem.models.layers import RelativeAttention
from infmem.presets import choose_device

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("without_type_checker", "fresh_compiler"),  # what checks annotations can't be compiled
    # PyTorch's own, while it compiles.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context:UserWarning"),
]
TOKENS = tiny_tokens()
MODELS = ["window", "transformer-xl", "compressive-transformer", "infinite-former", "infinite-former-sticky"]


@pytest.fixture
def gpu() -> torch.device:
    return choose_device("cuda")


def config_of(model: str, **changes):
    config = tiny_language_config(model, **changes)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))


@pytest.mark.parametrize("model", MODELS)
def test_a_gpu_gives_the_losses_of_the_cpu_and_compiled_layers_those_of_plain_ones(model, gpu):
    config = config_of(model, steps=20, precision="float32")
    runs = [LanguageRun(config, TOKENS, None, device, fast=fast) for device, fast in (("cpu", False), (gpu, False))]
    runs.append(LanguageRun(config, TOKENS, None, gpu))
    assert runs[2].fast
    losses = [torch.stack([run.train_step()["loss"].cpu() for _ in range(20)]) for run in runs]
    if model != "infinite-former-sticky":  # a GPU draws other numbers
        assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-3)
    assert_close(losses[2], losses[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_training_resuming_and_evaluating_on_a_gpu(model, gpu, tmp_path):
    config = config_of(model, steps=9)
    first = LanguageRun(config, TOKENS, tmp_path, gpu)
    assert not first.train(until=0.0, log_every=4)
    second = LanguageRun(config, TOKENS, tmp_path, gpu, resume=True)
    assert second.step == 4 and second.state.short_term[0].is_cuda
    assert second.train()
    documents = TOKENS.splits["test"]
    options = {"segment_length": 4, "document_token": TOKENS.document_token, "batch_size": 3, "precision": "float32"}
    found = evaluate_language(second.model, documents, **options)["on"]
    expected = evaluate_language(second.model.cpu(), documents, **options)["on"]
    if model != "infinite-former-sticky":
        assert_close(found.nats, expected.nats, rtol=1e-3, atol=1e-2)


def test_the_kernel_looks_at_no_vector_that_a_row_may_not_see(gpu):
    from infmem.fast import read_with_kernel

    plain = RelativeAttention(64, 2).to(gpu)
    fused = RelativeAttention(64, 2).to(gpu)
    fused.load_state_dict(plain.state_dict())
    read_with_kernel(fused)
    generator = torch.Generator(gpu).manual_seed(3)
    x, memory = (torch.randn(3, length, 64, generator=generator, device=gpu) for length in (37, 131))
    biases = torch.randn(2, 2, 32, generator=generator, device=gpu)
    num_seen = torch.tensor([0, 53, 999], device=gpu)
    wanted = plain(x, memory, *biases, num_seen).output
    assert_close(fused(x, memory, *biases, num_seen).output, wanted, rtol=1e-3, atol=1e-3)
    assert_close(wanted[0], plain(x[:1], memory[:1, :0], *biases).output[0], rtol=1e-4, atol=1e-4)
    assert_close(wanted[1], plain(x[1:2], memory[1:2, -53:], *biases).output[0], rtol=1e-4, atol=1e-4)
