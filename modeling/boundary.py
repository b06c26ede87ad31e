"""Where trunk meets towers: one autograd node that balances the objectives' gradients on their way down.

Forward hands K views of z to the K towers. Backward receives all K gradients g_k = ∂L_k/∂z at once, forms their Gram
matrix, asks for weights α, and returns Σ α_k g_k to the trunk: one forward and one backward, whatever the engine. Who
is asked, and what else forward and backward share, is in the `StepContext` that comes with the call.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from equipoise.modeling.operations import operation

CHUNK = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Elements of each gradient that are multiplied at once: on the CPU what stays in its cache."""
RUN = 1 << 12
"""Elements whose products are added up in the dtype of the products; runs are added up in float64."""

Gradients = Sequence[torch.Tensor] | torch.Tensor
"""K tensors of one shape, or one whose first dimension is K."""


def gram_matrix(gradients: Gradients) -> torch.Tensor:
    """⟨g_i, g_j⟩ of K tensors of one shape, multiplied in float32 or better, as (K, K) float64 on their device.

    One pass over all of them; the products of the runs are added up in float64.
    """
    count, size, first = len(gradients), gradients[0].numel(), gradients[0]
    piece = CHUNK.get(first.device.type, 1 << 20)
    gram = torch.zeros(count, count, dtype=torch.float64, device=first.device)
    for start in range(0, size, piece):
        part_Kn = _piece(gradients, start, start + piece)
        even = part_Kn.shape[1] // RUN * RUN
        if even:
            runs_nKr = part_Kn[:, :even].unflatten(1, (-1, RUN)).transpose(0, 1)
            gram += (runs_nKr @ runs_nKr.transpose(1, 2)).sum(0, dtype=torch.float64)
        if even < part_Kn.shape[1]:
            rest_Kr = part_Kn[:, even:]
            gram += rest_Kr @ rest_Kr.T
    return gram


def _piece(gradients: Gradients, start: int, stop: int) -> torch.Tensor:
    """Some elements of each of K tensors, (K, n), in float32 or better."""
    if isinstance(gradients, torch.Tensor):
        part_Kn = gradients.reshape(len(gradients), -1)[:, start:stop]
    else:
        part_Kn = torch.stack([g.reshape(-1)[start:stop] for g in gradients])
    return part_Kn.to(torch.promote_types(part_Kn.dtype, torch.float32))


