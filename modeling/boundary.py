"""Where trunk meets towers: one autograd node that balances the objectives' gradients on their way down.

Forward hands K views of z to the K towers. Backward receives all K cotangents g_k = ∂L_k/∂z at once, forms their Gram
matrix, asks for weights α, and returns Σ α_k g_k to the trunk: one forward and one backward, whatever the engine.
"""

from collections.abc import Callable
from typing import Any

import torch

Solve = Callable[[torch.Tensor], torch.Tensor]
"""From this process's Gram matrix (K, K) to the weights (K,), both float64; 0 means that the gradient is left out."""


def gram_matrix(cotangents: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """⟨g_i, g_j⟩ of K tensors of one shape, multiplied in float32 or better, as (K, K) float64 on their device."""
    flat = [g.reshape(-1).to(torch.promote_types(g.dtype, torch.float32)) for g in cotangents]
    count = len(flat)
    gram = torch.empty(count, count, dtype=torch.float64, device=flat[0].device)
    for i in range(count):
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = torch.dot(flat[i], flat[j])
    return gram


class _FanOut(torch.autograd.Function):
    """z → K views of z; K cotangents → Σ α_k g_k."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, count: int, solve: Solve) -> tuple[torch.Tensor, ...]:
        ctx.solve = solve
        return tuple(z.view_as(z) for _ in range(count))

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        weights = ctx.solve(gram_matrix(cotangents)).tolist()
        total = torch.zeros_like(cotangents[0], dtype=torch.promote_types(cotangents[0].dtype, torch.float32))
        for weight, cotangent in zip(weights, cotangents, strict=True):
            if weight != 0.0:  # a gradient left out may hold NaN, and 0·NaN is NaN
                total.add_(cotangent, alpha=weight)
        return total.to(cotangents[0].dtype), None, None


class Boundary:
    """Fans z out to the towers; `solve` is handed in by whoever trains, so that modeling does not know the methods."""

    def __init__(self) -> None:
        self.solve: Solve | None = None

    def fan_out(self, z: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
        """K views of z. Without gradients, or before a `solve` is set, they are z itself."""
        if self.solve is None or not torch.is_grad_enabled() or not z.requires_grad:
            return (z,) * count
        return _FanOut.apply(z, count, self.solve)


class _Gate(torch.autograd.Function):
    """Identity; its gradient is replaced by zeros while the gate is closed."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, is_open: Callable[[], bool]) -> torch.Tensor:
        ctx.is_open = is_open
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return (gradient if ctx.is_open() else torch.zeros_like(gradient)), None


class Gates:
    """One gate per objective between its head and its loss: closing it keeps a non-finite loss out of the tower."""

    def __init__(self) -> None:
        self.closed: set[str] = set()

    def __call__(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Pass x through the gate of objective `name`."""
        return _Gate.apply(x, lambda: name not in self.closed) if x.requires_grad else x
