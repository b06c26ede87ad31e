"""Attention of ragged stretches to ragged stretches, with its log-sum-exp, so that parts can be added up.

On a GPU in half precision these are the flash kernels of PyTorch (Dao 2023), which read stretches by their ends;
elsewhere they are written out, stretch by stretch. Shape suffixes: F query and M key tokens end to end, h and g query
and key heads, D head size, B stretches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from equipoise.modeling.fused.kernels import KernelFunction, merge, merge_into, packed
from equipoise.modeling.operations import LIBRARY

HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Stretches:
    """B stretches of tokens that stand end to end.

    Attributes:
        ends: int32 (B + 1,), 0 and where each ends, on the device.
        longest: tokens of the longest.
    """

    ends: torch.Tensor
    longest: int


def _pieces(ends_q: torch.Tensor, ends_k: torch.Tensor) -> list[tuple[slice, slice]]:
    q, k = ends_q.tolist(), ends_k.tolist()
    return [(slice(*q[n : n + 2]), slice(*k[n : n + 2])) for n in range(len(q) - 1)]


def _scores(q: torch.Tensor, k: torch.Tensor, causal: bool, scale: float) -> torch.Tensor:
    """(h, Q, K) of one stretch, in float32 or better."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(q.shape[1] // k.shape[1], 1)).to(wide) * scale
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(later, -torch.inf) if causal else scores


