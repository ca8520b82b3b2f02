import math

import numpy as np
import torch

from .contraction import design, even, smoother, zeros_beside


def sticky(values: dict) -> list[str]:
    center, width, tau, num_samples = (values[name] for name in ("center", "width", "tau", "num_samples"))
    sizes = {"num_basis": 64, "sigma": 0.02}
    edges = np.arange(65) / 64
    below = [0.5 * math.erfc((center - edge) / (width * math.sqrt(2))) for edge in edges]
    cumulative = (np.array(below) - below[0]) / (below[-1] - below[0])
    generator = torch.Generator().manual_seed(values["seed"])
    u = torch.rand(1, num_samples, generator=generator, dtype=torch.float64).numpy()[0]
    u = (np.arange(num_samples) + u) / num_samples if values["method"] == "stratified" else np.sort(u)
    drawn = np.interp(u, cumulative, edges)
    if values["method"] == "left_edge":
        drawn = np.floor(64 * drawn) / 64

    t = even(128)
    events = np.exp(-0.5 * ((t - 0.3) / 0.02) ** 2) + np.exp(-0.5 * ((t - 0.7) / 0.02) ** 2)
    old = smoother(t, zeros_beside(128), ridge=0.1, **sizes) @ (0.5 * np.sin(2 * np.pi * t) + events)
    there = (np.arange(400) + 0.5) / 400
    there = there[np.abs(there - center) <= width]

    def error(sampled, put):
        placed = np.concatenate([tau * put, tau + (1 - tau) * t])
        targets = np.concatenate([design(sampled, **sizes) @ old, np.zeros(128)])
        new = smoother(placed, zeros_beside(num_samples + 128), ridge=0.1, **sizes) @ targets
        difference = design(tau * there, **sizes) @ new - design(there, **sizes) @ old
        return np.sqrt(np.mean(difference**2))

    put = drawn if values["placement"] == "address" else even(num_samples)
    return [
        f"{100 * np.mean(np.abs(drawn - center) <= width):.0f} % of the {num_samples} samples",
        f"is off by {error(drawn, put):.3f}",
        f"even sampling by {error(even(num_samples), even(num_samples)):.3f}",
    ]


EXPECTED = {"sticky": sticky}