def grouped_grams(states: Sequence[torch.Tensor], group_F: torch.Tensor, count: int) -> torch.Tensor:
    """The Gram matrix of K tensors (F, H) within each group of their rows, (count, K, K) float64.

    Args:
        states: K tensors (F, H), multiplied in float32 or better.
        group_F: int64, the group of each row.
        count: of groups.
    """
    grams = torch.zeros(count, len(states), len(states), dtype=torch.float64, device=states[0].device)
    dtype = torch.promote_types(states[0].dtype, torch.float32)
    piece = max(1, CHUNK.get(states[0].device.type, 1 << 20) // states[0].shape[1])
    for start in range(0, states[0].shape[0], piece):
        rows_fKH = torch.stack([state[start : start + piece].to(dtype) for state in states], dim=1)
        grams.index_add_(0, group_F[start : start + piece], (rows_fKH @ rows_fKH.transpose(1, 2)).double())
    return grams


TokensOfCandidates = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""From a tensor like z to the tokens of all candidates in it, (F, H), and the candidate of each, int64 (F,)."""


class BoundaryGradients:
    """What one backward brings to the boundary, and what can be asked of it.

    Attributes:
        values: K tensors g_k = ∂L_k/∂z, or one with all of them.
        finite_mask: bool (K,), False where a part of g_k was dropped above because it was not finite; None: all are.
    """

    def __init__(
        self,
        z: torch.Tensor,
        values: Gradients,
        finite_mask: torch.Tensor | None = None,
        tokens_of_candidates: TokensOfCandidates | None = None,
    ) -> None:
        self._z, self.values, self._tokens_of_candidates = z, values, tokens_of_candidates
        ones = torch.ones(len(values), dtype=torch.bool, device=values[0].device)
        self.finite_mask = ones if finite_mask is None else finite_mask

    def gram(self) -> torch.Tensor:
        """⟨g_i, g_j⟩ at z, (K, K) float64; NaN for those that are not finite."""
        both = self.finite_mask[:, None] & self.finite_mask[None, :]
        return gram_matrix(self.values).masked_fill(~both, torch.nan)

    def of_candidates(self, count: int) -> torch.Tensor:
        """⟨g_i, g_j⟩ at the tokens of each of `count` candidates, (N, K, K) float64; NaN as in `gram`."""
        assert self._tokens_of_candidates is not None, "the model says where candidates are"
        states, owners = zip(*map(self._tokens_of_candidates, self.values), strict=True)
        both = self.finite_mask[:, None] & self.finite_mask[None, :]
        return grouped_grams(states, owners[0], count).masked_fill(~both, torch.nan)

    def squares(self) -> torch.Tensor:
        """‖g_k‖² at z, (K,) float64; NaN for those that are not finite."""
        return torch.stack([gram_matrix([g])[0, 0] for g in self.values]).masked_fill(~self.finite_mask, torch.nan)

    def gradients(self, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        """∂L_k/∂parameters of every objective, through the trunk: (K, P) in float32 or better, parameters end to end.

        Costs K backwards from z to the first of the parameters; the graph is kept for the one that trains.
        """
        rows = []
        for value in self.values:
            parts = torch.autograd.grad(self._z, parameters, value, retain_graph=True)
            rows.append(torch.cat([g.reshape(-1).to(torch.promote_types(g.dtype, torch.float32)) for g in parts]))
        return torch.stack(rows).masked_fill(~self.finite_mask[:, None], torch.nan)


def combine(weights: Sequence[float], gradients: Gradients) -> torch.Tensor:
    """Σ α_k g_k, added up in float32 or better, in the gradients' own dtype."""
    first = gradients[0]
    used = [k for k, weight in enumerate(weights) if weight != 0.0]  # one left out may hold NaN, and 0·NaN is NaN
    if not used:
        return torch.zeros_like(first)
    dtype = torch.promote_types(first.dtype, torch.float32)
    if not isinstance(gradients, torch.Tensor):
        total = torch.zeros_like(first, dtype=dtype)
        for k in used:
            total.add_(gradients[k], alpha=weights[k])
        return total.to(first.dtype)
    chosen = gradients if len(used) == len(weights) else gradients[used]
    alpha_K = torch.tensor([weights[k] for k in used], dtype=dtype).to(first.device, non_blocking=True)
    piece = CHUNK.get(first.device.type, 1 << 20)
    pieces = [
        (alpha_K @ _piece(chosen, start, start + piece)).to(first.dtype) for start in range(0, first.numel(), piece)
    ]
    return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).view(first.shape)


class _FiniteOnly(torch.autograd.Function):
    """Identity; its gradient is replaced by zeros while the objective is blocked, or where it is not finite."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, guard: "NonFiniteGuard", name: str, of_candidates: bool) -> torch.Tensor:
        ctx.guard, ctx.name, ctx.of_candidates = guard, name, of_candidates
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        if ctx.name in ctx.guard.blocked:
            return torch.zeros_like(gradient), None, None, None
        if ctx.of_candidates:
            ctx.guard.wanted[ctx.name] = gradient
        return ctx.guard.pass_finite(ctx.name, gradient), None, None, None


def _finite_rows(x_KN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    finite_K = torch.isfinite(x_KN).all(1)
    return torch.where(finite_K[:, None], x_KN, 0.0), finite_K


finite_rows = operation(
    "finite_rows(Tensor x) -> (Tensor, Tensor)",
    _finite_rows,
    lambda x: (torch.empty_like(x), x.new_empty(len(x), dtype=torch.bool)),
    kernels=6,
)
"""Rows (K, N) that hold something not finite as zeros, and which hold nothing of the kind, bool (K,)."""


class _FiniteRows(torch.autograd.Function):
    """`_FiniteOnly` of the outputs of several objectives, (K, N)."""

    @staticmethod
    def forward(ctx: Any, x_KN: torch.Tensor, guard: "NonFiniteGuard", names: tuple[str, ...]) -> torch.Tensor:
        ctx.guard, ctx.names = guard, names
        return x_KN.view_as(x_KN)

    @staticmethod
    def backward(ctx: Any, gradient_KN: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.guard.pass_finite_rows(ctx.names, gradient_KN), None, None


class NonFiniteGuard:
    """Stands between each objective's head and its loss: what is not finite stays out of the tower.

    Attributes:
        blocked: objectives whose gradient is zero in the backward to come.
        wanted: ∂L_k/∂output of each candidate, (N,), by objective, once its tower has been differentiated.
    """

    def __init__(self) -> None:
        self.blocked: frozenset[str] = frozenset()
        self.wanted: dict[str, torch.Tensor] = {}
        self._finite: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, x: torch.Tensor, of_candidates: bool = False) -> torch.Tensor:
        """Pass an output x of objective `name`; `of_candidates`: it is the one number of each candidate, (N,)."""
        return _FiniteOnly.apply(x, self, name, of_candidates) if x.requires_grad else x

    def of_rows(self, names: Sequence[str], x_KN: torch.Tensor) -> torch.Tensor:
        """Pass the one number of each candidate of several objectives, (K, N); none of them is blocked by then."""
        return _FiniteRows.apply(x_KN, self, tuple(names)) if x_KN.requires_grad else x_KN

    def block(self, names: Iterable[str]) -> None:
        """Let the backward that follows have nothing of `names`."""
        self.blocked = frozenset(names)

    def pass_finite(self, name: str, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient, or zeros if any of it is not finite; decided on the device, so that nothing waits for it."""
        finite = torch.isfinite(gradient).all()
        self._finite[name] = finite & self._finite[name] if name in self._finite else finite
        return torch.where(finite, gradient, torch.zeros_like(gradient))

    def pass_finite_rows(self, names: Sequence[str], gradient_KN: torch.Tensor) -> torch.Tensor:
        """`pass_finite` of the rows of several objectives."""
        self.wanted.update(zip(names, gradient_KN.unbind(), strict=True))
        passed_KN, finite_K = finite_rows(gradient_KN.contiguous())
        for name, finite in zip(names, finite_K.unbind(), strict=True):
            self._finite[name] = finite & self._finite[name] if name in self._finite else finite
        return passed_KN

    def finite_mask(self, names: Sequence[str], device: torch.device) -> torch.Tensor:
        """Whether all that came back for each objective was finite, bool (K,); blocked ones count as finite."""
        yes = torch.ones((), dtype=torch.bool, device=device)
        return torch.stack([self._finite.get(name, yes) for name in names])


