"""User-group gaps: whether clicks are predicted equally well for every group of users."""

from typing import Any

import numpy as np

from equipoise.evaluation.metrics.codes import encode
from equipoise.evaluation.metrics.pointwise import auc, log_loss, normalized_entropy
from equipoise.evaluation.metrics.score_table import ScoreTable

SMALLEST_GROUP = 50
METRICS = ("auc", "log_loss", "ne")


def group_gaps(
    label: np.ndarray,
    probability: np.ndarray,
    group: np.ndarray,
    smallest: int = SMALLEST_GROUP,
    weight: np.ndarray | None = None,
) -> dict[str, Any]:
    """AUC, log loss and NE of each user group, and the largest less the smallest of each.

    Args:
        label: 0 or 1, (N,).
        probability: in [0, 1], (N,).
        group: a string per row, (N,); None is the group `unknown`.
        smallest: groups with fewer rows, or with one label only, are named in `left_out`.
        weight: how much each row counts, (N,); None counts all alike.

    Returns:
        groups: name → rows, auc, log_loss, ne.
        gap: metric → maximum − minimum over the groups, NaN with fewer than two.
        left_out: names of the groups that are too small to be judged.
    """
    codes, names = encode(group)
    groups: dict[str, dict[str, float]] = {}
    left_out: list[str] = []
    for code, name in enumerate(names):
        in_group = codes == code
        labels, probabilities = label[in_group], probability[in_group]
        weights = None if weight is None else weight[in_group]
        if len(labels) < smallest or labels.min() == labels.max():
            left_out.append(name)
            continue
        values = (
            auc(labels, probabilities, weights),
            log_loss(labels, probabilities, weights),
            normalized_entropy(labels, probabilities, weights),
        )
        groups[name] = {"rows": len(labels), **dict(zip(METRICS, values, strict=True))}
    gap = {metric: _spread([values[metric] for values in groups.values()]) for metric in METRICS}
    return {"groups": groups, "gap": gap, "left_out": left_out}


def user_group_gaps(table: ScoreTable) -> dict[str, dict[str, Any]]:
    """`group_gaps` of pCTR for every user attribute of the table."""
    groups = table.user_groups.items()
    return {name: group_gaps(table.click, table.pctr, values, weight=table.weight) for name, values in groups}


def _spread(values: list[float]) -> float:
    return max(values) - min(values) if len(values) > 1 else float("nan")
