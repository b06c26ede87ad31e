"""The evaluation report of a score table: ours beside every baseline, operating points, user groups, and a verdict.

The verdict says who wins by how much, also when it is the baseline.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.common.atomic import atomic_write
from equipoise.configs.objective_spec import ObjectiveSpec, OwnAxis
from equipoise.evaluation.baselines import (
    TARGETS,
    TrainCounts,
    baseline_metrics,
    baseline_scores,
    field_ranking,
    popularity,
)
from equipoise.evaluation.metrics.bootstrap import (
    LEVEL,
    RESAMPLES,
    interval,
    resampled_auc,
    resampled_gauc,
    resampled_mean,
    resampled_ne,
)
from equipoise.evaluation.metrics.calibration import calibration_bins
from equipoise.evaluation.metrics.list_metrics import RankingMetrics, utility
from equipoise.evaluation.metrics.metric_names import WORDS, target_title
from equipoise.evaluation.metrics.own_targets import own_metrics, own_targets
from equipoise.evaluation.metrics.pointwise import target_metrics, target_weight, targets
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.metrics.user_groups import SMALLEST_GROUP, user_group_gaps
from equipoise.evaluation.rerankers import Reranker, reference_ways
from equipoise.evaluation.rivals import BOUGHT, POPULARITY, compare_with_rivals

Omega = Mapping[str, float]

ROUNDING = 1e-9
"""A difference below it is that of sums in another order, and no one's win."""
RESAMPLED = {"auc": resampled_auc, "gauc": resampled_gauc}
COLUMNS = {name: WORDS[name] for name in ("auc", "gauc", "uauc", "log_loss", "ne", "ece", "predicted")}


def default_omegas(names: Sequence[str]) -> list[dict[str, float]]:
    """Pure relevance, each adjustment alone at weight 1, and, if there are several, all of them at 1."""
    points = [{}, *({name: 1.0} for name in names)]
    return [*points, dict.fromkeys(names, 1.0)] if len(names) > 1 else points


