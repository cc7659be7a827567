"""Muon: momentum whose steps are made orthogonal before they are taken.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; PyTorch's own takes
matrices only, so it cannot step convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum; in groups with `orthogonal`, each step is orthogonalized first.

    Every direction in which such a layer's weights can move then gets a step of the same size,
    the rare ones too that plain SGD learns last.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float):
        """Prepare to train.

        Args:
            groups: each with params, lr, weight_decay and orthogonal (bool). The weights of an
                orthogonal group are seen as matrices with a row per output channel.
            momentum: the share of the last step that the next one keeps, above 0 to under 1.
        """
        super().__init__(groups, {"momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the weights from their gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                gradient = weight.grad.add(weight, alpha=group["weight_decay"])
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].mul_(group["momentum"]).add_(gradient)
                step = gradient.add_(momentum, alpha=group["momentum"])
                if group["orthogonal"]:
                    step = orthogonalize(step.flatten(1)).view(step.shape)
                weight.sub_(step, alpha=group["lr"])


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrix, about: float32 (M, N) to singular values of 0.7 to 1.2.

    Five Newton-Schulz iterations of fifth order, with the coefficients of Jordan et al.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
