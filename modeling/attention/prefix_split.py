"""Prefix-split attention: prefixes attend to themselves once, candidates to their prefix and themselves.

Registered with transformers under NAME, so that every backbone with transformers' attention interface uses it by name.
A model runs over a batch without padding: over all prefix tokens, end to end in one row (`PrefixPass`, which keeps
every layer's keys and values), and over all candidate tokens (`CandidatePass`), one after the other, or over both at
once (`JointPass`) where nobody needs the keys afterwards. No T × T mask is built and no score is computed that a mask
would throw away: the cost grows with M·I·(P + I) instead of (P + M·I)².

Shape suffixes: R rows, P tokens of the longest prefix, C candidate tokens of the fullest row, N candidates, L tokens of
the longest candidate, F tokens of a flat stretch, h heads, g key heads, D head size.
"""

from typing import Any

import torch
from transformers import AttentionInterface

from equipoise.common.errors import UserError
from equipoise.modeling.attention.partial import Mask, attend, attend_backward
from equipoise.modeling.layout import SlateLayout, Spread, gather, lay

NAME = "equipoise_prefix_split"
ARGUMENT = "slate_pass"
"""The keyword argument by which a model hands the pass through its layers to the attention."""

REFUSED = ("softcap", "s_aux", "position_bias")

