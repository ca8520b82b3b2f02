"""Whole models: what of a sequence reaches the last token, and what a trained model has in each memory."""

from functools import cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from infmem import trained
from infmem.contraction import Update, age_map, contracted_positions, scaled_tau
from infmem.explorers.base import Explorer, choice, int_slider
from infmem.models import InfiniteFormer
from infmem.models.transformer_xl import remember
from infmem.plots.models import draw_reach, draw_segment_reading
from infmem.signal import positions
from infmem.tasks import sorting

NUM_BASIS = 48
MODELS = ("window transformer", "Transformer-XL", "∞-former")
FORGETTING = {"equal room for all (ours)": None, "tau = 0.75 (the paper's rule)": 0.75}


def written_lengths(num_before: int, segment_length: int, memory_length: int) -> list[int]:
    """How many tokens each write brings when `num_before` tokens were read in whole segments: what left the short-term
    memory.

    Example:
        >>> written_lengths(num_before=96, segment_length=32, memory_length=48)
        [16, 32]
    """
    left = [max(0, read - memory_length) for read in range(0, num_before + 1, segment_length)]
    return [after - before for before, after in pairwise(left) if after > before]


def rooms(writes: list[int], tau: float | None) -> Tensor:
    """The share of [0, 1] that each written token has, oldest first; `tau` None scales it.

    Example:
        >>> rooms([2, 2], tau=0.5).tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    edges = torch.zeros(0, dtype=torch.float64)
    for length in writes:
        new = positions(length)
        share = None if not len(edges) else tau if tau is not None else scaled_tau(len(edges), length)
        edges = new if share is None else contracted_positions(edges, new, share)
    return edges.diff(prepend=torch.zeros(1, dtype=torch.float64))


def reach(length: int, segment_length: int, num_layers: int, memory_length: int, tau: float | None) -> dict:
    """For each model what `draw_reach` shows: basis functions per position at every level, 0 where it does not count.

    Example:
        >>> reach(length=4, segment_length=2, num_layers=1, memory_length=1, tau=None)["Transformer-XL"].tolist()
        [[0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    """
    num_before = (length - 1) // segment_length * segment_length
    place = torch.arange(length)
    window, recurrent = (
        torch.stack(
            [
                (place >= sorting.first_visible(length - 1, segment_length, num_layers - level, memory)[0]).double()
                for level in range(num_layers + 1)
            ]
        )
        for memory in (0, memory_length)
    )
    infinite = window.clone()  # the last layer's output matters at the last segment only
    stored = NUM_BASIS * rooms(written_lengths(num_before, segment_length, memory_length), tau)
    infinite[:-1] = torch.cat([stored, stored.new_ones(length - len(stored))])
    return dict(zip(MODELS, (window, recurrent, infinite), strict=True))


def receptive_fields() -> Explorer:
    """Which tokens can reach the last one, layer by layer, in the three models."""

    def show(
        figure: Figure, num_layers: int, segment_length: int, memory_length: int, length: int, forgetting: str
    ) -> str:
        models = reach(length, segment_length, num_layers, memory_length, FORGETTING[forgetting])
        draw_reach(models, figure)
        seen = [int((model[0] > 0).sum()) for model in models.values()]
        stored = len(
            rooms(written_lengths((length - 1) // segment_length * segment_length, segment_length, memory_length), None)
        )
        sentence = (
            f"Of {length} tokens, the last one is reached by {seen[0]} in the window transformer, by {seen[1]} in the "
            f"Transformer-XL, and by all {seen[2]} in the ∞-former"
        )
        if not stored:
            return f"{sentence}, whose long-term memory is still empty."
        room = models[MODELS[2]][0]
        return (
            f"{sentence}: {length - stored} as they are, {stored} through the long-term memory, where the newest has "
            f"{room[stored - 1]:.2g} of the {NUM_BASIS} basis functions to itself and the oldest {room[0]:.2g}."
        )

    controls = {
        "num_layers": int_slider("layers", 3, 1, 6),
        "segment_length": int_slider("segment length", 32, 8, 64, 8),
        "memory_length": int_slider("memory length", 64, 0, 128, 8),
        "length": int_slider("tokens read", 624, 64, 1024, 8),
        "forgetting": choice("∞-former forgets by", next(iter(FORGETTING)), list(FORGETTING)),
    }
    return Explorer("What can reach the last token", show, controls, size=(8, 5))


class LayerTrace(NamedTuple):
    """What one layer of a model did with one segment.

    Args:
        weights: of the attention to short-term memory and segment.
        mu: where each head looked in the long-term memory; None while nothing was written.
        sigma: the width of its density.
    """

    weights: Tensor
    mu: Tensor | None
    sigma: Tensor | None


def trace(model: InfiniteFormer, tokens: Tensor, segment_length: int) -> list[list[LayerTrace]]:
    """For each segment and layer what was attended to; the first sequence of the batch only.

    Example:
        >>> model, config, _ = trained.load("infinite-former")
        >>> tokens, _ = sorting.sample(1, 44, torch.Generator().manual_seed(0))
        >>> [layer.weights.shape[-1] for layer in trace(model, tokens, segment_length=32)[1]]
        [64, 64]
    """
    traces, state = [], None
    with torch.no_grad():
        for segment in tokens[:1].split(segment_length, dim=1):
            state = model.empty(1) if state is None else state
            _, after = model(segment, state)
            hidden, layers = model.embed(segment), []
            for layer, (remembered, memory) in enumerate(zip(state.short_term, after.long_term, strict=True)):
                recent = remember(remembered[:, :0], remembered, model.memory_length)
                attention = model.blocks[layer].attention
                biases = model.content_bias, model.position_bias
                weights = attention.weights(hidden, recent, *biases)[0]
                mu = sigma = None
                if memory.num_tokens.any():
                    own = model.config.memory.own_query
                    query = hidden if own else attention(hidden, recent, *biases).query
                    projections = model.shared_projections(layer)
                    reading = model.long_term_memories[layer].read(query, memory, projections=projections)[1]
                    mu, sigma = reading.mu[0], reading.sigma_sq[0].sqrt()
                layers.append(LayerTrace(weights, mu, sigma))
                hidden = model.layer(layer, hidden, recent, memory).hidden
            traces.append(layers)
            state = after
    return traces


@cache
def _example() -> tuple[list[list[LayerTrace]], list[int], int]:
    """The shipped model's trace of one sequence, the lengths of its segments, and its short-term memory's length."""
    model, config, _ = trained.load("infinite-former")
    tokens, _ = sorting.sample(1, config.length, torch.Generator().manual_seed(0))
    lengths = [segment.shape[1] for segment in tokens.split(config.segment_length, dim=1)]
    return trace(model, tokens, config.segment_length), lengths, model.memory_length


def segments() -> Explorer:
    """A trained model reads a sequence to be sorted: what it has in each memory, and where a head looks."""
    traces, lengths, memory_length = _example()
    starts = [0, *accumulate(lengths)]
    grid = torch.linspace(0, 1, 401)

    def show(figure: Figure, segment: int, layer: int, head: int, place: int) -> str:
        traced, start = traces[segment - 1][layer - 1], starts[segment - 1]
        token = start + place
        num_short = min(start, memory_length)
        num_long = start - num_short
        weights = traced.weights[head - 1, place - 1]
        nearest = start - num_short + 1 + int(weights.argmax())
        text = (
            f"Segment {segment} of {len(lengths)}, token {token}: {num_short} tokens are in short-term memory, "
            f"{num_long} in long-term memory. Head {head} of layer {layer} gives its largest weight, "
            f"{weights.max():.2f}, to token {nearest}"
        )
        if not num_long:
            draw_segment_reading(weights, start - num_short + 1, num_short, None, {}, figure)
            return f"{text}; nothing is in long-term memory yet."
        mu, sigma = traced.mu[head - 1, place - 1], traced.sigma[head - 1, place - 1]
        density = torch.distributions.Normal(mu, sigma)
        marks = (0.0, 0.25, 0.5, 0.75, 1.0)
        writes = written_lengths(start, lengths[0], memory_length)
        totals = accumulate(writes)
        updates = [Update(new, scaled_tau(past, new)) for past, new in zip(totals, writes[1:], strict=False)]
        at = age_map(torch.tensor([mu.item(), *marks], dtype=torch.float64), writes[0], updates)[0]
        around = max(1, at[0].item())
        inside = (density.cdf(torch.tensor(1.0)) - density.cdf(torch.tensor(0.0))).item()
        named = {t: max(1, round(number)) for t, number in zip(marks, at[1:].tolist(), strict=True)}
        heights = density.log_prob(grid).exp()
        draw_segment_reading(weights, start - num_short + 1, num_short, heights, named, figure)
        return (
            f"{text}; in long-term memory it looks around t = {mu:.2f} (about token {around:.0f}) with a width sigma "
            f"of {sigma:.2f}, {100 * inside:.0f} % of it inside of [0, 1]."
        )

    controls = {
        "segment": int_slider("segment", 13, 1, len(lengths)),
        "layer": int_slider("layer", 2, 1, len(traces[0])),
        "head": int_slider("head", 3, 1, len(traces[0][0].weights)),
        "place": int_slider("token in the segment", 15, 1, min(lengths)),
    }
    return Explorer("A trained model reads a sequence", show, controls, size=(8, 3.6))
