from collections import Counter

import numpy as np
import torch

from infmem.tasks.sorting import sample


def draw(length: int, count: int, seed: int) -> list[list[int]]:
    return sample(count, length, torch.Generator().manual_seed(seed))[0][:, :length].tolist()


def order(symbols: list[int]) -> list[int]:
    """`Counter` keeps what it met first in front among equals."""
    present = [symbol for symbol, _ in Counter(symbols).most_common()]
    return present + [symbol for symbol in range(20) if symbol not in present]


def counting(symbols: list[int], window: int) -> float:
    """Rank by rank: the best counted of the symbols that are left, a tie being shared among those who tie."""
    seen, left, score = Counter(symbols[len(symbols) - window :]), set(range(20)), 0.0
    for symbol in order(symbols):
        best = max(seen[other] for other in left)
        if seen[symbol] == best:
            score += 1 / sum(seen[other] == best for other in left)
        left.remove(symbol)
    return score / 20


def sorting_task(values: dict) -> list[str]:
    length = values["length"]
    window = min(values["window"], length)
    (symbols,) = draw(length, 1, values["seed"])
    average = np.mean([counting(other, window) for other in draw(length, 200, 1_000)])
    return [
        f"Symbol {order(symbols)[0]} is the most frequent of all {length}",
        f"among the last {window} it is symbol {order(symbols[length - window :])[0]}.",
        f"scores {counting(symbols, window):.2f} here",
        f"{average:.2f} on average",
    ]


EXPECTED = {"sorting_task": sorting_task}
