"""Fits the simple models that objectives begin as, and gives every training row its log-odds out of fold."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.common.progress import ProgressBar
from equipoise.configs.objective_spec import nearest_name
from equipoise.configs.objectives import chain
from equipoise.configs.priors import PriorConfig
from equipoise.configs.schema import RunConfig
from equipoise.data.features import CategoryScale
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.masked import anonymous_data
from equipoise.data.slate_set import SlateSet
from equipoise.data.thing_columns import RIVAL, SIMILAR, TOGETHER
from equipoise.data.token_cache import SplitTokens, TokenCache
from equipoise.modeling.linear_model import LinearModel
from equipoise.modeling.priors import (
    FALLBACK,
    FILE,
    Priors,
    PriorSpec,
    chain_labels,
    fall_back,
    from_column,
    join_chains,
)
from equipoise.modeling.response import SUFFIX, resample_response
from equipoise.modeling.simple_models import (
    Blend,
    Rows,
    cross_entropy,
    fit_blend,
    fit_linear,
    fit_trees,
    log_odds,
    out_of_fold,
    to_text,
)
from equipoise.train.prior_columns import chosen_weights, columns_to_read, logit_columns, read_columns, split_columns
from equipoise.train.thing_vectors import ThingVectors
from equipoise.train.token_caches import find_tokens

if TYPE_CHECKING:
    from lightgbm import Booster

log = logging.getLogger(__name__)
TRAIN, MASKED = "train.npy", "masked.npy"
SEED = 0
"""Of folds and trees: a prior is a property of the data, so that runs of several seeds share it."""


def prior_configs(config: RunConfig) -> dict[str, PriorConfig]:
    """The priors that a run asks for, by objective, in the order of the objectives."""
    options = config.objectives.active()
    return {name: prior for name in options if (prior := getattr(options[name], "prior", None)) is not None}


class PriorFit:
    """Fits the priors of a configuration, one objective after another."""

    def __init__(
        self, config: RunConfig, tokens: TokenCache, folder: Path, vectors: ThingVectors | None = None
    ) -> None:
        self.config, self.folder, self.configs = config, folder, prior_configs(config)
        self.train, self.valid = (SlateSet(config.data.folder, split, tokens) for split in ("train", "valid"))
        self.manifest, self.objectives = self.train.manifest, config.objectives.specs()
        self.columns = split_columns(self.manifest, tokens, "train", vectors)
        self.valid_columns = split_columns(self.manifest, tokens, "valid", vectors)
        self.masked_columns: dict[str, np.ndarray] = {}
        if config.train.feature_dropout:
            masked = config.model_copy(update={"data": anonymous_data(config.data)})
            shown = Manifest.read(masked.data.folder)
            self.masked_columns = split_columns(shown, find_tokens(masked), "train", vectors)

    @cached_property
    def users(self) -> np.ndarray:
        """A number for the user of every training row, int64 (I,)."""
        codes = np.unique(np.array(self.train.rows["user_id"]), return_inverse=True)[1]
        return np.repeat(codes, np.diff(self.train.tokens.first))

    @cached_property
    def untold(self) -> np.ndarray:
        """Which training rows are fitted as of a new shopper, bool (I,): `train.feature_dropout` of the slates."""
        slates = np.random.default_rng(SEED).random(len(self.train)) < self.config.train.feature_dropout
        return np.repeat(slates, np.diff(self.train.tokens.first))

    def write(self, bar: ProgressBar) -> None:
        """Fit all, and write models, record and log-odds."""
        specs: dict[str, PriorSpec] = {}
        rows: dict[str, list[np.ndarray]] = {}
        for number, name in enumerate(self.configs):
            bar.stage(f"fitting the prior of {name}", number / len(self.configs))
            spec = self._spec(name)
            try:
                specs[name], rows[name] = self._log_odds(name, spec)
            except UserError as error:
                where = f"objectives.{name}.prior"
                raise error if where in str(error) else UserError(f"{where}: {error}, or leave it out") from error
        files = [TRAIN, *([MASKED] if self.masked_columns else [])]
        for index, file in enumerate(files):
            own = {name: np.asarray(values[index], np.float64) for name, values in rows.items()}
            np.save(self.folder / file, join_chains(specs, own))
        record = Priors(self.folder, specs).record()
        (self.folder / FILE).write_text(json.dumps(record, indent=2) + "\n", "utf-8")

    def _spec(self, name: str) -> PriorSpec:
        prior = self.configs[name]
        names = [prior.column] if prior.column else prior.columns
        known = list(self.columns)
        for column in names or []:
            if column not in known:
                raise UserError(
                    f"objectives.{name}.prior reads '{column}', which the prepared folder does not hold"
                    f"{nearest_name(column, known)}: add it to data.features and prepare again"
                )
        if not known:
            raise UserError(
                f"objectives.{name}.prior has no column to read: list some in data.features, or leave the prior out"
            )
        for column in prior.leave_out:
            if column not in (*known, *SIMILAR, *TOGETHER, RIVAL):  # what is not computed need not be left out
                raise UserError(
                    f"objectives.{name}.prior.leave_out has '{column}', which the prepared folder does not hold"
                    f"{nearest_name(column, known)}: take it out of the list"
                )
        scales = self.manifest.features
        every = names or columns_to_read(self.manifest, self.columns)
        chosen = [str(column) for column in every if column not in prior.leave_out]
        if not chosen and not prior.leave_out:
            raise UserError(
                f"objectives.{name}.prior has no column to read, for levels of ids are for the heads: list others in "
                "data.features, or leave the prior out"
            )
        if not chosen:
            raise UserError(f"objectives.{name}.prior.leave_out leaves no column to read: leave fewer out")
        categories = [column for column in chosen if isinstance(scales.get(column), CategoryScale)]
        before = self._before(name) if prior.method != "column" and prior.space == "entire" else []
        of_shopper, counted = self._of_shopper(name, chosen) if prior.fallback else ([], [])
        return PriorSpec(prior.method, chosen, categories, before, prior.scale, prior.fallback, of_shopper, counted)

    def _of_shopper(self, name: str, columns: list[str]) -> tuple[list[str], list[str]]:
        """The columns that tell of the shopper's past: of `data.behaviour`, and counts of rates by user or by these.

        A rate without a count is that of its parent, or of all, so that its count alone tells; where that is not read,
        the rate does. The second list is that of the counts.
        """
        fallback, data = self.configs[name].fallback, self.config.data
        where = f"objectives.{name}.prior.fallback is '{fallback}'"
        scales = self.manifest.features
        numbers = [column for column in columns if column in scales and not isinstance(scales[column], CategoryScale)]
        if fallback not in numbers:
            raise UserError(f"{where}, which is no number of data.features{nearest_name(str(fallback), numbers)}")
        past = {"user_id", *data.behaviour}
        rates = [rate for rate in data.rates if past & set(rate.by)]
        counted = [column for column in columns if column in {rate.shown for rate in rates}]
        alone = {rate.rate for rate in rates if rate.shown not in columns}
        told = (past | alone) - {rate.rate for rate in rates if rate.shown in columns}
        found = [column for column in columns if column in told | set(counted)]
        if not found or fallback in found:
            raise UserError(
                f"{where}: data.behaviour must name other columns of the prior, those that a new shopper has not"
            )
        return found, counted

    def _before(self, name: str) -> list[str]:
        before = chain(self.objectives, name)
        for other in before:
            if other not in self.configs:
                raise UserError(
                    f"objectives.{name}.prior over the entire space is divided by that of {other}, which has none: add "
                    f"objectives.{other}.prior, or set objectives.{name}.prior.space: given"
                )
        return before

    def _labels(self, name: str, tokens: SplitTokens) -> list[np.ndarray]:
        """Labels of the chain of an objective, its own the last."""
        columns = {"click": tokens.click, "conversion": tokens.conversion, **tokens.labels}
        return [columns[str(self.objectives[each].label)] for each in (*chain(self.objectives, name), name)]

    def _model(
        self, name: str, spec: PriorSpec, rows: Rows, options: dict[str, Any], users: np.ndarray
    ) -> "tuple[Booster | LinearModel, PriorSpec]":
        """A fitted model, and the spec with its method: of `best` the one with the lower log loss on the valid rows."""
        if spec.method == "trees":
            return fit_trees(*rows, **options), spec
        linear = self._linear(name, spec, rows, options, users)
        if spec.method == "linear":
            return linear, spec
        trees, (columns, label) = fit_trees(*rows, **options), options["valid"]
        losses = [cross_entropy(label, log_odds(each, columns), options["valid_weight"]) for each in (trees, linear)]
        better = trees if losses[0] <= losses[1] else linear
        log.info(f"prior of {name}: log loss on valid {losses[0]:.4f} by trees, {losses[1]:.4f} by a linear model")
        return better, replace(spec, method="trees" if better is trees else "linear")

    def _linear(
        self, name: str, spec: PriorSpec, rows: Rows, options: dict[str, Any], users: np.ndarray
    ) -> LinearModel:
        """Fit a linear model with its interactions, and write its replicates where some are asked for.

        `options`: of the fit, those that trees take too.
        """
        prior = self.configs[name]
        pairs = [self._pair(name, spec, pair) for pair in prior.interactions]
        scales = [getattr(self.manifest.features.get(column), "scale", None) for column in spec.columns]
        logs = [position for position, scale in enumerate(scales) if scale == "log"] if pairs else []
        logits = logit_columns(self.manifest, spec.columns)
        own: dict[str, Any] = {
            "interactions": pairs,
            "logs": logs,
            "logits": logits,
            "max_categories": prior.max_categories,
        }
        model = fit_linear(*rows, **(options | own))
        if prior.resamples:
            # Users keep their numbers in all objectives, so that one draw is the same users for clicks and purchases.
            response = resample_response(
                model,
                *rows,
                users,
                resamples=prior.resamples,
                seed=SEED,
                weight_N=options["weight"],
                users=int(self.users.max()) + 1,
            )
            response.write(self.folder / f"{name}{SUFFIX}")
        return model

    def _pair(self, name: str, spec: PriorSpec, pair: Sequence[str]) -> tuple[int, int]:
        """The positions of two columns of an interaction, that of a number first.

        Raises:
            UserError: the prior does not read one of them, or both are categories.
        """
        where = f"objectives.{name}.prior.interactions"
        for column in pair:
            if column not in spec.columns:
                raise UserError(
                    f"{where} has '{column}', which the prior does not read{nearest_name(column, spec.columns)}: add "
                    "it to its columns"
                )
        first, second = sorted(pair, key=lambda column: column in spec.categories)
        if first in spec.categories:
            raise UserError(f"{where} has two categories, {first} and {second}: one of a pair must be a number")
        return spec.columns.index(first), spec.columns.index(second)

    def _log_odds(self, name: str, spec: PriorSpec) -> tuple[PriorSpec, list[np.ndarray]]:
        """Fit one model and write it; its spec, and log-odds of the training rows, as they are and as of new shoppers.

        With `train.feature_dropout` that share of slates is fitted as of a new shopper: trees alone would send what is
        unknown where they saw least of it.
        """
        train = read_columns(self.columns, spec.columns)
        masked = [read_columns(self.masked_columns, spec.columns)] if self.masked_columns else []
        if spec.method == "column":
            return spec, [from_column(table[:, 0], spec.scale) for table in (train, *masked)]
        labels, valid_labels = self._labels(name, self.train.tokens), self._labels(name, self.valid.tokens)
        entire = self.configs[name].space == "entire"
        observed, observed_valid = (
            slice(None) if entire else chain_labels([np.ones(len(each[-1])), *each[:-1]]) == 1
            for each in (labels, valid_labels)
        )
        weight = chosen_weights(self.train.tokens, observed)
        valid = read_columns(self.valid_columns, spec.columns)
        positions = [spec.columns.index(column) for column in spec.categories]
        label = chain_labels(labels)
        tuning = (valid[observed_valid], chain_labels(valid_labels)[observed_valid])
        fitted = np.where(self.untold[:, None], masked[0], train) if masked else train
        rows = fitted[observed], label[observed]
        options: dict[str, Any] = {
            "categories": positions,
            "valid": tuning,
            "seed": SEED,
            "weight": weight,
            "valid_weight": chosen_weights(self.valid.tokens, observed_valid),
        }
        users, tables = self.users[observed], [train, *masked]
        shown = [table[observed] for table in tables] if masked else []
        folded: dict[str, Any] = {
            "folds": self.configs[name].folds,
            "seed": SEED,
            "shown_as": shown,
            "weight": weight,
        }
        model: Booster | LinearModel | Blend
        if spec.method == "blend":
            linear = self._linear(name, spec, rows, options, users)
            model, predictions = fit_blend(fit_trees(*rows, **options), linear, *rows, users, **folded)
            log.info(f"prior of {name}: {model.share:.0%} of its log-odds are the linear model's, the rest the trees'")
        else:
            model, spec = self._model(name, spec, rows, options, users)
            predictions = out_of_fold(model, *rows, users, **folded)
        (self.folder / f"{name}.txt").write_text(to_text(model), "utf-8")
        inside = predictions[-len(tables) :]
        found = inside
        if not entire:
            found = [log_odds(model, table) for table in tables]
            for values, own in zip(found, inside, strict=True):
                values[observed] = own  # elsewhere the label was not observed, and the model never saw it
        if spec.fallback:
            alone = (spec.of_fallback(train)[observed], label[observed])
            self._fall_back(name, spec, alone, weight, list(zip(found, tables, strict=True)))
        return spec, found

    def _refuse_mixed(self, name: str, spec: PriorSpec, untold: np.ndarray) -> None:
        """Two models within one request would not rank its candidates."""
        first = self.train.tokens.first
        counts = np.add.reduceat(untold.astype(np.int64), first[:-1])
        mixed = int(((counts > 0) & (counts < np.diff(first))).sum())
        if mixed:
            raise UserError(
                f"objectives.{name}.prior.fallback: in {mixed:,} training requests all of {', '.join(spec.of_shopper)} "
                "are unknown of some candidates only: add a column of the shopper to data.behaviour, one that is known "
                "of all candidates or of none"
            )

    def _fall_back(
        self,
        name: str,
        spec: PriorSpec,
        rows: Rows,
        weight: np.ndarray | None,
        found: Sequence[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        """Fit the fallback and write it; what was found takes its log-odds where nothing is known of the shopper.

        One slope cannot learn a row by heart, so that the rows need no folds.
        """
        logits = logit_columns(self.manifest, [str(spec.fallback)])
        model = fit_linear(*rows, seed=SEED, weight=weight, logits=logits)
        (self.folder / f"{name}{FALLBACK}").write_text(to_text(model), "utf-8")
        for values, table in found:
            self._refuse_mixed(name, spec, fall_back(spec, model, values, table))
