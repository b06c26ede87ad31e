"""`equipoise evaluate RUN`: score a split once, then measure everything from the score table.

Runs in one process, or in many under `equipoise launch evaluate RUN`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from equipoise.common.logs import rendered
from equipoise.configs.load import read_run_config
from equipoise.configs.objective_spec import OwnAxis
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import Manifest
from equipoise.data.slate_set import SlateSet
from equipoise.evaluation.baselines import TrainCounts
from equipoise.evaluation.example_slates import examples_of
from equipoise.evaluation.first_by_prior import first_by_prior, first_sentence
from equipoise.evaluation.fitted_baselines import FittedBaselines
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.positions import position_note, position_report
from equipoise.evaluation.recall.recall_of_run import measure_recall, recall_table, sentences
from equipoise.evaluation.report import evaluate_table, json_ready, write_json
from equipoise.evaluation.report_tables import report_parts
from equipoise.evaluation.rivals import PRIOR
from equipoise.evaluation.slices import slice_metrics, slices_of
from equipoise.evaluation.split_scores import SplitScores, table_positions
from equipoise.train.data_record import FILE_NAME as DATA_RECORD
from equipoise.train.data_record import write_data_record
from equipoise.train.trackers import mlflow_run, wandb_run

log = logging.getLogger(__name__)


def evaluate_run(folder: str | Path, split: str = "test", overrides: Sequence[str] = ()) -> dict[str, Any] | None:
    """Score a split of a run's data, write `scores_`, `evaluation_` and `examples_SPLIT`, and log the report.

    The evaluation of a run with the objective recall has its recall too.

    Args:
        folder: run folder that `train` wrote.
        split: `valid` or `test`.
        overrides: settings to change, as `key.sub=value`.

    Returns:
        The report as plain JSON values, as in `evaluation_SPLIT.json`; None on all processes but the first.

    Raises:
        UserError: the run is unfinished, or does not fit its data.
    """
    folder = Path(folder)
    config = read_run_config(folder, overrides)
    scores = SplitScores(config, folder)
    table = scores.score(split)
    if table is None:
        return None
    fitted = fitted_rivals(scores, split, table)
    report = measure(config, table, fitted)
    of_prior = next((fitted[name][PRIOR] for name in ("ctcvr", "ctr") if PRIOR in fitted.get(name, {})), None)
    if of_prior is not None and config.evaluate.cutoffs:
        cutoff = max(config.evaluate.cutoffs)
        report["first"] = first_by_prior(table, of_prior, cutoff, config.seed)
        report["notes"] += [first_sentence(report["first"], cutoff)] if report["first"] else []
    report["slices"] = slice_metrics(table, slices_of(config.data.folder, table))
    if (stats := Manifest.read(config.data.folder).position) is not None:
        slates, rows = scores.rows(split)
        assert slates.tokens.examination is not None, "prepared with places"
        examination_N = np.asarray(slates.tokens.examination[table_positions(slates, rows)], np.float64)
        report["position"] = position_report(table, examination_N, stats)
        report["notes"].append(position_note(report["position"]))
    if config.objectives.recall is not None:
        report["recall"] = measure_recall(scores, split).report()
    write_json(report, folder / f"evaluation_{split}.json")
    write_json(examples_of(config, split, table), folder / f"examples_{split}.json")
    if not (folder / DATA_RECORD).exists():  # a run that was trained before there was one
        write_data_record(Manifest.read(config.data.folder), config.data.folder, folder)
    for part in report_parts(report):
        log.info(rendered(part))
    if "recall" in report:
        log.info(rendered(recall_table(report["recall"])))
        log.info("\n".join(sentences(report["recall"])))
    log.info(f"scores: {scores.path(split)}   report: {folder / f'evaluation_{split}.json'}")
    plain = json_ready(report)
    hint = wandb_run.tell_evaluation(config, folder, split, plain)
    mlflow_run.tell_evaluation(config, folder, split, report)
    if hint:
        log.info(f"W&B was offline; send the evaluation with: {hint}")
    return plain


def fitted_rivals(scores: SplitScores, split: str, table: ScoreTable) -> dict[str, dict[str, np.ndarray]]:
    """Target → trees, linear, and the run's prior → probabilities of the rows of a split's score table, (N,)."""
    config = scores.config
    slates, rows = scores.rows(split)
    positions = table_positions(slates, rows)
    targets = ["ctr", *(["ctcvr"] if table.pcvr is not None else [])]
    beside = scores.data(split).beside
    manifest = Manifest.read(config.data.folder)
    parts = (manifest, scores.tokens, beside.priors, beside.vectors)
    found = FittedBaselines(config, scores.run, *parts, targets, split).log_odds(positions)
    probabilities = {
        target: {name: 1 / (1 + np.exp(-logit)) for name, logit in models.items()} for target, models in found.items()
    }
    for target, probability in prior_probabilities(config, slates, positions).items():
        probabilities[target] = {PRIOR: probability, **probabilities.get(target, {})}
    return probabilities


def prior_probabilities(config: RunConfig, slates: SlateSet, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Target → what the run's priors alone say of some impressions of a split, (N,); nothing of a run without."""
    if slates.prior is None:
        return {}
    names = [name for name, options in config.objectives.active().items() if getattr(options, "prior", None)]
    log_odds = np.asarray(slates.prior[positions], np.float64)
    alone = {name: 1 / (1 + np.exp(-log_odds[:, index])) for index, name in enumerate(names)}
    found = {"ctr": alone["ctr"]} if "ctr" in alone else {}
    return found | ({"ctcvr": alone["ctr"] * alone["cvr"]} if {"ctr", "cvr"} <= alone.keys() else {})


