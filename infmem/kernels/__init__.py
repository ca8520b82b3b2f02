"""GPU kernels written in Triton, each beside the plain function that it equals. Importing one needs Triton."""

from importlib.util import find_spec

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None


def fits(values: Tensor) -> bool:
    """Whether the kernel of the continuous read takes these values: on a GPU, in float32 or bfloat16.

    Example:
        >>> fits(torch.zeros(1, 2, 3, 4))
        False
    """
    return HAS_TRITON and values.is_cuda and values.dtype in (torch.float32, torch.bfloat16) and values.shape[-1] <= 128
