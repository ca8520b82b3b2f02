import numpy as np


def signal(values: dict) -> list[str]:
    """By plain least squares on an augmented system, without the library's operator."""
    num_basis, sigma, ridge = values["num_basis"], values["sigma"], values["ridge"]
    t = np.arange(1, 49) / 48
    x = np.sin(2 * np.pi * t) + 0.4 * np.sin(14 * np.pi * t) - 0.8 * (t > 0.8)

    def design(where):
        centers = np.linspace(0, 1, num_basis)
        return np.exp(-0.5 * ((where[:, None] - centers) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))

    zeros = (
        np.concatenate([(np.arange(-24, 0) + 0.5) / 48, 1 + (np.arange(24) + 0.5) / 48]) if values["padding"] else []
    )
    rows = np.concatenate([design(t), design(np.asarray(zeros)), np.sqrt(ridge) * np.eye(num_basis)])
    smoother = design(t) @ np.linalg.pinv(rows)[:, :48]
    lost = np.sum((x - smoother @ x) ** 2) / np.sum(x**2)
    return [
        f"keep {np.trace(smoother):.1f} degrees of freedom",
        f"loses {100 * lost:.1f} %",
        f"keeps {100 * smoother[-1, -1]:.0f} % of itself",
    ]


EXPECTED = {"signal": signal}
