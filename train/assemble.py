"""From a configuration and a prepared folder to the parts of a job: data, objectives, model."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from equipoise.common.errors import UserError
from equipoise.configs.objectives import RecallConfig
from equipoise.configs.schema import DataConfig, RunConfig, trained_prompt
from equipoise.data.examination import check_position
from equipoise.data.features import FeatureColumns, columns_of, features_of, same_features
from equipoise.data.labels import check_absent, check_labels, labels_of, links_of
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.masked import anonymous_data
from equipoise.data.recall_texts import RecallDraws
from equipoise.data.sampling import BatchOrder
from equipoise.data.slate_set import SlateSet, TrainBatches
from equipoise.data.token_budget import BudgetOrder
from equipoise.data.token_cache import TokenCache
from equipoise.data.weights import check_weights
from equipoise.modeling.adapter_store import AdapterInfo, TextTemplates
from equipoise.modeling.base_identity import Identity
from equipoise.modeling.comparison import ComparisonShape
from equipoise.modeling.model import ModelSpec, SlateModel, build_model
from equipoise.modeling.priors import Priors
from equipoise.modeling.recall_sources import RecallSources
from equipoise.modeling.relevance import Relevance
from equipoise.modeling.run_model import compute_as_trained
from equipoise.train.objectives.base import USER, Objective
from equipoise.train.prior_columns import read_columns, split_columns
from equipoise.train.priors import FOLDER as PRIORS
from equipoise.train.priors import PriorStore, find_priors
from equipoise.train.recall_sources import FOLDER as RECALL
from equipoise.train.recall_sources import SourceScores, early_sources, find_sources, run_sources
from equipoise.train.thing_vectors import ThingVectors, find_vectors
from equipoise.train.token_caches import find_tokens
from equipoise.train.world import World

MOST_GROUPS = 4096
"""Values of a column by which conflicts are told apart: every checkpoint holds K² sums for each."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataParts:
    """Data of a job.

    Attributes:
        slates: of the split.
        tokens: of the prepared folder.
        beside: what heads read beside texts and features.
        attributes: codes of the item attributes that losses read.
        user_groups: codes of the user attributes that losses read, of the slates of the split that was opened.
        objectives: bound to the data.
        map_values: column of the map of conflicts → the values of its codes.
    """

    slates: SlateSet
    tokens: TokenCache
    beside: "Beside"
    attributes: dict[str, np.ndarray]
    objectives: dict[str, Objective]
    user_groups: dict[str, np.ndarray] = field(default_factory=dict)
    map_values: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Beside:
    """Priors and compared vectors of a prepared folder.

    Attributes:
        priors: the models; without any where the run has none.
        store: where the training rows' log-odds lie; None without priors.
        vectors: of things; None where nothing is compared.
        sources: of recall; None where the run has none.
    """

    priors: Priors
    store: PriorStore | None = None
    vectors: ThingVectors | None = None
    sources: RecallSources | None = None

    def slates(self, folder: Path, split: str, tokens: TokenCache, masked: bool = False) -> SlateSet:
        """The slates of a split with their priors: out of fold of the train split, else the models' own.

        `masked`: the folder holds the slates as of anonymous users.
        """
        prior = None
        if self.store is not None and split == "train":
            prior = self.store.training_rows(masked)
        elif self.priors.names:
            columns = split_columns(Manifest.read(folder), tokens, split, self.vectors)
            prior = self.priors.log_odds(read_columns(columns, self.priors.columns))
        return SlateSet(folder, split, tokens, prior, self.vectors.vectors if self.vectors else None)

    def write(self, run: Path) -> None:
        """Keep the priors and sources in the folder of a run that begins."""
        if self.priors.names:
            self.priors.write(run / PRIORS)
        if self.sources is not None:
            self.sources.write(run / RECALL)

    def refuse_changed(self, run: Path) -> None:
        """Refuse to go on with a run that has learned beside other priors or sources.

        Raises:
            UserError: says which.
        """
        learned = {"priors": Priors.read(run / PRIORS).same_as(self.priors)}
        sources = run_sources(run)
        if sources is not None and self.sources is not None:
            learned["sources of recall"] = sources.same_as(self.sources)
        for name, same in learned.items():
            if not same:
                raise UserError(
                    f"{run} has learned beside other {name} than these settings and data give: resume with those that "
                    "it began with, or start anew with --overwrite"
                )


