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
import math
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TypeVar

import torch
from torch import Tensor

from infmem.caching import held_tensors
from infmem.memory import LongTermMemory
from infmem.models.layers import Block, RelativeAttention
from infmem.models.long_term import LongTermTransformer
from infmem.models.transformer_xl import TransformerXL
from infmem.training import BatchResult, TrainingConfig, train_batch
from infmem.validation import require

Result = TypeVar("Result")

# What is compiled of each kind of layer: the part that depends on values, not on sizes alone.
COMPILED = {RelativeAttention: "forward", Block: "forward", LongTermMemory: "_read"}

# Calls before the recording: they compile, fill the caches of operators, and let PyTorch settle its memory.
WARM_UP = 3


def why_not_fast(model: TransformerXL) -> str | None:
    """Why a model's step can't be the fast one, in a sentence; None if it can.

    Example:
        >>> from infmem.presets import build_model, model_config, preset
        >>> sizes = preset("classroom")
        >>> sticky = model_config("infinite-former", sizes, memory_options={"sticky": "stratified"})
        >>> why_not_fast(build_model(sticky))
        'what its memory writes depends on where it was read, so no step repeats the operations of another'
    """
    if isinstance(model, LongTermTransformer) and model.depends_on_attention:
        return "what its memory writes depends on where it was read, so no step repeats the operations of another"
    if model.embedding.weight.is_cuda and find_spec("triton") is None:
        return "Triton, which compiles for GPUs, is not installed"
    return None


def fast_is_sensible(model: TransformerXL) -> bool:
    """Whether the fast step is possible and worth its compilation: on a GPU.

    Example:
        >>> from infmem.presets import build_model, model_config, preset
        >>> fast_is_sensible(build_model(model_config("window", preset("classroom"))))
        False
    """
    return model.embedding.weight.is_cuda and why_not_fast(model) is None


def compiled(model: TransformerXL, backend: str = "inductor") -> TransformerXL:
    """A copy of a model that shares its weights and compiles its layers, each kind once for all layers.

    Args:
        model: any model of this package; it is left as it is.
        backend: what compiles, as in `torch.compile`.

    Example:
        >>> from infmem.presets import build_model, model_config, preset
        >>> model = build_model(model_config("window", preset("classroom")))
        >>> compiled(model).embedding.weight is model.embedding.weight
        True
    """
    twin = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    for module in twin.modules():
        if isinstance(module, RelativeAttention) and model.embedding.weight.is_cuda:
            from infmem.kernels.relative_attention import relative_attention  # needs Triton

            module._distances = partial(_padded_distances, module)
            module._read = partial(_fused_read, relative_attention)
        for kind, name in COMPILED.items():
            if isinstance(module, kind):
                compile = partial(torch.compile, backend=backend, fullgraph=True, dynamic=False)
                setattr(module, name, compile(getattr(module, name)))
    return twin


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

    What a call returns is overwritten by the next one.
    """

    def __init__(self, function: Callable[[], Result], generators: Sequence[torch.Generator] = ()):
        self.function, self.generators, self.num_calls = function, generators, 0
        self.stream, self.graph, self.result, self.held = torch.cuda.Stream(), None, None, []

    def __call__(self) -> Result:
        """Run the function, or its recording."""
        self.num_calls += 1
        if self.num_calls <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                result = self.function()
            torch.cuda.current_stream().wait_stream(self.stream)
            return result
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


def fast_step(
    model: TransformerXL,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    data: torch.Generator,
    sticky: torch.Generator,
) -> Callable[[], BatchResult]:
    """A function that does what `training.train_batch` does with the same arguments: compiled, and recorded on a GPU.

    Args:
        model: any model of this package.
        optimizer: of its parameters; on a GPU its learning rate becomes a tensor, which a recording can read anew.
        config: how to train.
        data: randomness of the sequences.
        sticky: randomness of a sticky long-term memory.

    Raises:
        ValueError: if the model's step can't be fast.
    """
    reason = why_not_fast(model)
    require(reason is None, f"no fast step for this model: {reason}; train without it (--fast off)")
    take_step = partial(train_batch, compiled(model), optimizer, config, data, sticky)
    if data.device.type != "cuda":
        return take_step
    for group in optimizer.param_groups:
        group["lr"], group["capturable"] = torch.tensor(group["lr"], device=data.device), True
    return Recorded(take_step, (data, sticky))