class StepContext:
    """One forward and the backward that follows it: handed to the model by whoever trains, and asked in backward.

    Args:
        compute_weights: gives the weights of the boundary gradients; None: their plain sum goes down.
        step: number of the optimizer step.
        groups: per column of a map of conflicts the group of each candidate, int64 (N,).

    Attributes:
        tokens_of_candidates: where candidates are in z; the model says it.
        losses: float64 (K,), the global losses, once `report_losses` has been called.
        guard: keeps out of the towers what is not finite.
        nonfinite: objectives whose gradient was found not to be finite; the same on all processes.
    """

    def __init__(
        self,
        compute_weights: "ComputeWeights | None" = None,
        step: int = 0,
        groups: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.compute_weights, self.step, self.groups = compute_weights, step, groups or {}
        self.tokens_of_candidates: TokensOfCandidates | None = None
        self.losses: np.ndarray | None = None
        self.guard = NonFiniteGuard()
        self.nonfinite: set[str] = set()

    def report_losses(self, names: Sequence[str], losses: np.ndarray) -> set[str]:
        """Between forward and backward: the global losses, float64 (K,); returns the names of those not finite.

        They get no part in the backward.
        """
        self.losses = losses
        bad = {name for name, loss in zip(names, losses, strict=True) if not np.isfinite(loss)}
        self.guard.block(bad)
        return bad

    def fan_out(self, z: torch.Tensor, names: Sequence[str]) -> tuple[torch.Tensor, ...]:
        """K views of z. Without gradients, or with nothing to weigh them, they are z itself."""
        if self.compute_weights is None or not torch.is_grad_enabled() or not z.requires_grad:
            return (z,) * len(names)
        return _FanOut.apply(z, tuple(names), self)

    def balance(self, z: torch.Tensor, gradients: Gradients, names: Sequence[str]) -> torch.Tensor:
        """What the trunk gets: Σ α_k g_k."""
        if self.compute_weights is None:
            return combine([1.0] * len(gradients), gradients)
        finite_mask = self.guard.finite_mask(names, z.device)
        found = BoundaryGradients(z, gradients, finite_mask, self.tokens_of_candidates)
        return combine(self.compute_weights(found, self), gradients)


ComputeWeights = Callable[[BoundaryGradients, StepContext], Sequence[float]]
"""From this process's boundary gradients to the K weights, the same on all processes; 0 leaves a gradient out."""


class _FanOut(torch.autograd.Function):
    """z → K views of z; K gradients → Σ α_k g_k."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, names: tuple[str, ...], step: StepContext) -> tuple[torch.Tensor, ...]:
        ctx.names, ctx.step = names, step
        ctx.save_for_backward(z)
        return tuple(z.view_as(z) for _ in names)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (z,) = ctx.saved_tensors
        return ctx.step.balance(z, gradients, ctx.names), None, None
