"""How far a day's columns, label rates and scores are from those of the day before: the population stability index.

PSI = Σ (p − q) log(p / q) over ten groups of a number (deciles of the earlier day) or the texts of a category; below
0.1 little has changed, above 0.25 much (Siddiqi 2006).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.data.manifest import Manifest

GROUPS = 10
LEAST = 1e-4
"""A share below is taken for this, so that one missing text says no more than it can."""
MOST_TEXTS = 50
"""Texts of a category that are told apart; the others are one."""
OF_LABELS = ("click", "conversion")


def psi(before: np.ndarray, now: np.ndarray) -> float:
    """PSI of two vectors of counts over the same groups."""
    one, other = (np.maximum(counts / max(counts.sum(), 1), LEAST) for counts in (before, now))
    return float(((other - one) * np.log(other / one)).sum())


def number_psi(before: np.ndarray, now: np.ndarray) -> float:
    """PSI of numbers, float (N,); unknown ones are a group of their own."""
    known = before[np.isfinite(before)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, GROUPS + 1)[1:-1])) if len(known) else np.zeros(0)

    def counts(values: np.ndarray) -> np.ndarray:
        finite = np.isfinite(values)
        inside = np.bincount(np.searchsorted(edges, values[finite], "right"), minlength=len(edges) + 1)
        return np.append(inside, (~finite).sum()).astype(np.float64)

    return psi(counts(before), counts(now))


def text_psi(before: list[Any], now: list[Any]) -> float:
    """PSI of texts; None is one of them."""
    names, counted = np.unique(np.array(["" if v is None else f"={v}" for v in before]), return_counts=True)
    kept = {name: place for place, name in enumerate(names[np.argsort(-counted, kind="stable")][:MOST_TEXTS].tolist())}

    def counts(values: list[Any]) -> np.ndarray:
        places = [kept.get("" if value is None else f"={value}", len(kept)) for value in values]
        return np.bincount(places, minlength=len(kept) + 1).astype(np.float64)

    return psi(counts(before), counts(now))


def column_drift(before: Path, now: Path) -> dict[str, float]:
    """PSI of each column that is kept of impressions and shoppers, and of the number of candidates, of two parts."""
    names = [
        field.name
        for field in pq.read_schema(_files(now)[0])
        if field.name.startswith(("feature_", "field_", "user_")) and field.name != "user_id"
    ]
    old, new = (
        pa.concat_tables([pq.read_table(file, columns=[*names, "item"]) for file in _files(f)]) for f in (before, now)
    )
    found = {}
    for name in names:
        one, other = (_flat(table.column(name)) for table in (old, new))
        if pa.types.is_floating(one.type) or pa.types.is_integer(one.type):
            numbers = [column.cast(pa.float64()).to_numpy(zero_copy_only=False) for column in (one, other)]
            found[name] = number_psi(*numbers)
        else:
            found[name] = text_psi(one.to_pylist(), other.to_pylist())
    sizes = [np.array([len(items) for items in table.column("item").to_pylist()], np.float64) for table in (old, new)]
    return found | {"candidates of a request": number_psi(*sizes)}


def label_rates(part: Path) -> dict[str, float]:
    """Share of a part's impressions with each label."""
    counts = Manifest.read(part).splits["train"]
    return {name: getattr(counts, f"{name}s") / counts.impressions for name in OF_LABELS}


def rate_drift(before: Path, now: Path) -> dict[str, float]:
    """PSI of each label between two parts."""
    shares = [label_rates(part) for part in (before, now)]
    return {
        f"rate of {name}": psi(*(np.array([share[name], 1 - share[name]]) * 1e9 for share in shares))
        for name in OF_LABELS
    }


def _files(part: Path) -> list[Path]:
    return [part / name for name in Manifest.read(part).splits["train"].files]


def _flat(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.flatten() if pa.types.is_list(whole.type) else whole
