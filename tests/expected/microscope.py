import functools

import numpy as np
import torch

from infmem import trained
from infmem.models import memorize
from infmem.tasks import sorting

SEGMENT = 32


@functools.cache
def _memories(name, segment):
    """Hidden states and long-term memories of both layers when a segment reads, from the model's parts."""
    model = trained.load(name).model
    tokens, _ = sorting.sample(1, 396, torch.Generator().manual_seed(9))
    start = SEGMENT * (segment - 1)
    state = memorize(model, tokens[:, :start], SEGMENT)
    layers, hidden = [], model.embed(tokens[:, start : start + SEGMENT])
    for layer, memory in enumerate(model.long_term_memories):
        old, recent = state.short_term[layer].split([state.short_term[layer].shape[1] - SEGMENT, SEGMENT], dim=1)
        long_term = memory.write(old, state.long_term[layer])
        layers.append((hidden, long_term))
        hidden = model.layer(layer, hidden, recent, long_term).hidden
    return model, tokens[0, : start - SEGMENT].numpy(), layers


def _taus(config, num_segments):
    return [config.tau if config.schedule == "fixed" else k / (k + 1) for k in range(1, num_segments)]


def _token_at(t, taus):
    """Walk back through the updates, one place at a time."""
    for back, tau in enumerate(reversed(taus)):
        if t > tau:
            return SEGMENT * (len(taus) - back) + SEGMENT * (t - tau) / (1 - tau)
        t = t / tau
    return SEGMENT * t


@torch.no_grad()
def microscope(values: dict) -> list[str]:
    """Weights as derivatives of what is read, symbols by numpy's least squares, places by walking back."""
    model, tokens, layers = _memories(values["name"], values["segment"])
    memory, config = model.long_term_memories[0], model.config.memory
    taus = _taus(config, len(tokens) // SEGMENT)
    hidden, state = layers[values["layer"] - 1]
    _, reading = model.long_term_memories[values["layer"] - 1].read(hidden, state)
    asking = slice(12, None) if values["segment"] == 13 else slice(None)
    mu, variance = (x[0, values["head"] - 1, asking].double().numpy() for x in (reading.mu, reading.sigma_sq))

    centers = np.linspace(0, 1, config.num_basis)

    def bumps(t):
        width = config.sigmas[0]
        return np.exp(-0.5 * ((np.asarray(t)[..., None] - centers) / width) ** 2) / (width * np.sqrt(2 * np.pi))

    fine = (np.arange(20_000) + 0.5) / 20_000  # the densities are cut to the memory: by quadrature
    density = np.exp(-0.5 * (fine - mu[:, None]) ** 2 / variance[:, None])
    expected = (density @ bumps(fine) / density.sum(1, keepdims=True)).mean(0)
    with torch.enable_grad():
        x = torch.zeros(1, len(tokens), memory.d_model, requires_grad=True)
        written = memory.empty(1)
        for chunk in x.split(SEGMENT, dim=1):
            written = memory.write(chunk, written)
        (torch.tensor(expected, dtype=torch.float32) @ written.coefficients[0, :, 0]).backward()
    weights = x.grad[0, :, 0].double().numpy()
    half = int(np.argmax(np.cumsum(weights[::-1]) >= weights.sum() / 2)) + 1

    t = np.linspace(0, 1, 101)
    signal = bumps(t) @ layers[0][1].coefficients[0].double().numpy()
    embeddings = model.embedding.weight[:20].double().numpy() * np.sqrt(memory.d_model)
    decoded = np.linalg.lstsq(embeddings.T, signal.T, rcond=None)[0].T
    window = max(1, round(len(tokens) / config.num_basis))
    true = []
    for place in t:
        token = max(_token_at(place, taus), 1)
        inside = [tokens[i - 1] for i in range(1, len(tokens) + 1) if abs(i - token) <= window / 2]
        true.append(np.bincount(inside, minlength=20)[:20] / len(inside))
    agreement = np.corrcoef(decoded.ravel(), np.concatenate(true))[0, 1]
    mean = mu.mean()
    return [
        f"around t = {mean:.2f} (token {_token_at(mean, taus):.0f} of {len(tokens)})",
        f"standard deviation of {np.sqrt(variance).mean():.2f}",
        f"on the newest {half} tokens",
        f"correlate with {agreement:.2f}",
    ]


EXPECTED = {"microscope": microscope}
