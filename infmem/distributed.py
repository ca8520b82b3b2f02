"""Training with several processes, one for each GPU: what they divide, agree on and leave to the first of them.

`torchrun` starts the processes and tells each of them its rank. Every worker draws the same batch and reads its own
rows of it, so that how many there are changes the speed of a run and not its data.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from infmem.validation import require

Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """The processes that train one model together, seen from one of them.

    Args:
        device: where this one works.
        rank: which one it is, in 0, ..., size - 1.
        size: how many there are; one alone needs no communication.

    Example:
        >>> Workers(torch.device("cpu")).is_first
        True
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that prints and writes files."""
        return self.rank == 0

    @property
    def are_many(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    def rows(self, batch: Tensor) -> Tensor:
        """The rows of a batch that this worker reads.

        Example:
            >>> Workers(torch.device("cpu"), rank=1, size=2).rows(torch.arange(6))
            tensor([3, 4, 5])
        """
        return batch.chunk(self.size)[self.rank] if self.are_many else batch

    def wrap(self, module: nn.Module) -> nn.Module:
        """A module whose gradients are those of all workers' rows: their mean."""
        if not self.are_many:
            return module
        # A static graph allows parameters that no row reads, such as those of a long-term memory that is still empty.
        return nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True, static_graph=True)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all workers' values."""
        if self.are_many:
            value = value.detach().clone()
            distributed.all_reduce(value)
            value = value / self.size
        return value

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in one of them at least; all have to ask."""
        if not self.are_many:
            return flag
        total = torch.tensor(int(flag), device=self.device)
        distributed.all_reduce(total)
        return bool(total)

    def from_first(self, function: Callable[[], Result]) -> Result:
        """What a function gives in the first worker, for all of them; a `ValueError` or `OSError` too.

        Args:
            function: is called in the first worker alone, such as to read a file that the others may not have.
        """
        if not self.are_many:
            return function()
        message = [None, None]
        if self.is_first:
            try:
                message = [function(), None]
            except (ValueError, OSError) as error:
                message = [None, error]
        distributed.broadcast_object_list(message, src=0)
        result, error = message
        if error is not None:
            raise error
        return result


@contextmanager
def joined_workers(device: torch.device) -> Iterator[Workers]:
    """The workers that torchrun has started, connected; without torchrun, this process alone.

    Args:
        device: where each one works; of several GPUs each takes the one of its local rank.

    Raises:
        ValueError: if there are more workers than GPUs.

    Example:
        >>> with joined_workers(torch.device("cpu")) as workers:
        ...     workers.size
        1
    """
    if "LOCAL_RANK" not in os.environ:
        yield Workers(device)
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        require(
            local_rank < torch.cuda.device_count(),
            f"torchrun has started more workers than the {torch.cuda.device_count()} GPUs that PyTorch finds here: "
            "lower --nproc_per_node",
        )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Workers(device, distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
