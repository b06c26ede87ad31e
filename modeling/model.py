"""The slate model: trunk once, boundary, one tower and one head per objective.

Objectives of retrieval read texts of their own (shoppers and items, each alone) instead of the candidates of slates.

Shape suffixes, the same in all of modeling: R rows, T tokens of a row, F tokens of a flat stretch without padding,
N candidates of the batch, L tokens of the longest candidate, P tokens of the longest prefix, S slates, M positions of
the longest slate, H hidden size, K objectives, X columns of features.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import nn

from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig, LoraConfig
from equipoise.data.features import FeatureColumns
from equipoise.data.ragged import RowLengths
from equipoise.modeling.adapters import adapter_of, inject_adapters
from equipoise.modeling.attention.prefix_split import KVCache
from equipoise.modeling.backbone import SplitBackbone, find_layers, load_backbone
from equipoise.modeling.boundary import StepContext
from equipoise.modeling.common_projections import CommonProjections
from equipoise.modeling.comparison import ComparisonShape
from equipoise.modeling.compiled import compile_layers
from equipoise.modeling.fused.layers import why_plain
from equipoise.modeling.fused.slates import FusedBackbone, FusedSlates
from equipoise.modeling.grouped_heads import point_scores, slate_adjustments
from equipoise.modeling.heads import NO_FEATURES, HeadInputs, PointHead, SlateHead, VectorHead
from equipoise.modeling.layout import SlateLayout
from equipoise.modeling.masks import restarted
from equipoise.modeling.packed_rows import PackedRows
from equipoise.modeling.packing import Flattener, Packing
from equipoise.modeling.relevance import Relevance
from equipoise.modeling.shared_prefix import SharedPrefix
from equipoise.modeling.stock import stock_vectors
from equipoise.modeling.towers import Criterion, Towers
from equipoise.modeling.upper import UpperLayers

ModelInputs = Mapping[str, Any]
"""What the model reads of a batch, as `SlateBatch.model_inputs` gives it.

input_ids: int64 (R, T).
position_ids: int64 (R, T), restarting at the end of the prefix for every candidate.
segment_ids: int64 (R, T): −1 padding, 0 prefix, 1, 2, … candidates of the row.
candidate_tokens: int64 (N, L): index of each token of a candidate in the flattened (R·T) batch, −1 padding.
slate_candidates: int64 (S, M): the candidate at each position of a slate, −1 where a slate is shorter.
lengths: of rows and candidates, on the host; read from the tensors where it is not given.
features: float32 (N, X), standardised, where the model reads some.
prior: float32 (N, priors), log-odds in the order of `ModelSpec.priors`, where there are some.
compared: where heads compare candidates with the history, as modeling.comparison gives it.
texts: the first four once more, of a slate of shoppers' and items' texts behind a bare prefix; without it the towers of
    retrieval do not run.
