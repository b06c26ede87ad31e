"""At which place scores are read where the effect of places was taken out, and how true they are as shown."""

from typing import Any

import numpy as np

from equipoise.data.examination import PositionStats
from equipoise.evaluation.metrics.pointwise import target_metrics, targets
from equipoise.evaluation.metrics.score_table import ScoreTable


def position_report(table: ScoreTable, examination_N: np.ndarray, stats: PositionStats) -> dict[str, Any]:
    """What is said of places in an evaluation.

    Args:
        table: whose probabilities are those of the first place, N rows.
        examination_N: how likely the place of each row was looked at, float64.
        stats: of the prepared folder.

    Returns:
        column, read_at (the value of the column that scores hold for), examination (by place), eta, and as_shown:
        target → metrics of the probabilities times the examination of each row's place, which labels were made at.
    """
    as_shown = targets(table.click, table.conversion, table.pctr * examination_N, table.pcvr, table.request)
    return {
        "column": stats.column,
        "read_at": stats.first,
        "examination": stats.examination,
        "eta": stats.eta,
        "as_shown": {
            target: target_metrics(*values, weight=table.weight)
            for target, values in as_shown.items()
            if target != "cvr"  # after a click, the place is behind it
        },
    }


def position_note(found: dict[str, Any]) -> str:
    """One sentence on where scores are read."""
    shown = found["as_shown"]["ctr"]
    return (
        f"scores are read at the first place ({found['column']} {found['read_at']}), and clicks were made at all of "
        f"them: NE, log loss and ECE of clicks are to be judged as shown, where NE is {shown['ne']:.3f} and ECE "
        f"{shown['ece']:.4f}"
    )
