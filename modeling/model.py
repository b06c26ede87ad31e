"""The slate model: trunk once, boundary, one tower and one head per objective.

Objectives of retrieval read texts of their own (shoppers and items, each alone) instead of the candidates of slates.

Shape suffixes: R rows, T tokens of a row, N candidates of the batch, L tokens of the longest candidate, S slates,
M slots of the longest slate, H hidden size, F columns of features.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import nn

from equipoise.configs.schema import BackboneConfig, LoraConfig
from equipoise.data.features import FeatureColumns
from equipoise.modeling.adapters import adapter_of, inject_adapters
from equipoise.modeling.attention.prefix_split import Kept
from equipoise.modeling.backbone import SplitBackbone, find_layers, load_backbone
from equipoise.modeling.boundary import Boundary, Gates
from equipoise.modeling.common_projections import CommonProjections
from equipoise.modeling.compiled import compile_layers
from equipoise.modeling.heads import PointHead, SlateHead, VectorHead
from equipoise.modeling.joined import Joined
from equipoise.modeling.layout import SlateLayout
from equipoise.modeling.packed_rows import PackedRows
from equipoise.modeling.relevance import Relevance
from equipoise.modeling.shared_prefix import SharedPrefix
from equipoise.modeling.towers import Criterion, Towers
from equipoise.modeling.upper import UpperLayers

NO_FEATURES = FeatureColumns()

Run = Callable[[str, torch.Tensor, Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]
"""From a tower's name, its view of z and the outputs so far to its own outputs."""


