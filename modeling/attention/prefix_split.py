"""Prefix-split attention: prefixes attend to themselves once, candidates to their prefix and themselves.

Registered with transformers under NAME, so that every backbone with transformers' attention interface uses it by name.
A model runs over a batch without padding: over all prefix tokens, end to end in one row (`PrefixForward`, which fills a
cache with every layer's keys and values), and over all candidate tokens (`CandidateForward`), one after the other, or
over both at once (`JointForward`) where nobody needs the keys afterwards. No T × T mask is built and no score is
computed that a mask would throw away: the cost grows with M·I·(P + I) instead of (P + M·I)².

What a model's layers do in a forward is decided by the object that it hands on to its attention under the name of
ARGUMENT. Shape suffixes as in modeling/model.py, and h heads, g key heads, D head size.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from equipoise.common.errors import UserError
from equipoise.modeling.attention.partial import Mask, attend, attend_backward
from equipoise.modeling.layout import Padding, SlateLayout, pad, unpad

NAME = "equipoise_prefix_split"
ARGUMENT = "slate_forward"
"""The keyword argument by which a model hands it through its layers to the attention."""

REFUSED = ("softcap", "s_aux", "position_bias")

KeyValues = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one layer: of prefixes (R, g, P, D) each, of candidate tokens (F, g, D) each."""

KVCache = dict[int, KeyValues]
"""Keys and values by the index of their layer in the model."""

LayerOf = Mapping[nn.Module, int]
"""The index of the layer that a module belongs to."""


def _flat(x_1gFD: torch.Tensor) -> torch.Tensor:
    """(1, g, F, D) → (F, g, D)."""
    return x_1gFD.squeeze(0).transpose(0, 1)


