"""The fast training step: the same computation as `training.train_batch`, with few and large GPU kernels.

A small model's step on a GPU is thousands of kernels of some microseconds each, and most of the time goes by between
them. Two things help, and neither changes an equation:

1. `torch.compile` fuses what stands between the matrix products: attention with its term of positions, the rest of each
   layer, and the read of a long-term memory with its densities. Layers share what is compiled.
2. On a GPU the whole step, from drawing the batch to the optimiser, is recorded once as a CUDA graph and then replayed:
   one launch instead of thousands, and nothing for the GPU to wait for.

What is compiled is a copy of the model that shares its weights: the model itself stays as it is read and taught.
"""

import copy
import functools
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TypeVar

import torch
from torch import Tensor

from infmem.caching import held_tensors
from infmem.distributed import Workers
from infmem.memory import LongTermMemory
from infmem.models.layers import Block, RelativeAttention
from infmem.models.transformer_xl import TransformerXL
from infmem.training import BatchReader, BatchResult, TrainingConfig, train_batch
from infmem.validation import require

Result = TypeVar("Result")
Module = TypeVar("Module", bound=torch.nn.Module)

# What is compiled of each kind of layer: the part that depends on values, not on sizes alone.
COMPILED = {RelativeAttention: "forward", Block: "forward", LongTermMemory: "_read"}

# Sizes of segment and memory for which a layer is compiled, each on its own.
MAX_SHAPES = 64

# Calls before the recording, and with several workers, whose communication settles later.
WARM_UP, SHARED_WARM_UP = 3, 11


