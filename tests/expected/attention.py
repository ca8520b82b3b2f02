import numpy as np
import torch
from torch.distributions import Normal, kl_divergence

from infmem.basis import GaussianBasis
from infmem.explorers.attention import example_events, example_memory
from infmem.signal import fit, positions, read, ridge_operator


def continuous_attention(values: dict) -> list[str]:
    """The integral over the line, added up on a fine grid, instead of the closed form."""
    mu, sigma = values["mu"], values["sigma"]
    i = np.arange(1, 49) / 48
    x = np.sin(2 * np.pi * i) + 0.4 * np.sin(14 * np.pi * i) - 0.8 * (i > 0.8)
    basis = GaussianBasis.grid(48, (0.03,), dtype=torch.float64)
    coefficients = fit(torch.from_numpy(x)[None, :, None], ridge_operator(basis, positions(48), ridge=0.1))

    def signal(t):
        return read(coefficients, basis, torch.from_numpy(np.atleast_1d(t)))[0, :, 0].numpy()

    def integral(low, high, function):
        t = np.linspace(low, high, 20001)
        weights = np.exp(-0.5 * ((t - mu) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        return torch.trapezoid(torch.from_numpy(weights * function(t)), torch.from_numpy(t)).item()

    mass = integral(0, 1, np.ones_like)
    value = integral(0, 1, signal) / mass if values["unit_interval"] else integral(-1, 2, signal)
    return [
        f"mu = {mu:.2f} of width sigma = {sigma:g} reads {value:.2f};",
        f"mu itself is {signal(mu)[0]:.2f}.",
        f"{100 * mass:.1f} % of its mass lies inside",
        "renormalised" if values["unit_interval"] else "nothing is stored",
    ]


def heads(values: dict) -> list[str]:
    """All scores, from the signal's coefficients by least squares, and PyTorch's divergence."""
    memory, _ = example_memory()
    centers, sigmas = memory.basis.centers.numpy(), memory.basis.sigmas.numpy()
    where = ((np.arange(48) + 0.5) / 48)[:, None]
    design = np.exp(-0.5 * ((where - centers) / sigmas) ** 2) / (sigmas * np.sqrt(2 * np.pi))
    rows = np.concatenate([design, np.sqrt(0.1) * np.eye(len(centers))])
    coefficients = np.linalg.lstsq(rows, np.concatenate([example_events().numpy(), np.zeros((32, 6))]), rcond=None)[0]
    head, between = values["head"], values["between"]
    query = 4 * np.array([1 - between, between])
    scores = coefficients[:, 2 * head - 2 : 2 * head] @ query / np.sqrt(2)
    mu = 1 / (1 + np.exp(-13 * (centers - 0.5) @ scores))
    sigma = np.sqrt(np.log1p(np.exp(-7 * scores.sum() + values["bias"])))
    divergence = kl_divergence(Normal(float(mu), float(sigma)), Normal(float(mu), values["sigma_0"])).item()
    return [f"Head {head} looks at mu = {mu:.2f} with sigma = {sigma:.3f};", f"is {divergence:.2f} nats"]


EXPECTED = {"continuous_attention": continuous_attention, "heads": heads}
