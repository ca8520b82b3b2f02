r"""The blocks that all models share: relative attention, feed-forward, and the post-norm block of Transformer-XL."""

import math
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from infmem.caching import cached_tensors
from infmem.validation import checked

# A score whose weight is exactly 0, and finite: whole blocks of a kernel's scores may have it.
UNSEEN = -1e4


def sinusoids(distances: Float[Tensor, " key_pos"], d_model: int) -> Float[Tensor, "key_pos d_model"]:
    r"""Transformer-XL's encoding of relative distances.

    Equation:
        $R_\delta = [\sin(\delta \omega), \cos(\delta \omega)]$ with $\omega_k = 10000^{-2k/d}$, $k = 0, ..., d/2 - 1$.

    Args:
        distances: how far back a key lies from a query, in tokens.
        d_model: size d of the encoding, even.

    Example:
        >>> sinusoids(torch.tensor([0.0]), d_model=4)
        tensor([[0., 0., 1., 1.]])

    Source: Dai et al. 2019 (arXiv 1901.02860), section 3.3, and its public implementation.
    """
    steps = torch.arange(0, d_model, 2, dtype=distances.dtype, device=distances.device)
    angles = einsum(distances, 10000 ** (-steps / d_model), "key_pos, frequency -> key_pos frequency")
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


