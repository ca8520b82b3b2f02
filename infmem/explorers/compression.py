"""The compressed memory: which token sits where, and what each compression gives back of a known signal."""

from functools import cache
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from matplotlib.figure import Figure
from torch import Tensor

from infmem.explorers.base import Explorer, choice, int_slider
from infmem.memory import CompressedMemory, CompressedMemoryConfig, CompressedState
from infmem.plots.compression import draw_compressed_view

NUM_TOKENS, SEGMENT = 104, 8
EVENTS = (5, 12, 27, 33, 42, 49, 58, 69, 83, 90)  # tokens, counted from 0
COMPRESSIONS = {
    "mean pool": "mean_pool",
    "max pool": "max_pool",
    "convolution, for auto-encoding": "convolution",
    "most used": "most_used",
}


class Places(NamedTuple):
    """Where the tokens lie that were read before a segment.

    Args:
        gone: forgotten, the oldest.
        compressed: in the compressed memory, in whole groups.
        short_term: in the short-term memory, those that wait for a whole group among them.
    """

    gone: int
    compressed: int
    short_term: int


def places(num_read: int, memory_length: int, length: int, rate: int) -> Places:
    """How many of the tokens before a segment are where.

    Args:
        num_read: tokens before it.
        memory_length: of the short-term memory.
        length: of the compressed memory, in compressed states.
        rate: hidden states in each of them.

    Example:
        >>> places(num_read=12, memory_length=3, length=2, rate=2)
        Places(gone=4, compressed=4, short_term=4)
    """
    left = max(0, num_read - memory_length) // rate * rate
    compressed = min(left, rate * length)
    return Places(left - compressed, compressed, num_read - left)


