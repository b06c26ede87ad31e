"""The scores of a split of a run: made now, or taken from the run folder where they are of the same model and rows."""

import hashlib
import json
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.common.calibration import with_calibration
from equipoise.common.console import new_console
from equipoise.common.hashing import file_hash
from equipoise.common.lists import ListRule
from equipoise.common.progress import ProgressBar
from equipoise.configs.schema import RunConfig
from equipoise.data.labels import KEPT
from equipoise.data.manifest import FILE_NAME, Manifest
from equipoise.data.remote_copy import bring
from equipoise.data.slate_set import SlateSet
from equipoise.evaluation.metrics.score_table import ScoreTable, read_origin
from equipoise.modeling.adapter_store import adapters_hash
from equipoise.modeling.model import SlateModel
from equipoise.modeling.precision import computing, settle_precision
from equipoise.modeling.run_model import load_run_model
from equipoise.train.accelerate_setup import make_accelerator
from equipoise.train.assemble import DataParts, open_data
from equipoise.train.best_adapters import run_adapters, warn_unfinished, which_adapters
from equipoise.train.calibration import read_calibrations
from equipoise.train.data_record import refuse_other_data
from equipoise.train.list_fit import run_rule
from equipoise.train.objectives.base import Objective
from equipoise.train.objectives.registry import build_objectives
from equipoise.train.out_of_memory import memory_advice
from equipoise.train.scoring import score_slates
from equipoise.train.token_caches import find_tokens
from equipoise.train.validation import labels_and_predictions, spread_rows
from equipoise.train.world import World

log = logging.getLogger(__name__)


