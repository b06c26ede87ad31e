"""Figures of systems that scored the same rows: metrics, slices, and paired differences to trees, pooled over seeds.

A system may have scores of several seeds: its metric is the mean over them, and so it is in every resample.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.figures import figure
from equipoise.evaluation.metrics.bootstrap import (
    interval,
    resampled_auc,
    resampled_gauc,
    resampled_mean,
    resampled_ne,
)
from equipoise.evaluation.metrics.pointwise import (
    auc,
    calibration_error,
    gauc,
    normalized_entropy,
    request_auc,
    uauc,
)
from equipoise.evaluation.metrics.ranking import rank_requests, request_ndcg

CUTOFF, RESAMPLES, SEED = 10, 200, 0
METRICS = {"ctr": ("auc", "gauc", "uauc", "ne", "ece"), "ctcvr": ("auc", "gauc", "ne")}
OF_PROBABILITIES = ("ne", "ece")
Scores = list[np.ndarray]
"""Of one system, an array (N,) for each seed."""


@dataclass
class Systems:
    """What several systems said of the same N rows.

    Attributes:
        request, user: of each row.
        labels: target → 0 or 1.
        gain: of each row, for NDCG.
        scores: target → system → scores by seed.
        rankings: systems whose scores are no probabilities.
        reference: the system that others are compared with.
        slices: name → rows in it, bool (N,); measured in AUC of clicks.
    """

    request: np.ndarray
    user: np.ndarray
    labels: dict[str, np.ndarray]
    gain: np.ndarray
    scores: dict[str, dict[str, Scores]]
    rankings: frozenset[str] = frozenset({"popularity", "bought_before"})
    reference: str = "trees"
    slices: dict[str, np.ndarray] = field(default_factory=dict)


def quality_figures(systems: Systems, prefix: str = "", resamples: int = RESAMPLES) -> list[dict[str, Any]]:
    """All figures of a data set, its names behind `prefix`."""
    found: list[dict[str, Any]] = []
    for target, metrics in METRICS.items():
        if target not in systems.scores:
            continue
        for metric in metrics:
            suited = {
                name: scores
                for name, scores in systems.scores[target].items()
                if metric not in OF_PROBABILITIES or name not in systems.rankings
            }
            measure = measures(systems, systems.labels[target], resamples)[metric]
            found += _with_differences(suited, f"{target}_{metric}", measure, prefix, systems.reference)
    clicks = systems.scores["ctr"]
    found += _with_differences(clicks, f"ndcg{CUTOFF}", _ndcg(systems, resamples), prefix, systems.reference)
    for name, rows in systems.slices.items():
        part = _part_of(systems, rows)
        if not 0 < part.labels["ctr"].sum() < len(part.request):
            continue
        measure = measures(part, part.labels["ctr"], resamples)["auc"]
        found += _with_differences(
            part.scores["ctr"], f"{name}_auc", measure, prefix, systems.reference, rows=int(rows.sum())
        )
    return found


Measure = Callable[[np.ndarray], tuple[float, np.ndarray | None]]
"""From scores (N,) to the metric, and its value in every resample; None where it is not resampled."""


def measures(systems: Systems, label: np.ndarray, resamples: int) -> dict[str, Measure]:
    """How each metric but NDCG is measured of scores of a target with these labels (N,)."""
    request, users = systems.request, np.unique(systems.user, return_inverse=True)[1]
    return {
        "auc": lambda s: (auc(label, s), resampled_auc(label, s, request, resamples, SEED)),
        "gauc": lambda s: (gauc(label, s, request), resampled_gauc(label, s, request, resamples, SEED)),
        "uauc": lambda s: (uauc(label, s, users), resampled_mean(request_auc(label, s, users)[0], resamples, SEED)),
        "ne": lambda s: (normalized_entropy(label, s), resampled_ne(label, s, request, resamples, SEED)),
        "ece": lambda s: (calibration_error(label, s), None),
    }


def _ndcg(systems: Systems, resamples: int) -> Measure:
    def measure(score: np.ndarray) -> tuple[float, np.ndarray]:
        each = request_ndcg(rank_requests(systems.request, score), systems.gain, CUTOFF)
        return float(np.nanmean(each)), resampled_mean(each, resamples, SEED)

    return measure


def _with_differences(
    systems: Mapping[str, Sequence[np.ndarray]],
    name: str,
    measure: Measure,
    prefix: str,
    against: str,
    **circumstances: Any,
) -> list[dict[str, Any]]:
    """SYSTEM_NAME of each system, and …_diff, …_low, …_high of all but the reference."""
    measured = {}
    for system, scores in systems.items():
        each = [measure(score) for score in scores]
        samples = [resampled for _, resampled in each if resampled is not None]
        values = [value for value, _ in each]
        measured[system] = (float(np.mean(values)), np.mean(samples, axis=0) if samples else None, values)
    reference = measured.get(against)
    found = []
    for system, (value, sampled, values) in measured.items():
        seeds = {"seeds": [round(one, 5) for one in values]} if len(values) > 1 else {}
        found.append(figure(f"{prefix}{system}_{name}", value, "", **circumstances, **seeds))
        if reference is None or system == against:
            continue
        found.append(figure(f"{prefix}{system}_{name}_diff", value - reference[0], f"less {against}"))
        if sampled is not None and reference[1] is not None:
            for end, bound in zip(("low", "high"), interval(sampled - reference[1]), strict=True):
                found.append(figure(f"{prefix}{system}_{name}_{end}", bound, f"less {against}, 95 % interval"))
    return found


def _part_of(systems: Systems, rows: np.ndarray) -> Systems:
    scores = {
        target: {name: [score[rows] for score in each] for name, each in found.items()}
        for target, found in systems.scores.items()
    }
    labels = {target: label[rows] for target, label in systems.labels.items()}
    return replace(
        systems,
        request=systems.request[rows],
        user=systems.user[rows],
        labels=labels,
        gain=systems.gain[rows],
        scores=scores,
    )