@checked
def relative_shift(
    by_distance: Float[Tensor, "batch head query_pos key_pos_and_one"],
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """Reorder scores that are indexed by distance into scores that are indexed by key.

    Column 0 is not used; column 1 + j holds the scores for distance `key_pos - 1 - j`. Query i of Q sits at key
    position `key_pos - Q + i`, so its row must move left by `Q - 1 - i`. Reading the same memory with rows that are one
    shorter does that for all rows at once, without a copy. Entries for keys after the query are meaningless; causality
    hides them.

    Args:
        by_distance: scores, largest distance first after the unused column.

    Example:
        >>> scores = torch.tensor([[[[0.0, 2.0, 1.0, 0.0], [0.0, 2.0, 1.0, 0.0]]]])  # the distances themselves
        >>> relative_shift(scores)[0, 0]
        tensor([[1., 0., 0.],
                [2., 1., 0.]])

    Source: Dai et al. 2019 (arXiv 1901.02860), appendix B.
    """
    query_pos = by_distance.shape[2]
    flat = rearrange(by_distance, "batch head query_pos key_pos_and_one -> batch head (query_pos key_pos_and_one)")
    return rearrange(
        flat[..., query_pos:], "batch head (query_pos key_pos) -> batch head query_pos key_pos", query_pos=query_pos
    )


@checked
def hide_unseen(
    by_distance: Float[Tensor, "batch head query_pos distance"], num_seen: Int[Tensor, " batch"]
) -> Float[Tensor, "batch head query_pos distance"]:
    """Scores by distance, of which those are gone that reach back to before a row's first token.

    Args:
        by_distance: scores, largest distance first, 0 last.
        num_seen: how many vectors before the segment each row may look at.

    Example:
        >>> hide_unseen(torch.zeros(2, 1, 1, 3), torch.tensor([0, 7]))[:, 0, 0]
        tensor([[-10000., -10000.,      0.],
                [     0.,      0.,      0.]])
    """
    query_pos, num_distances = by_distance.shape[2:]
    distance = torch.arange(num_distances - 1, -1, -1, device=num_seen.device)
    first = torch.arange(query_pos, device=num_seen.device) + rearrange(num_seen, "batch -> batch 1")
    is_unseen = distance > rearrange(first, "batch query_pos -> batch 1 query_pos 1")
    return by_distance.masked_fill(is_unseen, UNSEEN)


@cached_tensors(maxsize=16)
def _encoded_distances(key_pos: int, d_model: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Encodings of the distances key_pos, ..., 0: the first is the unused column of `relative_shift`."""
    return sinusoids(torch.arange(key_pos, -1, -1, dtype=dtype, device=device), d_model)


@cached_tensors(maxsize=16)
def _causal_mask(query_pos: int, key_pos: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Minus infinity where a key is later than the query, 0 elsewhere; the queries are the last of the keys."""
    later = torch.full((query_pos, key_pos), float("-inf"), dtype=dtype, device=device)
    return later.triu(1 + key_pos - query_pos)


def _scores_by_key(by_distance: Tensor) -> Tensor:
    """The same scores by key; minus infinity where a key is later than the query."""
    by_key = relative_shift(by_distance)
    return by_key + _causal_mask(*by_key.shape[2:], by_key.dtype, by_key.device)


class Attended(NamedTuple):
    """What relative attention gives back.

    Args:
        output: the result, projected.
        query: the projected queries of all heads, which a long-term memory may share.
    """

    output: Float[Tensor, "batch query_pos d_model"]
    query: Float[Tensor, "batch query_pos d_model"]


class RelativeAttention(nn.Module):
    r"""Causal attention over a segment and the memory before it, with relative positions.

    Equation:
        $A_{ij} = ((q_i + u)^\top k_j + (q_i + v)^\top W^R R_{i-j}) / \sqrt{d}$, then softmax over the keys that are not
        later than the query; keys and values come from memory and segment, queries from the segment.

    Args:
        d_model: size of the vectors.
        num_heads: number of heads, a divisor of `d_model`.

    Source: Dai et al. 2019 (arXiv 1901.02860), section 3.3. Differs from the paper: nothing that is known.
    """

    def __init__(self, d_model: int, num_heads: int):
        super().__init__()
        self.d_model, self.num_heads = d_model, num_heads
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key_value = nn.Linear(d_model, 2 * d_model, bias=False)
        self.relative = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    @checked
    def forward(
        self,
        x: Float[Tensor, "batch query_pos d_model"],
        memory: Float[Tensor, "batch mem_pos d_model"],
        content_bias: Float[Tensor, "head d_head"],
        position_bias: Float[Tensor, "head d_head"],
        num_seen: Int[Tensor, " batch"] | None = None,
    ) -> Attended:
        """Attend from a segment to the memory and itself.

        Args:
            x: the segment.
            memory: hidden states of earlier segments, oldest first; may be empty.
            content_bias: u.
            position_bias: v.
            num_seen: how many of the newest in memory each row may look at; None lets all rows look at all.
        """
        query, heads, keys, values = self._project(x, memory)
        content = heads + rearrange(content_bias, "head d_head -> head 1 d_head")
        by_distance = self._scores_by_distance(heads, position_bias, self._distances(keys.shape[2]))
        by_distance = by_distance if num_seen is None else hide_unseen(by_distance, num_seen)
        read = self._read(content, keys, values, by_distance)
        output = self.out(rearrange(read, "batch head query_pos d_head -> batch query_pos (head d_head)"))
        return Attended(output=output, query=query)

    @checked
    def weights(
        self,
        x: Float[Tensor, "batch query_pos d_model"],
        memory: Float[Tensor, "batch mem_pos d_model"],
        content_bias: Float[Tensor, "head d_head"],
        position_bias: Float[Tensor, "head d_head"],
        num_seen: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch head query_pos key_pos"]:
        """The softmax that `forward` reads with and does not show.

        Args:
            x: the segment.
            memory: hidden states of earlier segments, oldest first; may be empty.
            content_bias: u.
            position_bias: v.
            num_seen: how many of the newest in memory each row may look at; None lets all rows look at all.

        Example:
            >>> x, bias = torch.ones(1, 3, 4), torch.zeros(2, 2)
            >>> RelativeAttention(4, 2).weights(x, x[:, :1], bias, bias).sum(-1).shape
            torch.Size([1, 2, 3])
        """
        _, heads, keys, _ = self._project(x, memory)
        content = einsum(
            (heads + rearrange(content_bias, "head d_head -> head 1 d_head")) / math.sqrt(heads.shape[-1]),
            keys,
            "batch head query_pos d_head, batch head key_pos d_head -> batch head query_pos key_pos",
        )
        by_distance = self._scores_by_distance(heads, position_bias, self._distances(keys.shape[2]))
        by_distance = by_distance if num_seen is None else hide_unseen(by_distance, num_seen)
        return torch.softmax(content + _scores_by_key(by_distance), dim=-1)

    def _project(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The query of all heads, then query, keys and values by heads."""
        query = self.query(x)
        heads = rearrange(query, "batch query_pos (head d_head) -> batch head query_pos d_head", head=self.num_heads)
        keys, values = rearrange(
            self.key_value(torch.cat([memory, x], dim=1)),
            "batch key_pos (two head d_head) -> two batch head key_pos d_head",
            two=2,
            head=self.num_heads,
        )
        return query, heads, keys, values

    def _distances(self, key_pos: int) -> Tensor:
        """Encodings of the distances key_pos, ..., 0."""
        weight = self.relative.weight
        return _encoded_distances(key_pos, self.d_model, weight.dtype, weight.device)

    def _scores_by_distance(self, heads: Tensor, position_bias: Tensor, distances: Tensor) -> Tensor:
        """The scaled term of positions, of every query and distance."""
        relative = rearrange(
            self.relative(distances), "distance (head d_head) -> head distance d_head", head=self.num_heads
        )
        return einsum(
            (heads + rearrange(position_bias, "head d_head -> head 1 d_head")) / math.sqrt(heads.shape[-1]),
            relative.to(heads.dtype),
            "batch head query_pos d_head, head distance d_head -> batch head query_pos distance",
        )

    def _read(self, query: Tensor, keys: Tensor, values: Tensor, by_distance: Tensor) -> Tensor:
        """What the softmax of both terms reads."""
        bias = _scores_by_key(by_distance).to(keys.dtype)
        return functional.scaled_dot_product_attention(query, keys, values, attn_mask=bias)


class FeedForward(nn.Module):
    r"""Two linear maps with a ReLU between, applied to every position.

    Equation:
        $W_2 \max(0, W_1 x + b_1) + b_2$

    Args:
        d_model: size of the vectors.
        d_ff: size of the inner layer.
        dropout: after each map.
    """

    def __init__(self, d_model: int, d_ff: int, dropout: float = 0.0):
        super().__init__()
        self.inner = nn.Linear(d_model, d_ff)
        self.outer = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    @checked
    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """Apply the two maps."""
        return self.dropout(self.outer(self.dropout(functional.relu(self.inner(x)))))


class Block(nn.Module):
    """One layer of Transformer-XL: attention and feed-forward, each added to its input and then normalised (post-norm).

    Args:
        d_model: size of the vectors.
        num_heads: number of heads.
        d_ff: size of the feed-forward's inner layer.
        dropout: of what attention and feed-forward add. Attention weights have none, as in Transformer-XL.
    """

    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float = 0.0):
        super().__init__()
        self.attention = RelativeAttention(d_model, num_heads)
        self.attention_norm = nn.LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model, d_ff, dropout)
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    @checked
    def forward(
        self, x: Float[Tensor, "batch pos d_model"], attended: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Everything after attention: add, normalise, feed forward, add, normalise."""
        x = self.attention_norm(x + self.dropout(attended))
        return self.feed_forward_norm(x + self.feed_forward(x))
