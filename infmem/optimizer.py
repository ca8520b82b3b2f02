"""The optimisers that a training can choose."""

from collections import defaultdict
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infmem.models.transformer_xl import TransformerXL
from infmem.validation import checked, require

OptimizerName = Literal["adam", "muon"]

ADAM_BETAS = (0.9, 0.98)
MOMENTUM = 0.95

# Odd polynomial of degree 5 that brings singular values near 1 in few steps, and how many (Jordan et al. 2024).
NEWTON_SCHULZ, NUM_STEPS = (3.4445, -4.7750, 2.0315), 5


@checked
def orthogonalized(matrices: Float[Tensor, "matrix row column"]) -> Float[Tensor, "matrix row column"]:
    r"""Matrices with the same singular vectors and singular values near 1.

    Equation:
        With $X = U S V^\top$ scaled to $\|X\|_F = 1$, five times
        $X \leftarrow a X + (b X X^\top + c (X X^\top)^2) X$, which acts on S alone.

    Args:
        matrices: any matrices; zeros stay zeros.

    Source: Jordan et al. 2024, Muon: singular values end between about 0.7 and 1.2, near enough.

    Example:
        >>> found = orthogonalized(torch.tensor([[[3.0, 0.0], [0.0, -0.1]]]))[0]
        >>> found.diagonal().abs().round()
        tensor([1., 1.])
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    x = x.bfloat16() if x.is_cuda else x
    for _ in range(NUM_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.to(matrices.dtype)
    return x if matrices.shape[1] <= matrices.shape[2] else x.mT


class Muon(torch.optim.Adam):
    r"""Momentum whose matrices are made orthogonal before they are applied; what is no matrix of a layer gets Adam.

    Equation:
        $M \leftarrow \beta M + (1 - \beta) G$, $W \leftarrow W - \eta\, 0.2 \sqrt{\max(m, n)}\,
        \mathrm{orth}(\beta M + (1 - \beta) G)$ for W of m rows and n columns: an update is about as large
        as one of Adam, in the root mean square, so both take the same learning rate.

    Args:
        matrices: weights of linear maps inside of the model.
        others: embeddings, biases, and all else.
        lr: the learning rate of both.

    Source: Jordan et al. 2024 (Muon); the scale is that of Liu et al. 2025 (arXiv 2502.16982). PyTorch's own Muon reads
        its learning rate from the CPU, so it can't be recorded on a GPU.
    """

    def __init__(self, matrices: list[nn.Parameter], others: list[nn.Parameter], lr: float):
        super().__init__([{"params": others}, {"params": matrices}], lr=lr, betas=ADAM_BETAS, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all parameters that have a gradient."""
        group, by_shape = self.param_groups[1], defaultdict(list)
        for weight in group["params"]:
            if weight.grad is not None:
                by_shape[weight.shape].append(weight)
        for shape, weights in by_shape.items():
            updates = torch.stack([self._momentum(weight) for weight in weights])
            updates = orthogonalized(updates) * (-0.2 * max(shape) ** 0.5 * group["lr"])
            torch._foreach_add_(weights, list(updates.unbind()))
            for weight in weights:
                weight.grad = None  # Adam leaves those alone
        super().step(closure)

    def _momentum(self, weight: nn.Parameter) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
        return weight.grad.lerp(state["momentum"], MOMENTUM)


def build_optimizer(model: TransformerXL, name: OptimizerName, rate: float) -> torch.optim.Optimizer:
    """The optimiser of that name for a model's parameters.

    Args:
        model: any model of this package.
        name: which optimiser.
        rate: the learning rate.

    Raises:
        ValueError: if there is none of that name.

    Example:
        >>> from infmem.presets import build_model, model_config, preset
        >>> model = build_model(model_config("window", preset("classroom")))
        >>> [len(group["params"]) for group in build_optimizer(model, "muon", 0.001).param_groups]
        [17, 12]
    """
    require(name in ("adam", "muon"), f"optimizer must be adam or muon, got {name!r}")
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr=rate, betas=ADAM_BETAS, fused=True)
    inside = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not model.output]
    matrices = [module.weight for module in inside if len(module.weight) > 1]
    known = set(map(id, matrices))
    return Muon(matrices, [weight for weight in model.parameters() if id(weight) not in known], rate)
