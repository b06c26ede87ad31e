"""What a run knows of conflicts by group, as rows of `conflicts.json`: written by training, read without torch."""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.common.atomic import atomic_write

FILE = "conflicts.json"


def rows_of(names: Sequence[str], column: str, values: Sequence[str], sums: np.ndarray) -> list[dict[str, Any]]:
    """What a column's groups say of each pair of objectives that both have outputs for them.

    Args:
        names: the objectives, K.
        column: of the groups.
        values: of the column, G.
        sums: at outputs and at the boundary: candidates with finite products, sums of the products and of their
            squares, float64 (2, 3, G, K, K).

    Returns:
        records with column, value, first and second objective, candidates; `cosine` of their gradients at the outputs
        over all those candidates, and `z`: the sum of the products over the root of the sum of their squares, which is
        about standard normal where candidates are independent and the two have nothing to do with each other; and
        `trunk_cosine` and `trunk_z`, the same at the boundary, null where one of the gradients is 0 there.
    """
    rows = []
    for group, value in enumerate(values):
        for i, j in combinations(range(len(names)), 2):
            outputs, trunk = (_agreement(each[:, group], i, j) for each in sums)
            if outputs is None:
                continue
            row: dict[str, Any] = {"column": column, "value": value, "first": names[i], "second": names[j]}
            row |= {"candidates": int(sums[0, 0, group, i, j]), "cosine": outputs[0], "z": outputs[1]}
            rows.append({**row, "trunk_cosine": trunk and trunk[0], "trunk_z": trunk and trunk[1]})
    return rows


def _agreement(sums: np.ndarray, i: int, j: int) -> tuple[float, float] | None:
    """Cosine and z of two objectives within a group; None where one of them has no gradient."""
    _, product, square = sums
    length = np.sqrt(product[i, i]) * np.sqrt(product[j, j])
    if not (length > 0 and square[i, j] > 0):
        return None
    return float(np.clip(product[i, j] / length, -1, 1)), float(product[i, j] / np.sqrt(square[i, j]))


def write_rows(run: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write them into a run folder."""
    with atomic_write(run / FILE) as partial:
        partial.write_text(json.dumps(list(rows), indent=1), "utf-8")