def open_beside(config: RunConfig, tokens: TokenCache, run: Path | None = None) -> Beside:
    """What heads read beside texts and features, of a job that trains, or of a run that has trained.

    Args:
        run: the run folder, whose priors are read; None: those of the prepared folder, fitted here if need be.

    Raises:
        UserError: something is missing and the job has several processes.
    """
    vectors = find_vectors(config) if config.data.comparison is not None else None
    if run is not None:
        return Beside(Priors.read(run / PRIORS), vectors=vectors, sources=run_sources(run))
    store = find_priors(config, tokens, vectors)
    priors = store.priors if store else Priors(config.output, {})
    return Beside(priors, store, vectors, find_sources(config, tokens))


def base_rate_offsets(manifest: Manifest, pointwise: list[str]) -> dict[str, float]:
    """What the train split's base rates (means of values and counts) give: where the pointwise outputs start.

    Raises:
        UserError: a rate is 0 or 1, so that nothing can be learnt.
    """
    train = manifest.weights or manifest.splits["train"]
    rates = {
        "ctr": ("click", train.clicks, train.impressions),
        "cvr": ("conversion after click", train.clicked_conversions, train.clicks),
    }
    offsets = {}
    if manifest.position is not None:  # of impressions that were looked at
        looked = np.average(manifest.position.examination, weights=manifest.position.impressions)
        rates["ctr"] = ("click", train.clicks, max(train.impressions * float(looked), train.clicks + 1))
    for name in pointwise:
        if name in manifest.labels:
            offsets[name] = manifest.labels[name].offset
            continue
        label, positive, of = rates[name]
        if not 0 < positive < of:
            raise UserError(
                f"the train split has {positive} of {of} rows with {label}: objectives.{name} has nothing to learn, "
                f"leave it out or correct the label"
            )
        offsets[name] = math.log(positive / (of - positive))
    return offsets


def told_as_prepared(config: RunConfig) -> RunConfig:
    """The config with `data.prompt.escape` as the prepared folder has it, so that requests are told as in training.

    Raises:
        UserError: the folder is not prepared.
    """
    prompt = config.data.prompt
    escape = trained_prompt(Manifest.read(config.data.folder).prompt).escape
    if escape == prompt.escape:
        return config
    log.info(
        f"{config.data.folder} was prepared with data.prompt.escape={str(escape).lower()}, which this run keeps: run "
        "`equipoise prepare` again to change it"
    )
    data = config.data.model_copy(update={"prompt": prompt.model_copy(update={"escape": escape})})
    return config.model_copy(update={"data": data})


