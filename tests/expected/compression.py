import numpy as np

from infmem.explorers.compression import SEGMENT, text

WORDS = {"mean pool": "mean", "max pool": "max", "convolution, for auto-encoding": "learned", "most used": "used"}


def best_directions(signal: np.ndarray, rate: int) -> np.ndarray:
    """The three directions of a group in which it varies most, by the eigenvectors of its second moments."""
    centred = signal - signal.mean(axis=0)
    groups = [centred[start : start + rate].ravel() for start in range(0, len(signal) - rate + 1, rate)]
    moments = sum(np.outer(group, group) for group in groups)
    return np.linalg.eigh(moments)[1][:, -3:]


def said_of(signal: np.ndarray, kind: str, queue: list[int], rate: int) -> dict[int, np.ndarray]:
    """What one token's number is in memory; `queue` has the first token of each group that is kept."""
    said, mean = {}, signal.mean(axis=0)
    for start in queue:
        group = signal[start : start + rate]
        if kind == "learned":
            directions = best_directions(signal, rate)
            rebuilt = mean + (directions @ (directions.T @ (group - mean).ravel())).reshape(rate, 3)
        else:
            summary = group.sum(axis=0) / rate if kind == "mean" else np.max(group, axis=0)
            rebuilt = np.tile(summary, (rate, 1))
        said |= {start + offset: rebuilt[offset] for offset in range(rate)}
    return said


def compression(values: dict) -> list[str]:
    num_read, rate, short, slots = (values[name] for name in ("num_read", "rate", "memory_length", "length"))
    kind, signal = WORDS[values["compression"]], text().numpy()
    looked_at = signal[:, 1] + 0.1 * signal[:, 0]
    recent, kept, groups = [], [], []  # three queues: of tokens, of what was kept, of first tokens of whole groups
    for start in range(0, num_read + 1, SEGMENT):
        leaving = []
        while len(recent) - rate >= short:
            groups.append(recent[0])
            leaving += [recent.pop(0) for _ in range(rate)]
        kept += sorted(sorted(leaving, key=lambda token: (-looked_at[token], token))[: len(leaving) // rate])
        if start < num_read:
            recent += range(start, start + SEGMENT)
    groups, kept = (queue[max(0, len(queue) - slots) :] for queue in (groups, kept))
    pieces = [f"{num_read} tokens were read before this segment: {len(recent)} are in short-term memory"]
    if len(recent) > short:
        pieces.append(f"({len(recent) - short} of them only until a group of {rate} is whole)")
    number = len(groups)
    covered = [token for start in groups for token in range(start, start + rate)]
    if not number:
        return [*pieces, f"{num_read - len(recent)} are gone, and none is compressed."]
    if kind == "used":
        said = {token: signal[token] for token in kept if token in covered}
        pieces.append(f"{number} are kept, and {num_read - len(recent) - number} are gone")
    else:
        said = said_of(signal, kind, groups, rate)
        pieces.append(f"{len(covered)} in {number} compressed states, and {num_read - len(recent) - len(covered)} are")
    often = sum(numbers[0] for numbers in said.values()) * (rate if kind == "used" else 1)
    shown = sum(signal[token, 1] == 1 and token in said and said[token][1] >= 0.5 for token in covered)
    errors = [(signal[token, 2] - (said[token][2] if token in said else 0)) ** 2 for token in covered]
    return [
        *pieces,
        f"Of these {len(covered)} tokens",
        f"came {abs(often):.1f} times (in truth {signal[covered, 0].sum():.0f})",
        f"it shows {shown} of {signal[covered, 1].sum():.0f} rare events",
        f"{100 * max(0, 1 - np.mean(errors)):.0f} % of the swing",
    ]


EXPECTED = {"compression": compression}