def _repeat(x_BgKD: torch.Tensor, heads: int) -> torch.Tensor:
    """Key heads repeated for grouped-query attention."""
    return x_BgKD if x_BgKD.shape[1] == heads else x_BgKD.repeat_interleave(heads // x_BgKD.shape[1], dim=1)


def _summed(grad_BhKD: torch.Tensor, key_heads: int) -> torch.Tensor:
    """The adjoint of `_repeat`."""
    batch, heads, keys, size = grad_BhKD.shape
    if heads == key_heads:
        return grad_BhKD
    return grad_BhKD.view(batch, key_heads, heads // key_heads, keys, size).sum(2)


def _to_themselves(
    q: torch.Tensor, k_BgPD: torch.Tensor, v_BgPD: torch.Tensor, padding: Padding, scale: float, causal: bool
) -> torch.Tensor:
    """(1, F, h, D): the queries q (1, h, F, D) of stretches that attend to themselves alone."""
    q_BhPD = pad(_flat(q), padding).transpose(1, 2)
    heads = q_BhPD.shape[1]
    out_BhPD = torch.nn.functional.scaled_dot_product_attention(
        q_BhPD,
        _repeat(k_BgPD, heads),
        _repeat(v_BgPD, heads),
        # Padding is behind the tokens of a stretch, so a causal query never sees it.
        attn_mask=None if causal else padding.mask(q.dtype),
        is_causal=causal,
        scale=scale,
    )
    return unpad(out_BhPD.transpose(1, 2), padding)[None]


class PrefixForward:
    """A forward over the prefix tokens of all rows, which fills `kv_cache`.

    Args:
        layout: of the batch.
        layer_of: the layer of each module.
    """

    def __init__(self, layout: SlateLayout, layer_of: LayerOf) -> None:
        self.layout, self.layer_of = layout, layer_of
        self.kv_cache: KVCache = {}

    def attend(
        self, module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> torch.Tensor:
        """(1, F, h, D) from q (1, h, F, D) and k, v (1, g, F, D)."""
        return _to_themselves(q, *self._keep(module, k, v), self.layout.prefixes, scale, causal)

    def _keep(self, module: nn.Module, k: torch.Tensor, v: torch.Tensor) -> KeyValues:
        k_RgPD, v_RgPD = (pad(_flat(x), self.layout.prefixes).transpose(1, 2) for x in (k, v))
        # Recomputing under checkpointing must not replace them.
        self.kv_cache.setdefault(self.layer_of[module], (k_RgPD, v_RgPD))
        return k_RgPD, v_RgPD


class PrefixKeysForward(PrefixForward):
    """A forward over the prefix tokens that is there for its keys and values alone: what attention gives is zero."""

    def attend(
        self, module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> torch.Tensor:
        """Zeros (1, F, h, D)."""
        self._keep(module, k, v)
        return no_output(q, v)


class CandidateForward:
    """A forward over candidate tokens, which see the cached keys of their prefix and themselves.

    Args:
        layout: of the batch, or a chunk of it.
        kv_cache: keys and values of the batch's prefixes.
        layer_of: the layer of each module.
    """

    def __init__(self, layout: SlateLayout, kv_cache: KVCache, layer_of: LayerOf) -> None:
        self.layout, self.kv_cache, self.layer_of = layout, kv_cache, layer_of

    def prefix(self, module: nn.Module) -> KeyValues:
        """The cached keys and values of the layout's rows."""
        k, v = self.kv_cache[self.layer_of[module]]
        first, count = self.layout.first_row, self.layout.rows.shape[0]
        return (k, v) if k.shape[0] == count else (k[first : first + count], v[first : first + count])

    def prefix_mask(self, dtype: torch.dtype) -> Mask:
        """The mask of the layout's rows."""
        mask = self.layout.prefixes.mask(dtype)
        first, count = self.layout.first_row, self.layout.rows.shape[0]
        return mask if mask is None or mask.shape[0] == count else mask[first : first + count]

    def attend(
        self, module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> torch.Tensor:
        """(1, F, h, D) from q (1, h, F, D) and k, v (1, g, F, D)."""
        kp, vp = self.prefix(module)
        mask, rows = self.prefix_mask(q.dtype), self.layout.rows
        return _Split.apply(
            _flat(q), _flat(k), _flat(v), kp.to(q.dtype), vp.to(q.dtype), self.layout, mask, scale, causal, rows, False
        )[None]


class ApartForward:
    """A forward over candidate tokens that see their own candidate alone.

    Args:
        layout: of the batch, or a chunk of it.
    """

    def __init__(self, layout: SlateLayout) -> None:
        self.layout = layout

    def attend(
        self, module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> torch.Tensor:
        """(1, F, h, D) from q (1, h, F, D) and k, v (1, g, F, D)."""
        own = self.layout.own
        k_NgLD, v_NgLD = (pad(_flat(x), own).transpose(1, 2) for x in (k, v))
        return _to_themselves(q, k_NgLD, v_NgLD, own, scale, causal)


class JointForward:
    """A forward over all prefix tokens and, behind them, all candidate tokens: everything but the attention takes both
    at once, which halves the number of kernels that a layer launches.

    Args:
        layout: of the batch.
        layer_of: the layer of each module.
        apart: candidates see themselves alone.
    """

    def __init__(self, layout: SlateLayout, layer_of: LayerOf, apart: bool = False) -> None:
        self.layout, self.layer_of, self.apart = layout, layer_of, apart

    def attend(
        self, module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> torch.Tensor:
        """(1, F, h, D) from q (1, h, F, D) and k, v (1, g, F, D), F the tokens of both."""
        # The cache lasts for this call alone, so that a layer which is recomputed in backward reads its own keys.
        prefixes, count = PrefixForward(self.layout, self.layer_of), self.layout.prefix_tokens.shape[0]
        qp, kp, vp = (x[:, :, :count] for x in (q, k, v))
        qc, kc, vc = (x[:, :, count:] for x in (q, k, v))
        prefix_out = prefixes.attend(module, qp, kp, vp, scale, causal)
        candidates: ApartForward | CandidateForward = ApartForward(self.layout)
        if not self.apart:
            candidates = CandidateForward(self.layout, prefixes.kv_cache, self.layer_of)
        return torch.cat([prefix_out, candidates.attend(module, qc, kc, vc, scale, causal)], dim=1)


class CandidateKeysForward:
    """A forward over candidate tokens that is there for their keys and values alone: what attention gives is zero.

    Attributes:
        key_values: (F, g, D) each, of the layer that has run.
    """

    def __init__(self) -> None:
        self.key_values: KeyValues | None = None

    def attend(
        self, module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> torch.Tensor:
        """Zeros (1, F, h, D)."""
        self.key_values = (_flat(k), _flat(v))
        return no_output(q, v)


class LastTokenForward(CandidateForward):
    """A forward over the last token of every candidate, which sees its prefix and all tokens of its candidate.

    Args:
        layout, kv_cache, layer_of: as for the forward over all tokens.
        own: the candidates' own keys and values, (F, g, D) each.
    """

    def __init__(self, layout: SlateLayout, kv_cache: KVCache, layer_of: LayerOf, own: KeyValues) -> None:
        super().__init__(layout, kv_cache, layer_of)
        self.own = own

    def attend(
        self, module: nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> torch.Tensor:
        """(1, N, h, D) from q (1, h, N, D); its keys and values are among its candidate's own."""
        kp, vp = self.prefix(module)
        own_k, own_v = self.own
        mask, rows = self.prefix_mask(q.dtype), self.layout.last_rows
        return _Split.apply(
            _flat(q), own_k, own_v, kp.to(q.dtype), vp.to(q.dtype), self.layout, mask, scale, False, rows, True
        )[None]


SlateForward = PrefixForward | CandidateForward | ApartForward | JointForward | CandidateKeysForward


def no_output(q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Zeros of the shape of an attention's output, (1, F, h, D)."""
    return q.new_zeros(1, q.shape[2], q.shape[1], v.shape[3])


class _Split(torch.autograd.Function):
    """Candidates' attention to their prefix and to themselves, as two parts with one softmax."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        kp: torch.Tensor,
        vp: torch.Tensor,
        layout: SlateLayout,
        mask: Mask,
        scale: float,
        causal: bool,
        rows: Padding,
        last: bool,
    ) -> torch.Tensor:
        # Queries of the own part: all tokens of a candidate, or its last one alone.
        own_queries = Padding((layout.own.shape[0], 1)) if last else layout.own
        heads = q.shape[1]
        own_mask = None if causal else layout.own.mask(q.dtype)
        out1, lse1 = attend(rows.pad(q).transpose(1, 2), _repeat(kp, heads), _repeat(vp, heads), scale, False, mask)
        own_k, own_v = (_repeat(layout.own.pad(x).transpose(1, 2), heads) for x in (k, v))
        out2, lse2 = attend(own_queries.pad(q).transpose(1, 2), own_k, own_v, scale, causal, own_mask)
        lse1, lse2 = rows.unpad(lse1.transpose(1, 2)), own_queries.unpad(lse2.transpose(1, 2))  # (F, h)
        lse = torch.logaddexp(lse1, lse2)
        out = rows.unpad(out1.transpose(1, 2)) * torch.exp(lse1 - lse)[..., None].to(out1.dtype)
        out += own_queries.unpad(out2.transpose(1, 2)) * torch.exp(lse2 - lse)[..., None].to(out1.dtype)
        ctx.save_for_backward(q, k, v, kp, vp, out, lse)
        ctx.paddings, ctx.masks, ctx.scale, ctx.causal = (
            (rows, own_queries, layout.own),
            (mask, own_mask),
            scale,
            causal,
        )
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, kp, vp, out, lse = ctx.saved_tensors
        rows, own_queries, own = ctx.paddings
        mask, own_mask = ctx.masks
        heads, key_heads = q.shape[1], k.shape[1]

        def padded(padding: Padding) -> list[torch.Tensor]:
            # Zero gradients keep padding out of the keys' sums.
            tensors = (padding.pad_with_zeros(grad), padding.pad(q), padding.pad(out), padding.pad(lse))
            g, queries, outputs, sums = (x.transpose(1, 2) for x in tensors)
            return [g, queries, outputs, sums.contiguous()]

        g, queries, outputs, sums = padded(rows)
        dq1, dkp, dvp = attend_backward(
            g, queries, _repeat(kp, heads), _repeat(vp, heads), outputs, sums, ctx.scale, False, mask
        )
        g, queries, outputs, sums = padded(own_queries)
        own_k, own_v = (_repeat(own.pad(x).transpose(1, 2), heads) for x in (k, v))
        dq2, dk, dv = attend_backward(g, queries, own_k, own_v, outputs, sums, ctx.scale, ctx.causal, own_mask)
        dq = rows.unpad(dq1.transpose(1, 2)) + own_queries.unpad(dq2.transpose(1, 2))
        dk, dv = (own.unpad(_summed(x, key_heads).transpose(1, 2)) for x in (dk, dv))
        return dq, dk, dv, _summed(dkp, key_heads), _summed(dvp, key_heads), *[None] * 6


@torch.compiler.disable
def prefix_split_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The function that transformers calls: q (1, h, F, D), k and v (1, g, F, D) → (1, F, h, D).

    Raises:
        UserError: the backbone asks for what this attention cannot give.
    """
    slate_forward = kwargs.get(ARGUMENT)
    refused = [name for name in REFUSED if kwargs.get(name) is not None]
    if slate_forward is None or refused or dropout:
        what = f"uses {refused[0]} in" if refused else "has dropout in" if dropout else "hands no arguments to"
        raise UserError(f"backbone.attention: this backbone {what} its attention: set backbone.attention=sdpa")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary embeddings widen them under autocast
    return slate_forward.attend(module, query, key, value, scale, causal), None


AttentionInterface.register(NAME, prefix_split_attention)