class SplitScores:
    """Scores splits of a run, loading its model once, and only if something is to be scored.

    Args:
        config: of the run.
        run: its folder.

    Raises:
        UserError: the run is unfinished, or its data are not prepared.
    """

    def __init__(self, config: RunConfig, run: Path) -> None:
        config = settle_precision(config)
        bring(config.data)
        self.adapters = run_adapters(run, config)
        warn_unfinished(run)
        refuse_other_data(run, Manifest.read(config.data.folder), config.data.folder)
        self.calibrations = read_calibrations(run, self.adapters)
        self.config, self.run = config, run
        self.lists = run_rule(config, run)
        self.tokens = find_tokens(config)
        self.accelerator = make_accelerator(config)
        self.world = World()
        self.objectives = build_objectives(config.objectives)
        self._data: dict[str, DataParts] = {}

    def path(self, split: str) -> Path:
        """Where the score table of a split lies."""
        return self.run / f"scores_{split}.parquet"

    @cached_property
    def model(self) -> SlateModel:
        """The trained model on this process's device."""
        log.info(which_adapters(self.adapters))
        with memory_advice(self.config, "scoring"):
            return load_run_model(self.config, self.adapters).to(self.accelerator.device)

    def data(self, split: str) -> DataParts:
        """A split with what stands beside its texts, opened once."""
        if split not in self._data:
            self._data[split] = open_data(self.config, split, self.objectives, self.tokens, self.run)
            self.objectives = self._data[split].objectives
        return self._data[split]

    def rows(self, split: str, requests: int | None = None) -> tuple[SlateSet, list[int]]:
        """The slates of a split, and which are scored: `requests`, or `evaluate.max_requests`, spread over it."""
        data = self.data(split)
        return data.slates, spread_rows(len(data.slates), requests or self.config.evaluate.max_requests)

    def score(self, split: str, reuse: bool = False, requests: int | None = None) -> ScoreTable | None:
        """The score table of a split, also written to the run folder; None on all processes but the first.

        Args:
            split: its name.
            reuse: take the table on disk if it was made from the same adapters, data, rows and settings.
            requests: how many are scored; None: `evaluate.max_requests`.

        Raises:
            UserError: the run is unfinished, does not fit its data, or memory runs out.
        """
        slates, rows = self.rows(split, requests)
        origin = self.origin(split, rows)
        path, first = self.path(split), self.world.rank == 0
        if self.world.gather(reuse and first and read_origin(path) == origin)[0]:
            return ScoreTable.load(path) if first else None
        table = self.score_rows(slates, rows, f"scoring {split}")
        if table is not None:
            table.save(path, origin)
        return table

    def score_rows(self, slates: SlateSet, rows: Sequence[int], title: str) -> ScoreTable | None:
        """The score table of some slates, written nowhere; None on all processes but the first."""
        first = self.world.rank == 0
        console = new_console(quiet=not first)
        model = self.model
        bar = ProgressBar(title, len(rows), "slates", console=console, transient=False)
        precision = computing(self.config.train.precision, self.accelerator.device)
        with memory_advice(self.config, "scoring"), bar, precision:
            scores = score_slates(
                model,
                slates,
                rows,
                max_tokens=self.config.evaluate.max_tokens,
                max_row=self.config.tokens.max_row,
                chunk_tokens=self.config.evaluate.max_tokens,
                device=self.accelerator.device,
                world=self.world,
                progress=bar.advance,
            )
        scores = with_calibration(scores, self.calibrations)
        return score_table(self.config, self.objectives, slates, rows, scores, self.lists) if first else None

    def origin(self, split: str, rows: Sequence[int]) -> dict[str, Any]:
        """What determines the score table of some rows of a split: equal origins, equal tables."""
        config = self.config.model_dump(mode="json")
        settings = {name: config[name] for name in ("tokens", "backbone", "lora", "objectives")}
        settings |= {"relevance": config["relevance"]} if config["relevance"] else {}
        if self.calibrations:
            settings["calibration"] = {name: each.to_json() for name, each in self.calibrations.items()}
        settings |= {"lists": self.lists.to_json()} if self.lists else {}
        settings |= {"weights": True} if self.config.evaluates_by_weights else {}
        kept = {name: config["data"][name] for name in ("fields", "user_groups")}
        return {
            "split": split,
            "rows": _digest(list(rows)),
            "adapters": adapters_hash(self.adapters),
            "data": file_hash(self.config.data.folder / FILE_NAME),
            "settings": _digest({**settings, **kept, "precision": config["train"]["precision"]}),
        }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def score_table(
    config: RunConfig,
    objectives: dict[str, Objective],
    slates: SlateSet,
    rows: Sequence[int],
    scores: dict[str, np.ndarray],
    lists: ListRule | None = None,
) -> ScoreTable:
    """Join the scores with what the slates know of users, fields and items; `lists`: how lists are made of them."""
    records = slates.rows.select(list(rows))
    counts = [len(items) for items in records["item"]]
    request, order = _requests_together(records["request_id"], counts)

    def per_row(values: Sequence) -> np.ndarray:
        return np.repeat(np.array(values, dtype=object), counts)

    listwise = [name for name, objective in objectives.items() if objective.kind == "listwise"]
    names = {name for objective in objectives.values() for name in objective.attributes}
    names |= {*own_attributes(config), *(lists.attributes() if lists else ())}
    labels, predictions = labels_and_predictions(scores, objectives)
    weight = slates.tokens.weight if config.evaluates_by_weights else None
    fields = {name: np.concatenate(records[f"field_{name}"]).astype(np.float64) for name in config.data.fields}
    return ScoreTable(
        request=request[order],
        item=scores["item"][order],
        user=per_row(records["user_id"])[order],
        click=scores["click"][order],
        conversion=scores["conversion"][order],
        pctr=_probability(scores["ctr"])[order],
        pcvr=_probability(scores["cvr"])[order] if "cvr" in scores else None,
        delta={name: scores[name][order] for name in listwise},
        fields={name: values[order] for name, values in fields.items()},
        user_groups={name: per_row(records[f"user_{name}"])[order] for name in config.data.user_groups},
        items={name: slates.items.values(name) for name in sorted(names)},
        predictions={name: values[order] for name, values in predictions.items()},
        labels={name: values[order] for name, values in labels.items() if name not in KEPT},
        exponents=config.relevance_exponents() if config.relevance else None,
        weight=None if weight is None else np.asarray(weight[slates.tokens.impressions(rows)], np.float64)[order],
        lists=lists,
    )


def _requests_together(request_ids: Sequence[str], counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The number of each candidate's request, and the order in which parts of a cut request come together; (N,)."""
    request = np.repeat(np.unique(np.array(request_ids), return_inverse=True)[1], counts)
    return request, np.argsort(request, kind="stable")


def table_positions(slates: SlateSet, rows: Sequence[int]) -> np.ndarray:
    """Of each row of the score table of some slates its position among the split's impressions, int64 (N,)."""
    first, positions = slates.tokens.first, slates.tokens.impressions(rows)
    chosen = slates.rows.select(list(rows))["request_id"]
    order = _requests_together(chosen, [int(first[row + 1] - first[row]) for row in rows])[1]
    return positions[order]


def own_attributes(config: RunConfig) -> list[str]:
    """Item attributes that measures of a user's own objectives read."""
    specs = config.objectives.specs().values()
    own = [spec for spec in specs if spec.axis is not None and spec.axis.gain is not None]
    return [name for spec in own if spec.axis for name in spec.axis.attributes(config.objectives.options(spec.name))]


def _probability(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))