def evaluate_table(
    table: ScoreTable,
    train_counts: TrainCounts | None,
    cutoffs: Sequence[int] = (5, 10),
    omegas: Sequence[Omega] | None = None,
    field_baselines: Sequence[str] = (),
    diversity_attributes: Sequence[str] = (),
    category_attribute: str | None = None,
    provider_attribute: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    specs: Mapping[str, ObjectiveSpec] | None = None,
    own_axes: Sequence[OwnAxis] = (),
    fitted: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    bought_before: str | None = None,
) -> dict[str, Any]:
    """Everything that is measured on one split, as a JSON-ready dict (NaN where a metric is undefined).

    Args:
        table: the scored split.
        train_counts: counts of the training split; None leaves rates and popularity out.
        cutoffs: the k of NDCG, ILD, coverage and exposure.
        omegas: operating points, {} is pure relevance; None takes `default_omegas`.
        field_baselines: raw fields of the table that are judged as rankings.
        diversity_attributes: path of item attributes, coarse to fine, for ILD.
        category_attribute: item attribute for coverage.
        provider_attribute: item attribute whose groups share exposure.
        resamples: bootstrap resamples of the requests; 0 leaves intervals out.
        seed: of the resamples.
        specs: of the run's objectives; those beside ctr and cvr are measured on targets of their own.
        own_axes: measures of users' own list-wise objectives.
        fitted: target → name among `RIVALS` → probabilities of models that were fitted on the run's columns, (N,).
        bought_before: the raw field that says how often a shopper had bought the item.

    Returns:
        rows, requests, users, items, clicks, conversions, clicked_conversions, train_rows, cutoffs; weighed, where
        metrics count rows by the table's weights (counts are plain); pointwise (target →
        metric → value); regression (the same of values and counts, where there are any); calibration (target → bins);
        baselines (target → baseline → metric → value); against_baseline (target → metric → the best baseline, the
        difference, its interval); comparisons (target → rival → metric → ours, theirs, difference, its interval);
        ranking (one dict per operating point); ranking_baselines (popularity, and re-ranking at a few strengths);
        user_groups; verdict
        (sentences); notes (sentences on what says little).

    Raises:
        UserError: ω, a field or an item attribute names what the table does not keep.
    """
    popular = popularity(train_counts, table.item) if train_counts is not None else None
    attributes = (diversity_attributes, category_attribute, provider_attribute)
    metrics = RankingMetrics(table, cutoffs, *attributes, own_axes, popular)
    report = _counts(table, train_counts) | {"cutoffs": list(cutoffs), "pointwise": {}, "calibration": {}}
    report |= {"baselines": {}, "against_baseline": {}, "comparisons": {}}
    scored = targets(table.click, table.conversion, table.pctr, table.pcvr, table.request)
    for target, (label, probability, request) in scored.items():
        user = table.user if target in TARGETS else None  # on clicked rows alone no user has much to rank
        weight = target_weight(target, table.click, table.weight)
        ours: dict[str, Any] = target_metrics(label, probability, request, user, weight)
        report["pointwise"][target] = ours
        report["calibration"][target] = calibration_bins(label, probability, weight=weight)
        if target not in TARGETS:
            continue  # on clicked rows alone there is no ranking, and the baselines are of all impressions
        ours |= metrics.ndcgs(probability)
        rates, rankings = baseline_scores(table, train_counts, target, field_baselines)
        report["baselines"][target] = baseline_metrics(rates, rankings, label, request, metrics, table.user, weight)
        report["against_baseline"][target] = {
            metric: _against_best(metric, target, report, rates | rankings, scored[target], resamples, seed, weight)
            for metric in RESAMPLED
        }
        models = dict((fitted or {}).get(target, {}))
        report["baselines"][target] |= baseline_metrics(models, {}, label, request, metrics, table.user, weight)
        known = {POPULARITY: rankings["item popularity"]} if "item popularity" in rankings else {}
        known |= {BOUGHT: field_ranking(table, bought_before)} if bought_before is not None else {}
        rows = (*scored[target], weight)
        report["comparisons"][target] = compare_with_rivals(rows, models, known, metrics, resamples, seed)
    report |= _own_targets(report, table, specs or {})
    points = default_omegas(list(table.delta)) if omegas is None else omegas
    report["ranking"] = [{"omega": dict(omega), **metrics(utility(table, omega))} for omega in points]
    report["ranking_baselines"] = {}
    if popular is not None:
        report["ranking_baselines"]["item popularity"] = metrics(popular)
    report["ranking_baselines"] |= _reranked(table, metrics, diversity_attributes, provider_attribute)
    report["user_groups"] = user_group_gaps(table)
    report["ndcg_difference"] = _ndcg_difference(report, table, metrics, train_counts, field_baselines, resamples, seed)
    report["ne_interval"] = {
        target: interval(resampled_ne(*rows, resamples, seed, target_weight(target, table.click, table.weight)))
        for target, rows in scored.items()
        if resamples
    }
    report["verdict"] = verdict(report)
    report["notes"] = _notes(table, report)
    return report


def _notes(table: ScoreTable, report: Mapping[str, Any]) -> list[str]:
    """What is measured, but says little: cutoffs that no list exceeds, and user groups too small to be judged."""
    notes = []
    longest = int(np.unique(table.request, return_counts=True)[1].max()) if len(table) else 0
    whole = [cutoff for cutoff in report["cutoffs"] if cutoff >= longest]
    if whole and longest:
        notes.append(
            f"measures @{', @'.join(map(str, whole))} are of whole lists: no request has more than {longest} "
            "candidates, so that diversity, coverage and novelty cannot change there"
        )
    for attribute, gaps in report["user_groups"].items():
        small, judged = len(gaps["left_out"]), len(gaps["groups"])
        if small > judged:
            notes.append(
                f"{attribute}: {small} of {small + judged} groups have fewer than {SMALLEST_GROUP} rows or one label "
                "only and are not judged: bin a number before you name it in data.user_groups"
            )
    return notes


def _reranked(
    table: ScoreTable, metrics: RankingMetrics, path: Sequence[str], provider: str | None
) -> dict[str, dict[str, Any]]:
    """Re-ranking at a few strengths, boosts by how weak the groups are on these rows themselves."""
    found = reference_ways(bool(path), provider is not None)
    if not found or not metrics.cutoffs or not len(table):
        return {}
    lists = Reranker(table, table.relevance, max(metrics.cutoffs), tuple(path), provider)
    state = lists.state()
    return {way.words(): metrics(lists.utility(way, state)) for way in found}


