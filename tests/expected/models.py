from functools import cache

import numpy as np
import torch
from oracles import sinusoid

from infmem import trained
from infmem.tasks import sorting


def first_reached(length: int, segment: int, layers: int, memory: int) -> int:
    """By following every hidden state back to all that it was computed from, one by one."""
    reached = {length - 1}
    for _ in range(layers):
        sources = set()
        for place in reached:
            start = place // segment * segment
            sources |= set(range(max(0, start - memory), place + 1))
        reached = sources
    return min(reached)


def receptive_fields(values: dict) -> list[str]:
    layers, segment, memory, length = (
        values[name] for name in ("num_layers", "segment_length", "memory_length", "length")
    )
    pieces = [
        f"Of {length} tokens",
        f"reached by {length - first_reached(length, segment, layers, 0)} in the window",
        f"by {length - first_reached(length, segment, layers, memory)} in the Transformer-XL",
        f"all {length} in the ∞-former",
    ]
    start = (length - 1) // segment * segment
    stored = max(0, start - memory)
    if not stored:
        return [*pieces, "still empty"]
    left = np.array([max(0, read - memory) for read in range(0, start + 1, segment)])
    past, after = left[:-1][np.diff(left) > 0], left[1:][np.diff(left) > 0]
    scaled = values["forgetting"] == "equal room for all (ours)"
    taus = np.minimum(past / after, 63 / 64) if scaled else np.where(past > 0, 0.75, 0.0)
    shares = [(1 - tau) * np.prod(taus[k + 1 :]) / (after[k] - past[k]) for k, tau in enumerate(taus)]
    newest, oldest = shares[-1], shares[0]
    return [
        *pieces,
        f"{length - stored} as they are, {stored} through the long-term memory",
        f"{48 * newest:.2g} of the 48 basis functions to itself and the oldest {48 * oldest:.2g}",
    ]


@cache
def read_by_parts() -> list[list[tuple]]:
    """What each layer of each segment was given and what it read with, by forward hooks, without the explorer."""
    model, config, _ = trained.load("infinite-former")
    tokens, _ = sorting.sample(1, config.length, torch.Generator().manual_seed(0))
    seen = {}
    for layer, (block, memory) in enumerate(zip(model.blocks, model.long_term_memories, strict=True)):
        block.attention.register_forward_hook(
            lambda module, given, out, layer=layer: seen.update({("short", layer): given})
        )
        memory.register_forward_hook(lambda module, given, out, layer=layer: seen.update({("long", layer): out[2]}))
    state, segments = None, []
    with torch.no_grad():
        for segment in tokens.split(config.segment_length, dim=1):
            seen.clear()
            _, state = model(segment, state)
            segments.append(
                [
                    (model.blocks[layer].attention, seen["short", layer], seen.get(("long", layer)))
                    for layer in range(config.model.num_layers)
                ]
            )
    return segments


def weights_by_loop(attention, given, head: int, place: int) -> np.ndarray:
    """The softmax of one query of one head over the keys that are not later."""
    x, memory, u, v = (tensor.detach().double().numpy() for tensor in given[:4])
    head_size = u.shape[1]
    rows = slice(head * head_size, (head + 1) * head_size)
    query_map, key_map, distance_map = (
        weight.detach().double().numpy()[rows]
        for weight in (attention.query.weight, attention.key_value.weight, attention.relative.weight)
    )
    states, here = np.concatenate([memory[0], x[0]]), memory.shape[1] + place
    query = query_map @ x[0, place]
    scores = np.array(
        [
            (query + u[head]) @ (key_map @ states[key])
            + (query + v[head]) @ (distance_map @ sinusoid(here - key, x.shape[-1]))
            for key in range(here + 1)
        ]
    ) / np.sqrt(head_size)
    odds = np.exp(scores - scores.max())
    return odds / odds.sum()


def segments(values: dict) -> list[str]:
    start, head, place = 32 * (values["segment"] - 1), values["head"] - 1, values["place"] - 1
    attention, given, reading = read_by_parts()[values["segment"] - 1][values["layer"] - 1]
    short, long = min(32, start), max(0, start - 32)
    weights = weights_by_loop(attention, given, head, place)
    pieces = [
        f"token {start + place + 1}: {short} tokens are in short-term memory, {long} in long-term memory",
        f"largest weight, {weights.max():.2f}, to token {start - short + 1 + weights.argmax()}",
    ]
    if not long:
        return [*pieces, "nothing is in long-term memory yet"]
    mu, sigma = (float(x[0, head, place]) for x in (reading.mu, reading.sigma_sq.sqrt()))
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    inside = torch.trapezoid(torch.exp(-0.5 * ((t - mu) / sigma) ** 2) / (sigma * (2 * torch.pi) ** 0.5), t).item()
    return [
        *pieces,
        f"t = {mu:.2f} (about token {max(1, mu * long):.0f})",  # every token has equal room
        f"sigma of {sigma:.2f}, {100 * inside:.0f} % of it inside",
    ]


EXPECTED = {"receptive_fields": receptive_fields, "segments": segments}
