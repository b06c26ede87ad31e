"""What the studio shows of a run, from its folder alone: facts, curves so far, figures, and its measured front."""

from pathlib import Path
from typing import Any

from equipoise.evaluation.compare.curves import GROUPS, curves
from equipoise.evaluation.compare.run_records import RunRecord, read_run
from equipoise.evaluation.metrics.metric_names import metrics_of, words
from equipoise.evaluation.report import json_ready
from equipoise.evaluation.run_page.facts import facts, held
from equipoise.evaluation.run_page.front_part import front_part
from equipoise.evaluation.run_page.verdict import verdict_part
from equipoise.launch.studio.workspace import Workspace, written_lately

POINTS = 240
"""Of a curve."""
MORE_GROUPS = {"conflicts": r"balance/conflict/(.+)"}
SHOWN = ("ctr/auc", "ctr/gauc", "ctr/ne", "ctcvr/auc", "relevance/ndcg@10", "relevance/ild@10")
"""Figures of a table of runs, of the last evaluation."""


def run_rows(workspace: Workspace, busy: set[str]) -> list[dict[str, Any]]:
    """One row per run of the workspace, those that were written last first.

    Args:
        workspace: of the runs.
        busy: runs that a job of the studio is training.
    """
    rows = []
    for run in sorted(workspace.runs(), key=_changed, reverse=True):
        name = str(run.relative_to(workspace.folder))
        record = read_run(run, most_records=2)
        rows.append({"run": name, "name": record.name, "state": _state(record, name in busy), "steps": record.steps})
    return rows


def run_state(run: Path, busy: bool) -> dict[str, Any]:
    """Everything of one run that is there so far.

    Args:
        run: the folder.
        busy: whether a job of the studio is training it.
    """
    record = read_run(run, most_records=4000)
    split = next((name for name in ("test", "valid") if name in record.evaluations), None)
    verdict = verdict_part(record, split)["sentences"] if split else []
    front = front_part(run)
    return json_ready(
        {
            "state": _state(record, busy),
            "finished": record.finished,
            "steps": record.steps,
            "most_steps": (record.config.get("train") or {}).get("max_steps"),
            "objectives": list(record.objectives),
            "facts": facts(record),
            "groups": {
                name: kept for name, kept in curves(record.history, POINTS, GROUPS | MORE_GROUPS).items() if kept
            },
            "split": split,
            "verdict": verdict,
            "figures": figures(record),
            "front": front if held(front) else None,
            "report": (run / "report.html").is_file(),
        }
    )


def figures(record: RunRecord) -> dict[str, float]:
    """Name in words → value of what a table of runs shows, of test where it is evaluated."""
    evaluation = record.evaluations.get("test") or record.evaluations.get("valid") or {}
    found = metrics_of(evaluation)
    return {words(name): found[name] for name in SHOWN if name in found}


def _state(record: RunRecord, busy: bool) -> str:
    if record.finished:
        return "evaluated" if record.evaluations else "trained"
    return "training" if busy or written_lately(record.folder) else "unfinished"


def _changed(run: Path) -> float:
    return max(path.stat().st_mtime for path in (run / "metrics.jsonl", run / "config.yaml") if path.exists())
