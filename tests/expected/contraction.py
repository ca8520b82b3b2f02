import math

import numpy as np


def design(t, num_basis, sigma):
    centers = np.linspace(0, 1, num_basis)
    return np.exp(-0.5 * ((np.asarray(t)[:, None] - centers) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))


def zeros_beside(num_tokens):
    """Continues the midpoints of an even number of tokens by half of them on both sides."""
    half = (np.arange(num_tokens // 2) + 0.5) / num_tokens
    return np.concatenate([-half[::-1], 1 + half])


def smoother(t, zeros, num_basis, sigma, ridge):
    """Coefficients per token, "basis pos", by plain least squares on an augmented system."""
    rows = [design(t, num_basis, sigma), design(zeros, num_basis, sigma), np.sqrt(ridge) * np.eye(num_basis)]
    return np.linalg.pinv(np.concatenate(rows))[:, : len(t)]


def even(length):
    return np.arange(1, length + 1) / length


def update(length, num_samples, tau, num_basis, sigma, ridge):
    """A and C of one update."""
    placed = np.concatenate([tau * even(num_samples), tau + (1 - tau) * even(length)])
    both = smoother(placed, zeros_beside(num_samples + length), num_basis, sigma, ridge)
    return both[:, :num_samples] @ design(even(num_samples), num_basis, sigma), both[:, num_samples:]


def integrals(held, num_basis, sigma):
    """Integral and summed energy over [0, 1] of the signals in the columns, by quadrature."""
    t = (np.arange(8000) + 0.5) / 8000
    signals = design(t, num_basis, sigma) @ held
    return signals.sum() / len(t), (signals**2).sum() / len(t)


def contraction(values: dict) -> list[str]:
    sizes = {"num_basis": 64, "sigma": 0.02}
    taus = [
        values["tau"] if values["schedule"] == "fixed" else k / (k + 1) for k in range(1, values["num_updates"] + 1)
    ]
    held = smoother(even(48), zeros_beside(48), ridge=values["ridge"], **sizes)
    mass_at_first, energy_at_first = integrals(held, **sizes)
    for tau in taus:
        held = update(48, 128, tau, ridge=values["ridge"], **sizes)[0] @ held
    mass, energy = integrals(held, **sizes)
    return [
        f"has {100 * math.prod(taus):.1f} % of the memory",
        f"{100 * mass / mass_at_first:.1f} % of its mass",
        f"{100 * energy / energy_at_first:.1f} % of its energy",
    ]


def half_life(shares):
    after = next(age for age, share in enumerate(shares) if share <= 0.5)
    return np.interp(-0.5, [-shares[after - 1], -shares[after]], [after - 1, after])


def forgetting(values: dict) -> list[str]:
    sizes = {"num_basis": values["num_basis"], "sigma": values["sigma"]}
    transition, held = update(128, 256, values["tau"], ridge=values["ridge"], **sizes)
    left = []
    for _ in range(25):
        left.append(integrals(held, **sizes))
        held = transition @ held
    mass, energy = np.transpose(left) / np.array(left[0])[:, None]
    radius = np.abs(np.linalg.eigvals(transition)).max()
    return [
        f"mass is left after {half_life(mass):.2f} updates",
        f"energy after {half_life(energy):.2f}.",
        f"spectral radius is {radius:.3f}",
        f"would suggest {math.log(0.5) / math.log(radius):.2f} updates",
    ]


EXPECTED = {"contraction": contraction, "forgetting": forgetting}
