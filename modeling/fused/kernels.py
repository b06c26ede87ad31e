"""Element-wise parts of a layer as operations of one kernel each: normalisation with residual, rotation, SwiGLU.

On the CPU each is written out; on a GPU the same lines are compiled into one kernel (torch.compile). Shape suffixes:
F tokens of a flat stretch (leading dimensions may be several), H hidden size, h and g query and key heads, D head size.
"""

from typing import Any

import torch

from equipoise.modeling.operations import operation


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _add_norm(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    summed = x.clone() if residual is None else x + residual
    wide = summed.to(_wide(summed.dtype))
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * (wide * inverse).to(x.dtype), summed, inverse


def _add_norm_backward(
    grad: torch.Tensor,
    grad_summed: torch.Tensor | None,
    summed: torch.Tensor,
    weight: torch.Tensor,
    inverse: torch.Tensor,
) -> torch.Tensor:
    normed = summed.to(inverse.dtype) * inverse
    scaled = grad.to(inverse.dtype) * weight.to(inverse.dtype)
    found = inverse * (scaled - normed * (scaled * normed).mean(-1, keepdim=True))
    if grad_summed is not None:
        found = found + grad_summed.to(inverse.dtype)
    return found.to(grad.dtype)


def _rotate(qkv_FhD: torch.Tensor, cos_FD: torch.Tensor, sin_FD: torch.Tensor, rotated: int, sign: int) -> torch.Tensor:
    size = cos_FD.shape[-1]
    part, rest = qkv_FhD[:, :rotated], qkv_FhD[:, rotated:]
    turned = torch.cat([-part[..., size // 2 :], part[..., : size // 2]], -1)
    cos, sin = cos_FD[:, None].to(part.dtype), sign * sin_FD[:, None].to(part.dtype)
    return torch.cat([part * cos + turned * sin, rest], 1)


def _swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def _swiglu_backward(grad: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, -1)
    wide = gate.to(_wide(gate.dtype))
    share = torch.sigmoid(wide)
    of_gate = (grad * up).to(wide.dtype) * share * (1 + wide * (1 - share))
    return torch.cat([of_gate.to(grad.dtype), (grad.to(wide.dtype) * wide * share).to(grad.dtype)], -1)


def _merge(
    one_FhD: torch.Tensor, lse_hF: torch.Tensor, other_FhD: torch.Tensor, other_lse_hF: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.logaddexp(lse_hF, other_lse_hF)
    shares = (torch.exp(lse - both).T[..., None].to(one_FhD.dtype) for lse in (lse_hF, other_lse_hF))
    first, second = shares
    return one_FhD * first + other_FhD * second, both


def _merge_into(
    out_FhD: torch.Tensor, lse_hF: torch.Tensor, other_FhD: torch.Tensor, other_lse_hF: torch.Tensor, at: int
) -> torch.Tensor:
    merged, both = _merge(out_FhD[at:], lse_hF[:, at:], other_FhD, other_lse_hF)
    out_FhD[at:] = merged
    lse_hF[:, at:] = both
    return both.contiguous()


def _packed(
    dq: torch.Tensor,
    dk: torch.Tensor,
    dv: torch.Tensor,
    more_q: torch.Tensor | None,
    more_k: torch.Tensor | None,
    more_v: torch.Tensor | None,
    at: int,
) -> torch.Tensor:
    heads, keys = dq.shape[1], dk.shape[1]
    found = torch.cat([dq, dk, dv], 1)
    if more_q is not None:
        found[at:, :heads] += more_q
    if more_k is not None and more_v is not None:
        found[:at, heads : heads + keys] += more_k
        found[:at, heads + keys :] += more_v
    elif more_v is not None:
        found[:, heads:] += more_v
    return found


def _inverse_like(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], 1), dtype=_wide(x.dtype))


add_norm = operation(
    "add_norm(Tensor x, Tensor? residual, Tensor weight, float eps) -> (Tensor, Tensor, Tensor)",
    _add_norm,
    lambda x, residual, weight, eps: (torch.empty_like(x), torch.empty_like(x), _inverse_like(x)),
)
add_norm_backward = operation(
    "add_norm_backward(Tensor grad, Tensor? grad_summed, Tensor summed, Tensor weight, Tensor inverse) -> Tensor",
    _add_norm_backward,
    lambda grad, grad_summed, summed, weight, inverse: torch.empty_like(grad),
)
rotate = operation(
    "rotate(Tensor qkv, Tensor cos, Tensor sin, int rotated, int sign) -> Tensor",
    _rotate,
    lambda qkv, cos, sin, rotated, sign: qkv.new_empty(qkv.shape),
)
swiglu = operation(
    "swiglu(Tensor gate_up) -> Tensor",
    _swiglu,
    lambda gate_up: gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2)),
)
swiglu_backward = operation(
    "swiglu_backward(Tensor grad, Tensor gate_up) -> Tensor",
    _swiglu_backward,
    lambda grad, gate_up: torch.empty_like(gate_up),
)
merge = operation(
    "merge(Tensor one, Tensor lse, Tensor other, Tensor other_lse) -> (Tensor, Tensor)",
    _merge,
    lambda one, lse, other, other_lse: (torch.empty_like(one), torch.empty_like(lse)),
)

merge_into = operation(
    "merge_into(Tensor(a!) out, Tensor(b!) lse, Tensor other, Tensor other_lse, int at) -> Tensor",
    _merge_into,
    lambda out, lse, other, other_lse, at: torch.empty_like(other_lse),
)
"""The attention to further keys of the queries from `at` on, added up in place; their log-sum-exp is returned too."""
packed = operation(
    "packed(Tensor dq, Tensor dk, Tensor dv, Tensor? more_q, Tensor? more_k, Tensor? more_v, int at) -> Tensor",
    _packed,
    lambda dq, dk, dv, *more: dq.new_empty((dq.shape[0], dq.shape[1] + 2 * dk.shape[1], dq.shape[2])),
)
"""Gradients of q, k and v side by side, with what else reaches queries from `at` on and keys before it, or, where only
`more_v` is given, keys and values side by side."""


class KernelFunction(torch.autograd.Function):
    """An autograd function that is called hundreds of times a step.

    torch's own `apply` looks through all arguments, 7 µs each time, for what transforms of functorch have left behind;
    nothing here goes through such a transform.
    """

    apply = vars(torch._C._FunctionBase)["apply"]
    """Call `forward` and note what `backward` needs."""


class AddNorm(KernelFunction):
    """RMSNorm of x plus the residual: (normed, x + residual), both like x (Zhang & Sennrich 2019); weight is frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        normed, summed, inverse = add_norm(x, residual, weight, eps)
        ctx.save_for_backward(summed, weight, inverse)
        ctx.has_residual = residual is not None
        ctx.set_materialize_grads(False)
        return normed, summed

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor | None, grad_summed: torch.Tensor | None) -> tuple[Any, ...]:
        summed, weight, inverse = ctx.saved_tensors
        if grad is None:
            found = grad_summed
        else:
            found = add_norm_backward(grad.contiguous(), grad_summed, summed, weight, inverse)
        return found, found if ctx.has_residual else None, None, None


class Rotate(KernelFunction):
    """Rotary positions of the first `rotated` heads of (F, heads, D) (Su et al. 2021), halves rotated as in Llama."""

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rotated: int) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.rotated = rotated
        return rotate(qkv, cos, sin, rotated, 1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        return rotate(grad.contiguous(), *ctx.saved_tensors, ctx.rotated, -1), None, None, None