def _own_targets(report: dict[str, Any], table: ScoreTable, specs: Mapping[str, ObjectiveSpec]) -> dict[str, Any]:
    """Adds further binary targets to pointwise and calibration; gives `regression` of values and counts."""
    measured = own_targets(specs, table.every_label, table.predictions, table.request, table.weight)
    metrics = own_metrics(specs, measured)
    binary = {name: values for name, values in metrics.items() if specs[name].form == "binary"}
    report["pointwise"] |= binary
    report["calibration"] |= {name: calibration_bins(*measured[name][:2], weight=measured[name][3]) for name in binary}
    rest = {name: {"form": specs[name].form, **metrics[name]} for name in metrics if name not in binary}
    return {"regression": rest} if rest else {}


def _counts(table: ScoreTable, train_counts: TrainCounts | None) -> dict[str, Any]:
    return {
        "rows": len(table),
        "requests": len(np.unique(table.request)),
        "users": len(set(table.user.tolist())),
        "items": len(np.unique(table.item)),
        "clicks": int(table.click.sum()),
        "conversions": int(table.conversion.sum()),
        "clicked_conversions": int(table.clicked_conversion.sum()),
        "train_rows": round(train_counts.rows) if train_counts else 0,
        **({} if table.weight is None else {"weighed": True}),
    }


def _against_best(
    metric: str,
    target: str,
    report: Mapping[str, Any],
    scores: Mapping[str, np.ndarray],
    scored: tuple[np.ndarray, np.ndarray, np.ndarray],
    resamples: int,
    seed: int,
    weight: np.ndarray | None,
) -> dict[str, Any] | None:
    """Ours less the best baseline in AUC or GAUC, with paired bootstrap intervals; None without a defined baseline.

    The best baseline is chosen on the evaluated rows themselves, which favours the baseline, not us.
    """
    values = {name: row[metric] for name, row in report["baselines"][target].items() if not math.isnan(row[metric])}
    ours = report["pointwise"][target][metric]
    if not values or math.isnan(ours):
        return None
    best = max(values, key=lambda name: values[name])
    record = {"ours": ours, "baseline": best, "theirs": values[best], "difference": ours - values[best]}
    if resamples:
        label, probability, request = scored
        our_resamples = RESAMPLED[metric](label, probability, request, resamples, seed, weight)
        best_resamples = RESAMPLED[metric](label, scores[best], request, resamples, seed, weight)
        record |= {
            "ours_interval": interval(our_resamples),
            "difference_interval": interval(our_resamples - best_resamples),
        }
    return record


def verdict(report: Mapping[str, Any]) -> list[str]:
    """Sentences that a person can act on: against the best baseline, against the base rate, and what each ω costs."""
    sentences = []
    for target, rows in report["against_baseline"].items():
        for metric, row in rows.items():
            sentences.append(_against_sentence(f"{target_title(target)} {COLUMNS[metric]}", row))
    for target, ours in report["pointwise"].items():
        if not math.isnan(ours["ne"]):
            _, high = report["ne_interval"].get(target, (math.nan, math.nan))
            word = "better" if high < 1 else "no better"
            sentences.append(
                f"{target_title(target)} NE {ours['ne']:.3f}: {word} than always saying the observed rate "
                f"{ours['observed']:.4f} (mean prediction {ours['predicted']:.4f})"
            )
    sentences += [regression_sentence(name, rows) for name, rows in report.get("regression", {}).items()]
    return sentences + (_ranking_sentences(report, max(report["cutoffs"])) if report["cutoffs"] else [])


def regression_sentence(name: str, metrics: Mapping[str, Any]) -> str:
    """How far a value or count is better than always saying the observed mean."""
    about = f"mean prediction {metrics['predicted']:.4g}, observed {metrics['observed']:.4g}"
    about += f", Spearman {metrics['spearman']:.3f}"
    if metrics["form"] == "count":
        word = "better" if metrics["deviance"] < 1 else "no better"
        return f"{name} Poisson deviance {metrics['deviance']:.3f} of that of the observed mean: {word} ({about})"
    word = "better" if metrics["rmse"] < metrics["rmse_of_mean"] else "no better"
    return (
        f"{name} RMSE {metrics['rmse']:.4g} against {metrics['rmse_of_mean']:.4g} of the observed mean: {word} "
        f"(MAE {metrics['mae']:.4g} against {metrics['mae_of_mean']:.4g}; {about})"
    )


def _ranking_sentences(report: Mapping[str, Any], cutoff: int) -> list[str]:
    """Pure relevance against the best baseline, and what each operating point changes against pure relevance."""
    plain = next((point for point in report["ranking"] if not any(point["omega"].values())), None)
    if plain is None:
        return []
    sentences = [_point_sentence(point, plain, cutoff) for point in report["ranking"] if any(point["omega"].values())]
    return [_ndcg_sentence(report, plain, cutoff), *sentences]


