"""The linear maps with which a memory is read."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Projections(NamedTuple):
    """Weights for reading a memory: its own, or those of the attention beside it.

    Args:
        key: of the keys of all heads.
        value: of the values of all heads.
        out: of the result.

    Example:
        >>> import torch
        >>> Projections(*torch.eye(6).expand(3, 6, 6)).key.shape
        torch.Size([6, 6])
    """

    key: Float[Tensor, "head_d_head d_model"]
    value: Float[Tensor, "head_d_head d_model"]
    out: Float[Tensor, "d_model head_d_head"]
