"""What must hold on a GPU too. `make test` leaves these out; `make gpu-test` runs them."""

import dataclasses
import importlib.util

import pytest
import torch
from tiny import TINY, recall_config, tiny_config
from torch.testing import assert_close

from infmem import LongTermMemory, MemoryConfig
from infmem.benchmark import benchmark_attention, benchmark_read, benchmark_stream
from infmem.caching import cached_tensors
from infmem.cost import ReadSizes
from infmem.evaluation import evaluate
from infmem.fast import Recorded, compile_function
from infmem.models import memorize
from infmem.models.layers import RelativeAttention, sinusoids
from infmem.presets import build_model, choose_device
from infmem.run import Run
from infmem.tasks import sorting

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("without_type_checker", "fresh_compiler"),  # what checks annotations can't be compiled
    # PyTorch's own, while it compiles.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context:UserWarning"),
]
MODELS = ["infinite-former", "compressive-transformer", "transformer-xl", "window"]


@pytest.fixture
def gpu() -> torch.device:
    return choose_device("cuda")


@pytest.mark.parametrize("model", MODELS)
def test_a_gpu_gives_the_logits_of_the_cpu(model, gpu):
    built = build_model(tiny_config(model).model).double().eval()
    tokens = sorting.sample(3, 23, torch.Generator().manual_seed(0))[0]
    results = []
    for device in (torch.device("cpu"), gpu):
        state, logits = None, []
        for segment in tokens.to(device).split(TINY.segment_length, 1):
            piece, state = built.to(device)(segment, state)
            logits.append(piece.cpu())
        results.append(torch.cat(logits, 1))
    assert_close(*results, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("model", MODELS)
def test_segments_at_once_equal_segments_in_turn(model, gpu):
    built = build_model(tiny_config(model).model).double().eval().to(gpu)
    tokens = sorting.sample(3, 22, torch.Generator(gpu).manual_seed(0))[0]
    state = None
    for segment in tokens.split(TINY.segment_length, 1):
        state = built(segment, state)[1]
    together = memorize(built, tokens, TINY.segment_length)
    assert_close(together.short_term, state.short_term, rtol=1e-8, atol=1e-8)
    for mine, theirs in zip(together.long_term, state.long_term, strict=True):
        assert_close(mine, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sticky", ["stratified", "iid", "left_edge"])
@pytest.mark.parametrize("placement", ["address", "even"])
def test_sticky_memories_stay_on_the_gpu(sticky, placement, gpu):
    sampled = {"contraction": "sampled", "num_samples": 11, "sticky": sticky, "placement": placement}
    config = MemoryConfig.best(num_basis=6, sigmas=(0.1,), **sampled)
    memory, generator = LongTermMemory(12, 3, config).to(gpu), torch.Generator(gpu).manual_seed(0)
    state = None
    for _ in range(3):
        new = torch.randn(2, 7, 12, device=gpu, generator=generator)
        z, state, reading = memory(new, new, state, generator=generator)
    assert z.device.type == state.coefficients.device.type == reading.mu.device.type == "cuda"
    assert torch.isfinite(z).all()
    assert state.num_tokens.tolist() == [21, 21]


@pytest.mark.parametrize("model", MODELS)
def test_training_and_resuming_on_a_gpu(model, gpu, tmp_path):
    config = dataclasses.replace(tiny_config(model), steps=4)
    first = Run(config, tmp_path, gpu)
    first.train_step()
    first.train_step()
    first.save()
    second = Run(config, tmp_path, gpu, resume=True)
    assert second.step == 2
    assert second.train()
    score = evaluate(second.model, 23, TINY.segment_length, sequences=5)
    assert 0 <= score.accuracy <= 1


def test_every_form_of_the_read_agrees_on_a_gpu_and_none_is_faster_than_its_floor(gpu):
    sizes = ReadSizes(batch=2, query_pos=256, num_heads=3, d_head=20, num_basis=128)
    memory = MemoryConfig.best(num_basis=128, own_query=False)
    rows = list(benchmark_read(gpu, sizes, memory, calls=5))
    forms = {row["form"] for row in rows}
    assert {"textbook", "collapsed", "collapsed, compiled", "collapsed, kernel", "kernel", "kernel, TF32"} < forms
    for row in rows:
        assert row["difference"] < (3e-3 if "TF32" in row["form"] else 1e-3), row
        assert row["floor_milliseconds"] < row["milliseconds"], row
    most = {row["form"]: row["peak_mib"] for row in rows if row["pass"] == "forward"}
    assert most["kernel"] < most["written out"] / 4


def test_a_memory_is_timed_beside_full_attention_on_a_gpu(gpu):
    sizes = ReadSizes(batch=2, query_pos=64, num_heads=3, d_head=20, num_basis=128)
    rows = list(benchmark_attention(gpu, sizes, MemoryConfig.best(num_basis=128), (64, 256), calls=3, mixed=True))
    assert len(rows) == 2 * (3 + 4) and all(row["milliseconds"] > 0 for row in rows)
    assert {row["precision"] for row in rows if row["what"] == "memory step"} == {"float32", "bfloat16"}


def test_a_stream_is_timed_on_a_gpu(gpu):
    rows = list(benchmark_stream(gpu, TINY, (14, 700), streamed=70, calls=3, mixed=True))
    assert len(rows) == 8 and all(row["milliseconds"] > 0 for row in rows)


def test_the_wrong_device_is_named(gpu):
    built = build_model(tiny_config().model).to(gpu)
    with pytest.raises(ValueError, match="tokens must be on the model's device cuda"):
        built(torch.zeros(2, 7, dtype=torch.int64))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", [*MODELS, "many_functions", "sampled", "sticky", "most_used"])
def test_the_fast_step_gives_the_losses_of_fifty_steps(model, precision, gpu):
    segment_length = 7 if model in ("sticky", "most_used") else 17  # these write where they were read before
    config = tiny_config(model, segment_length=segment_length, precision=precision, steps=50)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))
    losses = []
    for fast in (False, True):
        run = Run(config, None, gpu, fast=fast)
        run.model.train()
        losses.append(torch.stack([run.train_step()["loss"] for _ in range(50)]).cpu())
    tolerance = 1e-3 if precision == "float32" else 3e-2
    assert losses[0][-5:].mean() < losses[0][0] - 0.3, "nothing was learnt, so nothing could differ"
    assert_close(*losses, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("model", MODELS)
def test_the_fast_step_of_recall_gives_the_losses_of_twenty_steps(model, gpu):
    """Gradient comes from every segment, and the sequences are drawn within the recording."""
    config = recall_config(model, segment_length=17, precision="float32", steps=20)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))
    losses = []
    for fast in (False, True):
        run = Run(config, None, gpu, fast=fast)
        run.model.train()
        losses.append(torch.stack([run.train_step()["loss"] for _ in range(20)]).cpu())
    assert len(losses[0].unique()) > 15
    assert_close(*losses, rtol=1e-3, atol=1e-3)


