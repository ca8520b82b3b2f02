r"""The compressed memory: old hidden states are squeezed c into one before they are forgotten.

A Transformer-XL throws away what leaves its memory. The Compressive Transformer keeps a coarse copy: every c hidden
states that leave become one, which joins a second first-in-first-out memory. What is read stays small; what can be
reached grows c times as fast.
"""

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from infmem.validation import checked, require


def _validate_rate(pos: int, rate: int) -> None:
    # A rate of 2.0 would also spoil the patterns that einops keeps for 2.
    require(
        isinstance(rate, int) and rate >= 1 and pos % rate == 0,
        f"the {pos} hidden states must be whole groups of rate={rate}: compress no rest",
    )


@checked
def mean_pool(old: Float[Tensor, "batch pos d_model"], rate: int) -> Float[Tensor, "batch group d_model"]:
    r"""The mean of every group of hidden states.

    Equation:
        $s_k = \frac1c \sum_{i=1}^{c} m_{kc+i}$

    Args:
        old: hidden states, oldest first; a whole number of groups.
        rate: c, how many become one.

    Raises:
        ValueError: if the hidden states are not whole groups.

    Example:
        >>> mean_pool(torch.tensor([[[1.0], [3.0], [5.0], [5.0]]]), rate=2).flatten()
        tensor([2., 5.])

    Source: Rae et al. 2020 (arXiv 1911.05507), section 3.
    """
    _validate_rate(old.shape[1], rate)
    return reduce(old, "batch (group rate) d_model -> batch group d_model", "mean", rate=rate)


@checked
def max_pool(old: Float[Tensor, "batch pos d_model"], rate: int) -> Float[Tensor, "batch group d_model"]:
    """The largest value of every component within every group of hidden states.

    Args:
        old: hidden states, oldest first; a whole number of groups.
        rate: c, how many become one.

    Raises:
        ValueError: if the hidden states are not whole groups.

    Example:
        >>> max_pool(torch.tensor([[[1.0], [3.0], [5.0], [4.0]]]), rate=2).flatten()
        tensor([3., 5.])

    Source: Rae et al. 2020 (arXiv 1911.05507), section 3.
    """
    _validate_rate(old.shape[1], rate)
    return reduce(old, "batch (group rate) d_model -> batch group d_model", "max", rate=rate)