"""

PACKED = ("input_ids", "position_ids", "segment_ids", "candidate_tokens")


@dataclass(frozen=True)
class ModelSpec:
    """All that a slate model is built from; adapters and heads depend on it alone.

    Attributes:
        backbone, lora: the base model and its adapters.
        pointwise: name → number of outputs of its head; output 0 is the logit.
        listwise: names of the objectives with a slate head.
        offsets: name → constant added to the pointwise logit (log-odds of the training base rate).
        seed: of the initial adapters and heads.
        keep_embeddings: also return the frozen token embeddings, averaged per candidate.
        features: the columns of features that the pointwise heads read.
        retrieval: name → dimension of its vectors.
        sources: whether objectives of retrieval begin as the sources of recall, their vectors with weight 0.
        relevance: the formula of r, which list-wise heads read; None: Σ log p over the pointwise objectives.
        priors: names of the pointwise objectives that begin as a prior, in the order of `prior` among the inputs.
        comparison: sizes of what pointwise heads compare; None where nothing is compared.
    """

    backbone: BackboneConfig
    lora: LoraConfig
    pointwise: Mapping[str, int]
    listwise: Sequence[str] = ()
    offsets: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    keep_embeddings: bool = False
    features: FeatureColumns = NO_FEATURES
    retrieval: Mapping[str, int] = field(default_factory=dict)
    sources: bool = False
    relevance: Relevance | None = None
    priors: Sequence[str] = ()
    comparison: ComparisonShape | None = None

    @property
    def names(self) -> list[str]:
        """Of all objectives, in the order of their towers."""
        return [*self.pointwise, *self.listwise, *self.retrieval]


@dataclass(frozen=True)
class ForwardRequest:
    """A call of `score` or, with a criterion, of `losses`: what goes through an engine, which hooks `forward` alone."""

    inputs: ModelInputs
    criterion: Criterion | None = None
    step: StepContext | None = None
    chunk_tokens: int | None = None
    keep_vectors: bool = False
    stock: bool = False


@dataclass(frozen=True)
class _Encoded:
    """A batch after the trunk: z, and how towers read it."""

    packing: Packing
    texts: Packing | None
    flattener: Flattener
    own_parts: int
    z: torch.Tensor

    def of_candidates(self, view: torch.Tensor) -> list[torch.Tensor]:
        return self.flattener.unflatten(view)[: self.own_parts]

    def of_towers(self, views_K: torch.Tensor) -> list[torch.Tensor]:
        return self.flattener.unflatten_towers(views_K)[: self.own_parts]

    def of_texts(self, view: torch.Tensor) -> list[torch.Tensor]:
        return self.flattener.unflatten(view)[self.own_parts :]

    def tokens_of_candidates(self, view: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.packing.tokens_of_candidates(self.of_candidates(view))


class SlateModel(nn.Module):
    """Scores all candidates of a batch of slates for all objectives: `score`, `losses`, `encode_texts`.

    Args:
        backbone: the frozen base with its adapters already injected.
        spec: what it was built from.
        partial_last_layer: whether the last layer may be left as soon as its keys and values are known.

    Attributes:
        computed_tokens: tokens that the linear layers computed in the last forward, padding included.
        projections: what towers share in the first upper layer; None where that layer is compiled as it is.
        kernels: `fused` or `plain`; `use_fused` and `use_plain` change it.
    """

    def __init__(self, backbone: SplitBackbone, spec: ModelSpec, partial_last_layer: bool = True) -> None:
        super().__init__()
        hidden, features = backbone.config.hidden_size, spec.features
        self.backbone = backbone
        self.pointwise, self.listwise, self.retrieval = (
            tuple(spec.pointwise),
            tuple(spec.listwise),
            tuple(spec.retrieval),
        )
        self.offsets = {name: float(spec.offsets.get(name, 0.0)) for name in spec.pointwise}
        self.relevance = spec.relevance or Relevance(dict.fromkeys(spec.pointwise, 1.0))
        self.candidates_only = spec.lora.scope == "candidates"
        self.features, self.priors, self.compares = features, tuple(spec.priors), spec.comparison is not None
        self.computed_tokens = 0
        self.heads = nn.ModuleDict(
            {
                name: PointHead(hidden, outputs, features, name in spec.priors, spec.comparison)
                for name, outputs in spec.pointwise.items()
            }
        )
        self.heads.update({name: SlateHead(hidden) for name in spec.listwise})
        self.heads.update({name: VectorHead(hidden, size, spec.sources) for name, size in spec.retrieval.items()})
        self.own_parameters = {name: self._of_tower(name) for name in self.objectives + self.retrieval}
        compiled = spec.backbone.compile
        self.upper = UpperLayers(backbone, spec.backbone.checkpointing, partial_last_layer, compiled)
        self.projections = None if spec.backbone.compile else CommonProjections(backbone.upper[0])
        self._spec = spec
        self._fused: FusedBackbone | None = None
        self.kernels: Literal["fused", "plain"] = "plain"
        self._embedded: torch.Tensor | None = None
        self._offsets: dict[tuple[tuple[str, ...], torch.device], torch.Tensor] = {}
        if spec.keep_embeddings:
            embeddings: nn.Module = cast(Any, backbone.trunk).get_input_embeddings()
            embeddings.register_forward_hook(self._remember_embeddings)

    def use_fused(self) -> None:
        """Differentiate by fused kernels from now on; scoring without gradients stays as it is.

        Raises:
            UserError: they cannot compute this backbone.
        """
        reason = why_plain(self.backbone, self._spec.backbone, self._spec.lora)
        if reason is None and self._spec.keep_embeddings:
            reason = "similarity: text reads embeddings, which they do not keep"
        if reason is None and not self.upper.partial_last_layer:
            reason = "under ZeRO-3 and FSDP 2 no process holds whole weights"
        if reason is not None:
            raise UserError(f"backbone.kernels: fused kernels cannot compute this run ({reason}): set plain or auto")
        self.kernels = "fused"

    def use_plain(self) -> None:
        """Differentiate layer by layer, as the stock classes compute them."""
        self.kernels, self._fused = "plain", None

    def fused_backbone(self) -> FusedBackbone:
        """Made at the first use, when the weights are where they stay; anew where they have moved since."""
        weight = next(p for p in self.backbone.upper.parameters() if not p.requires_grad)
        held = self._fused.weight if self._fused is not None else None
        if held is None or (held.device, held.dtype) != (weight.device, weight.dtype):
            self._fused = FusedBackbone(self.backbone, self.objectives)
        assert self._fused is not None
        return self._fused

    def _remember_embeddings(self, module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        self._embedded = output.detach()

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the objectives that score candidates, pointwise first: the order of their towers."""
        return self.pointwise + self.listwise

    def _of_tower(self, name: str) -> list[nn.Parameter]:
        adapter = [p for key, p in self.backbone.upper.named_parameters() if adapter_of(key) == name]
        return [p for p in [*adapter, *self.heads[name].parameters()] if p.requires_grad]

    def layers(self) -> list[nn.Module]:
        """All layers of the base, from the first of the trunk to the last upper one."""
        trunk = cast(nn.ModuleList, self.backbone.trunk.get_submodule(self.backbone.layers_name))
        return [*trunk[: self.backbone.split], *self.backbone.upper]

    def trunk_parameters(self) -> list[list[nn.Parameter]]:
        """The shared adapter's parameters in each trunk layer, from the first layer to the one below the boundary."""
        layers = self.layers()[: self.backbone.split]
        return [[p for p in layer.parameters() if p.requires_grad] for layer in layers]

    def _scores(
        self,
        name: str,
        pooled_NH: torch.Tensor,
        inputs: ModelInputs,
        earlier: Mapping[str, torch.Tensor],
        step: StepContext,
    ) -> dict[str, torch.Tensor]:
        """One head over what its tower pooled, in float32; `earlier`: the outputs that a list-wise head builds on."""
        with torch.autocast(pooled_NH.device.type, enabled=False):  # few products: what they read is worth the digits
            if name in self.listwise:
                own = self.heads[name](pooled_NH.float(), self.relevance(earlier), inputs["slate_candidates"])
                return {name: step.guard(name, own, of_candidates=True)}
            scores = self.heads[name](pooled_NH.float(), self.head_inputs(name, inputs, pooled_NH.shape[0]))
        outputs = {name: step.guard(name, scores[:, 0] + self.offsets[name], of_candidates=True)}
        for extra in range(1, scores.shape[1]):
            outputs[f"{name}.{extra}"] = step.guard(name, scores[:, extra])
        return outputs

    def head_inputs(self, name: str, inputs: ModelInputs, count: int) -> HeadInputs:
        """What the head of a pointwise objective reads beside its tower's vectors, of N = `count` candidates."""
        prior_NP = inputs.get("prior")
        own = prior_NP[:, self.priors.index(name)] if prior_NP is not None and name in self.priors else None
        return HeadInputs(inputs["slate_candidates"], count, inputs.get("features"), own, inputs.get("compared"))

    def _check_columns(self, inputs: ModelInputs, candidates: int) -> None:
        """What is left out must not be taken for the mean silently."""
        for key, names in (("features", self.features.features if self.features else []), ("prior", self.priors)):
            values = inputs.get(key)
            width = len(self.features) if key == "features" else len(names)
            given = None if values is None else tuple(values.shape)
            if given != ((candidates, width) if width else None):
                listed = ", ".join(names) or "none"
                raise ValueError(f"the model reads {key} {listed} of {candidates} candidates, but was given {given}")
        if (inputs.get("compared") is not None) != self.compares:
            raise ValueError(
                f"the model {'compares' if self.compares else 'does not compare'} candidates with a history"
            )

    def _packing(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        segment_ids: torch.Tensor,
        candidate_tokens: torch.Tensor,
        lengths: RowLengths | None = None,
    ) -> Packing:
        """How this batch goes through the backbone: by fused kernels where it is to be differentiated, and it can."""
        if self.backbone.restarts:
            position_ids = restarted(position_ids, segment_ids)
        if self.kernels == "fused" and torch.is_grad_enabled():
            lengths = lengths or RowLengths.of(segment_ids, candidate_tokens)
            return FusedSlates(self.fused_backbone(), input_ids, position_ids, lengths, self.candidates_only)
        if self.backbone.attention == "split":
            layout = SlateLayout.of(segment_ids, candidate_tokens)
            return SharedPrefix(self.upper, input_ids, position_ids, layout, self.candidates_only)
        return PackedRows(self.upper, input_ids, position_ids, segment_ids, candidate_tokens, self.candidates_only)

    def _begin(self, inputs: ModelInputs) -> Packing:
        self._check_columns(inputs, inputs["candidate_tokens"].shape[0])
        packed: dict[str, Any] = {name: inputs.get(name) for name in (*PACKED, "lengths")}
        packing = self._packing(**packed)
        self.computed_tokens = packing.computed_tokens
        return packing

    def _encode(self, packing: Packing, inputs: ModelInputs) -> tuple[_Encoded, dict[str, torch.Tensor]]:
        """The trunk over slates and texts; also the candidates' embeddings, where they are kept."""
        parts = packing.encode()
        outputs: dict[str, torch.Tensor] = {}
        if self._embedded is not None:
            outputs["embeddings"] = packing.mean_of_candidates(self._embedded.float())
        own_parts, texts = len(parts), None
        if inputs.get("texts") is not None and self.retrieval:
            texts = self._packing(**inputs["texts"])
            parts = [*parts, *texts.encode()]
            self.computed_tokens += texts.computed_tokens
        self._embedded = None
        flattener = Flattener(parts)
        return _Encoded(packing, texts, flattener, own_parts, flattener.flatten(parts)), outputs

    def forward(self, request: ForwardRequest) -> dict[str, torch.Tensor]:
        """`losses` where the request has a criterion, else `score`; only engines have to call this.

        `stock`: what the stock class makes of separate prompts, as modeling.stock gives it.
        """
        if request.stock:
            return stock_vectors(self.upper, self.objectives, request.inputs, self.candidates_only)
        if request.criterion is not None:
            return self.losses(request.inputs, request.criterion, request.step)
        return self.score(
            request.inputs, request.step, chunk_tokens=request.chunk_tokens, keep_vectors=request.keep_vectors
        )

    def score(
        self,
        inputs: ModelInputs,
        step: StepContext | None = None,
        *,
        chunk_tokens: int | None = None,
        keep_vectors: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Score a batch; with gradients, all towers are alive until the backward.

        Args:
            inputs: of the batch.
            step: weighs the objectives' gradients in the backward to come.
            chunk_tokens: without gradients, at most so many candidate tokens pass at once; None: all of a batch.
            keep_vectors: also return what the heads read, `NAME.vector` (N, H).

        Returns:
            float32 tensors (N,): per pointwise objective its logit, per list-wise objective its adjustment δ; for a
            head with more outputs also `NAME.1`, …; where they are kept, `embeddings` (N, H); with texts, per objective
            of retrieval their unit vectors (texts, D) and `NAME.weights` (3,).
        """
        step, packing = step or StepContext(), self._begin(inputs)
        if chunk_tokens and not torch.is_grad_enabled() and isinstance(packing, SharedPrefix):
            return self._score_in_chunks(packing, inputs, chunk_tokens)
        encoded, outputs = self._encode(packing, inputs)
        step.tokens_of_candidates = encoded.tokens_of_candidates
        names = self.objectives + (self.retrieval if encoded.texts is not None else ())
        views = dict(zip(names, step.fan_out(encoded.z, names), strict=True))
        pooled = packing.run_towers({name: encoded.of_candidates(views[name]) for name in self.objectives})
        for name, pooled_NH in pooled.items():
            outputs |= self._scores(name, pooled_NH, inputs, outputs, step)
        if keep_vectors:
            outputs |= {f"{name}.vector": pooled_NH for name, pooled_NH in pooled.items()}
        if encoded.texts is not None:
            for name in self.retrieval:
                outputs |= self._vectors(name, encoded.texts, encoded.of_texts(views[name]), step)
        self.backbone.clear()
        return outputs

    def losses(
        self, inputs: ModelInputs, criterion: Criterion, step: StepContext | None = None
    ) -> dict[str, torch.Tensor]:
        """Run, judge and differentiate one tower after another, so that one at a time is alive; see modeling.towers.

        Args:
            inputs: of the batch.
            criterion: gives each objective's loss.
            step: weighs the objectives' gradients in the backward to come.

        Returns:
            `losses` (K,), with gradient, and what `score` gives, without.
        """
        step, packing = step or StepContext(), self._begin(inputs)
        encoded, outputs = self._encode(packing, inputs)
        step.tokens_of_candidates = encoded.tokens_of_candidates
        names = self.objectives + (self.retrieval if encoded.texts is not None else ())
        towers = Towers(names, step)
        outputs |= self._losses_together(packing, encoded, inputs, criterion, towers)
        for name in names[len(towers) :]:
            view = encoded.z.detach().requires_grad_(torch.is_grad_enabled())
            if name in self.retrieval:
                assert encoded.texts is not None
                own = self._vectors(name, encoded.texts, encoded.of_texts(view), step)
            else:
                pooled_NH = packing.run_tower(name, encoded.of_candidates(view))
                own = self._scores(name, pooled_NH, inputs, outputs, step)
            towers.add(criterion(name, {**outputs, **own}), view, self.own_parameters[name])
            outputs |= {key: value.detach() for key, value in own.items()}
        outputs["losses"] = towers.losses(encoded.z)
        self.backbone.clear()
        return outputs

    def _losses_together(
        self, packing: Packing, encoded: _Encoded, inputs: ModelInputs, criterion: Criterion, towers: Towers
    ) -> dict[str, torch.Tensor]:
        """Towers of slates as one batch, or as few as memory allows: judged one after another, differentiated at once;
        the outputs."""
        outputs: dict[str, torch.Tensor] = {}
        for names in packing.groups(self.objectives):
            views_K = encoded.z.detach().expand(len(names), -1).requires_grad_(torch.is_grad_enabled())
            pooled_KNH = packing.run_together(names, encoded.of_towers(views_K))
            whole = isinstance(packing, FusedSlates)  # else heads may be in pieces, too
            scores = self._scores_together(names, pooled_KNH, inputs, outputs, towers.step) if whole else {}
            losses = []
            for name, pooled_NH in zip(names, pooled_KNH.unbind(), strict=True):
                own = scores[name] if whole else self._scores(name, pooled_NH, inputs, outputs, towers.step)
                losses.append(criterion(name, {**outputs, **own}))
                outputs |= {key: value.detach() for key, value in own.items()}
            towers.add_together(losses, views_K, [self.own_parameters[name] for name in names])
        return outputs

    def _scores_together(
        self,
        names: Sequence[str],
        pooled_KNH: torch.Tensor,
        inputs: ModelInputs,
        earlier: Mapping[str, torch.Tensor],
        step: StepContext,
    ) -> dict[str, dict[str, torch.Tensor]]:
        """What `_scores` gives, by objective, of several whose heads run as one."""
        points, lists = [n for n in names if n in self.pointwise], [n for n in names if n in self.listwise]
        heads: Any = self.heads
        scores: dict[str, dict[str, torch.Tensor]] = {name: {} for name in names}
        with torch.autocast(pooled_KNH.device.type, enabled=False):
            pooled_KNH = pooled_KNH.float()
            if points:
                read = [self.head_inputs(name, inputs, pooled_KNH.shape[1]) for name in points]
                each = point_scores([heads[name] for name in points], pooled_KNH[: len(points)], read)
                logits_KN = torch.stack([score[:, 0] for score in each]) + self._offsets_of(points, pooled_KNH)
                for name, row, score in zip(points, step.guard.of_rows(points, logits_KN).unbind(), each, strict=True):
                    extras = {f"{name}.{extra}": score[:, extra] for extra in range(1, score.shape[1])}
                    scores[name] = {name: row, **{key: step.guard(name, value) for key, value in extras.items()}}
            if lists:
                known = {**earlier, **{name: own[name].detach() for name, own in scores.items() if own}}
                delta_JN = slate_adjustments(
                    [heads[name] for name in lists],
                    pooled_KNH[len(points) :],
                    self.relevance(known),
                    inputs["slate_candidates"],
                )
                for name, row in zip(lists, step.guard.of_rows(lists, delta_JN).unbind(), strict=True):
                    scores[name] = {name: row}
        return scores

    def _offsets_of(self, names: Sequence[str], like: torch.Tensor) -> torch.Tensor:
        """Constants of the logits, (K, 1), copied to the device once."""
        key = (tuple(names), like.device)
        if key not in self._offsets:
            self._offsets[key] = torch.tensor([[self.offsets[name]] for name in names], device=like.device)
        return self._offsets[key]

    def _vectors(
        self, name: str, packing: Packing, parts: Sequence[torch.Tensor], step: StepContext
    ) -> dict[str, torch.Tensor]:
        """What an objective of retrieval makes of texts; encoders are read at the mean of a text's tokens."""
        pooled = packing.run_tower(name, parts, pooling="mean" if self.backbone.encoder else "last")
        vectors, weights = self.heads[name](pooled)
        return {name: step.guard(name, vectors), f"{name}.weights": step.guard(name, weights)}

    def candidate_states(self, inputs: ModelInputs) -> torch.Tensor:
        """What the trunk makes of all candidates' tokens, (F, H), without what heads read beside them."""
        packed: dict[str, Any] = {name: inputs.get(name) for name in (*PACKED, "lengths")}
        packing = self._packing(**packed)
        states, _ = packing.tokens_of_candidates(packing.encode())
        self._embedded = None
        self.backbone.clear()
        return states

    def encode_texts(self, name: str, texts: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of texts for an objective of retrieval, float32 (texts, D), and its weights (3,).

        Args:
            name: of the objective.
            texts: as in ModelInputs.
        """
        packing = self._packing(**texts)
        outputs = self._vectors(name, packing, packing.encode(), StepContext())
        self._embedded = None
        self.backbone.clear()
        return outputs[name], outputs[f"{name}.weights"]

    def _score_in_chunks(
        self, packing: SharedPrefix, inputs: ModelInputs, chunk_tokens: int
    ) -> dict[str, torch.Tensor]:
        """Scores without gradient: prefixes once, then candidates piece by piece against their keys and values."""
        prefix_parts = packing.encode_prefixes()
        self._embedded = None
        kv = {name: packing.prefix_kv(name, prefix_parts) for name in self.objectives}
        return self.score_candidates(packing, kv, inputs, chunk_tokens)

    def score_candidates(
        self,
        packing: SharedPrefix,
        kv: Mapping[str, KVCache],
        inputs: ModelInputs,
        chunk_tokens: int,
    ) -> dict[str, torch.Tensor]:
        """Scores without gradient of the candidates of `packing`, as `score`; arguments as those of `pool_candidates`.

        `inputs`: `slate_candidates`, and what heads read beside the tokens, as in ModelInputs.
        """
        return self.judged(self.pool_candidates(packing, kv, chunk_tokens), inputs)

    def pool_candidates(
        self, packing: SharedPrefix, kv: Mapping[str, KVCache], chunk_tokens: int
    ) -> dict[str, torch.Tensor]:
        """The vectors (N, H) without gradient of the candidates of `packing`, whose prefixes have been encoded.

        Args:
            packing: knows the prefixes' keys and values in the trunk.
            kv: those of the upper layers, as each objective sees them; an objective without any is left out.
            chunk_tokens: at most so many candidate tokens pass at once (one candidate at least).
        """
        names = [name for name in self.objectives if name in kv]
        pooled: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        for layout in packing.layout.chunks(chunk_tokens):
            z = packing.encode_candidates(layout)
            with self.projections.of(z) if self.projections else nullcontext():
                for name in names:
                    pooled[name].append(packing.run_candidates(name, z, kv[name], layout))
        self._embedded = None
        self.backbone.clear()
        return {name: torch.cat(each) for name, each in pooled.items()}

    def judged(self, pooled: Mapping[str, torch.Tensor], inputs: ModelInputs) -> dict[str, torch.Tensor]:
        """What heads make of their towers' vectors (N, H), pointwise ones first: float32 (N,) by name, as `score`."""
        self._check_columns(inputs, len(next(iter(pooled.values()))))
        outputs, step = cast(dict[str, torch.Tensor], {}), StepContext()
        for name, pooled_NH in pooled.items():
            outputs |= self._scores(name, pooled_NH, inputs, outputs, step)
        return outputs


def build_model(spec: ModelSpec, partial_last_layer: bool = True) -> SlateModel:
    """Load the base, inject the adapters, cut it, and put heads on top; adapters and heads depend on the seed alone.

    Args:
        spec: of the model.
        partial_last_layer: False under ZeRO-3 and FSDP 2, whose hooks stand on the layers themselves.

    Raises:
        UserError: the backbone cannot be loaded, found or split as configured.
    """
    backbone = spec.backbone
    base = load_backbone(backbone, spec.seed)
    _, layers = find_layers(base)
    split = backbone.split if backbone.split is not None else max(1, (2 * len(layers)) // 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        inject_adapters(base, split, spec.names, spec.lora)
        if backbone.checkpointing:
            cast(Any, base).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            for layer in layers[split:]:
                cast(Any, layer).gradient_checkpointing = False  # towers checkpoint around the choice of adapter
        if backbone.compile:
            compile_layers(layers)
        cut = SplitBackbone(base, split, backbone.pooling, backbone.trunk == "apart")
        return SlateModel(cut, spec, partial_last_layer)