def why_not_compile(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device, in a sentence; None if it can.

    Example:
        >>> why_not_compile(torch.device("cpu")) or "it can"
        'it can'
    """
    if device.type == "cuda" and find_spec("triton") is None:
        return "Triton, which compiles for GPUs, is not installed"
    if device.type == "cpu" and not has_cpp_compiler():
        return "compiling for a CPU needs a C++ compiler, such as g++, and there is none"
    return None


def has_cpp_compiler() -> bool:
    """Whether `torch.compile` finds what it compiles for a CPU with."""
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "g++", "clang++"))


def fast_is_sensible(model: TransformerXL) -> bool:
    """Whether the fast step is possible and worth its compilation: on a GPU.

    Example:
        >>> from infmem.presets import build_model, model_config, preset
        >>> fast_is_sensible(build_model(model_config("window", preset("classroom"))))
        False
    """
    device = model.embedding.weight.device
    return device.type == "cuda" and why_not_compile(device) is None


def compiled(model: Module, backend: str = "inductor") -> Module:
    """A copy of a model that shares its weights and compiles its layers, each kind once for all layers.

    Args:
        model: any model of this package, or a `LongTermMemory` alone; it is left as it is.
        backend: what compiles, as in `torch.compile`.

    Example:
        >>> from infmem.presets import build_model, model_config, preset
        >>> model = build_model(model_config("window", preset("classroom")))
        >>> compiled(model).embedding.weight is model.embedding.weight
        True
    """
    twin = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    for module in twin.modules():
        if isinstance(module, RelativeAttention) and module.query.weight.is_cuda:
            read_with_kernel(module)
        for kind, name in COMPILED.items():
            if isinstance(module, kind):
                setattr(module, name, compile_function(getattr(module, name), backend))
    return twin


def compile_function(function: Callable[..., Result], backend: str = "inductor") -> Callable[..., Result]:
    """A function compiled so that its gradients are as exact as without.

    Args:
        function: what to compile.
        backend: what compiles, as in `torch.compile`.
    """
    from torch._dynamo import config as dynamo_config  # takes a second to import, so only when something is compiled
    from torch._functorch import config as functorch_config

    # Inductor may leave gaps between the rows of what it keeps, and the second half of a sum that it splits in two then
    # reads them: gradients of where a memory is read were wrong by what happened to lie there (PyTorch 2.11).
    options = {"comprehensive_padding": False} if backend == "inductor" else None
    quick = torch.compile(function, backend=backend, options=options, fullgraph=True, dynamic=False)

    @functools.wraps(function)
    def call(*args, **kwargs) -> Result:
        # Gradients of what was computed in float32, such as where a memory is read, are in float32 too, as without
        # compilation; by default products of a backward pass are rounded to bfloat16 wherever it began in that.
        with (
            functorch_config.patch(backward_pass_autocast="off"),
            dynamo_config.patch(recompile_limit=MAX_SHAPES),
            warnings.catch_warnings(),
        ):
            # It advises TF32, in which a memory is a thousand times less exact.
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
            return quick(*args, **kwargs)

    return call


def read_with_kernel(attention: RelativeAttention) -> None:
    """Let a layer read with the kernel, which hides later keys by itself and does not want its scores shifted."""
    from infmem.kernels.relative_attention import relative_attention  # needs Triton

    attention.weights = copy.copy(attention).weights  # whoever looks at them wants distances as they are
    attention._distances = partial(_padded_distances, attention)
    attention._read = partial(_fused_read, relative_attention)


def _padded_distances(attention: RelativeAttention, key_pos: int) -> Tensor:
    """As `RelativeAttention._distances`, and some more in front, so that rows are whole groups of 8."""
    return RelativeAttention._distances(attention, 8 * math.ceil((key_pos + 1) / 8) - 1)


def _fused_read(kernel: Callable, query: Tensor, keys: Tensor, values: Tensor, by_distance: Tensor) -> Tensor:
    """As `RelativeAttention._read`."""
    return kernel(query.to(keys.dtype), keys, values, by_distance.to(keys.dtype))


class Recorded:
    """A function of no arguments that runs a few times as it is, and is then replayed as a CUDA graph.

    Args:
        function: does always the same operations on a GPU, and returns tensors or a tuple of them.
        generators: of the GPU, whose numbers it draws; they may be seeded anew before each call.
        warm_up: calls before the recording. They compile, fill the caches of operators, and let PyTorch settle its
            memory.

    What a call returns is overwritten by the next one.
    """

    def __init__(
        self, function: Callable[[], Result], generators: Sequence[torch.Generator] = (), warm_up: int = WARM_UP
    ):
        self.function, self.generators, self.warm_up, self.num_calls = function, generators, warm_up, 0
        self.stream, self.graph, self.result, self.held = torch.cuda.Stream(), None, None, []

    def __call__(self) -> Result:
        """Run the function, or its recording."""
        self.num_calls += 1
        if self.num_calls <= self.warm_up:
            with side_stream(self.stream):
                return self.function()
        if self.graph is None:
            self._record()
        self.graph.replay()
        return self.result

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        # The graph reads tensors of the caches by their address: they must live as long as it does.
        with held_tensors() as self.held, torch.cuda.graph(graph, stream=self.stream):
            self.result = self.function()
        self.graph = graph


@contextmanager
def side_stream(stream: torch.cuda.Stream) -> Iterator[None]:
    """Do work on another stream than the current one: after what was asked for before, and before what comes after."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def fast_step(
    model: TransformerXL,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    data: torch.Generator,
    sticky: torch.Generator,
    workers: Workers,
) -> Callable[[], BatchResult]:
    """A function that takes the steps of `training.train_batch`: compiled, and recorded on a GPU.

    Args:
        model: any model of this package.
        optimizer: of its parameters; on a GPU its learning rate becomes a tensor, which a recording can read anew.
        config: how to train.
        data: randomness of the sequences.
        sticky: randomness of a sticky long-term memory.
        workers: who reads which rows.

    Raises:
        ValueError: if the model's step can't be fast.
    """
    reason = why_not_compile(model.embedding.weight.device)
    require(reason is None, f"no fast step for this model: {reason}; train without it (--fast off)")
    reader = BatchReader(compiled(model), config)
    if data.device.type != "cuda":
        return partial(train_batch, workers.wrap(reader), optimizer, config, data, sticky, workers)
    for group in optimizer.param_groups:
        group["lr"], group["capturable"] = torch.tensor(group["lr"], device=data.device), True
    with side_stream(torch.cuda.Stream()):  # else gradients of several workers can't be recorded
        reader = workers.wrap(reader)
    take_step = partial(train_batch, reader, optimizer, config, data, sticky, workers)
    return Recorded(take_step, (data, sticky), SHARED_WARM_UP if workers.are_many else WARM_UP)
