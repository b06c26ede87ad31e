"""Scores slates whose prefixes, or items, may have been seen before: only the others are encoded, all together.

For backbones whose attention is `split`, which keeps a prefix's keys and values apart from the candidates.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from equipoise.data.things import SlateThings, join_things
from equipoise.modeling.attention.prefix_split import KVCache
from equipoise.modeling.layout import Padding, SlateLayout
from equipoise.modeling.model import SlateModel
from equipoise.modeling.prefix_cache import ItemState, Key, PrefixCache, PrefixState, split_states, stack_states
from equipoise.modeling.shared_prefix import SharedPrefix


@dataclass(frozen=True)
class TokenSlate:
    """Token ids of a prefix (at least one) and of each candidate (at least one candidate with at least one id).

    `features`: float32 (N, X), standardised; `prior`: float32 (N, priors), log-odds; `things`: what candidates are
    compared with; each None where the model reads none.
    """

    prefix: Sequence[int]
    candidates: Sequence[Sequence[int]]
    features: np.ndarray | None = None
    prior: np.ndarray | None = None
    things: SlateThings | None = None


class CachedScorer:
    """Scores slates with a model and a cache of prefixes; not for several threads at once.

    Args:
        model: in evaluation form, with `split` attention.
        cache: only ever used with this model, for states belong to its modules.
        most_tokens: at most so many candidate tokens pass at once.
    """

    def __init__(self, model: SlateModel, cache: PrefixCache, most_tokens: int) -> None:
        self.model, self.cache, self.most_tokens = model, cache, most_tokens

    @torch.inference_mode()
    def score(self, slates: Sequence[TokenSlate], pointwise: bool = False) -> dict[str, torch.Tensor]:
        """Scores of all candidates, slate after slate: float32 (N,) by name, as `SlateModel.score` gives them.

        Args:
            slates: at least one.
            pointwise: leave the list-wise objectives out.
        """
        names = self.model.pointwise if pointwise else self.model.objectives
        pooled = self.vectors(slates, names)
        return self.model.judged(pooled, _read_beside(slates, next(self.model.parameters()).device))

    @torch.inference_mode()
    def vectors(self, slates: Sequence[TokenSlate], names: Sequence[str]) -> dict[str, torch.Tensor]:
        """What the heads of some objectives, pointwise ones first, read of all candidates: (N, H) by name."""
        model = self.model
        device = next(model.parameters()).device
        lengths = [len(slate.prefix) for slate in slates]
        layout = SlateLayout.end_to_end(lengths, [[len(ids) for ids in s.candidates] for s in slates], device)
        ids = [token for slate in slates for token in slate.prefix]
        positions = [position for length in lengths for position in range(length)]
        for slate, length in zip(slates, lengths, strict=True):
            for candidate in slate.candidates:
                ids += candidate
                begin = 0 if model.backbone.restarts else length
                positions += range(begin, begin + len(candidate))
        input_ids, position_ids = (torch.tensor(x, device=device)[None] for x in (ids, positions))
        tokens = SharedPrefix(model.upper, input_ids, position_ids, layout, model.candidates_only)
        trunk_kv, *upper_kv = stack_states(self._states(slates, tokens))
        # One cache for all objectives where their adapters leave prefixes alone.
        shared = upper_kv * len(model.objectives) if model.candidates_only else upper_kv
        kv = dict(zip(model.objectives, shared, strict=True))
        kv = {name: kv[name] for name in names}
        known_z = self._items(slates, tokens) if model.backbone.apart else None
        packing = tokens.over(layout, trunk_kv, known_z)
        return model.pool_candidates(packing, kv, self.most_tokens)

    def _states(self, slates: Sequence[TokenSlate], packing: SharedPrefix) -> list[PrefixState]:
        """The state of every slate's prefix; unknown ones are encoded first, each once."""
        lengths = [len(slate.prefix) for slate in slates]
        return self.states_of(slates, lambda rows: self._encode(lengths, rows, packing))

    def states_of(self, slates: Sequence[TokenSlate], encode: Callable[[list[int]], Iterable[Any]]) -> list[Any]:
        """The state of every slate's prefix; `encode` makes those of the slates that it is given."""
        states, missed = self._known([self.cache.key(slate.prefix) for slate in slates], encode)
        self.cache.misses += missed
        self.cache.hits += len(slates) - missed
        return states

    def items_of(
        self, candidates: Sequence[Sequence[int]], encode: Callable[[list[int]], Iterable[torch.Tensor]]
    ) -> torch.Tensor:
        """What the trunk makes of candidates, (F, H); `encode` gives it of those that it is given."""

        def kept(chosen: list[int]) -> Iterator[ItemState]:
            for z in encode(chosen):
                yield ItemState(z.clone(), z.nbytes)  # a view would keep the whole batch alive

        states, missed = self._known([self.cache.item_key(ids) for ids in candidates], kept)
        self.cache.item_misses += missed
        self.cache.item_hits += len(candidates) - missed
        return torch.cat([state.z for state in states])

    def _known(self, keys: Sequence[Key], encode: Callable[[list[int]], Iterable[Any]]) -> tuple[list[Any], int]:
        """States by their keys, and how many had to be encoded; each is once."""
        states: dict[Key, Any] = {}
        missing: dict[Key, int] = {}
        for number, key in enumerate(keys):
            if key in states or key in missing:
                continue
            state = self.cache.get(key)
            if state is None:
                missing[key] = number
            else:
                states[key] = state
        if missing:
            for key, state in zip(missing, encode(list(missing.values())), strict=True):
                states[key] = state
                self.cache.put(key, state)
        return [states[key] for key in keys], len(missing)

    def _items(self, slates: Sequence[TokenSlate], packing: SharedPrefix) -> torch.Tensor:
        """What the trunk makes of all candidates, (F, H); unknown ones are encoded first, each once."""
        candidates = [ids for slate in slates for ids in slate.candidates]

        def encode(chosen: list[int]) -> Iterable[torch.Tensor]:
            pieces = packing.layout.of_candidates(chosen).chunks(self.most_tokens)
            z_FH = torch.cat([packing.encode_candidates(piece)[0] for piece in pieces])
            return z_FH.split([len(candidates[number]) for number in chosen])

        return self.items_of(candidates, encode)

    def _encode(self, lengths: list[int], rows: list[int], packing: SharedPrefix) -> list[PrefixState]:
        """The states of the prefixes of some rows."""
        starts = [0, *accumulate(lengths)]
        device = packing.layout.prefix_tokens.device
        chosen = torch.tensor([lengths[row] for row in rows], device=device)
        tokens = torch.cat([torch.arange(starts[row], starts[row + 1], device=device) for row in rows])
        sizes = [lengths[row] for row in rows]
        prefixes = Padding.of(chosen, max(sizes), min(sizes) == max(sizes))
        alone = packing.over(replace(packing.layout, prefix_tokens=tokens, prefixes=prefixes))
        parts = alone.encode_prefixes()
        names = self.model.objectives[:1] if self.model.candidates_only else self.model.objectives
        stages: list[KVCache] = [alone.trunk_kv, *(alone.prefix_kv(name, parts) for name in names)]
        self.model.backbone.clear()
        return split_states(stages, sizes)


def _read_beside(slates: Sequence[TokenSlate], device: torch.device) -> dict[str, Any]:
    """What heads read beside the tokens, and where slates have their candidates, as in ModelInputs."""
    inputs: dict[str, Any] = {"slate_candidates": _slate_candidates(slates, device)}
    for name in ("features", "prior"):
        given = [values for slate in slates if (values := getattr(slate, name)) is not None]
        if given:
            inputs[name] = torch.from_numpy(np.concatenate(given)).to(device)
    things = [slate.things for slate in slates if slate.things is not None]
    if things:
        inputs["compared"] = {name: value.to(device) for name, value in join_things(things).items()}
    return inputs


def _slate_candidates(slates: Sequence[TokenSlate], device: torch.device) -> torch.Tensor:
    """int64 (S, M), the candidate at each position of a slate, −1 where a slate is shorter."""
    counts = torch.tensor([len(slate.candidates) for slate in slates])
    column = torch.arange(int(counts.max()))
    candidates_SM = (counts.cumsum(0) - counts)[:, None] + column
    return torch.where(column < counts[:, None], candidates_SM, -1).to(device)
