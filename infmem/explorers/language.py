"""Where a long-term memory looked when it read a token, with the text that is there."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from matplotlib.figure import Figure
from torch import Tensor

from infmem import trained
from infmem.explorers.base import Explorer, int_slider
from infmem.language.looking import first_with_memory, look
from infmem.microscope import segment_edges, trace
from infmem.models.infinite_former import InfiniteFormer
from infmem.plots.language import Excerpt, draw_places
from infmem.plots.style import BLUE, VERMILION
from infmem.tasks import sorting
from infmem.validation import require

SEED = 9
NAMES = ("a", "b", "c")  # of the marked places
SHARP = 3  # times an even density, from which on the densest token has the full colour


def language_memory(
    model: InfiniteFormer | None = None,
    tokens: Int[Tensor, " pos"] | None = None,
    texts: Sequence[str] | None = None,
    segment_length: int = 32,
) -> Explorer:
    """Where a head looked when it read a token of a text, and what stands there.

    Args:
        model: any infinite-former that is not sticky; None takes the one that sorts, and a sequence of its symbols.
        tokens: the text, as the model reads it.
        texts: of each token.
        segment_length: tokens per segment, as in training.

    Raises:
        ValueError: if tokens and texts do not fit, or the text is too short for a long-term memory.
    """
    if model is None:
        model, config, _ = trained.load("infinite-former")
        tokens = sorting.sample(1, config.length, torch.Generator().manual_seed(SEED))[0][0]
        texts = [f"{token} " if token < sorting.NUM_SYMBOLS else "sorted: " for token in tokens.tolist()]
        segment_length = config.segment_length
    require(tokens is not None and texts is not None, "a model needs a text to read: give tokens and texts")
    require(len(tokens) == len(texts), f"each token needs a text, got {len(tokens)} tokens and {len(texts)} texts")
    was_training = model.training
    segments = trace(model.eval(), tokens[None], segment_length)
    model.train(was_training)
    require(
        model.config.memory.sticky == "none",
        "a sticky memory puts samples where it was attended, so a place names no token: choose a model that is not",
    )
    first = first_with_memory(segments)

    def show(figure: Figure, position: int, layer: int, head: int) -> str:
        found = look(segments, position, layer - 1, head - 1)
        segment = segments[position // segment_length]
        here, shades = np.zeros(len(texts)), np.zeros(len(texts))
        here[position] = 1.0
        shades[: segment.num_written] = found.weights / max(SHARP, found.weights.max())
        excerpts = [Excerpt(f"is read: token {position + 1:,}", texts, position, here, VERMILION)]
        for name, place in zip(NAMES, found.places, strict=True):
            title = f"{name}: t = {place.t:.2f}, token {place.token + 1:,}, written {_ago(place.age)}"
            excerpts.append(Excerpt(title, texts, place.token, shades, BLUE))
        marks = {name: place.t for name, place in zip(NAMES, found.places, strict=True)}
        draw_places((found.t, found.density), marks, segment_edges(segment.updates), excerpts, figure)
        a, b, c = found.places
        return (
            f"When it reads token {position + 1:,} ({texts[position]!r}), head {head} of layer {layer} looks around "
            f"t = {found.mu:.2f} with a standard deviation of {found.sigma:.2f}. Half of what it sees lies between "
            f"a and c: tokens {a.token + 1:,} to {c.token + 1:,} of the {segment.num_written:,} that are written. In "
            f"the middle, b, is token {b.token + 1:,} ({texts[b.token]!r}), written {_ago(b.age)}."
        )

    controls = {
        "position": int_slider("token that is read", max(first, len(tokens) - segment_length), first, len(tokens) - 1),
        "layer": int_slider("layer", model.config.num_layers, 1, model.config.num_layers),
        "head": int_slider("head", 1, 1, model.config.num_heads),
    }
    return Explorer("Where the memory looked", show, controls, size=(8, 4.9))


def _ago(age: int) -> str:
    """An age in updates, in words."""
    return "with the last update" if age == 0 else f"{age} update{'s' * (age > 1)} ago"
