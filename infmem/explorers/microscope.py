"""A trained memory under the microscope: one head's density, the decoded symbols, and what each token weighs."""

import functools
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from infmem import trained
from infmem.contraction import age_map
from infmem.explorers.base import Explorer, choice, int_slider
from infmem.microscope import SegmentTrace, decode_symbols, local_shares, segment_edges, token_operator, trace
from infmem.models.infinite_former import InfiniteFormer
from infmem.plots.microscope import draw_microscope
from infmem.tasks import sorting

MODELS = ["infinite-former", "fixed-tau"]
SEED, NUM_POINTS = 9, 101


class Opened(NamedTuple):
    """A trained model and what it did with one sequence.

    Args:
        model: the model.
        segments: its trace.
        tokens: the sequence.
        segment_length: tokens per segment.
        length: symbols before the separator.
    """

    model: InfiniteFormer
    segments: list[SegmentTrace]
    tokens: Tensor
    segment_length: int
    length: int


class Contents(NamedTuple):
    """What the first layer's memory holds when a segment reads it.

    Args:
        operator: from tokens to coefficients.
        edges: where each write begins and ends.
        decoded: shares of the symbols along the memory.
        true: the true shares around the tokens that the age map names, in windows of as many tokens as there are per
            basis function.
    """

    operator: Tensor
    edges: Tensor
    decoded: Tensor
    true: Tensor


@functools.cache
def opened(name: str) -> Opened:
    """A trained model, traced once over one sequence."""
    model, config, _ = trained.load(name)
    tokens, _ = sorting.sample(1, config.length, torch.Generator().manual_seed(SEED))
    return Opened(model, trace(model, tokens, config.segment_length), tokens, config.segment_length, config.length)


@functools.cache
def contents(name: str, segment: int) -> Contents:
    """What the first layer's memory holds in a segment, numbered from 1."""
    model, segments, tokens, _, _ = opened(name)
    step = segments[segment - 1]
    t = torch.linspace(0, 1, NUM_POINTS, dtype=torch.float64)
    window = max(1, round(step.num_written / model.config.memory.num_basis))
    token, _ = age_map(t, step.num_first, step.updates)
    return Contents(
        operator=token_operator(model.config.memory, step.num_first, step.updates),
        edges=segment_edges(step.updates),
        decoded=decode_symbols(model, step.layers[0].memory.coefficients, model.long_term_memories[0].basis, t)[0],
        true=local_shares(tokens[:, : step.num_written], token, window)[0],
    )


def microscope() -> Explorer:
    """Where a head of a trained model looks, what the memory holds there, and what every past token weighs."""

    def show(figure: Figure, name: str, segment: int, layer: int, head: int) -> str:
        model, segments, _, segment_length, length = opened(name)
        operator, edges, decoded, true = contents(name, segment)
        step = segments[segment - 1]
        seen = step.layers[layer - 1]
        # In the answering segment the queries that answer are those from the separator on.
        first = max(0, length - step.start) if step.start + segment_length > length else 0
        mu, sigma_sq = (part[0, head - 1, first:].double() for part in (seen.mu, seen.sigma_sq))
        basis, cut = model.long_term_memories[0].basis.to(torch.float64), model.config.memory.interval == "unit"
        weights = (basis.expectation(mu, sigma_sq, unit_interval=cut) @ operator.mT).mean(0)
        pictures = {"symbols decoded from layer 1's memory": decoded, "true shares around the same token": true}
        draw_microscope((mu, sigma_sq), pictures, weights, edges, segment_length, figure=figure)
        mean = mu.mean()
        token = age_map(mean[None], step.num_first, step.updates)[0].item()
        newest_first = weights.flip(0).cumsum(0) / weights.sum()
        half = int((newest_first < 0.5).sum()) + 1
        agreement = torch.corrcoef(torch.stack([decoded.flatten(), true.flatten()]))[0, 1]
        return (
            f"In segment {segment}, head {head} of layer {layer} looks around t = {mean:.2f} (token {token:.0f} of "
            f"{step.num_written}) with a standard deviation of {sigma_sq.sqrt().mean():.2f}; half of its weight lies "
            f"on the newest {half} tokens. Decoded and true shares correlate with {agreement:.2f}."
        )

    num_segments, config = len(opened(MODELS[0]).segments), opened(MODELS[0]).model.config
    controls = {
        "name": choice("model", MODELS[0], MODELS),
        "segment": int_slider("segment that reads", num_segments, 3, num_segments),
        "layer": int_slider("layer", 1, 1, config.num_layers),
        "head": int_slider("head", 1, 1, config.num_heads),
    }
    return Explorer("A trained memory under the microscope", show, controls, size=(8, 4))
