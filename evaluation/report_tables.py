"""The evaluation report for a person: its tables, where the best of a column is marked, and its sentences."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from equipoise.common.console import bold, new_table
from equipoise.evaluation.metrics.metric_names import LOWER, target_title
from equipoise.evaluation.report import COLUMNS, omega_name
from equipoise.evaluation.rivals import rival_sentences

MOST_GROUPS = 8


def report_parts(report: Mapping[str, Any]) -> Iterator[Table | str]:
    """The report in tables and sentences: per target ours and the baselines, operating points, user groups, verdict."""
    both = f"{report['clicked_conversions']:,} of them with conversion; " if report["conversions"] else ""
    yield (
        f"{report['rows']:,} impressions in {report['requests']:,} requests, {report['clicks']:,} clicks, "
        f"{both}baselines from {report['train_rows']:,} "
        "training impressions" + ("; metrics weigh impressions by data.weights" if report.get("weighed") else "")
    )
    cutoff = max(report["cutoffs"], default=None)
    for target, ours in report["pointwise"].items():
        rows = {"ours": ours, **report["baselines"].get(target, {})}
        columns = dict(COLUMNS)
        if cutoff is not None and target in report["baselines"]:
            columns[f"ndcg@{cutoff}"] = f"NDCG@{cutoff}"
        yield _compared(f"{target_title(target)}, observed rate {_number(ours['observed'])}", rows, columns)
    if cutoff is not None:
        yield _operating_points(report, cutoff)
    if report.get("slices"):
        yield _slices(report["slices"])
    for attribute, gaps in report["user_groups"].items():
        yield _user_groups(attribute, gaps)
    for sentence in [*rival_sentences(report["comparisons"]), *report["verdict"], *report["notes"]]:
        yield f"• {sentence}"


def _compared(title: str, rows: Mapping[str, Mapping[str, float]], columns: Mapping[str, str]) -> Table:
    """One row per predictor; the best of every column is bold with a star, so that it shows in a log file too."""
    table = new_table(title, [""], list(columns.values()))
    for name, row in rows.items():
        cells: list[str | Text] = []
        for key in columns:
            values = [other[key] for other in rows.values() if not math.isnan(other.get(key, math.nan))]
            best = min(values, default=None) if key in LOWER else max(values, default=None)
            value = row.get(key, math.nan)
            marked = key != "predicted" and len(values) > 1 and value == best
            cells.append(bold(f"{_number(value)}*") if marked else f"{_number(value)} ")
        table.add_row(name, *cells)
    return table


def _operating_points(report: Mapping[str, Any], cutoff: int) -> Table:
    points = {omega_name(point["omega"]): point for point in report["ranking"]} | dict(report["ranking_baselines"])
    names = [f"{name}@{cutoff}" for name in ("NDCG", "ILD", "coverage", "exposure min/max")]
    table = new_table("Operating points", ["ω"], names)
    for name, point in points.items():
        ratio = point.get(f"exposure@{cutoff}", {}).get("min_max", math.nan)
        values = [point.get(f"{key}@{cutoff}", math.nan) for key in ("ndcg", "ild", "coverage")]
        table.add_row(name, *(_number(value) for value in (*values, ratio)))
    return table


def _user_groups(attribute: str, gaps: Mapping[str, Any]) -> Table:
    """The largest groups and the gap over all of them."""
    table = new_table(f"pCTR by {attribute}", [attribute], ["rows", "AUC", "log loss", "NE"])
    groups = sorted(gaps["groups"].items(), key=lambda pair: -pair[1]["rows"])
    for name, row in groups[:MOST_GROUPS]:
        table.add_row(name, f"{row['rows']:,}", *(_number(row[key]) for key in ("auc", "log_loss", "ne")))
    gap = gaps["gap"]
    table.add_row(f"gap of {len(groups)}", "", *(_number(gap[key]) for key in ("auc", "log_loss", "ne")))
    return table


def _slices(slices: Mapping[str, Any]) -> Table:
    columns = {"auc": "AUC", "gauc": "GAUC", "ne": "NE"}
    table = new_table("Slices of the requests", ["rows of", "target"], ["rows", *columns.values()])
    for name, part in slices.items():
        for target, metrics in part["pointwise"].items():
            cells = (_number(metrics[key]) for key in columns)
            table.add_row(name, target_title(target), f"{part['rows']:,}", *cells)
    return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"