class SlateModel(nn.Module):
    """Scores all candidates of a batch of slates for all objectives.

    Args:
        backbone: the frozen base with its adapters already injected.
        pointwise: name → number of outputs of its head; output 0 is the logit.
        listwise: names of the objectives with a slate head.
        offsets: name → constant added to the pointwise logit (log-odds of the training base rate).
        keep_embeddings: also return the frozen token embeddings, averaged per candidate.
        checkpointing: recompute activations in backward instead of keeping them.
        candidates_only: the objectives' adapters act on candidate tokens alone (`lora.scope: candidates`).
        features: the columns of features that the pointwise heads read.
        retrieval: name → dimension of its vectors.
        relevance: the formula of r, which list-wise heads read; Σ log p where nothing is given.

    Attributes:
        chunk_tokens: without gradients, at most so many candidate tokens pass at once; None: all of a batch.
        computed_tokens: token places that the linear layers computed in the last forward, padding included.
        projections: what towers share in the first upper layer; None where that layer is compiled as it stands.
    """

    def __init__(
        self,
        backbone: SplitBackbone,
        pointwise: Mapping[str, int],
        listwise: Sequence[str],
        offsets: Mapping[str, float],
        checkpointing: bool = False,
        keep_embeddings: bool = False,
        candidates_only: bool = False,
        features: FeatureColumns = NO_FEATURES,
        retrieval: Mapping[str, int] | None = None,
        relevance: Relevance | None = None,
    ) -> None:
        super().__init__()
        hidden = backbone.config.hidden_size
        self.backbone = backbone
        self.pointwise = tuple(pointwise)
        self.listwise = tuple(listwise)
        self.retrieval = tuple(retrieval or ())
        self.offsets = {name: float(offsets.get(name, 0.0)) for name in pointwise}
        self.relevance = relevance or Relevance(dict.fromkeys(pointwise, 1.0))
        self.candidates_only = candidates_only
        self.features = features
        self.chunk_tokens: int | None = None
        self.computed_tokens = 0
        self.projections: CommonProjections | None = None
        self.heads = nn.ModuleDict(
            {
                name: PointHead(hidden, outputs, len(features.numbers), len(features.categories), len(features.levels))
                for name, outputs in pointwise.items()
            }
        )
        self.heads.update({name: SlateHead(hidden) for name in listwise})
        self.heads.update({name: VectorHead(hidden, dimension) for name, dimension in (retrieval or {}).items()})
        self.boundary = Boundary()
        self.gates = Gates()
        self.own_parameters = {name: self._of_tower(name) for name in self.objectives + self.retrieval}
        self.upper = UpperLayers(backbone, checkpointing)
        self._embedded: torch.Tensor | None = None
        if keep_embeddings:
            embeddings: nn.Module = cast(Any, backbone.trunk).get_input_embeddings()
            embeddings.register_forward_hook(self._remember_embeddings)

    def _remember_embeddings(self, module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        self._embedded = output.detach()

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the objectives that score candidates, pointwise first: the order of their towers."""
        return self.pointwise + self.listwise

    def _of_tower(self, name: str) -> list[nn.Parameter]:
        adapter = [p for key, p in self.backbone.upper.named_parameters() if adapter_of(key) == name]
        return [p for p in [*adapter, *self.heads[name].parameters()] if p.requires_grad]

    def trunk_parameters(self) -> list[list[nn.Parameter]]:
        """The shared adapter's parameters in each trunk layer, from the first layer to the one below the boundary."""
        layers = cast(nn.ModuleList, self.backbone.trunk.get_submodule(self.backbone.layers_name))
        return [[p for p in layer.parameters() if p.requires_grad] for layer in layers[: self.backbone.split]]

    def _scores(
        self,
        name: str,
        pooled_NH: torch.Tensor,
        slots: torch.Tensor,
        before: Mapping[str, torch.Tensor],
        features_NF: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """One head over what its tower pooled. `before` holds the pointwise logits that a list-wise head builds on."""
        if name in self.listwise:
            return {name: self.gates(name, self.heads[name](pooled_NH, self.relevance(before), slots))}
        scores = self.heads[name](pooled_NH, features_NF)
        outputs = {name: self.gates(name, scores[:, 0] + self.offsets[name])}
        for extra in range(1, scores.shape[1]):
            outputs[f"{name}.{extra}"] = self.gates(name, scores[:, extra])
        return outputs

    def _check_features(self, features: torch.Tensor | None, candidates: int) -> None:
        """A feature that is left out must not be taken for the mean without a word."""
        wanted, found = (candidates, len(self.features)), None if features is None else tuple(features.shape)
        if found != (wanted if self.features else None):
            names = ", ".join(self.features.features) or "none"
            raise ValueError(f"the model reads the features {names} of {candidates} candidates, but was given {found}")

    def _embeddings(self, way: PackedRows | SharedPrefix) -> dict[str, torch.Tensor]:
        if self._embedded is None:
            return {}
        embedded, self._embedded = self._embedded, None
        return {"embeddings": way.mean_of_candidates(embedded.float())}

    def _way(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        segment_ids: torch.Tensor,
        candidate_tokens: torch.Tensor,
    ) -> PackedRows | SharedPrefix:
        """How this batch goes through the backbone."""
        if self.backbone.attention == "split":
            layout = SlateLayout.of(segment_ids, candidate_tokens)
            return SharedPrefix(self.upper, input_ids, position_ids, layout, self.candidates_only)
        return PackedRows(self.upper, input_ids, position_ids, segment_ids, candidate_tokens, self.candidates_only)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        segment_ids: torch.Tensor,
        candidate_tokens: torch.Tensor,
        slots: torch.Tensor,
        criterion: Criterion | None = None,
        keep_vectors: bool = False,
        features: torch.Tensor | None = None,
        texts: Mapping[str, torch.Tensor] | None = None,
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
            keep_vectors: without a criterion, also return what the heads read, `NAME.vector` (N, H).
            features: float32 (N, F), standardised, where the model reads some.
            texts: the first four arguments once more, of a slate of shoppers' and items' texts behind a bare prefix;
                without it the towers of retrieval do not run.

        Returns:
            float32 tensors (N,): per pointwise objective its logit, per list-wise objective its adjustment δ; for a
            head with more outputs also `NAME.1`, …; where they are kept, `embeddings` (N, H); with a criterion,
            `losses`; with texts, per objective of retrieval their unit vectors (texts, D) and `NAME.weights` (3,).
        """
        self._check_features(features, candidate_tokens.shape[0])
        way = self._way(input_ids, position_ids, segment_ids, candidate_tokens)
        self.computed_tokens = way.tokens
        if torch.is_grad_enabled():
            self.gates.reset()
        elif self.chunk_tokens and criterion is None and isinstance(way, SharedPrefix):
            return self._in_chunks(way, slots, self.chunk_tokens, features)
        parts = way.encode()
        outputs = self._embeddings(way)
        own = len(parts)
        texts_way = self._way(**texts) if texts is not None and self.retrieval else None
        if texts_way is not None:
            parts = [*parts, *texts_way.encode()]
            self._embedded = None
            self.computed_tokens += texts_way.tokens
        joined = Joined(parts)
        z = joined.join(parts)

        def run(name: str, view: torch.Tensor, before: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            pieces = joined.split(view)
            if name in self.retrieval:
                assert texts_way is not None
                return self._vectors(name, texts_way, pieces[own:])
            pooled = way.tower(name, pieces[:own])
            kept = {f"{name}.vector": pooled} if keep_vectors else {}
            return self._scores(name, pooled, slots, before, features) | kept

        names = self.objectives + (self.retrieval if texts_way is not None else ())
        if criterion is not None:
            self._one_by_one(names, run, z, criterion, outputs)
        else:
            device = z.device
            views = self.boundary.fan_out(z, len(names), lambda: self.gates.intact(names, device))
            for name, view in zip(names, views, strict=True):
                outputs |= run(name, view, outputs)
        self.backbone.clear()
        return outputs

    def _vectors(
        self, name: str, way: PackedRows | SharedPrefix, parts: Sequence[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """What an objective of retrieval makes of texts; encoders are read at the mean of a text's tokens."""
        pooled = way.tower(name, parts, pooling="mean" if self.backbone.encoder else "last")
        vectors, weights = self.heads[name](pooled)
        return {name: self.gates(name, vectors), f"{name}.weights": self.gates(name, weights)}

    def encode_texts(self, name: str, texts: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of texts for an objective of retrieval, float32 (texts, D), and its weights (3,).

        Args:
            name: of the objective.
            texts: as `forward` takes them.
        """
        way = self._way(**texts)
        found = self._vectors(name, way, way.encode())
        self._embedded = None
        self.backbone.clear()
        return found[name], found[f"{name}.weights"]

    def _one_by_one(
        self, names: Sequence[str], run: Run, z: torch.Tensor, criterion: Criterion, outputs: dict[str, torch.Tensor]
    ) -> None:
        """Run, judge and differentiate one tower after another; see equipoise.modeling.towers."""
        towers = Towers(names, self.boundary, self.gates)
        for name in names:
            view = z.detach().requires_grad_(torch.is_grad_enabled())
            mine = run(name, view, outputs)
            towers.add(criterion(name, {**outputs, **mine}), view, self.own_parameters[name])
            outputs |= {key: value.detach() for key, value in mine.items()}
        outputs["losses"] = towers.losses(z)

    def _in_chunks(
        self, way: SharedPrefix, slots: torch.Tensor, most_tokens: int, features: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Scores without gradient: prefixes once, then candidates piece by piece against their keys and values."""
        prefix_parts = way.encode_prefixes()
        self._embedded = None
        keys = {name: way.prefix_keys(name, prefix_parts) for name in self.objectives}
        return self.score_candidates(way, keys, slots, most_tokens, features)

    def score_candidates(
        self,
        way: SharedPrefix,
        keys: Mapping[str, list[Kept]],
        slots: torch.Tensor,
        most_tokens: int,
        features: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Scores without gradient of the candidates of `way`, whose prefixes have been encoded.

        Args:
            way: knows the prefixes' keys and values in the trunk.
            keys: those of the upper layers, as each objective sees them; an objective without keys is left out.
            slots: int64 (S, M), as `forward` takes them.
            most_tokens: at most so many candidate tokens pass at once (one candidate at least).
            features: float32 (N, F), where the model reads some.

        Returns:
            float32 (N,) by name, as `forward`.
        """
        names = [name for name in self.objectives if name in keys]
        self._check_features(features, way.layout.lengths_N.shape[0])
        pooled: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        for layout in way.layout.chunks(most_tokens):
            z = way.encode_candidates(layout)
            with self.projections.of(z) if self.projections else nullcontext():
                for name in names:
                    pooled[name].append(way.candidates(name, z, keys[name], layout))
        self._embedded = None
        outputs: dict[str, torch.Tensor] = {}
        for name in names:
            outputs |= self._scores(name, torch.cat(pooled[name]), slots, outputs, features)
        self.backbone.clear()
        return outputs


def build_model(
    backbone: BackboneConfig,
    lora: LoraConfig,
    pointwise: Mapping[str, int],
    listwise: Sequence[str],
    offsets: Mapping[str, float],
    seed: int,
    keep_embeddings: bool = False,
    features: FeatureColumns = NO_FEATURES,
    retrieval: Mapping[str, int] | None = None,
    relevance: Relevance | None = None,
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
        inject_adapters(base, split, [*pointwise, *listwise, *(retrieval or ())], lora)
        if backbone.checkpointing:
            cast(Any, base).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            for layer in layers[split:]:
                cast(Any, layer).gradient_checkpointing = False  # towers checkpoint around the choice of adapter
        if backbone.compile:
            compile_layers(layers)
        cut = SplitBackbone(base, split, backbone.pooling)
        candidates_only = lora.scope == "candidates"
        model = SlateModel(
            cut,
            pointwise,
            listwise,
            offsets,
            backbone.checkpointing,
            keep_embeddings,
            candidates_only,
            features,
            retrieval,
            relevance,
        )
        model.projections = None if backbone.compile else CommonProjections(cut.upper[0])
        return model
