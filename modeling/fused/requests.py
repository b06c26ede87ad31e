"""Requests by fused kernels, without gradients: prefixes and items are cached, all towers of a piece are one batch.

Shape suffixes: K towers, P prefix and C candidate tokens, N candidates, L layers, H hidden size, g key heads, D head
size; a last dimension of heads holds keys, then values (2g).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from equipoise.data.ragged import RowLengths
from equipoise.modeling.cached_scorer import CachedScorer, TokenSlate
from equipoise.modeling.fused.slates import FusedBackbone, FusedSlates
from equipoise.modeling.fused.varlen import OwnAttention, TowerAttention

Piece = list[tuple[int, int]]
"""Slates and candidates, by number, that pass together."""


@dataclass(frozen=True)
class FusedState:
    """Keys and values of one prefix, (L, P, 2g, D) of the trunk and (L, K, P, 2g, D) above; K is 1 where adapters
    leave prefixes alone. L is 0 for a trunk that shows candidates no prefix."""

    below: torch.Tensor
    above: torch.Tensor

    @property
    def size(self) -> int:
        """Bytes."""
        return self.below.nbytes + self.above.nbytes


class FusedRequests(FusedSlates):
    """Some prefixes, each with some candidates, or with none.

    Args:
        fused: the backbone.
        prefixes: token ids.
        candidates: of each prefix.
        candidates_only: adapters of objectives act on candidate tokens alone.
    """

    def __init__(
        self,
        fused: FusedBackbone,
        prefixes: Sequence[Sequence[int]],
        candidates: Sequence[Sequence[Sequence[int]]],
        candidates_only: bool,
    ) -> None:
        every = [ids for own in candidates for ids in own]
        lengths = RowLengths(
            np.array([len(ids) for ids in prefixes], np.int64),
            np.repeat(np.arange(len(candidates)), [len(own) for own in candidates]),
            np.array([len(ids) for ids in every], np.int64),
        )
        begins = 0 * lengths.row if fused.backbone.restarts else lengths.prefix[lengths.row]
        positions = [np.arange(len(ids)) for ids in prefixes]
        positions += [begin + np.arange(len(ids)) for begin, ids in zip(begins, every, strict=True)]
        flat = [np.asarray(ids, np.int64) for ids in (*prefixes, *every)]
        both = torch.from_numpy(np.stack([np.concatenate(flat), np.concatenate(positions)])).to(fused.weight.device)
        super().__init__(fused, both[:1], both[1:], lengths, candidates_only)

    def _tokens(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._ids, self._positions  # in order already

    def prefix_states(self, names: Sequence[str]) -> list[FusedState]:
        """The states of the prefixes, as the towers of some objectives see them."""
        layout, fused = self.layout, self.fused
        with torch.autocast(self.device.type, enabled=False):
            x, residual, below = self._embedded()[None, : layout.prefix_tokens], None, []
            pairs = fused.shared.laid_out(self.dtype)
            rotary = self._repeated(slice(0, layout.prefix_tokens), 1)
            for number, layer in enumerate(fused.lower):
                qkv, residual = layer.before(x, residual, pairs[4 * number], rotary[layer.positions])
                out, kv = OwnAttention.apply(qkv, layer.heads, layout.prefixes_once, layer.causal, layer.scale)
                below += [] if self.backbone.apart else [kv]
                x, residual = layer.behind(out.view(*x.shape[:2], -1), residual, pairs[4 * number + 1 : 4 * number + 4])
            z_1PH = x if residual is None else x + residual
            if self.candidates_only:
                towers, above = 1, self._run_prefixes(z_1PH, [None] * (4 * len(fused.upper)), layout.prefixes_once)
            else:
                towers, own = len(names), fused.bank(names).laid_out(self.dtype)
                stretches = self._layout(towers).prefixes
                above = self._run_prefixes(z_1PH.repeat(towers, 1, 1), own, stretches)
        above_LKP = torch.stack(above).unflatten(1, (towers, -1))
        below_LP = torch.stack(below) if below else above_LKP[:0, 0]
        counts = self.lengths.prefix.tolist()
        cut = zip(below_LP.split(counts, 1), above_LKP.split(counts, 2), strict=True)
        return [FusedState(*(each.clone() for each in pair)) for pair in cut]  # views would keep the whole batch

    def candidate_states(self, below_LP: torch.Tensor) -> torch.Tensor:
        """What the trunk makes of the candidates, (C, H), from its keys and values of the prefixes."""
        layout, start = self.layout, self.layout.prefix_tokens
        with torch.autocast(self.device.type, enabled=False):
            x, residual = self._embedded()[None, start:], None
            pairs, rotary = self.fused.shared.laid_out(self.dtype), self._repeated(slice(start, None), 1)
            own, rows = layout.candidates, (layout.rows_once, layout.prefixes_once)
            for number, layer in enumerate(self.fused.lower):
                qkv, residual = layer.before(x, residual, pairs[4 * number], rotary[layer.positions])
                about = (layer.causal, layer.scale)
                if self.backbone.apart:
                    out, _ = OwnAttention.apply(qkv, layer.heads, own, *about)
                else:
                    out = TowerAttention.apply(qkv, below_LP[number], None, layer.heads, own, own, *rows, *about)
                x, residual = layer.behind(out.view(*x.shape[:2], -1), residual, pairs[4 * number + 1 : 4 * number + 4])
            return (x if residual is None else x + residual)[0]

    def vectors(self, names: Sequence[str], z_CH: torch.Tensor, above_LKP: torch.Tensor) -> torch.Tensor:
        """The vectors of the candidates as the towers of some objectives see them, (K, N, H)."""
        towers = len(names)
        with torch.autocast(self.device.type, enabled=False):
            if not self._rotary:
                self._embedded()  # notes the rotations
            pairs = self.fused.bank(names).laid_out(self.dtype)
            kvs = above_LKP.expand(-1, towers, *above_LKP.shape[2:]).flatten(1, 2).unbind()
            x_KCH = z_CH.to(self.dtype).expand(towers, *z_CH.shape).contiguous()
            return self._run_candidates(x_KCH, kvs, pairs, self._layout(towers), self.backbone.pooling)


class FusedScorer(CachedScorer):
    """`CachedScorer` by fused kernels; its states are of another kind, so a cache is for one of the two alone."""

    @torch.inference_mode()
    def vectors(self, slates: Sequence[TokenSlate], names: Sequence[str]) -> dict[str, torch.Tensor]:
        model, fused = self.model, self.model.fused_backbone()
        towers = slice(len(names)) if not model.candidates_only else slice(None)  # pointwise ones come first

        def requests(prefixes: list, candidates: list) -> FusedRequests:
            return FusedRequests(fused, prefixes, candidates, model.candidates_only)

        def prefixes_of(chosen: list[int]) -> list[FusedState]:
            return requests([slates[n].prefix for n in chosen], [[]] * len(chosen)).prefix_states(model.objectives)

        states: list[FusedState] = self.states_of(slates, prefixes_of)
        pieces, z_of = self._pieces(slates), dict[tuple[int, int], torch.Tensor]()
        if model.backbone.apart:
            every = [each for piece in pieces for each in piece]
            ids = [slates[row].candidates[number] for row, number in every]

            def items(chosen: list[int]) -> Iterator[torch.Tensor]:
                alone = TokenSlate([], [ids[n] for n in chosen])
                for piece in self._pieces([alone]):
                    own = [alone.candidates[n] for _, n in piece]
                    yield from requests([[]], [own]).candidate_states(nothing).split([len(each) for each in own])

            nothing = states[0].below
            z_of = dict(zip(every, self.items_of(ids, items).split([len(each) for each in ids]), strict=True))
        pooled = []
        for piece in pieces:
            rows = list(dict.fromkeys(row for row, _ in piece))
            asked = [[slates[row].candidates[n] for other, n in piece if other == row] for row in rows]
            here = requests([slates[row].prefix for row in rows], asked)
            if z_of:
                z_CH = torch.cat([z_of[each] for each in piece])
            else:
                z_CH = here.candidate_states(torch.cat([states[row].below for row in rows], 1))
            pooled.append(here.vectors(names, z_CH, torch.cat([states[row].above[:, towers] for row in rows], 2)))
        return dict(zip(names, torch.cat(pooled, 1).unbind(), strict=True))

    def _pieces(self, slates: Sequence[TokenSlate]) -> list[Piece]:
        """Candidates in pieces of at most `most_tokens` tokens, one candidate at least."""
        pieces: list[Piece] = [[]]
        filled = 0
        for row, slate in enumerate(slates):
            for number, ids in enumerate(slate.candidates):
                if pieces[-1] and filled + len(ids) > self.most_tokens:
                    pieces.append([])
                    filled = 0
                pieces[-1].append((row, number))
                filled += len(ids)
        return pieces
