"""The slate model: trunk once, boundary, one tower and one head per objective.

Shape suffixes: R rows, T tokens of a row, N candidates of the batch, L tokens of the longest candidate, S slates,
M slots of the longest slate, H hidden size.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from configs.schema import BackboneConfig, LoraConfig
from modeling.adapters import activate, adapter_of, inject_adapters, lora_layers
from modeling.backbone import LayerCall, SplitBackbone, find_layers, load_backbone
from modeling.boundary import Boundary, Gates
from modeling.heads import PointHead, SlateHead
from modeling.masks import slate_mask
from modeling.towers import Criterion, Towers


class SlateModel(nn.Module):
    """Scores all candidates of a batch of slates for all objectives.

    Args:
        backbone: the frozen base with its adapters already injected.
        pointwise: name → number of outputs of its head; output 0 is the logit.
        listwise: names of the objectives with a slate head.
        offsets: name → constant added to the pointwise logit (log-odds of the training base rate).
        keep_embeddings: also return the frozen token embeddings, averaged per candidate.
        checkpointing: recompute activations in backward instead of keeping them.
    """

    def __init__(
        self,
        backbone: SplitBackbone,
        pointwise: Mapping[str, int],
        listwise: Sequence[str],
        offsets: Mapping[str, float],
        checkpointing: bool = False,
        keep_embeddings: bool = False,
    ) -> None:
        super().__init__()
        hidden = backbone.config.hidden_size
        self.backbone = backbone
        self.pointwise = tuple(pointwise)
        self.listwise = tuple(listwise)
        self.offsets = {name: float(offsets.get(name, 0.0)) for name in pointwise}
        self.checkpointing = checkpointing
        self.heads = nn.ModuleDict({name: PointHead(hidden, outputs) for name, outputs in pointwise.items()})
        self.heads.update({name: SlateHead(hidden) for name in listwise})
        self.boundary = Boundary()
        self.gates = Gates()
        self.own_parameters = {name: self._of_tower(name) for name in self.objectives}
        self._switches = [lora_layers(layer) for layer in backbone.upper]
        self._embedded: torch.Tensor | None = None
        if keep_embeddings:
            embeddings: nn.Module = cast(Any, backbone.trunk).get_input_embeddings()
            embeddings.register_forward_hook(self._remember_embeddings)

    def _remember_embeddings(self, module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        self._embedded = output.detach()

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of all objectives, pointwise first: the order of the towers."""
        return self.pointwise + self.listwise

    def _of_tower(self, name: str) -> list[nn.Parameter]:
        adapter = [p for key, p in self.backbone.upper.named_parameters() if adapter_of(key) == name]
        return [p for p in [*adapter, *self.heads[name].parameters()] if p.requires_grad]

    def trunk_parameters(self) -> list[list[nn.Parameter]]:
        """The shared adapter's parameters in each trunk layer, from the first layer to the one below the boundary."""
        layers = cast(nn.ModuleList, self.backbone.trunk.get_submodule(self.backbone.layers_name))
        return [[p for p in layer.parameters() if p.requires_grad] for layer in layers[: self.backbone.split]]

    def _layer(self, index: int, name: str, call: LayerCall, hidden_RTH: torch.Tensor) -> torch.Tensor:
        # The adapter is chosen inside: under checkpointing this runs again in backward, after other towers have run.
        for module in self._switches[index]:
            activate(module, name)
        return self.backbone.run_upper(index, call, hidden_RTH)

    def _tower(self, name: str, z_RTH: torch.Tensor) -> torch.Tensor:
        hidden_RTH = z_RTH
        for index, tap in enumerate(self.backbone.taps):
            # The call goes along by value: another forward may have run before backward comes to recompute this one.
            if self.checkpointing and torch.is_grad_enabled():
                hidden_RTH = checkpoint(self._layer, index, name, tap.call, hidden_RTH, use_reentrant=False)
            else:
                hidden_RTH = self._layer(index, name, tap.call, hidden_RTH)
        return hidden_RTH

    def _pool(self, hidden_RTH: torch.Tensor, candidate_tokens_NL: torch.Tensor) -> torch.Tensor:
        """One vector per candidate: its last token (decoders) or the mean of its tokens (encoders)."""
        flat = hidden_RTH.reshape(-1, hidden_RTH.shape[-1])
        present_NL = candidate_tokens_NL >= 0
        if not self.backbone.encoder:
            last_N1 = present_NL.sum(1, keepdim=True) - 1
            return self.backbone.norm(flat[candidate_tokens_NL.gather(1, last_N1).squeeze(1)])
        tokens_NLH = self.backbone.norm(flat[candidate_tokens_NL.clamp(min=0)])
        weights_NL1 = present_NL.unsqueeze(-1).to(tokens_NLH.dtype)
        return (tokens_NLH * weights_NL1).sum(1) / weights_NL1.sum(1)

    def _scores(
        self,
        name: str,
        view_RTH: torch.Tensor,
        candidate_tokens: torch.Tensor,
        slots: torch.Tensor,
        before: Mapping[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """One tower and its head. `before` holds the pointwise logits that a list-wise head builds on."""
        pooled = self._pool(self._tower(name, view_RTH), candidate_tokens)
        if name in self.listwise:
            logits = torch.stack([before[other].detach() for other in self.pointwise])
            relevance = nn.functional.logsigmoid(logits).sum(0)
            return {name: self.gates(name, self.heads[name](pooled, relevance, slots))}
        scores = self.heads[name](pooled)
        outputs = {name: self.gates(name, scores[:, 0] + self.offsets[name])}
        for extra in range(1, scores.shape[1]):
            outputs[f"{name}.{extra}"] = self.gates(name, scores[:, extra])
        return outputs

    def _embeddings(self, candidate_tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        if self._embedded is None:
            return {}
        flat = self._embedded.reshape(-1, self._embedded.shape[-1]).float()
        self._embedded = None
        present = (candidate_tokens >= 0).unsqueeze(-1)
        return {"embeddings": (flat[candidate_tokens.clamp(min=0)] * present).sum(1) / present.sum(1)}

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        segment_ids: torch.Tensor,
        candidate_tokens: torch.Tensor,
        slots: torch.Tensor,
        criterion: Criterion | None = None,
    ) -> dict[str, torch.Tensor]:
        """Score a batch.

        Args:
            input_ids: int64 (R, T).
            position_ids: int64 (R, T), restarting at the end of the prefix for every candidate.
            segment_ids: int64 (R, T): −1 padding, 0 prefix, 1, 2, … candidates of the row.
            candidate_tokens: int64 (N, L): index of each token of a candidate in the flattened (R·T) batch, −1 padding.
            slots: int64 (S, M): the candidate in each slot of a slate, −1 where a slate is shorter.
            criterion: gives each objective's loss; then every tower is differentiated at once and its activations are
                freed, the scores carry no gradient, and `losses` (K,) does.

        Returns:
            float32 tensors (N,): per pointwise objective its logit, per list-wise objective its adjustment δ; for a
            head with more outputs also `NAME.1`, …; where they are kept, `embeddings` (N, H); with a criterion,
            `losses`.
        """
        mask = slate_mask(segment_ids, causal=not self.backbone.encoder)
        z = self.backbone.encode(input_ids, position_ids, mask)
        outputs = self._embeddings(candidate_tokens)
        if torch.is_grad_enabled():
            self.gates.reset()
        if criterion is not None:
            self._one_by_one(z, candidate_tokens, slots, criterion, outputs)
        else:
            device = z.device
            views = self.boundary.fan_out(z, len(self.objectives), lambda: self.gates.intact(self.objectives, device))
            for name, view in zip(self.objectives, views, strict=True):
                outputs |= self._scores(name, view, candidate_tokens, slots, outputs)
        self.backbone.clear()
        return outputs

    def _one_by_one(
        self,
        z: torch.Tensor,
        candidate_tokens: torch.Tensor,
        slots: torch.Tensor,
        criterion: Criterion,
        outputs: dict[str, torch.Tensor],
    ) -> None:
        """Run, judge and differentiate one tower after another; see modeling.towers."""
        towers = Towers(self.objectives, self.boundary, self.gates)
        for name in self.objectives:
            view = z.detach().requires_grad_(torch.is_grad_enabled())
            mine = self._scores(name, view, candidate_tokens, slots, outputs)
            towers.add(criterion(name, {**outputs, **mine}), view, self.own_parameters[name])
            outputs |= {key: value.detach() for key, value in mine.items()}
        outputs["losses"] = towers.losses(z)


def build_model(
    backbone: BackboneConfig,
    lora: LoraConfig,
    pointwise: Mapping[str, int],
    listwise: Sequence[str],
    offsets: Mapping[str, float],
    seed: int,
    keep_embeddings: bool = False,
) -> SlateModel:
    """Load the base, inject the adapters, cut it, and put heads on top; adapters and heads depend on the seed alone.

    Raises:
        UserError: the backbone cannot be loaded, found or split as configured.
    """
    base = load_backbone(backbone, seed)
    _, layers = find_layers(base)
    split = backbone.split if backbone.split is not None else max(1, (2 * len(layers)) // 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapters(base, split, [*pointwise, *listwise], lora)
        if backbone.checkpointing:
            cast(Any, base).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            for layer in layers[split:]:
                cast(Any, layer).gradient_checkpointing = False  # towers checkpoint around the choice of adapter
        cut = SplitBackbone(base, split)
        return SlateModel(cut, pointwise, listwise, offsets, backbone.checkpointing, keep_embeddings)
