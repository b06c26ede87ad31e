"""A batch of slates by fused kernels: a trunk, prefixes once, and all towers as one batch.

Shape suffixes: K towers, P prefix and C candidate tokens of the batch, F tokens of a stretch, N candidates, H hidden
size, D head size.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from equipoise.common.errors import UserError
from equipoise.data.ragged import RowLengths
from equipoise.modeling.adapters import SHARED
from equipoise.modeling.backbone import SplitBackbone
from equipoise.modeling.fused.blocks import Rotary
from equipoise.modeling.fused.layers import adapter_bank, adapter_scale, describe_layer
from equipoise.modeling.fused.layout import FusedLayout
from equipoise.modeling.fused.lora import AdapterBank, Pair
from equipoise.modeling.fused.varlen import JointAttention, OwnAttention, Stretches, TowerAttention
from equipoise.modeling.packing import Packing

OF_FREE = 0.6
"""Share of the free memory that towers of one batch may take: the rest is for what their backward makes."""


class FusedBackbone:
    """The frozen weights of a cut backbone and the banks of its adapters.

    Args:
        backbone: cut, with its adapters, on its device; its linear layers share the memory of what is laid out here.
        together: the objectives whose towers run as one batch, or as several where memory is short.
    """

    def __init__(self, backbone: SplitBackbone, together: Sequence[str]) -> None:
        layers: nn.ModuleList = backbone.trunk.get_submodule(backbone.layers_name)  # type: ignore[assignment]
        below, above = list(layers[: backbone.split]), list(backbone.upper)
        self.backbone, self.together = backbone, tuple(together)
        self.lower, self.upper = [describe_layer(each) for each in below], [describe_layer(each) for each in above]
        scale = adapter_scale([*below, *above])  # a trunk that serves has none of its own any more
        self.shared = adapter_bank(below, [SHARED], scale)
        self._bank_of = cache(lambda names: adapter_bank(above, names, scale))
        self.weight = self.upper[0].out.weight

    def bank(self, names: Sequence[str]) -> AdapterBank:
        """The adapters of some towers."""
        return self._bank_of(tuple(names))

    def groups(self, tokens: int) -> list[tuple[str, ...]]:
        """The towers in groups that run as one batch each: as many at once as memory has room for.

        Args:
            tokens: of all candidates of a batch.
        """
        size = len(self.together)
        device = self.weight.device
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            size = max(1, min(size, int(OF_FREE * free / max(1, self.tower_bytes(tokens)))))
        even = -(-len(self.together) // -(-len(self.together) // size))  # groups of nearly one size
        return [self.together[start : start + even] for start in range(0, len(self.together), even)]

    def tower_bytes(self, tokens: int) -> int:
        """What one tower keeps for its backward: inputs of every product, of normalisations and of the attention."""
        layer = self.upper[0]
        hidden, inner = layer.out.weight.shape[0], layer.down.weight.shape[1]
        kept = 4 * hidden + layer.qkv.weight.shape[0] + layer.out.weight.shape[1] + layer.up.weight.shape[0] + inner
        return tokens * len(self.upper) * kept * self.weight.element_size()

    @property
    def dtype(self) -> torch.dtype:
        """Of all products: that of the frozen weights.

        Raises:
            UserError: autocast asks for another one.
        """
        own, wanted = self.weight.dtype, self.weight.dtype
        if torch.is_autocast_enabled(self.weight.device.type):
            wanted = torch.get_autocast_dtype(self.weight.device.type)
        if own != wanted:
            raise UserError(
                f"backbone.kernels: fused computes in the dtype of the frozen weights, which is {own}, but "
                f"train.precision asks for {wanted}: set backbone.dtype=bfloat16 with bf16, or backbone.kernels=plain"
            )
        return own


class FusedSlates(Packing):
    """One batch.

    Args:
        fused: the backbone.
        input_ids, position_ids: int64 (R, T), as the model takes them.
        lengths: of rows and candidates, on the host.
        candidates_only: adapters of objectives act on candidate tokens alone.
    """

    def __init__(
        self,
        fused: FusedBackbone,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        lengths: RowLengths,
        candidates_only: bool,
    ) -> None:
        self.fused, self.backbone, self.candidates_only = fused, fused.backbone, candidates_only
        self.lengths, self.width, self.device = lengths, input_ids.shape[1], input_ids.device
        self.dtype = fused.dtype
        self._ids, self._positions = input_ids.reshape(-1), position_ids.reshape(-1)
        self._layouts: dict[int, FusedLayout] = {}
        self.layout = self._layout(1)
        self._rotary: dict[str, Rotary] = {}  # set by encode

    def _layout(self, towers: int) -> FusedLayout:
        if towers not in self._layouts:
            self._layouts[towers] = FusedLayout.of(self.lengths, self.width, towers, self.device)
        return self._layouts[towers]

    def groups(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        return self.fused.groups(self.layout.candidate_tokens)

    @property
    def computed_tokens(self) -> int:
        return self.layout.prefix_tokens + self.layout.candidate_tokens

    def encode(self) -> list[torch.Tensor]:
        """Candidates' z (1, C, H), then keys and values of prefixes (P, 2g, D) layer by layer, or their z (1, P, H)."""
        layout = self.layout
        with torch.autocast(self.device.type, enabled=False):
            z_FH = self._run_trunk(self._embedded())
            at = layout.prefix_tokens
            if not self.candidates_only:
                return [z_FH[None, at:], z_FH[None, :at]]
            kvs = self._run_prefixes(z_FH[None, :at], [None] * (4 * len(self.fused.upper)), layout.prefixes_once)
            return [z_FH[None, at:], *kvs]

    def _tokens(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and positions of all prefixes, then of all candidates."""
        return self._ids.index_select(0, self.layout.order), self._positions.index_select(0, self.layout.order)

    def _embedded(self) -> torch.Tensor:
        """What the first layer reads of these tokens, (F, H); notes their rotations."""
        trunk: Any = self.backbone.trunk
        ids, positions = self._tokens()
        positions = positions[None] + self.backbone.first_position
        rotary_emb = getattr(trunk, "rotary_emb", None)  # else embeddings tell positions
        if self.backbone.encoder:
            told = {"position_ids": positions} if rotary_emb is None else {}
            hidden = trunk.embeddings(ids[None], **told)[0].to(self.dtype)
        else:
            hidden = trunk.get_input_embeddings()(ids).to(self.dtype)
        for kind in {layer.positions for layer in (*self.fused.lower, *self.fused.upper)}:
            found = rotary_emb and rotary_emb(hidden[None], positions, *([kind] if kind else []))
            self._rotary[kind] = found and (found[0][0], found[1][0])
        return hidden

    def _run_trunk(self, x_FH: torch.Tensor) -> torch.Tensor:
        layout = self.layout
        pairs = self.fused.shared.laid_out(self.dtype)
        x, residual = x_FH[None], None
        for number, layer in enumerate(self.fused.lower):
            qkv, residual = layer.before(x, residual, pairs[4 * number], self._rotary[layer.positions])
            if self.backbone.apart:
                out, _ = OwnAttention.apply(qkv, layer.heads, layout.all, layer.causal, layer.scale)
            else:
                stretches = (layout.all, layout.rows_once, layout.prefixes_once)
                about = (layer.causal, layer.scale)
                out = JointAttention.apply(qkv, layer.heads, layout.prefix_tokens, *stretches, *about)
            x, residual = layer.behind(out.view(1, len(out), -1), residual, pairs[4 * number + 1 : 4 * number + 4])
        return (x if residual is None else x + residual)[0]

    def _run_prefixes(self, x_KPH: torch.Tensor, pairs: Sequence[Pair], stretches: Stretches) -> list[torch.Tensor]:
        """Prefixes through the upper layers: keys and values (K·P, 2g, D) of each."""
        found, residual, upper = [], None, self.fused.upper
        rotary = self._repeated(slice(0, self.layout.prefix_tokens), x_KPH.shape[0])
        for number, layer in enumerate(upper):
            qkv, residual = layer.before(x_KPH, residual, pairs[4 * number], rotary[layer.positions])
            if number == len(upper) - 1:
                found.append(qkv[:, layer.heads :])
                break  # of the last layer nobody reads more
            out, key_values = OwnAttention.apply(qkv, layer.heads, stretches, layer.causal, layer.scale)
            found.append(key_values)
            out = out.view(*x_KPH.shape[:2], layer.heads * layer.size)
            x_KPH, residual = layer.behind(out, residual, pairs[4 * number + 1 : 4 * number + 4])
        return found

    def run_tower(self, name: str, parts: Sequence[torch.Tensor], pooling: str | None = None) -> torch.Tensor:
        return self._run([name], list(parts), pooling or self.backbone.pooling)[0]

    def run_towers(self, parts: Mapping[str, Sequence[torch.Tensor]]) -> dict[str, torch.Tensor]:
        stacked = [torch.cat(list(each)) for each in zip(*parts.values(), strict=True)]
        return dict(zip(parts, self.run_together(tuple(parts), stacked).unbind(0), strict=True))

    def run_together(self, names: Sequence[str], stacked: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._run(names, stacked, self.backbone.pooling)

    def _run(self, names: Sequence[str], stacked: Sequence[torch.Tensor], pooling: str) -> torch.Tensor:
        layout = self._layout(len(names))
        with torch.autocast(self.device.type, enabled=False):
            pairs = self.fused.bank(tuple(names)).laid_out(self.dtype)
            if self.candidates_only:
                x_KCH, *kvs = stacked
            else:
                x_KCH, prefixes_KPH = stacked
                kvs = self._run_prefixes(prefixes_KPH, pairs, layout.prefixes)
            return self._run_candidates(x_KCH, kvs, pairs, layout, pooling)

    def _run_candidates(
        self,
        x_KCH: torch.Tensor,
        kvs: Sequence[torch.Tensor],
        pairs: Sequence[Pair],
        layout: FusedLayout,
        pooling: str,
    ) -> torch.Tensor:
        """The vectors (K, N, H) of candidates from their z and their prefixes' keys and values."""
        towers, residual, upper = x_KCH.shape[0], None, self.fused.upper
        rotary = self._repeated(slice(layout.prefix_tokens, None), towers)
        for number, (layer, prefix_kv) in enumerate(zip(upper, kvs, strict=True)):
            qkv, residual = layer.before(x_KCH, residual, pairs[4 * number], rotary[layer.positions])
            queries, rows, last = layout.candidates, layout.rows, None
            if number == len(upper) - 1 and pooling == "last":  # heads read the last token alone
                flat = residual.reshape(-1, residual.shape[-1]).index_select(0, layout.last)
                residual = flat.view(towers, -1, flat.shape[-1])
                queries, rows, last = layout.one, layout.row_queries, layout.last
            stretches = (queries, layout.candidates, rows, layout.prefixes)
            out = TowerAttention.apply(qkv, prefix_kv, last, layer.heads, *stretches, layer.causal, layer.scale)
            out = out.view(towers, -1, layer.heads * layer.size)
            x_KCH, residual = layer.behind(out, residual, pairs[4 * number + 1 : 4 * number + 4])
        x_KCH = upper[-1].last(x_KCH, residual, self.backbone.norm)
        return x_KCH if pooling == "last" else self._means(x_KCH)

    def _means(self, x_KCH: torch.Tensor) -> torch.Tensor:
        """The mean over each candidate's tokens, (K, N, H)."""
        counts = self.layout.candidates.ends.diff()
        summed_KNH = x_KCH.new_zeros(len(x_KCH), len(counts), x_KCH.shape[-1])
        summed_KNH = summed_KNH.index_add(1, self.layout.owners, x_KCH)
        return summed_KNH / counts[:, None].to(x_KCH.dtype)

    def _repeated(self, part: slice, towers: int) -> dict[str, Rotary]:
        """The rotations of a part of the tokens, once for each tower."""
        return {
            kind: rotary and (rotary[0][part].repeat(towers, 1), rotary[1][part].repeat(towers, 1))
            for kind, rotary in self._rotary.items()
        }

    def tokens_of_candidates(self, parts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return parts[0][0], self.layout.owners.long()

    def mean_of_candidates(self, states: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("fused kernels keep no embeddings")
