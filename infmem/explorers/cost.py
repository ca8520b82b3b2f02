"""What the next segment costs, and what has to be kept for it, however much was read before."""

import dataclasses
import math
from functools import cache

import torch
from matplotlib.figure import Figure

from infmem.cost import cached_segment_products, cached_state_bytes, segment_products
from infmem.explorers.base import Explorer, choice_slider
from infmem.models.transformer_xl import TransformerXLConfig
from infmem.plots.cost import draw_stream
from infmem.presets import PRESETS, ModelConfig, build_model, model_config

MODELS = ("infinite-former", "compressive-transformer", "transformer-xl")
LARGEST = 2**24


def _config(name: str, segment: int, num_basis: int) -> ModelConfig:
    """A model of the preset `full`, with segments and short-term memory of this length."""
    sizes = dataclasses.replace(
        PRESETS["full"], segment_length=segment, short_term_length=segment, memory={"num_basis": num_basis}
    )
    return model_config(name, sizes)


@cache
def _state_bytes(name: str, segment: int, num_basis: int) -> int:
    with torch.device("meta"):
        model = build_model(_config(name, segment, num_basis))
    return model.state_bytes(1)


def cost() -> Explorer:
    """Operations of one more segment and bytes of state, against the tokens that were read before."""

    def show(figure: Figure, seen: int, segment: int, num_basis: int) -> str:
        counts = [segment * 2**power for power in range(30) if segment * 2**power <= LARGEST]
        configs: dict[str, TransformerXLConfig] = {name: _config(name, segment, num_basis) for name in MODELS}
        sizes = PRESETS["full"].sizes
        operations = {name: [segment_products(c, n, segment) for n in counts] for name, c in configs.items()}
        operations["full attention"] = [cached_segment_products(sizes, n, segment) for n in counts]
        states = {name: [_state_bytes(name, segment, num_basis)] * len(counts) for name in MODELS}
        states["full attention"] = [cached_state_bytes(sizes, n) for n in counts]
        draw_stream(counts, operations, states, marked=seen, figure=figure)
        ours = segment_products(configs["infinite-former"], seen, segment)
        theirs = cached_segment_products(sizes, seen, segment)
        without, more = (cached_segment_products(sizes, n, segment) for n in (0, segment))
        first = segment * max(1, math.floor((operations["infinite-former"][-1] - without) / (more - without)) + 1)
        state, cache_state = states["infinite-former"][0], cached_state_bytes(sizes, seen)
        return (
            f"After {seen:,} tokens the next {segment} cost the infinite-former {ours / 1e9:.1f} billion operations "
            f"and full attention {theirs / 1e9:.1f} billion; it keeps {state / 1e6:.1f} MB, full attention "
            f"{cache_state / 1e6:.1f} MB. Full attention is the dearer one "
            f"from {first:,} tokens on."
        )

    controls = {
        "seen": choice_slider("tokens read before", 2**16, [2**power for power in range(10, 25)]),
        "segment": choice_slider("tokens in a segment", 1024, [128, 256, 512, 1024]),
        "num_basis": choice_slider("basis functions N", 512, [64, 128, 256, 512, 1024, 2048]),
    }
    return Explorer("The cost of one more segment", show, controls, size=(8, 3.2))
