"""Boosted trees and logistic regression as baselines of a run, on every column that its priors may read.

They are fitted on all impressions of the train split, tuned on the valid split, and kept in RUN/baselines, so that a
second evaluation of the same data fits nothing. A prior of the run that is the same model is not fitted again.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from equipoise.common.atomic import atomic_dir
from equipoise.common.console import new_console
from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.data.features import CategoryScale
from equipoise.data.manifest import Manifest
from equipoise.data.token_cache import SplitTokens, TokenCache
from equipoise.modeling.linear_model import MOST_CATEGORIES
from equipoise.modeling.priors import Priors
from equipoise.modeling.simple_models import TRIED, Blend, fit_linear, fit_trees, from_text, log_odds, to_text
from equipoise.train.prior_columns import chosen_weights, columns_to_read, logit_columns, read_columns, split_columns
from equipoise.train.prior_fit import prior_configs
from equipoise.train.thing_vectors import ThingVectors

log = logging.getLogger(__name__)

FOLDER, RECORD = "baselines", "baselines.json"
MOST_ROWS = 2_000_000
"""Training impressions that are read; of more, whole slates evenly spread over the split."""
FITS: dict[str, Callable[..., Any]] = {"trees": fit_trees, "linear": fit_linear}
SEED = 0


class FittedBaselines:
    """The fitted baselines of a run.

    Args:
        config: of the run.
        run: its folder, where they are kept.
        manifest, tokens: of its data.
        priors: the run's own.
        vectors: of things; None where nothing is compared.
        targets: "ctr" and, for a run with cvr, "ctcvr".
        split: that is scored.
    """

    def __init__(
        self,
        config: RunConfig,
        run: Path,
        manifest: Manifest,
        tokens: TokenCache,
        priors: Priors,
        vectors: ThingVectors | None,
        targets: Sequence[str],
        split: str,
    ) -> None:
        self.config, self.run, self.manifest, self.tokens, self.targets = config, run, manifest, tokens, tuple(targets)
        self.priors, self.vectors = priors, vectors
        self.scored = split_columns(manifest, tokens, split, vectors)
        self.columns = columns_to_read(manifest, self.scored)
        self.categories = [name for name in self.columns if isinstance(manifest.features.get(name), CategoryScale)]

    def log_odds(self, positions: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """Target → baseline → log-odds, float64 (N,), of impressions of a split.

        Without a column, or where one cannot be fitted (LightGBM is not installed, one class only), it is left out,
        which is said.

        Args:
            positions: of the impressions among those of the split, int64 (N,).
        """
        kinds = self.config.evaluate.baselines
        if not kinds:
            return {}
        if not self.columns:
            log.info("no trees and no linear model beside this run: data.features lists no column for them")
            return {}
        texts = self._texts()
        columns = read_columns(self.scored, self.columns, positions)
        found: dict[str, dict[str, np.ndarray]] = {target: {} for target in self.targets}
        for target in self.targets:
            for kind in kinds:
                if f"{kind}.{target}" in texts:
                    found[target][kind] = log_odds(from_text(texts[f"{kind}.{target}"]), columns)
        return found

    def _texts(self) -> dict[str, str]:
        """The models by `KIND.TARGET`, as they lie in the run folder or newly fitted."""
        folder, key = self.run / FOLDER, self._key()
        try:
            if json.loads((folder / RECORD).read_text("utf-8"))["key"] == key:
                return {path.stem: path.read_text("utf-8") for path in folder.glob("*.txt")}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        with new_console().status("fitting trees and linear models on the run's columns"):
            texts = self._fit()
        with atomic_dir(folder) as building:
            for name, text in texts.items():
                (building / f"{name}.txt").write_text(text, "utf-8")
            (building / RECORD).write_text(json.dumps({"key": key, "columns": self.columns}, indent=2) + "\n", "utf-8")
        return texts

    def _table(self, split: str, positions: np.ndarray) -> np.ndarray:
        """The columns of some impressions of a split, float32 (N, F)."""
        return read_columns(split_columns(self.manifest, self.tokens, split, self.vectors), self.columns, positions)

    def _key(self) -> str:
        splits = {name: split.model_dump(mode="json") for name, split in self.manifest.splits.items()}
        described: list[Any] = [self.manifest.hashes, splits, self.columns, self.categories, list(self.targets), SEED]
        described += [list(self.config.evaluate.baselines), self.vectors.folder.name if self.vectors else None, TRIED]
        described += [bool(self.config.train.feature_dropout), logit_columns(self.manifest, self.columns)]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    def _fit(self) -> dict[str, str]:
        texts = {}
        unfitted = []
        for target in self.targets:
            for kind in self.config.evaluate.baselines:
                text = self._fitted_as_prior(kind, target)
                if text is not None:
                    texts[f"{kind}.{target}"] = text
                else:
                    unfitted.append((kind, target))
        return texts | (self._newly_fitted(unfitted) if unfitted else {})

    def _fitted_as_prior(self, kind: str, target: str) -> str | None:
        """The text of the prior that is this very model: of the same kind, columns, label and rows."""
        name, before = {"ctr": ("ctr", []), "ctcvr": ("cvr", ["ctr"])}[target]
        spec = self.priors.specs.get(name)
        if self.config.train.feature_dropout:  # a share of the prior's rows told nothing
            return None
        if spec is None or (spec.columns, spec.before) != (self.columns, before):
            return None
        if spec.method not in (kind, "blend") or (kind == "linear" and self._reads_otherwise(name)):
            return None
        if int(self.tokens.split("train").first[-1]) > MOST_ROWS:
            return None
        text = (self.priors.folder / f"{name}.txt").read_text("utf-8")
        if spec.method != "blend":
            return text
        blend = cast(Blend, from_text(text))
        return to_text(blend.trees[0] if kind == "trees" else blend.linear)

    def _reads_otherwise(self, name: str) -> bool:
        """Whether the regression in a prior reads its columns in another way than that of the baseline."""
        prior = prior_configs(self.config).get(name)
        return prior is None or bool(prior.interactions) or prior.max_categories != MOST_CATEGORIES

    def _newly_fitted(self, wanted: Sequence[tuple[str, str]]) -> dict[str, str]:
        train = self.tokens.split("train")
        positions = _spread_positions(train, MOST_ROWS)
        columns = self._table("train", positions)
        valid = None
        if "valid" in self.manifest.splits:
            every = _spread_positions(self.tokens.split("valid"), MOST_ROWS)
            valid = (self._table("valid", every), every)
        weights = {"weight": chosen_weights(train, positions)}
        categories = [self.columns.index(name) for name in self.categories]
        texts = {}
        for kind, target in wanted:
            label = target_label(train, target)[positions]
            tuned = None
            if valid is not None:
                judged = self.tokens.split("valid")
                tuned = (valid[0], target_label(judged, target)[valid[1]])
                weights["valid_weight"] = chosen_weights(judged, valid[1])
            try:
                own = {"logits": logit_columns(self.manifest, self.columns)} if kind == "linear" else {}
                model = FITS[kind](columns, label, categories=categories, valid=tuned, seed=SEED, **weights, **own)
            except UserError as error:
                log.info(f"no {kind} beside {target}: {error}")
                continue
            texts[f"{kind}.{target}"] = to_text(model)
        return texts


def target_label(tokens: SplitTokens, target: str) -> np.ndarray:
    """0 or 1 of every impression of a split, int8 (I,): click, or for ctcvr click and conversion."""
    click = np.asarray(tokens.click)
    return click if target == "ctr" else click * np.asarray(tokens.conversion)


def _spread_positions(tokens: SplitTokens, most: int) -> np.ndarray:
    count = len(tokens)
    impressions = int(tokens.first[-1])
    if impressions <= most:
        return np.arange(impressions)
    rows = np.unique(np.linspace(0, count - 1, max(1, count * most // impressions)).round().astype(int))
    return tokens.impressions(rows)