@checked
def most_used(
    old: Float[Tensor, "batch pos d_model"], usage: Float[Tensor, "batch pos"], rate: int
) -> Float[Tensor, "batch group d_model"]:
    """The hidden states that were attended to most, in their order; the others are forgotten.

    Args:
        old: hidden states, oldest first; a whole number of groups.
        usage: attention that each of them got; of equals, the older is kept.
        rate: c: one in c is kept, wherever it lies.

    Raises:
        ValueError: if the hidden states are not whole groups.

    Example:
        >>> old, usage = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]), torch.tensor([[0.1, 0.5, 0.2, 0.4]])
        >>> most_used(old, usage, rate=2).flatten()
        tensor([2., 4.])

    Source: Rae et al. 2020 (arXiv 1911.05507), section 3.
    """
    _validate_rate(old.shape[1], rate)
    kept = usage.argsort(dim=1, descending=True, stable=True)[:, : old.shape[1] // rate].sort(dim=1).values
    return old.gather(1, rearrange(kept, "batch group -> batch group 1").expand(-1, -1, old.shape[2]))


class Convolution(nn.Module):
    r"""A learned weighted sum of every group of hidden states: width and stride are the rate.

    Equation:
        $s_k = \sum_{i=1}^{c} W_i\, m_{kc+i} + b$, with $W_i = I/c$ and $b = 0$ before training: the mean of the group.

    Args:
        d_model: size of the vectors.
        rate: c, how many become one.

    Source: Rae et al. 2020 (arXiv 1911.05507), section 3. Differs from the paper: it starts as the mean of each group,
        so that attention finds something to read from the first step on.

    Example:
        >>> Convolution(d_model=1, rate=2)(torch.tensor([[[1.0], [3.0], [5.0], [5.0]]])).flatten().tolist()
        [2.0, 5.0]
    """

    def __init__(self, d_model: int, rate: int):
        super().__init__()
        require(d_model >= 1 and rate >= 1, f"d_model and rate must be at least 1, got {d_model} and {rate}")
        self.d_model, self.rate = d_model, rate
        self.convolution = nn.Conv1d(d_model, d_model, kernel_size=rate, stride=rate)
        with torch.no_grad():
            self.convolution.weight.copy_(torch.eye(d_model)[:, :, None].expand(-1, -1, rate) / rate)
            self.convolution.bias.zero_()

    @checked
    def forward(self, old: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch group d_model"]:
        """Compress hidden states, oldest first; a whole number of groups."""
        _validate_rate(old.shape[1], self.rate)
        if old.shape[1] == 0:  # a convolution wants a group at least
            return old
        channels_first = rearrange(old, "batch pos d_model -> batch d_model pos")
        return rearrange(self.convolution(channels_first), "batch d_model group -> batch group d_model")


class DilatedConvolution(nn.Module):
    r"""Dilated convolutions, then a strided one: a group may draw on its neighbours among those that leave together.

    Equation:
        $x \leftarrow x + \mathrm{ReLU}(D_\delta x)$ with convolutions $D_\delta$ of width 3 and dilation
        $\delta = 1, 2, 4$; then `Convolution`.

    Args:
        d_model: size of the vectors.
        rate: c, how many become one.

    Source: Rae et al. 2020 (arXiv 1911.05507), section 3, which names dilated convolutions. Widths, dilations and the
        way around them are ours.

    Example:
        >>> DilatedConvolution(d_model=6, rate=2)(torch.ones(3, 8, 6)).shape
        torch.Size([3, 4, 6])
    """

    def __init__(self, d_model: int, rate: int):
        super().__init__()
        require(d_model >= 1 and rate >= 1, f"d_model and rate must be at least 1, got {d_model} and {rate}")
        self.d_model = d_model
        self.dilated = nn.ModuleList(
            nn.Conv1d(d_model, d_model, kernel_size=3, dilation=dilation, padding=dilation) for dilation in (1, 2, 4)
        )
        self.strided = Convolution(d_model, rate)

    @checked
    def forward(self, old: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch group d_model"]:
        """Compress hidden states, oldest first; a whole number of groups."""
        if old.shape[1] == 0:
            return old
        channels_first = rearrange(old, "batch pos d_model -> batch d_model pos")
        for convolution in self.dilated:
            channels_first = channels_first + functional.relu(convolution(channels_first))
        return self.strided(rearrange(channels_first, "batch d_model pos -> batch pos d_model"))


@checked
def content_attention(
    query: Float[Tensor, "batch query_pos d_model"], keys_values: Float[Tensor, "batch key_pos twice"], num_heads: int
) -> Float[Tensor, "batch head query_pos d_head"]:
    r"""What heads read when only contents count: no positions, no causality.

    Equation:
        $\mathrm{softmax}_j(q_i^\top k_j / \sqrt{d})\, v_j$

    Args:
        query: projected queries of all heads.
        keys_values: projected keys of all heads, then their values.
        num_heads: number of heads.

    Example:
        >>> content_attention(torch.ones(1, 3, 4), torch.ones(1, 5, 8), num_heads=2).shape
        torch.Size([1, 2, 3, 2])

    Source: Rae et al. 2020 (arXiv 1911.05507), section 3: the attention of the reconstruction loss.
    """
    d_model, twice = query.shape[-1], keys_values.shape[-1]
    require(
        num_heads >= 1 and d_model % num_heads == 0 and twice == 2 * d_model,
        f"num_heads must be a divisor of d_model ({d_model}) and keys_values twice as wide, got {num_heads}, {twice}",
    )
    heads = rearrange(query, "batch query_pos (head d_head) -> batch head query_pos d_head", head=num_heads)
    keys, values = rearrange(
        keys_values, "batch key_pos (two head d_head) -> two batch head key_pos d_head", two=2, head=num_heads
    )
    return functional.scaled_dot_product_attention(heads, keys, values)


@checked
def attention_reconstruction_loss(
    query: Float[Tensor, "batch query_pos d_model"],
    old: Float[Tensor, "batch pos d_model"],
    compressed: Float[Tensor, "batch group d_model"],
    key_value_weight: Float[Tensor, "twice d_model"],
    num_heads: int,
) -> Float[Tensor, ""]:
    r"""How differently attention reads from the compressed states and from the old ones.

    Equation:
        $\| \mathrm{attn}(h, m) - \mathrm{attn}(h, f_c(m)) \|^2$, the mean over all numbers.

    Args:
        query: projected queries of all heads.
        old: the hidden states m that were compressed.
        compressed: $f_c(m)$, the only argument that gets a gradient.
        key_value_weight: of the layer's attention.
        num_heads: number of heads.

    Example:
        >>> old = torch.ones(1, 4, 6)
        >>> attention_reconstruction_loss(torch.ones(1, 3, 6), old, mean_pool(old, 2), torch.ones(12, 6), 2).item()
        0.0

    Source: Rae et al. 2020 (arXiv 1911.05507), section 3. Differs from the paper: the mean instead of the sum, which
        matters little, since no other loss trains the compression.
    """
    query, old, weight = query.detach(), old.detach(), key_value_weight.detach()
    wanted = content_attention(query, functional.linear(old, weight), num_heads)
    found = content_attention(query, functional.linear(compressed, weight), num_heads)
    return functional.mse_loss(found, wanted) if found.numel() else found.sum()  # of nothing nothing is lost
