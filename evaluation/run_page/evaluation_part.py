"""The evaluation of a run on one split: its file, and how its numbers are called and ordered on the page."""

from pathlib import Path
from typing import Any

from equipoise.evaluation.compare.run_record import RunRecord
from equipoise.evaluation.metrics.metric_names import LOWER, TARGETS, WORDS
from equipoise.evaluation.report import omega_name
from equipoise.evaluation.run_page.missing import missing

COLUMNS = ("auc", "gauc", "log_loss", "ne", "ece", "predicted", "observed")


def evaluation_part(record: RunRecord, split: str) -> dict[str, Any]:
    """Counts, targets beside their baselines with calibration, operating points, provider and user groups, verdict."""
    found = record.evaluations.get(split)
    command = evaluate_command(record.folder, split)
    if found is None:
        return missing(f"The run is not evaluated on the {split} split yet.", command)
    cutoff = max(found.get("cutoffs") or [], default=None)
    counts = ("rows", "requests", "users", "items", "clicks", "conversions", "clicked_conversions", "train_rows")
    return {
        "split": split,
        "counts": {key: found.get(key) for key in counts},
        "cutoff": cutoff,
        "columns": [{"name": key, "words": WORDS[key]} for key in COLUMNS],
        "lower": list(LOWER),
        "targets": [_target(found, target, command) for target in found.get("pointwise") or {}],
        "points": _points(found, cutoff),
        "user_groups": found.get("user_groups") or {},
        "verdict": found.get("verdict") or [],
    }


def evaluate_command(folder: Path, split: str) -> str:
    """The command that evaluates a run."""
    return f"equipoise evaluate {folder} --split {split}"


def _target(found: dict[str, Any], target: str, command: str) -> dict[str, Any]:
    """A target's metrics, ours and the baselines', and its bins; an older evaluation has no bins."""
    bins = (found.get("calibration") or {}).get(target)
    absent = missing("This evaluation holds no bins of calibration: evaluate again.", command)
    return {
        "name": target,
        "words": TARGETS.get(target, target),
        "ours": found["pointwise"][target],
        "baselines": (found.get("baselines") or {}).get(target) or {},
        "calibration": absent if bins is None else {"bins": bins},
    }


def _points(found: dict[str, Any], cutoff: int | None) -> list[dict[str, Any]]:
    """Every operating point and ranking baseline at the largest cutoff: NDCG, ILD, coverage, and groups' exposure."""
    named = [(omega_name(point["omega"]), point) for point in found.get("ranking") or []]
    named += list((found.get("ranking_baselines") or {}).items())
    at = "" if cutoff is None else f"@{cutoff}"
    return [
        {
            "name": name,
            **{key: point.get(f"{key}{at}") for key in ("ndcg", "ild", "coverage")},
            "exposure": point.get(f"exposure{at}"),
        }
        for name, point in named
    ]
