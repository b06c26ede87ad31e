"""Whether two prepared folders hold the same rows: by hashes of every table's rows, and numbers by their closeness.

What is a sum of fractions depends on the order of its terms: rates with a half-life, and means and spreads of the
manifest. These are compared to `CLOSE`; everything else must be equal bit for bit.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.data.manifest import FILE_NAME, Manifest

CLOSE = 1e-9
"""Relative difference of numbers that are sums of fractions."""
CLOSE_32 = 2e-7
"""That of numbers that are kept in 32 bits after being divided by such a sum: weights, and what position tells."""
_OTHERWISE = ("created", "versions", "hashes", "sha256")
"""What a manifest says of how it was made, and of its bytes."""


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two prepared folders, a line each; empty where they hold the same."""
    manifest = Manifest.read(one)
    decayed = {name for rate in manifest.rates if rate.half_life_days is not None for name in rate.names}
    found = [f"files: {sorted(set(_files(one)) ^ set(_files(other)))}"] if _files(one) != _files(other) else []
    if found:
        return found
    for name in _files(one):
        if name == FILE_NAME:
            found += _apart(
                name, *(Manifest.read(f).model_dump(mode="json", exclude=set(_OTHERWISE)) for f in (one, other))
            )
        elif name.endswith(".parquet"):
            sums = {f"feature_{rate}" for rate in decayed}
            if name.startswith("rates/"):
                with_half_life = any(f"rates/{r.file}" == name for r in manifest.rates if r.half_life_days is not None)
                sums = {"shown", "positives"} if with_half_life else set()
            found += _tables(name, pq.read_table(one / name), pq.read_table(other / name), sums)
        elif (one / name).read_bytes() != (other / name).read_bytes():
            found.append(f"{name}: other bytes")
    return found


def rows_hash(table: pa.Table) -> str:
    """A hash of the rows of a table, in their order."""
    digest = hashlib.sha256()
    for batch in table.to_batches(10_000):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(repr(row).encode())
    return digest.hexdigest()


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _tables(name: str, one: pa.Table, other: pa.Table, sums: set[str]) -> list[str]:
    if one.schema != other.schema or one.num_rows != other.num_rows:
        return [f"{name}: another schema or number of rows"]
    close = dict.fromkeys(sums, CLOSE) | {"weight": CLOSE_32, "examination": CLOSE_32}
    exact = [column for column in one.column_names if column not in close]
    if rows_hash(one.select(exact)) == rows_hash(other.select(exact)):
        found = []
    else:
        found = [f"{name}: {c}" for c in exact if rows_hash(one.select([c])) != rows_hash(other.select([c]))]
    for column in set(close) & set(one.column_names):
        own, theirs = (_numbers(table.column(column)) for table in (one, other))
        if not np.allclose(own, theirs, rtol=close[column], atol=0, equal_nan=True):
            found.append(f"{name}: {column} beyond {close[column]:g}")
    return found


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    flat = column.combine_chunks()
    flat = flat.flatten() if pa.types.is_list(flat.type) else flat
    return flat.to_numpy(zero_copy_only=False).astype(np.float64)


def _apart(place: str, one: Any, other: Any) -> list[str]:
    """Where two values of JSON differ, numbers beyond `CLOSE`."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for key in one for line in _apart(f"{place}.{key}", one[key], other[key])]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [line for n, (a, b) in enumerate(zip(one, other, strict=True)) for line in _apart(f"{place}.{n}", a, b)]
    if isinstance(one, float) and isinstance(other, float):
        return [] if math.isclose(one, other, rel_tol=CLOSE, abs_tol=1e-12) else [f"{place}: {one} and {other}"]
    return [] if one == other else [f"{place}: {one} and {other}"]