def _forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends_q: torch.Tensor, ends_k: torch.Tensor,
    longest_q: int, longest_k: int, causal: bool, scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    out, wide = torch.zeros_like(q), torch.promote_types(q.dtype, torch.float32)
    lse = q.new_full((q.shape[1], q.shape[0]), -torch.inf, dtype=wide)
    for of_q, of_k in _pieces(ends_q, ends_k):
        if of_k.start == of_k.stop:
            continue
        scores = _scores(q[of_q], k[of_k], causal, scale)
        lse[:, of_q] = scores.logsumexp(-1)
        values = v[of_k].repeat_interleave(q.shape[1] // v.shape[1], 1)
        out[of_q] = torch.einsum("hqk,khd->qhd", torch.exp(scores - lse[:, of_q, None]).to(v.dtype), values)
    return out, lse


def _backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor,
    ends_q: torch.Tensor, ends_k: torch.Tensor, longest_q: int, longest_k: int, causal: bool, scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    dq, dk, dv = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    groups = q.shape[1] // k.shape[1]

    def summed(of_heads: torch.Tensor) -> torch.Tensor:
        return of_heads.unflatten(1, (-1, groups)).sum(2)

    for of_q, of_k in _pieces(ends_q, ends_k):
        p = torch.exp(_scores(q[of_q], k[of_k], causal, scale) - lse[:, of_q, None])
        delta = (grad[of_q].to(p.dtype) * out[of_q].to(p.dtype)).sum(-1).T[..., None]
        values = v[of_k].repeat_interleave(groups, 1)
        ds = p * (torch.einsum("qhd,khd->hqk", grad[of_q], values).to(p.dtype) - delta) * scale
        ds = ds.to(q.dtype)
        dq[of_q] = torch.einsum("hqk,khd->qhd", ds, k[of_k].repeat_interleave(groups, 1))
        dk[of_k] = summed(torch.einsum("hqk,qhd->khd", ds, q[of_q]))
        dv[of_k] = summed(torch.einsum("hqk,qhd->khd", p.to(v.dtype), grad[of_q]))
    return dq, dk, dv


def _flash_forward(q: Any, k: Any, v: Any, ends_q: Any, ends_k: Any, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if q.dtype not in HALF:
        return _forward(q, k, v, ends_q, ends_k, *rest)
    longest_q, longest_k, causal, scale = rest
    lengths = (ends_q, ends_k, longest_q, longest_k)
    flash = torch.ops.aten._flash_attention_forward
    out, lse, *_ = flash(q, k, v, *lengths, 0.0, causal, False, scale=scale)
    return out, lse


def _flash_backward(grad: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, ends_q: Any, ends_k: Any, *rest: Any) -> Any:
    if q.dtype not in HALF:
        return _backward(grad, q, k, v, out, lse, ends_q, ends_k, *rest)
    longest_q, longest_k, causal, scale = rest
    state = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of the dropout, which there is not
    lengths = (ends_q, ends_k, longest_q, longest_k)
    flash = torch.ops.aten._flash_attention_backward
    return flash(grad, q, k, v, out, lse, *lengths, 0.0, causal, state, state, scale=scale)


_ENDS = "Tensor ends_q, Tensor ends_k, int longest_q, int longest_k, bool causal, float scale"
LIBRARY.define(f"attend(Tensor q, Tensor k, Tensor v, {_ENDS}) -> (Tensor, Tensor)")
LIBRARY.define(
    f"attend_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, {_ENDS}) "
    "-> (Tensor, Tensor, Tensor)"
)
_WAYS: dict[str, dict[str, Callable[..., Any]]] = {
    "attend": {
        "CPU": _forward,
        "CUDA": _flash_forward,
        "Meta": lambda q, *rest: (
            q.new_empty(q.shape),
            q.new_empty((q.shape[1], q.shape[0]), dtype=torch.promote_types(q.dtype, torch.float32)),
        ),
    },
    "attend_backward": {
        "CPU": _backward,
        "CUDA": _flash_backward,
        "Meta": lambda grad, q, k, v, *rest: tuple(x.new_empty(x.shape) for x in (q, k, v)),
    },
}
for _name, _ways in _WAYS.items():
    for _key, _way in _ways.items():
        LIBRARY.impl(_name, _way, _key)
attend = torch.ops.equipoise.attend.default
attend_backward = torch.ops.equipoise.attend_backward.default


class OwnAttention(KernelFunction):
    """Stretches that attend to themselves: (F, h, D), and keys and values (F, 2g, D), from packed q, k, v."""

    @staticmethod
    def forward(
        ctx: Any, qkv: torch.Tensor, heads: int, own: Stretches, causal: bool, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v = _parts(qkv, heads)
        lengths = (own.ends, own.ends, own.longest, own.longest, causal)
        out, lse = attend(q, k, v, *lengths, scale)
        ctx.save_for_backward(qkv, out, lse)
        ctx.about = (heads, lengths, scale)
        ctx.set_materialize_grads(False)
        return out, qkv[:, heads:].clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, grad_kv: torch.Tensor | None) -> tuple[Any, ...]:
        qkv, out, lse = ctx.saved_tensors
        heads, lengths, scale = ctx.about
        found = attend_backward(grad.contiguous(), *_parts(qkv, heads), out, lse, *lengths, scale)
        return packed(*found, None, None, grad_kv, 0), None, None, None, None


class JointAttention(KernelFunction):
    """Prefixes, and behind them candidates: all attend to themselves, candidates to their prefix too; (F, h, D)."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        heads: int,
        prefix_tokens: int,
        own: Stretches,
        rows: Stretches,
        prefixes: Stretches,
        causal: bool,
        scale: float,
    ) -> torch.Tensor:
        q, k, v = _parts(qkv, heads)
        own_lengths = (own.ends, own.ends, own.longest, own.longest, causal)
        out, lse = attend(q, k, v, *own_lengths, scale)
        at = prefix_tokens
        lengths = (rows.ends, prefixes.ends, rows.longest, prefixes.longest)
        lse_candidates = merge_into(out, lse, *attend(q[at:], k[:at], v[:at], *lengths, False, scale), at)
        ctx.save_for_backward(qkv, out, lse, lse_candidates)
        ctx.about = (heads, at, own_lengths, lengths, scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        qkv, out, lse, lse_candidates = ctx.saved_tensors
        heads, at, own_lengths, lengths, scale = ctx.about
        q, k, v = _parts(qkv, heads)
        grad = grad.contiguous()
        found = attend_backward(grad, q, k, v, out, lse, *own_lengths, scale)
        of_candidates = (q[at:], k[:at], v[:at], out[at:], lse_candidates)
        dq, dk, dv = attend_backward(grad[at:], *of_candidates, *lengths, False, scale)
        return packed(*found, dq, dk, dv, at), *[None] * 7


class TowerAttention(KernelFunction):
    """Candidates of all towers: to their own tokens, and to their prefix as their tower sees it.

    From packed q, k, v (F, h + 2g, D) of candidates' tokens and `prefix_kv` (P, 2g, D) to (F, h, D), or to (N, h, D) of
    the tokens `last`, which see all of their candidate.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        prefix_kv: torch.Tensor,
        last: torch.Tensor | None,
        heads: int,
        queries: Stretches,
        own: Stretches,
        rows: Stretches,
        prefixes: Stretches,
        causal: bool,
        scale: float,
    ) -> torch.Tensor:
        own_lengths = (queries.ends, own.ends, queries.longest, own.longest, causal and last is None)
        lengths = (rows.ends, prefixes.ends, rows.longest, prefixes.longest)
        q, k, v = _parts(qkv, heads)
        q = q if last is None else q.index_select(0, last)
        first = attend(q, k, v, *own_lengths, scale)
        out, lse = merge(*first, *attend(q, *prefix_kv.chunk(2, 1), *lengths, False, scale))
        ctx.save_for_backward(qkv, prefix_kv, last, out, lse)
        ctx.about = (heads, own_lengths, lengths, scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        qkv, prefix_kv, last, out, lse = ctx.saved_tensors
        heads, own_lengths, lengths, scale = ctx.about
        grad = grad.contiguous()
        q, k, v = _parts(qkv, heads)
        q = q if last is None else q.index_select(0, last)
        dq, dk, dv = attend_backward(grad, q, k, v, out, lse, *own_lengths, scale)
        more, *of_prefix = attend_backward(grad, q, *prefix_kv.chunk(2, 1), out, lse, *lengths, False, scale)
        if last is not None:
            dq = dq.new_zeros(len(qkv), *dq.shape[1:]).index_add_(0, last, dq.add_(more))
            more = None
        return packed(dq, dk, dv, more, None, None, 0), torch.cat(of_prefix, 1), *[None] * 8


def _parts(qkv: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    key_heads = (qkv.shape[1] - heads) // 2
    return qkv[:, :heads], qkv[:, heads : heads + key_heads], qkv[:, heads + key_heads :]
