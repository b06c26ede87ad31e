"""A batch without padding, prefixes and candidates apart: each prefix is encoded once and its keys are shared.

All prefix tokens are end to end, and so are all candidate tokens; a layer runs over either stretch, and only its
attention (equipoise.modeling.attention.prefix_split) knows which token belongs to which slate. What nobody reads is not
computed: of a prefix in the last layer only keys and values, of candidates read at their last token nothing else.

Shape suffixes as in modeling/model.py.
"""

from collections.abc import Mapping, Sequence

import torch

from equipoise.modeling.attention.prefix_split import (
    ARGUMENT,
    ApartForward,
    CandidateForward,
    CandidateKeysForward,
    JointForward,
    KVCache,
    LastTokenForward,
    PrefixForward,
    PrefixKeysForward,
    SlateForward,
)
from equipoise.modeling.layout import SlateLayout
from equipoise.modeling.packing import Packing
from equipoise.modeling.tap import LayerCall
from equipoise.modeling.upper import TowerTokens, UpperLayers


class SharedPrefix(Packing):
    """Prefixes apart from candidates.

    Args:
        upper: the upper layers.
        input_ids, position_ids: int64 (R, T), as the model takes them.
        layout: where their tokens go.
        candidates_only: objective adapters act on candidate tokens alone, so that prefixes pass the upper layers once
            for all objectives; otherwise once for each.
        trunk_kv: the prefixes' keys and values in the trunk where they are known; else `encode_prefixes` fills it, but
            for a trunk in which candidates do not see prefixes.
        known_z: what the trunk makes of all candidates, (F, H), where it is known; else `encode_candidates` runs it.
    """

    def __init__(
        self,
        upper: UpperLayers,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        layout: SlateLayout,
        candidates_only: bool,
        trunk_kv: KVCache | None = None,
        known_z: torch.Tensor | None = None,
    ) -> None:
        self.known_z = known_z
        self.upper, self.backbone, self.layout, self.candidates_only = upper, upper.backbone, layout, candidates_only
        self.trunk_kv: KVCache = trunk_kv or {}
        self._ids, self._positions = input_ids.reshape(-1), position_ids.reshape(-1)
        self._prefix_calls: list[LayerCall] = []
        self._calls: list[LayerCall] = []
        self._joint_calls: list[LayerCall] = []

    def over(
        self, layout: SlateLayout, trunk_kv: KVCache | None = None, known_z: torch.Tensor | None = None
    ) -> "SharedPrefix":
        """The same tokens in another layout, or with what is known of prefixes and candidates; nothing encoded yet."""
        return SharedPrefix(self.upper, self._ids, self._positions, layout, self.candidates_only, trunk_kv, known_z)

    @property
    def computed_tokens(self) -> int:
        return self.layout.prefix_tokens.numel() + self.layout.candidate_tokens.numel()

    def _trunk(self, tokens_F: torch.Tensor, slate_forward: SlateForward) -> torch.Tensor:
        ids, positions = self._ids[tokens_F][None], self._positions[tokens_F][None]
        return self.backbone.encode(ids, positions, **{ARGUMENT: slate_forward})

    def encode(self) -> list[torch.Tensor]:
        """Candidates' z (1, F, H), then the prefixes' z, or their keys and values layer by layer."""
        prefix_tokens, candidate_tokens = self.layout.prefix_tokens, self.layout.candidate_tokens
        joint = JointForward(self.layout, self.upper.layer_of, self.backbone.apart)
        z_1FH = self._trunk(torch.cat([prefix_tokens, candidate_tokens]), joint)
        calls, tokens, prefix_count = self.backbone.calls(), z_1FH.shape[1], prefix_tokens.shape[0]
        index_F = torch.arange(tokens, device=z_1FH.device)
        self._joint_calls = calls
        self._prefix_calls, self._calls = (
            [call.at(part, tokens) for call in calls] for part in (index_F[:prefix_count], index_F[prefix_count:])
        )
        return [z_1FH[:, prefix_count:], *self._prefix_parts(z_1FH[:, :prefix_count])]

    def encode_prefixes(self) -> list[torch.Tensor]:
        """The trunk over all prefixes and, where adapters leave them alone, the upper layers too."""
        prefixes = PrefixForward(self.layout, self.upper.layer_of)
        z_1FH = self._trunk(self.layout.prefix_tokens, prefixes)
        self.trunk_kv, self._prefix_calls = {} if self.backbone.apart else prefixes.kv_cache, self.backbone.calls()
        return self._prefix_parts(z_1FH)

    def _prefix_parts(self, z_1FH: torch.Tensor) -> list[torch.Tensor]:
        """What towers read of prefixes: z or, where adapters leave them alone, keys and values of the upper layers."""
        if not self.candidates_only:
            return [z_1FH]
        return [tensor for key_values in self._run_prefixes(None, z_1FH).values() for tensor in key_values]

    def encode_candidates(self, layout: SlateLayout) -> torch.Tensor:
        """What the trunk makes of the candidates of a layout, (1, F, H)."""
        if self.known_z is not None:
            tokens = layout.candidate_tokens
            ids, positions = self._ids[tokens][None], self._positions[tokens][None]
            self._calls = self.backbone.calls_of(ids, positions, **{ARGUMENT: ApartForward(layout)})
            return self.known_z[tokens - self.layout.candidate_tokens[0]][None]
        candidates: SlateForward = ApartForward(layout)
        if not self.backbone.apart:
            candidates = CandidateForward(layout, self.trunk_kv, self.upper.layer_of)
        z_1FH = self._trunk(layout.candidate_tokens, candidates)
        self._calls = self.backbone.calls()
        return z_1FH

    def _run_prefixes(self, adapter: str | None, hidden_1FH: torch.Tensor) -> KVCache:
        """The prefixes through the upper layers: their keys and values, layer by layer."""
        kv_cache: KVCache = {}
        for index, call in enumerate(self._prefix_calls):
            if index == self.upper.count - 1 and self.upper.partial_last_layer:
                keys = PrefixKeysForward(self.layout, self.upper.layer_of)
                self.upper.run_last_until_keys(adapter, call.with_forward(keys), hidden_1FH)
                kv_cache |= keys.kv_cache
            else:
                prefixes = PrefixForward(self.layout, self.upper.layer_of)
                hidden_1FH = self.upper.run(index, adapter, call.with_forward(prefixes), hidden_1FH)
                kv_cache |= prefixes.kv_cache
        return kv_cache

    def prefix_kv(self, name: str, prefix_parts: Sequence[torch.Tensor]) -> KVCache:
        """The prefixes' keys and values in the upper layers, as objective `name` sees them."""
        if not self.candidates_only:
            (z_1FH,) = prefix_parts
            return self._run_prefixes(name, z_1FH)
        return dict(enumerate(zip(prefix_parts[::2], prefix_parts[1::2], strict=True), start=self.backbone.split))

    def run_tower(self, name: str, parts: Sequence[torch.Tensor], pooling: str | None = None) -> torch.Tensor:
        return self.run_candidates(name, parts[0], self.prefix_kv(name, parts[1:]), self.layout, pooling)

    def run_towers(self, parts: Mapping[str, Sequence[torch.Tensor]]) -> dict[str, torch.Tensor]:
        if not self.upper.together or len(parts) == 1:
            return super().run_towers(parts)
        stacked = [torch.cat(list(each)) for each in zip(*parts.values(), strict=True)]
        return dict(zip(parts, self.run_together(tuple(parts), stacked).unbind(), strict=True))

    def groups(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        # Without checkpointing the activations of one tower at a time are what memory is planned for.
        return [tuple(names)] if self.upper.together and self.upper.checkpointing and self._joint_calls else []

    def run_together(self, names: Sequence[str], stacked: Sequence[torch.Tensor]) -> torch.Tensor:
        towers, layout = len(names), self.layout.repeated(len(names))
        candidates = stacked[0].reshape(1, -1, stacked[0].shape[-1])
        tokens, prefix_tokens = self.layout.candidate_tokens.shape[0], self.layout.prefix_tokens.shape[0]
        index_F = torch.arange(prefix_tokens + tokens, device=candidates.device)
        if self.candidates_only:
            behind, hidden, prefixes = 0, candidates, index_F[:0]
            kvs = dict(enumerate(zip(stacked[1::2], stacked[2::2], strict=True), start=self.backbone.split))
            forward: SlateForward = CandidateForward(layout, kvs, self.upper.layer_of)
        else:  # a tower's prefixes and candidates pass a layer together
            behind, prefixes = towers * prefix_tokens, index_F[:prefix_tokens].repeat(towers)
            hidden = torch.cat([stacked[1].reshape(1, -1, candidates.shape[-1]), candidates], 1)
            forward = JointForward(layout, self.upper.layer_of)
        index = torch.cat([prefixes, index_F[prefix_tokens:].repeat(towers)])
        spans = {
            name: (*([(k * prefix_tokens, prefix_tokens)] if behind else []), (behind + k * tokens, tokens))
            for k, name in enumerate(names)
        }
        adapters = TowerTokens(spans, hidden.shape[1])
        for number, call in enumerate(self._joint_calls):
            call = call.at(index, len(index_F)).with_forward(forward)
            hidden = self.upper.run(number, adapters, call, hidden)
        pooled = self._pool(hidden[0, behind:], layout, False, self.backbone.pooling)
        return pooled.unflatten(0, (towers, -1))

    def run_candidates(
        self, name: str, hidden_1FH: torch.Tensor, kv_cache: KVCache, layout: SlateLayout, pooling: str | None = None
    ) -> torch.Tensor:
        """The vectors (N, H) of the layout's candidates from their z and their prefixes' keys and values."""
        pooling = pooling or self.backbone.pooling
        last_only = pooling == "last" and self.upper.partial_last_layer
        for index, call in enumerate(self._calls):
            if last_only and index == self.upper.count - 1:
                hidden_1FH = self._run_last_tokens(name, call, kv_cache, hidden_1FH, layout)
            else:
                candidates = CandidateForward(layout, kv_cache, self.upper.layer_of)
                hidden_1FH = self.upper.run(index, name, call.with_forward(candidates), hidden_1FH)
        return self._pool(hidden_1FH[0], layout, last_only, pooling)

    def _run_last_tokens(
        self, name: str, call: LayerCall, kv_cache: KVCache, hidden_1FH: torch.Tensor, layout: SlateLayout
    ) -> torch.Tensor:
        """The last layer for the candidates' last tokens, which read the keys of all their tokens."""
        keys = CandidateKeysForward()
        self.upper.run_last_until_keys(name, call.with_forward(keys), hidden_1FH)
        assert keys.key_values is not None, "every layer calls its attention"
        last_N, index = layout.last_N, self.upper.count - 1
        last_tokens = LastTokenForward(layout, kv_cache, self.upper.layer_of, keys.key_values)
        call = call.at(last_N, hidden_1FH.shape[1]).with_forward(last_tokens)
        return self.upper.run(index, name, call, hidden_1FH.index_select(1, last_N))

    def _pool(self, hidden_FH: torch.Tensor, layout: SlateLayout, last_only: bool, pooling: str) -> torch.Tensor:
        """One vector per candidate: its last token or the mean of its tokens."""
        if last_only:
            return self.backbone.norm(hidden_FH)
        if pooling == "last":
            return self.backbone.norm(hidden_FH.index_select(0, layout.last_N))
        return _mean(self.backbone.norm(hidden_FH), layout)

    def tokens_of_candidates(self, parts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        states_FH = parts[0][0]
        return states_FH, _owners(states_FH, self.layout)

    def mean_of_candidates(self, states: torch.Tensor) -> torch.Tensor:
        return _mean(states[0, -self.layout.candidate_tokens.shape[0] :], self.layout)


def _owners(states_FH: torch.Tensor, layout: SlateLayout) -> torch.Tensor:
    """The candidate of each token, int64 (F,)."""
    return torch.repeat_interleave(layout.lengths_N, output_size=states_FH.shape[0])


def _mean(states_FH: torch.Tensor, layout: SlateLayout) -> torch.Tensor:
    count = layout.lengths_N.shape[0]
    summed_NH = states_FH.new_zeros(count, states_FH.shape[1]).index_add(0, _owners(states_FH, layout), states_FH)
    return summed_NH / layout.lengths_N[:, None].to(states_FH.dtype)
