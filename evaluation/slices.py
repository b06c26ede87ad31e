"""Slices of a scored split: rows of one kind, such as new products, measured on their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from equipoise.data.prepare.new_items import HELD_OUT
from equipoise.evaluation.metrics.pointwise import target_metrics, target_weight, targets
from equipoise.evaluation.metrics.score_table import ScoreTable

NEW_PRODUCTS = "new products"


def slices_of(folder: Path, table: ScoreTable) -> dict[str, np.ndarray]:
    """Name → which rows of a score table belong to it, bool (N,).

    Args:
        folder: the prepared folder. Where items are held out of training (`data.split.holdout_items`), they are the
            new products.
        table: the scored split.
    """
    items = folder / "items.parquet"
    if HELD_OUT not in pq.read_schema(items).names:
        return {}
    held_out = pq.read_table(items, columns=[HELD_OUT]).column(0).to_numpy()
    return {NEW_PRODUCTS: held_out[table.item].astype(bool)}


def slice_metrics(table: ScoreTable, slices: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Slice → its rows and requests, and the pointwise metrics of each target on its rows alone.

    GAUC is over the requests' rows of the slice. A slice without rows is left out.
    """
    measured: dict[str, dict[str, Any]] = {}
    for name, inside in slices.items():
        if not inside.any():
            continue
        pcvr = None if table.pcvr is None else table.pcvr[inside]
        weight = None if table.weight is None else table.weight[inside]
        rows = targets(table.click[inside], table.conversion[inside], table.pctr[inside], pcvr, table.request[inside])
        measured[name] = {
            "rows": int(inside.sum()),
            "requests": len(np.unique(table.request[inside])),
            "pointwise": {
                target: target_metrics(*values, weight=target_weight(target, table.click[inside], weight))
                for target, values in rows.items()
                if values[0].size
            },
        }
    return measured
