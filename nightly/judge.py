"""Tonight's model against the one that is served, on the same requests: figures, paired intervals, and reasons."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from equipoise.configs.nightly import NightlyConfig
from equipoise.evaluation.evaluate_run import RankingAttributes
from equipoise.evaluation.metrics.bootstrap import interval, resampled_auc, resampled_ne
from equipoise.evaluation.metrics.list_metrics import RankingMetrics, utility
from equipoise.evaluation.metrics.pointwise import auc, target_metrics, target_weight, targets
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.metrics.user_groups import SMALLEST_GROUP

TARGETS = ("ctr", "ctcvr")
NEW_ITEMS = "new items"


@dataclass(frozen=True)
class Scored:
    """What a model said of a day.

    Attributes:
        table: its scores.
        seconds: of scoring.
    """

    table: ScoreTable
    seconds: float


@dataclass
class Verdict:
    """What speaks of two models.

    Attributes:
        figures: of each model, by target and metric.
        differences: TARGET/METRIC → difference, and its interval at 95 %.
        reasons: why tonight's model is refused; none where it may be served.
        notes: what else is worth a sentence.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    differences: dict[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def figures_of(scored: Scored, attributes: RankingAttributes) -> dict[str, Any]:
    """The figures of one model: metrics of its targets, ranking at ω = 0, deciles of pCTR, seconds."""
    table, found = scored.table, {}
    for target, (label, probability, request) in _targets(table).items():
        weight = target_weight(target, table.click, table.weight)
        values = target_metrics(label, probability, request, weight=weight)
        found[target] = {name: _plain(value) for name, value in values.items()}
    ranking = RankingMetrics(table, (), provider_attribute=attributes.provider)(utility(table, {}))
    exposure = ranking.get("exposure", {}).get("min_max")
    return {
        "targets": found,
        "ndcg": _plain(ranking["ndcg"]),
        "exposure_ratio": _plain(exposure),
        "pctr_deciles": np.quantile(table.pctr, np.linspace(0, 1, 11)[1:-1]).tolist(),
        "seconds": round(scored.seconds, 3),
    }


def judge_alone(challenger: Scored, attributes: RankingAttributes) -> Verdict:
    """The first model: there is none to compare with, so that it must rank better than chance."""
    verdict = Verdict({"challenger": figures_of(challenger, attributes)})
    found = verdict.figures["challenger"]["targets"]["ctr"]["auc"]
    if found is None or found <= 0.5:
        told = "is undefined" if found is None else f"is {found:.4f}"
        verdict.reasons.append(f"its AUC of ctr on the newest day {told}, no better than chance")
    return verdict


def judge(
    champion: Scored,
    challenger: Scored,
    settings: NightlyConfig,
    attributes: RankingAttributes,
    known_items: int,
    seed: int = 0,
) -> Verdict:
    """Compare tonight's model with the one that is served.

    Args:
        champion, challenger: the scores of both, of the same rows.
        settings: what refuses.
        attributes: of items, for exposure.
        known_items: items that the day before had; those numbered further are new.
        seed: of the resamples.
    """
    verdict = Verdict({name: figures_of(each, attributes) for name, each in _named(champion, challenger)})
    for target in _targets(champion.table):
        _compare_target(verdict, target, champion.table, challenger.table, settings, seed)
    _compare_slices(verdict, champion.table, challenger.table, settings, known_items, seed)
    one, other = (verdict.figures[name]["exposure_ratio"] for name in ("champion", "challenger"))
    if one is not None and other is not None and one - other > settings.most_exposure_drop:
        verdict.reasons.append(
            f"its exposure ratio of providers is {other:.3f}, {one - other:.3f} below the served model's "
            "(nightly.most_exposure_drop)"
        )
    if challenger.seconds > settings.most_slowdown * max(champion.seconds, 0.05):
        verdict.reasons.append(
            f"scoring takes {challenger.seconds:.1f} s, the served model's {champion.seconds:.1f} s "
            "(nightly.most_slowdown)"
        )
    return verdict


def day_is_refused(now: float | None, before: float | None, settings: NightlyConfig) -> str | None:
    """Why a day is refused, by the served model's AUC of ctr on it and on the day before; None where it is not."""
    if before is None or before <= 0.5:
        return None
    bound = 0.5 + (before - 0.5) * (1 - settings.most_day_drop)
    if now is not None and now >= bound:
        return None
    told = "undefined" if now is None else f"{now:.4f}"
    return (
        f"the AUC of the served model is {told} on it, {before:.4f} on the day before: its labels or columns are not "
        "what they were (nightly.most_day_drop)"
    )


def _named(champion: Scored, challenger: Scored) -> tuple[tuple[str, Scored], ...]:
    return (("champion", champion), ("challenger", challenger))


def _targets(table: ScoreTable) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The targets that are judged, as far as both labels occur."""
    found = targets(table.click, table.conversion, table.pctr, table.pcvr, table.request)
    return {name: found[name] for name in TARGETS if name in found and 0 < found[name][0].sum() < len(found[name][0])}


def _compare_target(
    verdict: Verdict, target: str, champion: ScoreTable, challenger: ScoreTable, settings: NightlyConfig, seed: int
) -> None:
    (label, old, request), new = _targets(champion)[target], _targets(challenger)[target][1]
    weight = target_weight(target, champion.click, champion.weight)
    samples = [resampled_auc(label, p, request, seed=seed, weight=weight) for p in (old, new)]
    figures = [verdict.figures[name]["targets"][target] for name in ("champion", "challenger")]
    change, bounds = figures[1]["auc"] - figures[0]["auc"], _bounds(samples[1] - samples[0])
    verdict.differences[f"{target}/auc"] = {"difference": change, "interval": bounds}
    told = f"its AUC of {target} is {change:+.4f} of the served model's{_told(bounds)}"
    if bounds is not None and bounds[1] < 0:
        verdict.reasons.append(f"{told}: surely worse")
    elif target == "ctr" and -change > settings.most_loss:
        verdict.reasons.append(f"{told} (nightly.most_loss)")
    elif target == "ctr" and settings.promote == "better" and (bounds is None or bounds[0] <= 0):
        verdict.reasons.append(f"{told}, not surely better (nightly.promote: better)")
    samples = [resampled_ne(label, p, request, seed=seed, weight=weight) for p in (old, new)]
    rise, bounds = figures[1]["ne"] - figures[0]["ne"], _bounds(samples[1] - samples[0])
    verdict.differences[f"{target}/ne"] = {"difference": rise, "interval": bounds}
    if rise > settings.most_ne_rise and bounds is not None and bounds[0] > 0:
        verdict.reasons.append(f"its NE of {target} rises by {rise:.4f}{_told(bounds)} (nightly.most_ne_rise)")
    rise = figures[1]["ece"] - figures[0]["ece"]
    verdict.differences[f"{target}/ece"] = {"difference": rise, "interval": None}
    if rise > settings.most_ece_rise:
        verdict.reasons.append(f"its calibration error (ECE) of {target} rises by {rise:.4f} (nightly.most_ece_rise)")


def _compare_slices(
    verdict: Verdict,
    champion: ScoreTable,
    challenger: ScoreTable,
    settings: NightlyConfig,
    known_items: int,
    seed: int,
) -> None:
    for name, inside in _slices(champion, known_items).items():
        label = champion.click[inside]
        if len(label) < SMALLEST_GROUP or label.min() == label.max():
            continue
        request = champion.request[inside]
        weight = None if champion.weight is None else champion.weight[inside]
        pair = (champion.pctr[inside], challenger.pctr[inside])
        change = auc(label, pair[1], weight) - auc(label, pair[0], weight)
        samples = [resampled_auc(label, p, request, seed=seed, weight=weight) for p in pair]
        bounds = _bounds(samples[1] - samples[0])
        verdict.differences[f"ctr/auc of {name}"] = {"difference": change, "interval": bounds}
        if -change > settings.most_slice_loss and bounds is not None and bounds[1] < 0:
            verdict.reasons.append(
                f"its AUC of ctr on {name} is {change:+.4f}{_told(bounds)} (nightly.most_slice_loss)"
            )


def _slices(table: ScoreTable, known_items: int) -> Mapping[str, np.ndarray]:
    """Name → rows of a group, bool (N,)."""
    found: dict[str, np.ndarray] = {}
    for attribute, values in table.user_groups.items():
        texts = np.array(["unknown" if value is None else str(value) for value in values])
        found |= {f"{attribute} {text}": texts == text for text in np.unique(texts).tolist()}
    new = table.item >= known_items
    return found | ({NEW_ITEMS: new} if new.any() else {})


def _bounds(samples: np.ndarray) -> list[float] | None:
    low, high = interval(samples)
    return [low, high] if low == low else None


def _told(bounds: list[float] | None) -> str:
    return "" if bounds is None else f" [{bounds[0]:+.4f}, {bounds[1]:+.4f}]"


def _plain(value: Any) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None
