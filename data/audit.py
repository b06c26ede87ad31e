"""What a prepared folder gives away before training: labels that drift or are constant, leaks, duplicates, cuts, gaps.

Reads the slates through DuckDB. A finding is an error where training or measuring on the data would mislead, a warning
where a person should look. What `prepare` has refused or left out already is not looked for again; events at or after a
request are in no history, by construction.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

from equipoise.data.features import CategoryScale
from equipoise.data.manifest import SPLITS, Manifest
from equipoise.data.prepare.files import literal, quote
from equipoise.data.prepare.tables import one
from equipoise.data.prepared_slates import prepared_slates
from equipoise.data.token_cache import FILE_NAME as CACHE

PERIODS = 10
"""Parts of equal time of which label rates are compared."""
LEAST_LABELS = 20
"""Labels that a period must be expected to have: below it a rate says nothing."""
RATE_CHANGE = 5.0
LEAK = 0.995
"""AUC of a single column, or of whether it is known, above which it cannot be known before the click."""
MISSING_CHANGE, MOSTLY_MISSING = 0.2, 0.9
DRIFT = 0.25
"""Population stability index above which a column is told to drift, as is usual."""
UNSEEN, CUT = 0.5, 0.1
MOST_VALUES = 100
"""Values of a category beyond which its distribution is not compared."""


@dataclass(frozen=True)
class Finding:
    """One finding: `error` or `warning`, what was looked at, and a sentence with numbers and a way out."""

    level: str
    check: str
    sentence: str


def audit(folder: Path) -> list[Finding]:
    """All findings about a prepared folder, errors first.

    Raises:
        UserError: the folder is not prepared, or a file of it cannot be read.
    """
    manifest = Manifest.read(folder)
    with prepared_slates(folder, manifest, [str(number) for number in range(len(SPLITS))]) as con:
        _open_rows(con, manifest)
        found = [
            *_labels(con, manifest),
            *_leaks(con, manifest),
            *_duplicates(con, folder),
            *_unseen(con),
            *_missing_and_drift(con, manifest),
            *_cuts(folder),
        ]
    return sorted(found, key=lambda finding: finding.level != "error")


def _open_rows(con: duckdb.DuckDBPyConnection, manifest: Manifest) -> None:
    """The view rows, one for each impression."""
    lists = ["item", "click", "conversion", *_numbers(manifest), *_categories(manifest)]
    columns = ", ".join(f"unnest({quote(name)}) AS {quote(name)}" for name in lists)
    con.execute(f"CREATE VIEW rows AS SELECT split, timestamp, user_id, {columns} FROM slates")


def _numbers(manifest: Manifest) -> list[str]:
    numeric = [name for name, scale in manifest.features.items() if not isinstance(scale, CategoryScale)]
    return [*(f"field_{name}" for name in manifest.fields), *(f"feature_{name}" for name in numeric)]


def _categories(manifest: Manifest) -> list[str]:
    return [f"feature_{name}" for name, scale in manifest.features.items() if isinstance(scale, CategoryScale)]


def _said(column: str) -> str:
    return column.removeprefix("field_").removeprefix("feature_")


def _labels(con: duckdb.DuckDBPyConnection, manifest: Manifest) -> Iterator[Finding]:
    """Labels that are the same in a whole split, and rates that jump over time."""
    for label in (name for name in ("click", "conversion") if name not in manifest.absent_labels):
        for number, split in enumerate(SPLITS):
            least, most = one(con, f"SELECT min({label}), max({label}) FROM rows WHERE split = {number}")
            if least == most:
                level = "error" if label == "click" else "warning"
                sentence = f"{label} is {least} in every impression of the {split} split: no AUC is defined there"
                yield Finding(level, "constant label", sentence)
        rates = con.execute(f"""
            SELECT part, count(*) AS n, avg({label}) AS rate, min(timestamp) AS first FROM (
                SELECT {label}, timestamp, least({PERIODS - 1}, floor({PERIODS} * (epoch(timestamp) - low) /
                       greatest(high - low, 1))) AS part
                FROM rows, (SELECT min(epoch(timestamp)) AS low, max(epoch(timestamp)) AS high FROM slates)
            ) GROUP BY part HAVING n * (SELECT avg({label}) FROM rows) >= {LEAST_LABELS} ORDER BY part
        """).fetchall()
        if len(rates) > 1:
            low, high = min(rates, key=lambda row: row[2]), max(rates, key=lambda row: row[2])
            if high[2] > RATE_CHANGE * low[2]:
                yield Finding(
                    "warning",
                    "label rate over time",
                    f"the rate of {label} goes from {low[2]:.2%} (from {low[3]:%Y-%m-%d} on) to {high[2]:.2%} (from "
                    f"{high[3]:%Y-%m-%d} on): look whether labels are missing, or come later than the data end",
                )


def _auc(con: duckdb.DuckDBPyConnection, value: str, where: str) -> float | None:
    """AUC of clicks by a value in SQL, ties counting half; None without both classes."""
    ones, others, ranks = one(
        con,
        f"""
        SELECT count(*) FILTER (click = 1), count(*) FILTER (click = 0), sum(place) FILTER (click = 1) FROM (
            SELECT click, rank() OVER (ORDER BY v) + (count(*) OVER (PARTITION BY v) - 1) / 2 AS place
            FROM (SELECT click, {value} AS v FROM {where}) WHERE v IS NOT NULL AND NOT isnan(v)
        )
        """,
    )
    return (float(ranks) - ones * (ones + 1) / 2) / (ones * others) if min(ones, others) >= 10 else None


def _leaks(con: duckdb.DuckDBPyConnection, manifest: Manifest) -> Iterator[Finding]:
    """Columns that decide the click: by their values, by being known at all, or by the mean label of their values."""
    test = "rows WHERE split = 2"
    for name in _numbers(manifest):
        column = quote(name)
        known = f"CAST({column} IS NOT NULL AND NOT isnan({column}) AS DOUBLE)"
        for value, way in ((f"CAST({column} AS DOUBLE)", "its value"), (known, "whether it is known")):
            auc = _auc(con, value, test)
            if auc is not None and max(auc, 1 - auc) >= LEAK:
                yield _leak(_said(name), way, auc)
    for name in ("item", *_categories(manifest)):
        column = quote(name)
        means = f"(SELECT {column} AS value, avg(click) AS mean FROM rows WHERE split = 0 GROUP BY 1)"
        joined = f"(SELECT click, mean FROM rows JOIN {means} ON {column} = value WHERE split = 2)"
        auc = _auc(con, "mean", joined)
        if auc is not None and auc >= LEAK:
            yield _leak(_said(name), "its value", auc)


def _leak(name: str, way: str, auc: float) -> Finding:
    return Finding(
        "error",
        "leak",
        f"{name} decides the click of the test split by {way} (AUC {max(auc, 1 - auc):.4f}): it was probably written "
        "after the click; drop it, or take its value of before the request",
    )


def _duplicates(con: duckdb.DuckDBPyConnection, folder: Path) -> Iterator[Finding]:
    """Requests that stand twice under other ids, and items with the same text."""
    same, across = one(
        con,
        """
        SELECT coalesce(sum(n - 1), 0), count(*) FILTER (splits > 1) FROM (
            SELECT count(*) AS n, count(DISTINCT split) AS splits FROM slates
            GROUP BY user_id, timestamp, list_sort(item) HAVING n > 1
        )
        """,
    )
    if same:
        level, where = ("error", f", {across} of them in two splits") if across else ("warning", "")
        sentence = f"{same} requests repeat another of the same user, moment and items{where}: keep one of each"
        yield Finding(level, "duplicate requests", sentence)
    items = literal(str(folder / "items.parquet"))
    texts = f"SELECT text, count(*) AS n FROM read_parquet({items}) GROUP BY text HAVING n > 1"
    rows, most = one(con, f"SELECT coalesce(sum(n), 0), max_by(text, n) FROM ({texts})")
    if rows:
        sentence = f"{rows} items share their text with another, such as '{str(most)[:60]}': tell what differs"
        yield Finding("warning", "items of one text", sentence)


def _unseen(con: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    for name in ("item", "user_id"):
        share = one(
            con,
            f"""
            SELECT avg(CAST({name} NOT IN (SELECT {name} FROM rows WHERE split = 0 AND {name} IS NOT NULL) AS INT))
            FROM rows WHERE split = 2
            """,
        )[0]
        if share is not None and share > UNSEEN:
            what = name.removesuffix("_id")
            sentence = f"{share:.0%} of the test split's impressions are of a {what} that train does not hold"
            yield Finding("warning", f"unseen {what}s", f"{sentence}: measure them apart (equipoise newcomers)")


def _missing_and_drift(con: duckdb.DuckDBPyConnection, manifest: Manifest) -> Iterator[Finding]:
    """Columns that are mostly missing, or missing or distributed otherwise in test than in train."""
    for name in (*_numbers(manifest), *_categories(manifest)):
        column, numeric = quote(name), name in _numbers(manifest)
        unknown = f"{column} IS NULL" + (f" OR isnan({column})" if numeric else "")
        shares = [one(con, f"SELECT avg(CAST({unknown} AS INT)) FROM rows WHERE split = {n}")[0] for n in (0, 2)]
        if shares[0] > MOSTLY_MISSING:
            yield Finding("warning", "missing", f"{_said(name)} is unknown in {shares[0]:.0%} of the train impressions")
        if abs(shares[0] - shares[1]) > MISSING_CHANGE:
            sentence = f"{_said(name)} is unknown in {shares[0]:.0%} of train, but {shares[1]:.0%} of test impressions"
            yield Finding("warning", "missing", f"{sentence}: look where it comes from")
        scale = manifest.features.get(_said(name))
        if isinstance(scale, CategoryScale) and not 0 < len(scale.values) <= MOST_VALUES:
            continue  # ids differ between any two samples
        index = _stability(con, column, unknown, numeric)
        if index > DRIFT:
            sentence = f"{_said(name)} is distributed otherwise in test than in train (stability index {index:.2f})"
            yield Finding("warning", "drift", f"{sentence}: look whether its meaning has changed")


def _stability(con: duckdb.DuckDBPyConnection, column: str, unknown: str, numeric: bool) -> float:
    """Population stability index of test against train: by tenths of train, or by the values of a category."""
    known = f"rows WHERE NOT ({unknown})"
    group = column
    if numeric:
        tenths = ", ".join(str(part / 10) for part in range(1, 10))
        cuts = one(con, f"SELECT quantile_cont({column}, [{tenths}]) FROM {known} AND split = 0")[0] or []
        group = " + ".join(f"CAST({column} > {cut!r} AS INT)" for cut in sorted(set(cuts))) or "0"
    index = one(
        con,
        f"""
        SELECT coalesce(sum((p - q) * ln(p / q)), 0) FROM (
            SELECT (a + 0.5) / (sum(a) OVER () + 0.5 * count(*) OVER ()) AS p,
                   (b + 0.5) / (sum(b) OVER () + 0.5 * count(*) OVER ()) AS q
            FROM (SELECT count(*) FILTER (split = 0) AS a, count(*) FILTER (split = 2) AS b
                  FROM {known} GROUP BY {group})
        )
        """,
    )[0]
    return float(index)


def _cuts(folder: Path) -> Iterator[Finding]:
    """Texts that are longer than their limits, by the counts of the token caches."""
    for path in sorted((folder / "tokens").glob(f"*/{CACHE}")):
        counts = json.loads(path.read_text(encoding="utf-8"))["counts"]["train"]
        for what in ("prefixes", "candidates"):
            share = counts[f"cut_{what}"] / max(counts[what], 1)
            if share > CUT:
                limit = "tokens.max_prefix" if what == "prefixes" else "tokens.max_candidate"
                sentence = f"{share:.0%} of the train split's {what} are cut at {limit} ({path.parent.name}): raise it"
                yield Finding("warning", "text lengths", sentence)
