"""One self-contained HTML page of a comparison: it opens from a file, without a server or a network.

Its data are one JSON block; the page's own script (page.js) draws everything from it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.common.atomic import atomic_write
from equipoise.common.page.whole_page import whole_page
from equipoise.evaluation.compare.comparison import Comparison
from equipoise.evaluation.compare.curves import Curve, curves, most_points
from equipoise.evaluation.compare.differences import setting, written
from equipoise.evaluation.compare.run_records import RunRecord
from equipoise.evaluation.compare.seeds import SeedPool, run_names
from equipoise.evaluation.compare.tables import COSTS, change_cell, cost, fronts, seeds, spread
from equipoise.evaluation.metrics.metric_names import direction, words

DIGITS = 4
"""Significant digits of curves, which are drawn and not read."""


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page, whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_text(page_of(comparison), encoding="utf-8")


def page_of(comparison: Comparison) -> str:
    """The page as one text."""
    return whole_page("equipoise.evaluation.compare", page_data(comparison))


def page_data(comparison: Comparison) -> dict[str, Any]:
    """What the script draws; numbers of tables are whole, those of curves have four digits."""
    method_fronts, changes = comparison.fronts, comparison.changes
    runs = sum(len(pool.runs) for pool in comparison.pools)
    table = fronts(comparison) if method_fronts else None
    names = dict(zip((id(run) for pool in comparison.pools for run in pool.runs),
                     run_names([run for pool in comparison.pools for run in pool.runs]), strict=True))  # fmt: skip
    bare = dict.fromkeys(name for pool in comparison.pools for values in pool.points.values() for name in values)
    return {
        "split": comparison.question.split,
        "by": comparison.question.by,
        "runs": runs,
        "metrics": [_metric(name) for name in comparison.all_metrics],
        "points": [_metric(name) for name in bare],
        "shown": list(comparison.metrics),
        "axes": list(method_fronts.axes if method_fronts else comparison.metrics[:2]),
        "settings": [
            {"key": key, "values": [written(value) for value in values]} for key, values in comparison.settings.items()
        ],
        "baseline": changes.baseline if changes else None,
        "changed": list(changes.metrics) if changes else [],
        "fronts": table and {
            "title": table.title,
            "columns": table.columns,
            "rows": [[cell.text for cell in row] for row in table.rows],
            "foot": table.foot,
        },
        "costs": [key for key in COSTS if any(pool.cost(key) for pool in comparison.pools)],
        "pools": [_pool(comparison, pool, names, most_points(runs)) for pool in comparison.pools],
        "notes": list(comparison.notes),
    }  # fmt: skip


def _metric(name: str) -> dict[str, Any]:
    return {"name": name, "words": words(name), "direction": direction(name)}


def _pool(comparison: Comparison, pool: SeedPool, names: Mapping[int, str], most: int) -> dict[str, Any]:
    changes = comparison.changes.values.get(pool.name, {}) if comparison.changes else {}
    costs = {key: pool.cost(key) for key in COSTS}
    return {
        "name": pool.name,
        "method": written(setting(pool.config, comparison.question.by)),
        "seeds": seeds(pool),
        "metrics": {name: [value.mean, value.deviation, spread(value)] for name, value in pool.metrics.items()},
        "best": [metric for metric, best in comparison.best.items() if pool.name in best],
        "points": {
            point: {name: value.mean for name, value in values.items()} for point, values in pool.points.items()
        },
        "delta": comparison.delta.percent.get(pool.name),
        "costs": {key: [value.mean, cost(key, pool)] for key, value in costs.items() if value},
        "changes": {
            metric: [change.difference, change_cell(change, metric).text, change.verdict(metric)]
            for metric, change in changes.items()
        },
        "runs": [
            {
                "name": names[id(run)],
                "folder": str(run.folder),
                "state": _state(run, pool.split),
                "curves": _curves(run, most),
            }
            for run in pool.runs
        ],
    }


def _state(run: RunRecord, split: str) -> str:
    if not run.finished:
        return f"unfinished, step {run.steps}"
    return "evaluated" if split in run.evaluations else "not evaluated"


def _curves(run: RunRecord, most: int) -> dict[str, dict[str, Curve]]:
    return {
        group: {
            name: (steps, [float(f"{value:.{DIGITS}g}") for value in values]) for name, (steps, values) in named.items()
        }
        for group, named in curves(run.history, most).items()
        if named
    }
