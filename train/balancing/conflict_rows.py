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
    """What a column's groups say of each pair of objectives, of groups and pairs that both have gradients.

    Args:
        names: the objectives, K.
        column: of the groups.
        values: of the column, G.
        sums: candidates with finite products, sums of the products and of their squares, float64 (3, G, K, K).

    Returns:
        records with column, value, first and second objective, candidates, the cosine of their gradients over all
        those candidates, and z: the sum of the products over the root of the sum of their squares, which is about
        standard normal where candidates are independent and the two have nothing to do with each other.
    """
    rows = []
    for group, value in enumerate(values):
        count, product, square = sums[:, group]
        for i, j in combinations(range(len(names)), 2):
            length = np.sqrt(product[i, i]) * np.sqrt(product[j, j])
            if not (length > 0 and square[i, j] > 0):
                continue
            row: dict[str, Any] = {"column": column, "value": value, "first": names[i], "second": names[j]}
            row |= {"candidates": int(count[i, j]), "cosine": float(np.clip(product[i, j] / length, -1, 1))}
            rows.append({**row, "z": float(product[i, j] / np.sqrt(square[i, j]))})
    return rows


def write_rows(run: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write them into a run folder."""
    with atomic_write(run / FILE) as partial:
        partial.write_text(json.dumps(list(rows), indent=1), "utf-8")
