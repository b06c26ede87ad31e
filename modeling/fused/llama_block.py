"""A layer of the Llama family as two autograd functions, one on either side of its attention.

A step calls them a hundred times, so each is a handful of operations and one node. Shape suffixes as in `blocks`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from equipoise.modeling.fused.blocks import Block, Rotary
from equipoise.modeling.fused.kernels import (
    AddNorm,
    KernelFunction,
    add_norm,
    add_norm_backward,
    rotate,
    swiglu,
    swiglu_backward,
)
from equipoise.modeling.fused.lora import Pair, without_autocast


@dataclass(frozen=True)
class LlamaBlock(Block):
    """RMSNorm before each part, rotary positions, SwiGLU.

    Attributes:
        norm_in, norm_mlp: weights of its normalisations.
        norm_q, norm_k: those of queries and keys, where it has any.
    """

    norm_in: torch.Tensor
    norm_mlp: torch.Tensor
    norm_q: torch.Tensor | None
    norm_k: torch.Tensor | None
    causal: ClassVar[bool] = True

    def before(
        self, x: torch.Tensor, residual: torch.Tensor | None, pair: Pair, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert rotary is not None, "its positions are told by rotation"
        return _Before.apply(x, residual, self, *rotary, *(pair or (None, None)))

    def behind(
        self, attended: torch.Tensor, residual: torch.Tensor, pairs: Sequence[Pair]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return _Behind.apply(attended, residual, self, *(each for pair in pairs for each in pair or (None, None)))

    def last(self, x: torch.Tensor, residual: torch.Tensor | None, norm: Any) -> torch.Tensor:
        return AddNorm.apply(x, residual, norm.weight, norm.variance_epsilon)[0]

    def normed_heads(self, qkv_FhD: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Queries and keys normalised, values as they are, and what `normed_heads_backward` needs."""
        if self.norm_q is None or self.norm_k is None:
            return qkv_FhD, []
        q, k, v = qkv_FhD.split([self.heads, self.key_heads, self.key_heads], 1)
        normed_q, *of_q = add_norm(q.contiguous(), None, self.norm_q, self.eps)
        normed_k, *of_k = add_norm(k.contiguous(), None, self.norm_k, self.eps)
        return torch.cat([normed_q, normed_k, v], 1), [*of_q, *of_k]

    def normed_heads_backward(self, grad_FhD: torch.Tensor, kept: Sequence[torch.Tensor]) -> torch.Tensor:
        """The gradient of queries, keys and values (F, h + 2g, D) from that of `normed_heads`."""
        if not kept:
            return grad_FhD
        dq, dk, dv = grad_FhD.split([self.heads, self.key_heads, self.key_heads], 1)
        q, inverse_q, k, inverse_k = kept
        dq = add_norm_backward(dq.contiguous(), None, q, self.norm_q, inverse_q)
        dk = add_norm_backward(dk.contiguous(), None, k, self.norm_k, inverse_k)
        return torch.cat([dq, dk, dv], 1)


class _Before(KernelFunction):
    """x (K, F, H) plus its residual, normalised, as queries, keys and values (K·F, h + 2g, D); and the sum."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        block: LlamaBlock,
        cos: torch.Tensor,
        sin: torch.Tensor,
        a: torch.Tensor | None,
        b: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        normed, summed, inverse = add_norm(x, residual, block.norm_in, block.eps)
        qkv, low = block.qkv.forward(normed, a, b)
        heads, kept = block.normed_heads(qkv.view(-1, block.heads + 2 * block.key_heads, block.size))
        ctx.save_for_backward(summed, inverse, None if a is None else normed, a, b, low, cos, sin, *kept)
        ctx.block, ctx.has_residual = block, residual is not None
        ctx.set_materialize_grads(False)
        return rotate(heads, cos, sin, block.heads + block.key_heads, 1), summed

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: torch.Tensor | None, grad_summed: torch.Tensor | None) -> tuple[Any, ...]:
        summed, inverse, *of_linear, cos, sin = ctx.saved_tensors[:8]
        block, found, da, db = ctx.block, grad_summed, None, None
        if grad is not None:
            of_heads = rotate(grad.contiguous(), cos, sin, block.heads + block.key_heads, -1)
            of_qkv = block.normed_heads_backward(of_heads, ctx.saved_tensors[8:]).view(*summed.shape[:-1], -1)
            of_normed, da, db = block.qkv.backward(of_qkv, *of_linear, any(ctx.needs_input_grad[:2]))
            if of_normed is not None:
                found = add_norm_backward(of_normed, grad_summed, summed, block.norm_in, inverse)
        return found, found if ctx.has_residual else None, None, None, None, da, db


class _Behind(KernelFunction):
    """What the attention gives (K, F, h·D), by its output layer and with its residual through the feed-forward part,
    (K, F, H); and the sum behind the attention, still to be added."""

    @staticmethod
    def forward(
        ctx: Any, attended: torch.Tensor, residual: torch.Tensor, block: LlamaBlock, *pairs: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x, low_out = block.out.forward(attended, *pairs[:2])
        normed, summed, inverse = add_norm(x, residual, block.norm_mlp, block.eps)
        gate_up, low_up = block.up.forward(normed, *pairs[2:4])
        inner = swiglu(gate_up)
        out, low_down = block.down.forward(inner, *pairs[4:])
        read = (None if a is None else x for x, a in zip((attended, normed, inner), pairs[::2], strict=True))
        ctx.save_for_backward(summed, inverse, gate_up, *read, *pairs, low_out, low_up, low_down)
        ctx.block = block
        ctx.set_materialize_grads(False)
        return out, summed

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: torch.Tensor | None, grad_summed: torch.Tensor | None) -> tuple[Any, ...]:
        summed, inverse, gate_up, attended, normed, inner, *pairs, low_out, low_up, low_down = ctx.saved_tensors
        block, of_pairs = ctx.block, [None] * 4
        of_x = grad_summed
        if grad is not None:
            of_inner, *of_down = block.down.backward(grad.contiguous(), inner, *pairs[4:], low_down)
            of_normed, *of_up = block.up.backward(swiglu_backward(of_inner, gate_up), normed, *pairs[2:4], low_up)
            of_x, of_pairs = (
                add_norm_backward(of_normed, grad_summed, summed, block.norm_mlp, inverse),
                [*of_up, *of_down],
            )
        of_attended, *of_out = block.out.backward(of_x, attended, *pairs[:2], low_out)
        return of_attended, of_x, None, *of_out, *of_pairs