def open_data(
    config: RunConfig, split: str, objectives: dict[str, Objective], tokens: TokenCache, run: Path | None = None
) -> DataParts:
    """Open one split with its tokens, and bind the objectives to it: their groups, and what their outputs stand for.

    Args:
        run: the folder of a run that has trained, whose priors are used; None in training, which fits them.

    Raises:
        UserError: the prepared folder does not fit the config.
    """
    manifest = Manifest.read(config.data.folder)
    _check_features(manifest, config.data)
    check_absent(config.objectives, manifest.absent_labels, config.data.folder)
    _check_comparison(manifest, config.data)
    check_weights(manifest.weights, config.data.weights, config.data.folder)
    check_position(manifest.position, config.data.position, config.data.folder)
    beside = open_beside(config, tokens, run)
    slates = beside.slates(config.data.folder, split, tokens)
    check_labels(labels_of(config.objectives), slates.manifest.labels, config.data.folder)
    mapped = config.balancing.map if run is None else []
    attributes: dict[str, np.ndarray] = {}
    values: dict[str, list[str]] = {}
    read = [name for objective in objectives.values() for name in objective.attributes]
    of_users = [o.user_attribute for o in objectives.values() if o.user_attribute is not None]
    for name in dict.fromkeys([*read, *(name for name in mapped if name not in slates.manifest.user_groups)]):
        attributes[name], values[name] = slates.items.codes(name)
    user_groups: dict[str, np.ndarray] = {}
    for name in dict.fromkeys([*of_users, *(name for name in mapped if name in slates.manifest.user_groups)]):
        user_groups[name], values[f"{USER}{name}"] = slates.user_codes(name)
        if run is None and name in of_users and len(np.unique(user_groups[name])) < 2:
            which = next(each for each, objective in objectives.items() if objective.user_attribute == name)
            raise UserError(
                f"objectives.{which}.user_fairness: all users of the training requests have the same {name}, so there "
                "are no groups to serve alike: name another field, or leave it out"
            )
    links = links_of(config.objectives.specs(), slates.manifest.labels)
    groups = {name: len(each) for name, each in values.items()}
    bound = {name: objective.bind(groups, links) for name, objective in objectives.items()}
    map_values = {name: values[f"{USER}{name}" if name in user_groups else name] for name in mapped}
    _check_map(map_values)
    return DataParts(slates, tokens, beside, attributes, bound, user_groups, map_values)


def _check_map(values: Mapping[str, Sequence[str]]) -> None:
    for name, each in values.items():
        if not 2 <= len(each) <= MOST_GROUPS:
            raise UserError(
                f"balancing.map names '{name}', which has {len(each)} values: name columns of 2 to {MOST_GROUPS}"
            )


def _check_features(manifest: Manifest, data: DataConfig) -> None:
    if not same_features(manifest.features, data.features):
        prepared, wanted = (
            [str(feature) for feature in named] for named in (features_of(manifest.features), data.features)
        )
        only_prepared, only_wanted = (
            ", ".join(name for name in named if name not in other) or "none other"
            for named, other in ((prepared, wanted), (wanted, prepared))
        )
        raise UserError(
            f"{data.folder} was prepared with other data.features than the config: {only_prepared} there, "
            f"{only_wanted} here (or in another order): run `equipoise prepare` again"
        )
    if manifest.rates != data.rates:
        raise UserError(
            f"{data.folder} was prepared with other data.rates than the config: run `equipoise prepare` again"
        )


def _check_comparison(manifest: Manifest, data: DataConfig) -> None:
    if data.comparison is not None and manifest.comparison != data.comparison.prepared():
        raise UserError(
            f"{data.folder} was prepared with data.comparison {manifest.comparison}, the config has "
            f"{data.comparison.prepared()}: run `equipoise prepare` again"
        )


def open_split(data: DataParts, split: str) -> DataParts:
    """Another split of the same folder, with the same tokens and codes.

    Raises:
        UserError: the folder has no such split.
    """
    return replace(data, slates=data.beside.slates(data.slates.folder, split, data.tokens))


def train_batches(config: RunConfig, data: DataParts, world: World, parts: int | None = None) -> TrainBatches:
    """The training batches of this process, by number of global micro-batch.

    `parts`: the processes that the run began with, which settle the global micro-batches; None: those of the job.

    Raises:
        UserError: the train split is too small for so many processes or so large batches, or batches for the processes.
    """
    settings, slates = config.train, data.slates
    order: BatchOrder | BudgetOrder
    if settings.batch_size is not None:
        order = BatchOrder(len(slates), settings.batch_size, world.size, world.rank, config.seed, parts)
    else:
        assert isinstance(settings.max_tokens, int), "one of the two is set, and a job settles what is auto"
        costs = partial(slates.tokens.costs, negatives=settings.negatives, seed=config.seed)
        order = BudgetOrder(costs, settings.max_tokens, world.size, world.rank, config.seed, parts)
    masked = _masked_slates(config, data) if settings.feature_dropout else None
    max_row, draws = config.tokens.max_row, _recall_draws(config, data, world)
    given = (settings.negatives, max_row, data.attributes, masked, settings.feature_dropout, draws)
    # Lists of whole slates need a relevance of the candidates that are left out: the priors', where all have one.
    whole = any(o.reads_whole_slates for o in data.objectives.values())
    whole = whole and set(config.relevance_exponents()) <= set(data.beside.priors.names)
    whole = whole and settings.negatives is not None
    return TrainBatches(slates, order, *given, whole=whole, user_groups=data.user_groups)


