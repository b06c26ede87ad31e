"""Boosted trees and logistic regression as baselines of a run, on the columns of its own `data.features`.

They are fitted on all impressions of the train split, tuned on the valid split, and kept in RUN/baselines, so that a
second evaluation of the same data fits nothing.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.common.atomic import atomic_dir
from equipoise.common.console import new_console
from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.data.features import CategoryScale
from equipoise.data.slate_set import SlateSet
from equipoise.data.token_cache import SplitTokens
from equipoise.modeling.simple_models import fit_linear, fit_trees, from_text, log_odds, to_text
from equipoise.train.priors import read_columns

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
        train, valid: splits of its data.
        targets: "ctr" and, for a run with cvr, "ctcvr".
    """

    def __init__(
        self, config: RunConfig, run: Path, train: SlateSet, valid: SlateSet | None, targets: Sequence[str]
    ) -> None:
        self.config, self.run, self.train, self.valid, self.targets = config, run, train, valid, tuple(targets)
        scales = train.manifest.features
        self.columns = list(columns_of(train.tokens))
        self.categories = [
            position for position, name in enumerate(self.columns) if isinstance(scales.get(name), CategoryScale)
        ]

    def log_odds(self, tokens: SplitTokens, positions: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """Target → baseline → log-odds, float64 (N,), of impressions of a split.

        Without a column, or where one cannot be fitted (LightGBM is not installed, one class only), it is left out,
        which is said.

        Args:
            tokens: of the split.
            positions: of the impressions among those of the split, int64 (N,).
        """
        kinds = self.config.evaluate.baselines
        if not kinds:
            return {}
        if not self.columns:
            log.info("no trees and no linear model beside this run: data.features lists no column for them")
            return {}
        texts = self._texts()
        columns = read_columns(columns_of(tokens), self.columns, positions)
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

    def _key(self) -> str:
        manifest = self.train.manifest
        splits = {name: split.model_dump(mode="json") for name, split in manifest.splits.items()}
        described: list[Any] = [manifest.hashes, splits, self.columns, self.categories, list(self.targets), SEED]
        described.append(list(self.config.evaluate.baselines))
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    def _fit(self) -> dict[str, str]:
        positions = _spread_positions(self.train.tokens, MOST_ROWS)
        columns = read_columns(columns_of(self.train.tokens), self.columns, positions)
        valid = None
        if self.valid is not None:
            every = _spread_positions(self.valid.tokens, MOST_ROWS)
            valid = (read_columns(columns_of(self.valid.tokens), self.columns, every), every)
        texts = {}
        for target in self.targets:
            label = target_label(self.train.tokens, target)[positions]
            tuned = None if valid is None else (valid[0], target_label(self.valid.tokens, target)[valid[1]])  # type: ignore[union-attr]
            for kind in self.config.evaluate.baselines:
                try:
                    model = FITS[kind](columns, label, categories=self.categories, valid=tuned, seed=SEED)
                except UserError as error:
                    log.info(f"no {kind} beside {target}: {error}")
                    continue
                texts[f"{kind}.{target}"] = to_text(model)
        return texts


def columns_of(tokens: SplitTokens) -> dict[str, np.ndarray]:
    """All columns that simple models may read of a split: features, and what is computed from earlier events."""
    return {**tokens.features, **tokens.computed}


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
    return np.concatenate([np.arange(tokens.first[row], tokens.first[row + 1]) for row in rows])
