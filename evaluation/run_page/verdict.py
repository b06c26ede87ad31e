"""The head of a report: three sentences and one table that say whether the run is worth serving.

It is held against its prior and the trees, and against the best of the trivial baselines where neither was fitted or
where that one wins.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.evaluation.compare.run_records import RunRecord, json_object
from equipoise.evaluation.front.axes import axis_title
from equipoise.evaluation.metrics.metric_names import WORDS, target_title, words
from equipoise.evaluation.rivals import PRIOR, TREES, judgement
from equipoise.evaluation.run_page.facts import missing
from equipoise.evaluation.run_page.front_part import FILE_NAME as FRONT

RIVALS = {PRIOR: "its prior", TREES: "the trees"}
BEST = "best simple baseline"
METRICS = ("auc", "gauc", "ne", "ndcg")
AS_WORDS = {
    "better": "better than",
    "worse": "worse than",
    "no clear difference": "no clear difference to",
    "": "against",
}
TASKS = {"ctr": "Clicks", "ctcvr": "Conversions"}

Comparisons = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]


def verdict_part(record: RunRecord, split: str) -> dict[str, Any]:
    """Sentences, and rows of measure, ours and by rival theirs, the difference, its interval and a word."""
    evaluation = record.evaluations.get(split)
    if evaluation is None:
        command = f"equipoise evaluate {record.folder} --split {split}"
        return missing(f"The run is not evaluated on the {split} split yet.", command)
    comparisons = _comparisons(evaluation)
    rivals = [name for name in (*RIVALS, BEST) if any(name in each for each in comparisons.values())]
    front = json_object(record.folder / FRONT, f"run `equipoise front {record.folder}` again")
    measured = evaluation.get("pointwise") or {}
    sentences = [
        _sentence(target, comparisons.get(target) or {}, measured[target]) for target in TASKS if target in measured
    ]
    return {
        "split": split,
        "sentences": [*sentences, _front_sentence(record.folder, front)],
        "rivals": [{"name": name, "words": RIVALS.get(name, name)} for name in rivals],
        "rows": _rows(comparisons),
    }


def _comparisons(evaluation: Mapping[str, Any]) -> Comparisons:
    """Target → rival → metric → ours, theirs, difference and interval."""
    against = evaluation.get("comparisons") or {}
    found = {target: {name: each[name] for name in RIVALS if name in each} for target, each in against.items()}
    fitted = any(found.values())
    for target, rows in (evaluation.get("against_baseline") or {}).items():
        trivial = {name: row for name, row in rows.items() if row}
        lost = any(judgement(name, row) == "worse" for name, row in trivial.items())
        if trivial and (lost or not fitted):
            found[target] = {**found.get(target, {}), BEST: trivial}
    return found


def _rows(comparisons: Comparisons) -> list[dict[str, Any]]:
    rows = []
    for target, rivals in comparisons.items():
        named = list(dict.fromkeys(metric for metrics in rivals.values() for metric in metrics))
        for metric in sorted(named, key=lambda name: METRICS.index(name.partition("@")[0])):
            held = {name: metrics[metric] for name, metrics in rivals.items() if metric in metrics}
            rows.append(
                {
                    "name": f"{target}/{metric}",
                    "words": _title(target, metric),
                    "metric": metric.partition("@")[0],
                    "ours": next(iter(held.values()))["ours"],
                    "cells": {
                        name: {
                            **{key: row.get(key) for key in ("theirs", "difference")},
                            "interval": row.get("difference_interval"),
                            "word": judgement(metric, row),
                        }
                        for name, row in held.items()
                    },
                }
            )
    return rows


def _title(target: str, metric: str) -> str:
    return f"{words(metric)} by {target_title(target)}" if "@" in metric else words(f"{target}/{metric}")


def _sentence(target: str, rivals: Mapping[str, Mapping[str, Mapping[str, Any]]], measured: Mapping[str, Any]) -> str:
    """How well a target is ranked for each shopper (GAUC, else AUC), against each rival."""
    metric = next((each for each in ("gauc", "auc") if all(_defined(one.get(each)) for one in rivals.values())), None)
    if metric is None or measured.get(metric) is None:
        return f"{TASKS[target]} cannot be judged: this split has too few of them."
    if not rivals:
        return f"{TASKS[target]} are ranked with a {WORDS[metric]} of {measured[metric]:.3f}; no rival was measured."
    rows = {name: metrics[metric] for name, metrics in rivals.items()}
    parts = [
        f"{AS_WORDS[judgement(metric, row)]} {RIVALS.get(name) or row['baseline']} ({row['theirs']:.3f})"
        for name, row in rows.items()
    ]
    ours = next(iter(rows.values()))["ours"]
    return f"{TASKS[target]} are ranked with a {WORDS[metric]} of {ours:.3f}: {', '.join(parts)}."


def _defined(row: Mapping[str, Any] | None) -> bool:
    return row is not None and row["difference"] is not None and math.isfinite(row["difference"])


def _front_sentence(folder: Path, front: Mapping[str, Any] | None) -> str:
    """What the chosen operating point changes against pure relevance on the validation split."""
    if front is None:
        return f"No operating point is chosen, so that lists are sorted by relevance alone: `equipoise front {folder}`."
    choice = (front.get("choices") or {}).get(front.get("chosen"))
    if choice is None:
        return "A front is measured, but no point of it is chosen: lists are sorted by relevance alone."
    changes = [
        f"{axis_title(axis)}@{front['cutoff']} {value['relevance']:.3f} → {value['value']:.3f}"
        for axis, value in choice["valid"].items()
        if axis in front["axes"]
    ]
    return f"The chosen operating point changes, against relevance alone: {', '.join(changes)}."