def _recall_draws(config: RunConfig, data: DataParts, world: World) -> RecallDraws | None:
    """The draws of the recall objective; with sources, of the late requests, which read counts of earlier ones."""
    options, sources = config.objectives.recall, data.beside.sources
    if options is None:
        return None
    settings = (options.shoppers, options.negatives, config.tokens.max_row, config.seed, world.rank)
    if sources is None:
        return RecallDraws(data.slates.tokens, *settings)
    early, late = early_sources(config, data.slates, sources)
    return RecallDraws(data.slates.tokens, *settings, among=late, beside=SourceScores(early))


def _masked_slates(config: RunConfig, data: DataParts) -> SlateSet:
    """The train split as of anonymous users, which `equipoise prepare` has made."""
    masked = anonymous_data(config.data)
    tokens = find_tokens(config.model_copy(update={"data": masked}))
    masked_slates = data.beside.slates(masked.folder, "train", tokens, masked=True)
    if not np.array_equal(masked_slates.tokens.item, data.slates.tokens.item):
        raise UserError(
            f"{masked.folder} holds other candidates than {config.data.folder}: run `equipoise prepare` again"
        )
    return masked_slates


def model_spec(
    config: RunConfig,
    objectives: dict[str, Objective],
    offsets: dict[str, float],
    features: FeatureColumns,
    relevance: Relevance | None = None,
    priors: Sequence[str] = (),
    comparison: ComparisonShape | None = None,
) -> ModelSpec:
    """What the model of a run is built from."""
    return ModelSpec(
        backbone=config.backbone,
        lora=config.lora,
        pointwise={name: o.outputs for name, o in objectives.items() if o.kind == "pointwise"},
        listwise=[name for name, o in objectives.items() if o.kind == "listwise"],
        offsets=offsets,
        seed=config.seed,
        keep_embeddings=any(o.needs_embeddings for o in objectives.values()),
        features=features,
        retrieval={n: o.options.dimension for n, o in objectives.items() if isinstance(o.options, RecallConfig)},
        sources=config.objectives.recall is not None and config.objectives.recall.sources,
        relevance=relevance,
        priors=priors,
        comparison=comparison,
    )


def assemble_model(
    config: RunConfig,
    data: DataParts,
    partial_last_layer: bool = True,
    kept_offsets: Mapping[str, float] | None = None,
) -> tuple[SlateModel, AdapterInfo]:
    """Build the model of a run, and say what its adapters belong to.

    Args:
        config: of the run.
        data: its train split.
        partial_last_layer: as for `build_model`.
        kept_offsets: constants of the pointwise logits, where the run begins from another; None: those of the data.
    """
    objectives, manifest, vectors = data.objectives, data.slates.manifest, data.beside.vectors
    pointwise = [name for name, o in objectives.items() if o.kind == "pointwise"]
    relevance = Relevance(config.relevance_exponents(), links_of(config.objectives.specs(), manifest.labels))
    priors = data.beside.priors.names
    offsets = dict(kept_offsets or base_rate_offsets(manifest, pointwise) | dict.fromkeys(priors, 0.0))
    comparison = None
    if vectors is not None and config.data.comparison is not None:
        size = vectors.vectors.shape[1]
        comparison = ComparisonShape(size, min(config.data.comparison.width, size))
    spec = model_spec(config, objectives, offsets, columns_of(manifest.features), relevance, priors, comparison)
    model = build_model(spec, partial_last_layer)
    compute_as_trained(model, config)
    scales = {name: scale.model_dump() for name, scale in manifest.features.items()}
    info = AdapterInfo.of(spec, model, TextTemplates(manifest.prompt, manifest.history), scales)
    return model, replace(info, **vars(Identity.of(config)))
