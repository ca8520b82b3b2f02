"""The sorting task: what is seen of a sequence, and what counting it is worth."""

from functools import cache

import torch
from matplotlib.figure import Figure
from torch import Tensor

from infmem.explorers.base import Explorer, choice_slider, int_slider
from infmem.plots.sorting import draw_sequence
from infmem.tasks import sorting

LENGTHS = [108, 204, 396, 780]
NUM_AVERAGED = 200


@cache
def sequences(length: int, num_sequences: int, seed: int) -> Tensor:
    """Sequences of symbols, without separator and answers.

    Example:
        >>> sequences(length=31, num_sequences=2, seed=0).shape
        torch.Size([2, 31])
    """
    generator = torch.Generator().manual_seed(seed)
    return sorting.sample(num_sequences, length, generator)[0][:, :length]


def sorting_task() -> Explorer:
    """What a memory of the last W symbols sees of a drifting sequence, and how well one can sort from it."""

    def show(figure: Figure, window: int, length: int, seed: int) -> str:
        window = min(window, length)
        symbols = sequences(length, 1, seed)
        first_seen = torch.full((sorting.NUM_SYMBOLS,), length - window)
        draw_sequence(symbols[0], length - window, figure=figure)
        top = sorting.sorted_symbols(symbols)[0, 0].item()
        seen_top = sorting.sorted_symbols(symbols[:, length - window :])[0, 0].item()
        here = sorting.counting_accuracy(symbols, first_seen).item()
        average = sorting.counting_accuracy(sequences(length, NUM_AVERAGED, 1_000), first_seen).mean().item()
        return (
            f"Symbol {top} is the most frequent of all {length}; among the last {window} it is symbol {seen_top}. "
            f"Counting these {window} scores {here:.2f} here, and {average:.2f} on average over {NUM_AVERAGED} "
            "sequences of this length."
        )

    controls = {
        "window": int_slider("symbols remembered", 96, 12, 396, 12),
        "length": choice_slider("symbols in the sequence", 396, LENGTHS),
        "seed": int_slider("sequence", 9, 0, 20),
    }
    return Explorer("Sorting from the end of a sequence", show, controls, size=(8, 4))