def test_a_recording_draws_anew_and_outlives_the_caches(gpu):
    @cached_tensors(maxsize=1)
    def ones(length: int) -> torch.Tensor:
        return torch.ones(length, device=gpu)

    generator = torch.Generator(gpu)
    recorded = Recorded(lambda: torch.rand(1000, device=gpu, generator=generator) * ones(1000), (generator,))
    draws = []
    for seed in (*range(7), 6):
        generator.manual_seed(seed)
        draws.append(recorded().clone())
        ones(seed + 1)  # drops what the recording reads, and takes its place in memory if nothing holds it
        torch.full((1000,), float("nan"), device=gpu)
    for seed, draw in zip((*range(7), 6), draws, strict=True):
        assert torch.equal(draw, torch.rand(1000, device=gpu, generator=generator.manual_seed(seed)))


def test_positions_are_exact_in_mixed_precision(gpu):
    """In bfloat16 the distances 1,001 and 1,002 would be one."""
    attention = RelativeAttention(12, 3).to(gpu)
    with torch.autocast("cuda", torch.bfloat16):
        encoded = attention._distances(1013)
    expected = sinusoids(torch.arange(1013, -1, -1, dtype=torch.float32, device=gpu), 12)
    assert_close(encoded, expected, rtol=0, atol=0)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="compiling for a GPU needs Triton")
def test_gradients_of_a_compiled_read_are_as_good_as_those_of_the_read(gpu):
    """At sizes where Inductor splits sums in two, with fresh memory full of large numbers that must not be read."""
    memory = LongTermMemory(384, 6, MemoryConfig.best(num_basis=1024)).to(gpu)
    generator = torch.Generator(gpu).manual_seed(0)
    state = memory.write(torch.randn(8, 1024, 384, device=gpu, generator=generator), memory.empty(8))
    query, upstream = torch.randn(2, 8, 948, 384, device=gpu, generator=generator)

    def gradients(read, precision):
        memory.zero_grad()
        with torch.autocast("cuda", precision, enabled=precision != torch.float32):
            z, _ = read(query, state.coefficients, memory._projections(None), memory.basis, False)
        rubbish = [torch.full((2**size,), 3e4, device=gpu) for size in range(8, 27) for _ in range(3)]
        del rubbish
        (z.float() * upstream).sum().backward()
        return {name: weight.grad for name, weight in memory.named_parameters() if weight.grad is not None}

    expected, plain = (gradients(memory._read, precision) for precision in (torch.float32, torch.bfloat16))
    for name, gradient in gradients(compile_function(memory._read, "inductor"), torch.bfloat16).items():
        error, plain_error = ((found - expected[name]).norm().item() for found in (gradient, plain[name]))
        assert error <= 1.2 * plain_error + 1e-3 * expected[name].norm().item(), name