def measure(config: RunConfig, table: ScoreTable, fitted: Mapping[str, Mapping[str, np.ndarray]] | None = None) -> dict:
    """All metrics of a score table as the run is configured, beside the baselines of its train split.

    `fitted`: as `evaluate_table` takes it.
    """
    attributes = ranking_attributes(config)
    return evaluate_table(
        table,
        train_counts(config),
        cutoffs=config.evaluate.cutoffs,
        omegas=config.evaluate.omegas,
        field_baselines=config.evaluate.field_baselines,
        diversity_attributes=attributes.diversity,
        category_attribute=attributes.category,
        provider_attribute=attributes.provider,
        seed=config.seed,
        specs=config.objectives.specs(),
        own_axes=attributes.own,
        fitted=fitted,
        bought_before=config.evaluate.bought_before,
    )


@dataclass(frozen=True)
class RankingAttributes:
    """Item attributes that the metrics of ranked lists read: a path for ILD, one for coverage, one for exposure."""

    diversity: tuple[str, ...]
    category: str | None
    provider: str | None
    own: tuple[OwnAxis, ...] = ()


def ranking_attributes(config: RunConfig) -> RankingAttributes:
    """What the list-wise objectives of a run read; coverage falls to the finest attribute of the diversity path."""
    read: dict[str, tuple[str, ...]] = {}
    own: dict[str, OwnAxis] = {}
    for name, spec in config.objectives.specs().items():
        if spec.axis is None or spec.kind != "listwise":
            continue
        attributes = spec.axis.attributes(config.objectives.options(name))
        read.setdefault(spec.axis.name, attributes)
        if spec.axis.gain is not None:
            own.setdefault(spec.axis.name, OwnAxis(spec.axis.name, attributes, spec.axis.gain))
    path = read.get("ild", ())
    category = next(iter(read.get("coverage", path[-1:])), None)
    return RankingAttributes(path, category, next(iter(read.get("exposure_ratio", ())), None), tuple(own.values()))


def train_counts(config: RunConfig) -> TrainCounts:
    """Clicks and conversions per item and user of the train split, for the baselines, by `data.weights`."""
    weighed = config.data.weights is not None
    columns = ["user_id", "item", "click", "conversion", *(["weight"] if weighed else [])]
    files = sorted((config.data.folder / "slates").glob("train-*.parquet"))
    tables = [pq.read_table(file, columns=columns) for file in files]
    users = [table.column("user_id").to_pylist() for table in tables]
    counts = [len(items) for table in tables for items in table.column("item").to_pylist()]

    def flat(name: str) -> np.ndarray:
        return np.concatenate([chunk.flatten() for table in tables for chunk in table.column(name).chunks])

    user = np.repeat(np.array([u for part in users for u in part], dtype=object), counts)
    weight = flat("weight") if weighed else None
    return TrainCounts.count(user, flat("item"), flat("click"), flat("conversion"), weight)
