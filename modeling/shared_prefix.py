"""A batch without padding, prefixes and candidates apart: each prefix is encoded once and its keys are shared.

All prefix tokens stand end to end, and so do all candidate tokens; a layer runs over either stretch, and only its
attention (equipoise.modeling.attention.prefix_split) knows which token belongs to which slate. What nobody reads is not
computed: of a prefix in the last layer only keys and values, of candidates read at their last token nothing else.

Shape suffixes: F tokens of a flat stretch, N candidates of the batch, H hidden size.
"""

from collections.abc import Sequence

import torch

from equipoise.modeling.attention.prefix_split import (
    ARGUMENT,
    CandidatePass,
    JointPass,
    Kept,
    LastTokenPass,
    OwnKeysPass,
    PrefixPass,
)
from equipoise.modeling.backbone import LayerCall
from equipoise.modeling.layout import SlateLayout
from equipoise.modeling.upper import UpperLayers


class SharedPrefix:
    """One batch on its way through the backbone.

    Args:
        upper: the upper layers.
        input_ids, position_ids: int64 (R, T), as `SlateModel.forward` takes them.
        layout: where their tokens go.
        candidates_only: objective adapters act on candidate tokens alone, so that prefixes pass the upper layers once
            for all objectives; otherwise once for each.
    """

    def __init__(
        self,
        upper: UpperLayers,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        layout: SlateLayout,
        candidates_only: bool,
    ) -> None:
        self.upper, self.backbone, self.layout, self.candidates_only = upper, upper.backbone, layout, candidates_only
        self._ids, self._positions = input_ids.reshape(-1), position_ids.reshape(-1)
        self._prefix_calls: list[LayerCall] = []
        self._calls: list[LayerCall] = []
        self.below: Kept = {}
        """The prefixes' keys and values in the trunk: what `encode_prefixes` kept, or what somebody kept before."""
        self._modules: list[list[int]] = []

    def over(self, layout: SlateLayout) -> "SharedPrefix":
        """The same tokens in another layout, nothing encoded yet."""
        return SharedPrefix(self.upper, self._ids, self._positions, layout, self.candidates_only)

    @property
    def tokens(self) -> int:
        """Token places that the linear layers compute: there is no padding."""
        return self.layout.prefix_tokens.numel() + self.layout.candidate_tokens.numel()

    def _trunk(self, tokens_F: torch.Tensor, slate_pass: PrefixPass | CandidatePass | JointPass) -> torch.Tensor:
        ids, positions = self._ids[tokens_F][None], self._positions[tokens_F][None]
        return self.backbone.encode(ids, positions, **{ARGUMENT: slate_pass})

    def encode(self) -> list[torch.Tensor]:
        """What all towers read: candidates' z (1, F, H), then the prefixes' z, or their keys and values layer by layer.

        The order is that of `tower`'s argument.
        """
        first, then = self.layout.prefix_tokens, self.layout.candidate_tokens
        z_1FH = self._trunk(torch.cat([first, then]), JointPass(self.layout))
        calls, tokens, count = self.backbone.calls(), z_1FH.shape[1], first.shape[0]
        places = torch.arange(tokens, device=z_1FH.device)
        self._prefix_calls, self._calls = (
            [call.at(part, tokens) for call in calls] for part in (places[:count], places[count:])
        )
        return [z_1FH[:, count:], *self._prefix_parts(z_1FH[:, :count])]

    def encode_prefixes(self) -> list[torch.Tensor]:
        """The trunk over all prefixes and, where adapters leave them alone, the upper layers too."""
        below = PrefixPass(self.layout)
        z_1FH = self._trunk(self.layout.prefix_tokens, below)
        self.below, self._prefix_calls = below.kept, self.backbone.calls()
        return self._prefix_parts(z_1FH)

    def _prefix_parts(self, z_1FH: torch.Tensor) -> list[torch.Tensor]:
        """What towers read of prefixes: z or, where adapters leave them alone, keys and values of the upper layers."""
        if not self.candidates_only:
            return [z_1FH]
        layers = self._prefix_layers(None, z_1FH)
        self._modules = [list(kept) for kept in layers]
        return [tensor for kept in layers for pair in kept.values() for tensor in pair]

    def encode_candidates(self, layout: SlateLayout) -> torch.Tensor:
        """The trunk over the candidates of a layout, (1, F, H)."""
        z_1FH = self._trunk(layout.candidate_tokens, CandidatePass(layout, self.below))
        self._calls = self.backbone.calls()
        return z_1FH

    def _prefix_layers(self, adapter: str | None, hidden_1FH: torch.Tensor) -> list[Kept]:
        """The prefixes through the upper layers: each layer's keys and values."""
        layers = []
        for index, call in enumerate(self._prefix_calls):
            last = index == self.upper.count - 1
            keeping = PrefixPass(self.layout, only_keys=last and self.upper.stops_early)
            call = call.with_pass(keeping)
            if keeping.only_keys:
                self.upper.run_for_keys(index, adapter, call, hidden_1FH)
            else:
                hidden_1FH = self.upper.run(index, adapter, call, hidden_1FH)
            layers.append(keeping.kept)
        return layers

    def prefix_keys(self, name: str, prefix_parts: Sequence[torch.Tensor]) -> list[Kept]:
        """The prefixes' keys and values in every upper layer, as objective `name` sees them."""
        if not self.candidates_only:
            (z_1FH,) = prefix_parts
            return self._prefix_layers(name, z_1FH)
        pairs = iter(zip(prefix_parts[::2], prefix_parts[1::2], strict=True))
        return [{module: next(pairs) for module in modules} for modules in self._modules]

    def tower(self, name: str, parts: Sequence[torch.Tensor], pooling: str | None = None) -> torch.Tensor:
        """The vectors of all candidates, (N, H), as objective `name` sees them; `pooling` instead of the backbone's."""
        return self.candidates(name, parts[0], self.prefix_keys(name, parts[1:]), self.layout, pooling)

    def candidates(
        self,
        name: str,
        hidden_1FH: torch.Tensor,
        keys: list[Kept],
        layout: SlateLayout,
        pooling: str | None = None,
    ) -> torch.Tensor:
        """The vectors (N, H) of the layout's candidates from their z and their prefixes' keys and values."""
        pooling = pooling or self.backbone.pooling
        last_only = pooling == "last" and self.upper.stops_early
        for index, (call, kept) in enumerate(zip(self._calls, keys, strict=True)):
            if last_only and index == self.upper.count - 1:
                hidden_1FH = self._last_tokens(index, name, call, kept, hidden_1FH, layout)
            else:
                hidden_1FH = self.upper.run(index, name, call.with_pass(CandidatePass(layout, kept)), hidden_1FH)
        return self._pool(hidden_1FH[0], layout, last_only, pooling)

    def _last_tokens(
        self, index: int, name: str, call: LayerCall, kept: Kept, hidden_1FH: torch.Tensor, layout: SlateLayout
    ) -> torch.Tensor:
        own = OwnKeysPass(layout, kept)
        self.upper.run_for_keys(index, name, call.with_pass(own), hidden_1FH)
        last_N = layout.last_N
        call = call.at(last_N, hidden_1FH.shape[1]).with_pass(LastTokenPass(layout, kept, own.own))
        return self.upper.run(index, name, call, hidden_1FH.index_select(1, last_N))

    def _pool(self, hidden_FH: torch.Tensor, layout: SlateLayout, last_only: bool, pooling: str) -> torch.Tensor:
        """One vector per candidate: its last token or the mean of its tokens."""
        if last_only:
            return self.backbone.norm(hidden_FH)
        if pooling == "last":
            return self.backbone.norm(hidden_FH.index_select(0, layout.last_N))
        return _mean(self.backbone.norm(hidden_FH), layout)

    def mean_of_candidates(self, states_1FH: torch.Tensor) -> torch.Tensor:
        """The mean over each candidate's tokens, (N, H), of states that end with those of all candidate tokens."""
        return _mean(states_1FH[0, -self.layout.candidate_tokens.shape[0] :], self.layout)


def _mean(states_FH: torch.Tensor, layout: SlateLayout) -> torch.Tensor:
    count, size = layout.lengths_N.shape[0], states_FH.shape[0]
    owner_F = torch.repeat_interleave(layout.lengths_N, output_size=size)
    summed_NH = states_FH.new_zeros(count, states_FH.shape[1]).index_add(0, owner_F, states_FH)
    return summed_NH / layout.lengths_N[:, None].to(states_FH.dtype)