Kept = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of prefixes, (R, g, P, D) each, by the attention module that they belong to."""


class Enough(Exception):
    """Raised in place of an attention's output where only the layer's keys and values were wanted."""


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


class PrefixPass:
    """A pass over the prefix tokens of all rows. `kept` fills with every attention's keys and values.

    Args:
        layout: of the batch.
        only_keys: end each layer with `Enough` as soon as its keys and values are known.
    """

    def __init__(self, layout: SlateLayout, only_keys: bool = False) -> None:
        self.layout, self.only_keys = layout, only_keys
        self.kept: Kept = {}

    def attend(
        self, module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> torch.Tensor:
        """(1, F, h, D) from q (1, h, F, D) and k, v (1, g, F, D)."""
        spread = self.layout.prefixes
        k_RgPD, v_RgPD = (lay(_flat(x), spread).transpose(1, 2) for x in (k, v))
        self.kept.setdefault(id(module), (k_RgPD, v_RgPD))  # recomputing under checkpointing must not replace them
        if self.only_keys:
            raise Enough
        q_RhPD = lay(_flat(q), spread).transpose(1, 2)
        heads = q_RhPD.shape[1]
        out_RhPD = torch.nn.functional.scaled_dot_product_attention(
            q_RhPD,
            _repeat(k_RgPD, heads),
            _repeat(v_RgPD, heads),
            # Padding stands behind the tokens of a prefix, so a causal query never sees it.
            attn_mask=None if causal else spread.mask(q.dtype),
            is_causal=causal,
            scale=scale,
        )
        return gather(out_RhPD.transpose(1, 2), spread)[None]


class CandidatePass:
    """A pass over candidate tokens, which see the kept keys of their prefix and themselves.

    Args:
        layout: of the batch, or a chunk of it.
        kept: what a PrefixPass kept.
    """

    def __init__(self, layout: SlateLayout, kept: Kept) -> None:
        self.layout, self.kept = layout, kept

    def prefix(self, module: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The kept keys and values of the layout's rows."""
        k, v = self.kept[id(module)]
        first, count = self.layout.first_row, self.layout.rows.shape[0]
        return (k, v) if k.shape[0] == count else (k[first : first + count], v[first : first + count])

    def prefix_mask(self, dtype: torch.dtype) -> Mask:
        """The mask of the layout's rows."""
        mask = self.layout.prefixes.mask(dtype)
        first, count = self.layout.first_row, self.layout.rows.shape[0]
        return mask if mask is None or mask.shape[0] == count else mask[first : first + count]

    def attend(
        self, module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> torch.Tensor:
        """(1, F, h, D) from q (1, h, F, D) and k, v (1, g, F, D)."""
        kp, vp = self.prefix(module)
        mask, rows = self.prefix_mask(q.dtype), self.layout.rows
        return _Split.apply(
            _flat(q), _flat(k), _flat(v), kp.to(q.dtype), vp.to(q.dtype), self.layout, mask, scale, causal, rows, False
        )[None]


class JointPass:
    """A pass over all prefix tokens and, behind them, all candidate tokens: everything but the attention takes both at
    once, which halves the number of kernels that a layer launches.

    Args:
        layout: of the batch.
    """

    def __init__(self, layout: SlateLayout) -> None:
        self.layout = layout

    def attend(
        self, module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> torch.Tensor:
        """(1, F, h, D) from q (1, h, F, D) and k, v (1, g, F, D), F the tokens of both."""
        # Keys are kept for this call alone, so that a layer which is recomputed in backward reads those of its own.
        prefixes, count = PrefixPass(self.layout), self.layout.prefix_tokens.shape[0]
        qp, kp, vp = (x[:, :, :count] for x in (q, k, v))
        qc, kc, vc = (x[:, :, count:] for x in (q, k, v))
        first = prefixes.attend(module, qp, kp, vp, scale, causal)
        then = CandidatePass(self.layout, prefixes.kept).attend(module, qc, kc, vc, scale, causal)
        return torch.cat([first, then], dim=1)


class OwnKeysPass(CandidatePass):
    """Keeps the candidates' own keys and values and ends each layer there."""

    def __init__(self, layout: SlateLayout, kept: Kept) -> None:
        super().__init__(layout, kept)
        self.own: Kept = {}

    def attend(
        self, module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> torch.Tensor:
        """Never returns."""
        self.own[id(module)] = (_flat(k), _flat(v))
        raise Enough


class LastTokenPass(CandidatePass):
    """A pass over the last token of every candidate, which sees its prefix and all tokens of its candidate.

    Args:
        layout, kept: as for the pass over all tokens.
        own: what an OwnKeysPass kept.
    """

    def __init__(self, layout: SlateLayout, kept: Kept, own: Kept) -> None:
        super().__init__(layout, kept)
        self.own = own

    def attend(
        self, module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
    ) -> torch.Tensor:
        """(1, N, h, D) from q (1, h, N, D); its keys and values are among the kept ones."""
        kp, vp = self.prefix(module)
        own_k, own_v = self.own[id(module)]
        mask, rows = self.prefix_mask(q.dtype), self.layout.last_rows
        return _Split.apply(
            _flat(q), own_k, own_v, kp.to(q.dtype), vp.to(q.dtype), self.layout, mask, scale, False, rows, True
        )[None]


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
        rows: Spread,
        last: bool,
    ) -> torch.Tensor:
        # Queries of the own part: all tokens of a candidate, or its last one alone.
        lines = Spread((layout.own.shape[0], 1), None, None, None) if last else layout.own
        heads = q.shape[1]
        own_mask = None if causal else layout.own.mask(q.dtype)
        out1, lse1 = attend(rows.lay(q).transpose(1, 2), _repeat(kp, heads), _repeat(vp, heads), scale, False, mask)
        own_k, own_v = (_repeat(layout.own.lay(x).transpose(1, 2), heads) for x in (k, v))
        out2, lse2 = attend(lines.lay(q).transpose(1, 2), own_k, own_v, scale, causal, own_mask)
        lse1, lse2 = rows.gather(lse1.transpose(1, 2)), lines.gather(lse2.transpose(1, 2))  # (F, h)
        lse = torch.logaddexp(lse1, lse2)
        out = rows.gather(out1.transpose(1, 2)) * torch.exp(lse1 - lse)[..., None].to(out1.dtype)
        out += lines.gather(out2.transpose(1, 2)) * torch.exp(lse2 - lse)[..., None].to(out1.dtype)
        ctx.save_for_backward(q, k, v, kp, vp, out, lse)
        ctx.spreads, ctx.masks, ctx.scale, ctx.causal = (rows, lines, layout.own), (mask, own_mask), scale, causal
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, kp, vp, out, lse = ctx.saved_tensors
        rows, lines, own = ctx.spreads
        mask, own_mask = ctx.masks
        heads, key_heads = q.shape[1], k.shape[1]

        def laid(spread: Spread) -> list[torch.Tensor]:
            # Zero gradients keep the empty places out of the keys' sums.
            four = (spread.lay_zero(grad), spread.lay(q), spread.lay(out), spread.lay(lse))
            g, queries, outputs, sums = (x.transpose(1, 2) for x in four)
            return [g, queries, outputs, sums.contiguous()]

        g, queries, outputs, sums = laid(rows)
        dq1, dkp, dvp = attend_backward(
            g, queries, _repeat(kp, heads), _repeat(vp, heads), outputs, sums, ctx.scale, False, mask
        )
        g, queries, outputs, sums = laid(lines)
        own_k, own_v = (_repeat(own.lay(x).transpose(1, 2), heads) for x in (k, v))
        dq2, dk, dv = attend_backward(g, queries, own_k, own_v, outputs, sums, ctx.scale, ctx.causal, own_mask)
        dq = rows.gather(dq1.transpose(1, 2)) + lines.gather(dq2.transpose(1, 2))
        dk, dv = (own.gather(_summed(x, key_heads).transpose(1, 2)) for x in (dk, dv))
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
    slate = kwargs.get(ARGUMENT)
    refused = [name for name in REFUSED if kwargs.get(name) is not None]
    if slate is None or refused or dropout:
        what = f"uses {refused[0]} in" if refused else "has dropout in" if dropout else "hands no arguments to"
        raise UserError(f"backbone.attention: this backbone {what} its attention: set backbone.attention=sdpa")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary embeddings widen them under autocast
    return slate.attend(module, query, key, value, scale, causal), None


AttentionInterface.register(NAME, prefix_split_attention)
