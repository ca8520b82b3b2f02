import functools
import math

import torch

from expected.microscope import _memories, _taus, _token_at
from infmem.tasks import sorting

SEGMENT = 32


@functools.cache
def _texts():
    tokens, _ = sorting.sample(1, 396, torch.Generator().manual_seed(9))
    return [f"{token} " if token < 20 else "sorted: " for token in tokens[0].tolist()]


def _quartile(share, mu, sigma):
    """By bisection, of a normal density that is cut off at 0 and 1."""

    def below(x):
        return 0.5 * (1 + math.erf((x - mu) / sigma / math.sqrt(2)))

    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        done = below(middle) - below(0) < share * (below(1) - below(0))
        low, high = (middle, high) if done else (low, middle)
    return math.ceil(low * 1000) / 1000  # places are a thousandth apart


@torch.no_grad()
def language_memory(values: dict) -> list[str]:
    """Densities from the model's parts, quartiles from the error function, tokens by walking back."""
    segment, place = divmod(values["position"], SEGMENT)
    model, tokens, layers = _memories("infinite-former", segment + 1)
    hidden, state = layers[values["layer"] - 1]
    _, reading = model.long_term_memories[values["layer"] - 1].read(hidden[:, : 416 - SEGMENT * segment], state)
    mu, sigma = (part[0, values["head"] - 1, place].double().item() for part in (reading.mu, reading.sigma_sq.sqrt()))
    taus = _taus(model.config.memory, len(tokens) // SEGMENT)
    a, b, c = (math.ceil(_token_at(_quartile(share, mu, sigma), taus) - 1e-9) for share in (0.25, 0.5, 0.75))
    age = (len(tokens) - b) // SEGMENT
    ago = "with the last update" if age == 0 else "1 update ago" if age == 1 else f"{age} updates ago"
    return [
        f"it reads token {values['position'] + 1} ({_texts()[values['position']]!r})",
        f"looks around t = {mu:.2f} with a standard deviation of {sigma:.2f}",
        f"tokens {a} to {c} of the {len(tokens)} that are written",
        f"is token {b} ({_texts()[b - 1]!r}), written {ago}",
    ]


EXPECTED = {"language_memory": language_memory}