def _ndcg_sentence(report: Mapping[str, Any], plain: Mapping[str, Any], cutoff: int) -> str:
    """Pure relevance against the best of all trivial baselines, whatever target they were counted for."""
    ours, row = plain[f"ndcg@{cutoff}"], report.get("ndcg_difference")
    if row is None or math.isnan(ours):
        return f"NDCG@{cutoff}: not defined here, or there is no baseline to compare with"
    text = f"NDCG@{cutoff} of pure relevance {ours:.3f} against {row['theirs']:.3f} of {row['baseline']}: "
    return f"{text}{row['difference']:+.3f}{_by_interval(row)}"


def _ndcg_difference(
    report: Mapping[str, Any],
    table: ScoreTable,
    metrics: RankingMetrics,
    train_counts: TrainCounts | None,
    fields: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Any] | None:
    """NDCG@k, k the largest cutoff, of pure relevance less that of the best trivial baseline; None without either."""
    if not metrics.cutoffs:
        return None
    cutoff = max(metrics.cutoffs)
    scores: dict[str, np.ndarray] = {}
    for target in report["baselines"]:
        rates, rankings = baseline_scores(table, train_counts, target, fields)
        scores |= {f"{name} ({target})": score for name, score in (rates | rankings).items()}
    each = {name: metrics.request_ndcgs(score, cutoff) for name, score in scores.items()}
    mine = metrics.request_ndcgs(utility(table, {}), cutoff)
    if not each or not np.isfinite(mine).any():
        return None
    best = max(each, key=lambda name: metrics.mean(each[name]))
    ours, theirs = metrics.mean(mine), metrics.mean(each[best])
    found: dict[str, Any] = {"baseline": best, "ours": ours, "theirs": theirs, "difference": ours - theirs}
    if resamples:
        found["difference_interval"] = interval(
            resampled_mean(mine - each[best], resamples, seed, metrics.request_weight)
        )
    return found


def _against_sentence(name: str, row: Mapping[str, Any] | None) -> str:
    if row is None:
        return f"{name}: not defined here, or there is no baseline to compare with"
    text = f"{name} {row['ours']:.3f} against {row['theirs']:.3f} of {row['baseline']}: {row['difference']:+.3f}"
    return text + _by_interval(row)


def _by_interval(row: Mapping[str, Any]) -> str:
    """The interval of a difference and who wins by it; nothing without one."""
    low, high = row.get("difference_interval", (math.nan, math.nan))
    return "" if math.isnan(low) else f" ({LEVEL:.0%} interval {low:+.3f} to {high:+.3f}): {winner(low, high)}"


def winner(low: float, high: float) -> str:
    """Who wins, in words, by the interval of ours less the baseline's."""
    if low > ROUNDING:
        return "ours wins"
    return "the baseline wins" if high < -ROUNDING else "no clear winner"


def _point_sentence(point: Mapping[str, Any], plain: Mapping[str, Any], cutoff: int) -> str:
    """What an operating point changes against pure relevance, at one cutoff."""
    changes = []
    for key, name in (("ndcg", "NDCG"), ("ild", "ILD"), ("coverage", "coverage")):
        now, before = point.get(f"{key}@{cutoff}"), plain.get(f"{key}@{cutoff}")
        if now is not None and not math.isnan(now - before):
            changes.append(f"{name}@{cutoff} {now - before:+.3f}")
    if f"exposure@{cutoff}" in point:
        now, before = (row[f"exposure@{cutoff}"]["min_max"] for row in (point, plain))
        if not math.isnan(now - before):
            changes.append(f"exposure ratio@{cutoff} {before:.2f} → {now:.2f}")
    return f"{omega_name(point['omega'])} against pure relevance: {', '.join(changes) or 'nothing to compare'}"


def omega_name(omega: Omega) -> str:
    """ "relevance", or the weights such as "diversity 1, fairness 0.5"."""
    return ", ".join(f"{name} {weight:g}" for name, weight in omega.items() if weight) or "relevance"


def json_ready(value: Any) -> Any:
    """The value with NaN and infinities as None, numpy scalars and arrays as plain Python, keys as strings."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return json_ready(value.tolist())
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(report: Mapping[str, Any], path: Path) -> None:
    """Write the report as JSON, whole or not at all; NaN becomes null."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(json_ready(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
