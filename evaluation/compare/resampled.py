"""Metrics of a run in bootstrap resamples of its requests, from scores_SPLIT.parquet.

Runs on the same requests share the resamples, and all that does not depend on the scores, so they are paired.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from equipoise.common.errors import UserError
from equipoise.common.lists import ListRule
from equipoise.configs.relevance import parse_relevance
from equipoise.evaluation.compare.differences import setting
from equipoise.evaluation.compare.run_records import RunRecord
from equipoise.evaluation.front.axes import Measured
from equipoise.evaluation.front.points import TradeOffScorer
from equipoise.evaluation.metrics.bootstrap import auc_by_counts, request_draws
from equipoise.evaluation.metrics.metric_names import TARGETS, cutoff_of, metrics_of, words
from equipoise.evaluation.metrics.pointwise import CLIP, request_auc, target_weight
from equipoise.evaluation.metrics.score_table import ScoreTable, read_lists, relevance_of
from equipoise.evaluation.metrics.table_lists import TableLists

ROWS = ("request", "item", "click", "conversion")
POINTWISE = ("auc", "gauc", "log_loss", "ne")
SAME = 1e-6
"""How near a metric of the scores must be to that of the evaluation; else they are not of the same scoring."""
LISTS = ("ndcg", "ild", "coverage", "exposure_ratio")


@dataclass(frozen=True)
class Samples:
    """Metrics of one run in every resample.

    Attributes:
        requests: equal for runs on the same rows with the same labels.
        values: flat metric name → float64 (B,).
    """

    requests: str
    values: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class RunScores:
    """What a score file says that depends on the model.

    Attributes:
        pctr: float64 (N,).
        pcvr: float64 (N,), or None.
        delta: adjustment of each list-wise objective, float64 (N,).
        lists: how lists are made of them.
        made: by ω of an operating point the score whose order is that of its lists, which all its metrics share.
    """

    pctr: np.ndarray
    pcvr: np.ndarray | None
    delta: dict[str, np.ndarray]
    lists: ListRule | None = None
    made: dict[tuple[tuple[str, float], ...], np.ndarray] = field(default_factory=dict)

    def relevance(self, formula: str | None) -> np.ndarray | None:
        """As `ScoreTable.relevance`; None where the formula names more than is here."""
        smallest = np.finfo(np.float64).tiny
        logs = {"ctr": np.log(np.maximum(self.pctr, smallest))}
        logs |= {} if self.pcvr is None else {"cvr": np.log(np.maximum(self.pcvr, smallest))}
        try:
            return relevance_of(logs, parse_relevance(formula, list(logs)) if formula else None)
        except ValueError:
            return None


class Resampler:
    """Resamples metrics of many runs on one split.

    Args:
        split: name of it.
        resamples: B.
        seed: of the resamples.
    """

    def __init__(self, split: str, resamples: int, seed: int = 0) -> None:
        self.split, self.resamples, self.seed = split, resamples, seed
        self._rows: dict[str, Rows] = {}

    def __call__(self, run: RunRecord, metrics: Mapping[str, Mapping[str, float]]) -> Samples:
        """The metrics of a run that can be resampled; others are left out.

        Args:
            run: with a score file.
            metrics: flat metric name, which its evaluation has → ω of its operating point (empty for pointwise ones).

        Raises:
            UserError: the score file is missing, cannot be read, or is not that of the evaluation.
        """
        path = run.folder / f"scores_{self.split}.parquet"
        requests, columns = _read(path)
        if requests not in self._rows:
            self._rows[requests] = Rows(path, columns, self.resamples, self.seed)
        rows = self._rows[requests]
        scores = RunScores(
            columns["pctr"].astype(np.float64),
            columns["pcvr"].astype(np.float64) if "pcvr" in columns else None,
            {name.removeprefix("delta_"): values for name, values in columns.items() if name.startswith("delta_")},
            read_lists(path),
        )
        known, resampled = metrics_of(run.evaluations[self.split]), {}
        for metric, omega in metrics.items():
            values = rows.resample(metric, omega, scores, run)
            if values is None:
                continue
            if not math.isclose(values[0], known[metric], rel_tol=SAME, abs_tol=SAME):
                raise UserError(
                    f"{path} gives {words(metric)} {values[0]:.6f}, but the evaluation {known[metric]:.6f}: "
                    f"run `equipoise evaluate {run.folder} --split {self.split}` again"
                )
            resampled[metric] = values[1:]
        return Samples(requests, resampled)


class Rows:
    """The rows of a split and their resamples, shared by all runs that scored them.

    Args:
        path: a score file with them, read whole where ranked lists are measured.
        columns: request, click and conversion of the rows, (N,) each.
        resamples, seed: of the bootstrap.
    """

    def __init__(self, path: Path, columns: Mapping[str, np.ndarray], resamples: int, seed: int) -> None:
        self.path, self.resamples, self.seed = path, resamples, seed
        numbers, self.segment = np.unique(columns["request"], return_inverse=True)
        self.click = columns["click"].astype(np.int8)
        self.both = self.click & columns["conversion"].astype(np.int8)
        self.weight = columns["weight"].astype(np.float64) if "weight" in columns else None
        # The first row of counts takes every request once: the measured value itself.
        draws = [np.ones(len(numbers), np.int64), *request_draws(len(numbers), resamples, seed)]
        self.counts_BR = np.stack(draws).astype(np.float64)
        self._table: ScoreTable | None = None
        self._measures: dict[Measured, TradeOffScorer] = {}

    def resample(self, metric: str, omega: Mapping[str, float], scores: RunScores, run: RunRecord) -> np.ndarray | None:
        """A metric and its resamples, float64 (1 + B,); None where it has none, or the run has no such score."""
        target, _, name = metric.rpartition("/")
        if target in TARGETS:
            return self._pointwise(target, name, scores) if name in POINTWISE else None
        axis, cutoff = name.partition("@")[0], cutoff_of(name)
        if axis not in LISTS or cutoff is None or target.startswith("user_gap/") or set(omega) - set(scores.delta):
            return None
        utility = scores.relevance(setting(run.config, "relevance"))
        if utility is None:
            return None
        measured = _measured(run, cutoff)
        measure = self._measures.get(measured)
        if measure is None:
            self._table = self._table or ScoreTable.load(self.path)
            try:
                measure = TradeOffScorer(self._table, measured, self.resamples, self.seed)
            except UserError:  # the table was written without an attribute that the objectives read now
                return None
            self._measures[measured] = measure
        if axis not in measure.axes:
            return None
        assert self._table is not None, "the measure was made of it"
        point = tuple(sorted(omega.items()))
        if point not in scores.made:
            try:
                scores.made[point] = TableLists(self._table, scores.delta, scores.lists)(utility, omega)
            except UserError:  # nor without an attribute by which this run makes its lists
                return None
        return measure.axes_of(scores.made[point], [axis])[0]

    def _pointwise(self, target: str, metric: str, scores: RunScores) -> np.ndarray | None:
        if target != "ctr" and scores.pcvr is None:
            return None
        label, probability, segment, weight = self.click, scores.pctr, self.segment, self.weight
        if target == "ctcvr":
            assert scores.pcvr is not None
            label, probability = self.both, scores.pctr * scores.pcvr
        if target == "cvr":
            assert scores.pcvr is not None
            clicked = self.click == 1
            label, probability, segment = self.both[clicked], scores.pcvr[clicked], segment[clicked]
            weight = target_weight(target, self.click, weight)
        if metric == "auc":
            return auc_by_counts(label, probability, segment, self.counts_BR, weight)
        if metric == "gauc":
            return self._gauc(label, probability, segment, weight)
        return self._log_loss(label, probability, segment, weight, normalized=metric == "ne")

    def _gauc(self, label: np.ndarray, score: np.ndarray, segment: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        aucs, sizes = request_auc(label, score, segment, weight)
        numbers, held = np.unique(segment), np.isfinite(aucs)
        counts_BR = self.counts_BR[:, numbers[held]]
        return _ratio(counts_BR @ (aucs[held] * sizes[held]), counts_BR @ sizes[held].astype(np.float64))

    def _log_loss(
        self,
        label: np.ndarray,
        probability: np.ndarray,
        segment: np.ndarray,
        weight: np.ndarray | None,
        normalized: bool,
    ) -> np.ndarray:
        requests = self.counts_BR.shape[1]
        clipped = np.clip(probability, CLIP, 1 - CLIP)
        losses = -np.where(label == 1, np.log(clipped), np.log1p(-clipped))
        mass = np.ones(len(label)) if weight is None else weight
        rows_B = self.counts_BR @ np.bincount(segment, mass, requests)
        mean_loss_B = _ratio(self.counts_BR @ np.bincount(segment, losses * mass, requests), rows_B)
        if not normalized:
            return mean_loss_B
        rate = _ratio(self.counts_BR @ np.bincount(segment, label * mass, requests), rows_B)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        return np.where((rate > 0) & (rate < 1), _ratio(mean_loss_B, entropy), np.nan)


def _measured(run: RunRecord, cutoff: int) -> Measured:
    """What the ranked lists of a run are measured on, as in `equipoise evaluate`."""
    path = tuple(setting(run.config, "objectives.diversity.attributes") or ())
    category = setting(run.config, "objectives.coverage.attribute") or (path[-1] if path else None)
    return Measured(cutoff, path, category, setting(run.config, "objectives.fairness.attribute"))


def _read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """What tells the rows of a score file from others, and its columns of labels and scores."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run `equipoise evaluate {path.parent}` again")
    try:
        file = pq.ParquetFile(path)
        names = [name for name in file.schema_arrow.names if _wanted(name)]
        table = file.read(names, use_threads=False)
        columns = {name: table.column(name).to_numpy() for name in names}
        digest = hashlib.blake2b(digest_size=16)
        for name in (name for name in (*ROWS, "weight") if name in columns):
            digest.update(np.ascontiguousarray(columns[name]).tobytes())
        _ = columns["pctr"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read as scores ({error}): evaluate {path.parent} again") from error
    return digest.hexdigest(), columns


def _wanted(name: str) -> bool:
    return name in (*ROWS, "weight", "pctr", "pcvr") or name.startswith("delta_")


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