def text() -> Tensor:
    """A text that poses three questions, a number for each: how often, was there, and up or down?

    Example:
        >>> text().shape
        torch.Size([104, 3])
    """
    often = torch.rand(NUM_TOKENS, generator=torch.Generator().manual_seed(0), dtype=torch.float64) < 0.35
    rare = torch.zeros(NUM_TOKENS, dtype=torch.float64)
    rare[list(EVENTS)] = 1
    place = torch.arange(NUM_TOKENS)
    swing = (-1.0) ** (place + place // 10)  # up, down, up, ... and turned round after every ten tokens
    return torch.stack([often.double(), rare, swing.double()], dim=1)


def usage(signal: Tensor) -> Tensor:
    """The attention that each token is taken to have got: the rare events are looked for, the frequent symbol a little.

    Example:
        >>> usage(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]]))
        tensor([0.1000, 1.0000])
    """
    return signal[:, 1] + 0.1 * signal[:, 0]


@cache
def _memory(compression: str, length: int, rate: int) -> CompressedMemory:
    """A compressed memory over the text's three numbers and the number of the token, which tells what was kept."""
    config = CompressedMemoryConfig(length, rate, compression, loss="auto_encoding")
    memory = CompressedMemory(4, config).double().requires_grad_(False)
    if compression == "convolution":
        signal, mean = text(), torch.zeros(4, dtype=torch.float64)
        mean[:3] = signal.mean(0)
        groups = (signal - mean[:3])[: NUM_TOKENS // rate * rate]
        directions = torch.linalg.svd(rearrange(groups, "(group rate) d -> group (rate d)", rate=rate))[2][:3]
        weight = torch.zeros(4, 4, rate, dtype=torch.float64)
        weight[:3, :3] = rearrange(directions, "kept (rate d) -> kept d rate", rate=rate)
        memory.function.convolution.weight.copy_(weight)
        memory.function.convolution.bias.copy_(-(weight.sum(2) @ mean))
        memory.decoder.weight.copy_(weight)
        memory.decoder.bias.copy_(mean)
    return memory


def remembered(compression: str, num_read: int, memory_length: int, length: int, rate: int) -> CompressedState:
    """The compressed memory that a segment finds, written segment by segment as the model does it.

    If `num_read` is no whole number of segments, the first one is the shorter.

    Example:
        >>> remembered("mean_pool", num_read=16, memory_length=4, length=8, rate=4).compressed.shape
        torch.Size([1, 3, 4])
    """
    signal = text()
    numbered = torch.cat([signal, torch.arange(NUM_TOKENS, dtype=torch.float64)[:, None]], dim=1)[None]
    got = usage(signal)[None]
    memory, left = _memory(compression, length, rate), 0
    state = memory.empty(batch=1)
    for before in range(num_read % SEGMENT, num_read + 1, SEGMENT):
        leaves = before - places(before, memory_length, length, rate).short_term
        if leaves > left:
            state = memory.write(numbered[:, left:leaves], state._replace(usage=got[:, left:before]))
        left = leaves
    return state


def given_back(compression: str, num_read: int, memory_length: int, length: int, rate: int) -> Tensor:
    """What the compressed memory says of each token read: NaN where it says nothing.

    A pooled state speaks for every token of its group, a decoder rebuilds each, a most used one is a single token.

    Example:
        >>> given_back("max_pool", num_read=16, memory_length=8, length=1, rate=4)[:, 1]
        tensor([nan, nan, nan, nan, 1., 1., 1., 1., nan, nan, nan, nan, nan, nan, nan, nan],
               dtype=torch.float64)
    """
    compressed = remembered(compression, num_read, memory_length, length, rate).compressed
    gone, covered, _ = places(num_read, memory_length, length, rate)
    said = compressed.new_full((num_read, 3), torch.nan)
    if compression == "most_used":
        said[compressed[0, :, 3].long()] = compressed[0, :, :3]
    elif compression == "convolution":
        said[gone : gone + covered] = _memory(compression, length, rate).decode(compressed)[0, :, :3]
    else:
        said[gone : gone + covered] = repeat(compressed[0, :, :3], "group d -> (group rate) d", rate=rate)
    return said


def compression() -> Explorer:
    """Which token sits where in two first-in-first-out memories, and what the coarse one gives back."""
    signal = text()

    def show(figure: Figure, num_read: int, rate: int, memory_length: int, length: int, compression: str) -> str:
        name = COMPRESSIONS[compression]
        gone, covered, short_term = places(num_read, memory_length, length, rate)
        said = given_back(name, num_read, memory_length, length, rate)
        draw_compressed_view(signal, said, (gone, covered, short_term, SEGMENT), rate, figure)
        waiting = max(0, short_term - memory_length)
        opening = f"{num_read} tokens were read before this segment: {short_term} are in short-term memory"
        opening += f" ({waiting} of them only until a group of {rate} is whole)" if waiting else ""
        if not covered:
            return f"{opening}, {gone} are gone, and none is compressed."
        if name == "most_used":
            number = covered // rate
            opening += f", of the {covered} before them {number} are kept, and {gone + covered - number} are gone"
        else:
            opening += f", {covered} in {covered // rate} compressed states, and {gone} are gone"
        true, kept = signal[gone : gone + covered], said[gone : gone + covered]
        often = kept[:, 0].nansum().abs() * (rate if name == "most_used" else 1)
        events = int((kept[true[:, 1] > 0, 1] >= 0.5).sum())
        lost = (true[:, 2] - kept[:, 2].nan_to_num()).square().mean()  # the swing is 1 or -1: its mean square is 1
        return (
            f"{opening}. Of these {covered} tokens the compressed memory says: the frequent symbol came {often:.1f} "
            f"times (in truth {true[:, 0].sum():.0f}); it shows {events} of {true[:, 1].sum():.0f} rare events, and "
            f"{100 * (1 - lost).clamp(min=0):.0f} % of the swing."
        )

    controls = {
        "num_read": int_slider("tokens read before", 72, 0, 96, SEGMENT),
        "rate": int_slider("compression rate c", 4, 1, 8),
        "memory_length": int_slider("short-term memory", 16, 0, 32),
        "length": int_slider("compressed memory", 8, 0, 16),
        "compression": choice("compression", next(iter(COMPRESSIONS)), list(COMPRESSIONS)),
    }
    return Explorer("A fine and a coarse memory", show, controls, size=(8, 5.2))
