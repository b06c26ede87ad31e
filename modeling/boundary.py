"""Where trunk meets towers: one autograd node that balances the objectives' gradients on their way down.

Forward hands K views of z to the K towers. Backward receives all K cotangents g_k = ∂L_k/∂z at once, forms their Gram
matrix, asks for weights α, and returns Σ α_k g_k to the trunk: one forward and one backward, whatever the engine.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

CHUNK = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Elements of each gradient that are multiplied at once: on the CPU what stays in its cache."""


def gram_matrix(gradients: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    """⟨g_i, g_j⟩ of K tensors of one shape, multiplied in float32 or better, as (K, K) float64 on their device.

    One pass over all of them; the products of the pieces are added up in float64.
    """
    flat = [g.reshape(-1) for g in gradients]
    count, size = len(flat), flat[0].numel()
    dtype = torch.promote_types(flat[0].dtype, torch.float32)
    piece = CHUNK.get(flat[0].device.type, 1 << 20)
    gram = torch.zeros(count, count, dtype=torch.float64, device=flat[0].device)
    for start in range(0, size, piece):
        parts = [g[start : start + piece].to(dtype) for g in flat]
        rows = [torch.stack([torch.dot(parts[i], parts[j]) for j in range(i + 1)]) for i in range(count)]
        for i, row in enumerate(rows):
            gram[i, : i + 1] += row
    return gram + gram.tril(-1).T


class Cotangents:
    """What one backward brings to the boundary, and what can be asked of it.

    Attributes:
        at_z: K tensors, g_k = ∂L_k/∂z.
        intact: bool (K,), False where a part of g_k was dropped on its way because it was not finite; None: all are.
    """

    def __init__(self, z: torch.Tensor, at_z: tuple[torch.Tensor, ...], intact: torch.Tensor | None = None) -> None:
        self._z, self.at_z = z, at_z
        self.intact = torch.ones(len(at_z), dtype=torch.bool, device=at_z[0].device) if intact is None else intact

    def gram(self) -> torch.Tensor:
        """⟨g_i, g_j⟩ at z, (K, K) float64; NaN for those that are not intact."""
        both = self.intact[:, None] & self.intact[None, :]
        return gram_matrix(self.at_z).masked_fill(~both, torch.nan)

    def squares(self) -> torch.Tensor:
        """‖g_k‖² at z, (K,) float64; NaN for those that are not intact."""
        return torch.stack([gram_matrix([g])[0, 0] for g in self.at_z]).masked_fill(~self.intact, torch.nan)

    def gradients(self, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        """∂L_k/∂parameters of every objective, through the trunk: (K, P) in float32 or better, parameters end to end.

        Costs K backwards from z to the first of the parameters; the graph is kept for the one that trains.
        """
        rows = []
        for cotangent in self.at_z:
            found = torch.autograd.grad(self._z, parameters, cotangent, retain_graph=True)
            rows.append(torch.cat([g.reshape(-1).to(torch.promote_types(g.dtype, torch.float32)) for g in found]))
        return torch.stack(rows).masked_fill(~self.intact[:, None], torch.nan)


Solve = Callable[[Cotangents], Sequence[float]]
"""From this process's cotangents to the K weights, the same on all processes; 0 means that the gradient is left out."""


def combine(weights: Sequence[float], gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Σ α_k g_k, added up in float32 or better, in the gradients' own dtype."""
    dtype = torch.promote_types(gradients[0].dtype, torch.float32)
    total = torch.zeros_like(gradients[0], dtype=dtype)
    for weight, gradient in zip(weights, gradients, strict=True):
        if weight != 0.0:  # a gradient left out may hold NaN, and 0·NaN is NaN
            total.add_(gradient, alpha=weight)
    return total.to(gradients[0].dtype)


Intact = Callable[[], torch.Tensor] | None
"""Asked in backward which objectives' cotangents have arrived whole, bool (K,); None: all."""


class _FanOut(torch.autograd.Function):
    """z → K views of z; K cotangents → Σ α_k g_k."""

    @staticmethod
    def forward(
        ctx: Any, z: torch.Tensor, count: int, boundary: "Boundary", intact: Intact
    ) -> tuple[torch.Tensor, ...]:
        ctx.boundary, ctx.intact = boundary, intact
        ctx.save_for_backward(z)
        return tuple(z.view_as(z) for _ in range(count))

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (z,) = ctx.saved_tensors
        return ctx.boundary.balance(z, cotangents, ctx.intact), None, None, None


class Boundary:
    """Fans z out to the towers; `solve` is handed in by whoever trains, so that modeling does not know the methods."""

    def __init__(self) -> None:
        self.solve: Solve | None = None

    def fan_out(self, z: torch.Tensor, count: int, intact: Intact = None) -> tuple[torch.Tensor, ...]:
        """K views of z. Without gradients, or before a `solve` is set, they are z itself."""
        if self.solve is None or not torch.is_grad_enabled() or not z.requires_grad:
            return (z,) * count
        return _FanOut.apply(z, count, self, intact)

    def balance(self, z: torch.Tensor, cotangents: tuple[torch.Tensor, ...], intact: Intact = None) -> torch.Tensor:
        """What the trunk gets: Σ α_k g_k with the weights of `solve`, the plain sum where none is set."""
        if self.solve is None:
            return combine([1.0] * len(cotangents), cotangents)
        return combine(self.solve(Cotangents(z, cotangents, intact() if intact is not None else None)), cotangents)


class _Gate(torch.autograd.Function):
    """Identity; its gradient is replaced by zeros while the gate is closed, or where it is not finite."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gates: "Gates", name: str) -> torch.Tensor:
        ctx.gates, ctx.name = gates, name
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        if ctx.name in ctx.gates.closed:
            return torch.zeros_like(gradient), None, None
        return ctx.gates.pass_finite(ctx.name, gradient), None, None


class Gates:
    """One gate per objective between its head and its loss: what is not finite stays out of the tower."""

    def __init__(self) -> None:
        self.closed: set[str] = set()
        self._finite: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Pass x through the gate of objective `name`."""
        return _Gate.apply(x, self, name) if x.requires_grad else x

    def reset(self) -> None:
        """Open all gates and forget what passed: a new forward begins."""
        self.closed, self._finite = set(), {}

    def close(self, names: set[str]) -> None:
        """Close the gates of `names` for the backward that follows."""
        self.closed = set(names)

    def pass_finite(self, name: str, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient, or zeros if any of it is not finite; decided on the device, so that nothing waits for it."""
        finite = torch.isfinite(gradient).all()
        self._finite[name] = finite & self._finite[name] if name in self._finite else finite
        return torch.where(finite, gradient, torch.zeros_like(gradient))

    def intact(self, names: Sequence[str], device: torch.device) -> torch.Tensor:
        """Whether all that came back to the gates of each objective was finite, bool (K,); closed gates count as so."""
        yes = torch.ones((), dtype=torch.bool, device=device)
        return torch.stack([self._finite.get(name, yes) for name in names])
