"""What a prepared folder holds, at a glance: some prompts, histories, columns, label rates, and what looks wrong."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from equipoise.data.manifest import SPLITS, Manifest
from equipoise.data.prepare.files import columns_of, literal, quote
from equipoise.data.prepare.tables import one
from equipoise.data.prepared_slates import prepared_slates
from equipoise.data.prompts import history_text
from equipoise.data.values import WHOLE, text_sql

MOST_ROWS = 200_000
"""Slates of which columns are summed up; counts and rates are of all."""
OF_ITEMS = ("item_index", "item_id", "text", "thing_index", "held_out")
"""Columns of items that are not a user's own attributes."""


@dataclass(frozen=True)
class ColumnSummary:
    """One column: where it is, the share that is missing, and its values.

    `low`, `median` and `high` are of numbers, None of texts; `frequent` is the most frequent value and `share` how much
    of the known values it is.
    """

    table: str
    name: str
    missing: float
    distinct: int
    low: float | None
    median: float | None
    high: float | None
    frequent: str | None
    share: float


@dataclass(frozen=True)
class Example:
    """A request as the model reads it: its prefix, and text, context and labels of some candidates."""

    request_id: str
    prefix: str
    candidates: list[tuple[str, str, int, int]]
    shown: int


@dataclass
class Preview:
    """What is told of a prepared folder; `warnings` are sentences on what looks wrong."""

    manifest: Manifest
    examples: list[Example]
    columns: list[ColumnSummary]
    histories: dict[str, float]
    warnings: list[str] = field(default_factory=list)


def preview(folder: Path, examples: int = 3, candidates: int = 4) -> Preview:
    """Look at a prepared folder.

    Args:
        folder: that `prepare` wrote.
        examples: requests whose prompts are shown, spread over the train split.
        candidates: of each, at most.

    Raises:
        UserError: the folder is not prepared, or a file of it cannot be read.
    """
    manifest = Manifest.read(folder)
    with prepared_slates(folder, manifest, [literal(name) for name in SPLITS]) as con:
        con.execute(f"CREATE VIEW items AS SELECT * FROM read_parquet({literal(str(folder / 'items.parquet'))})")
        found = Preview(
            manifest,
            _examples(con, manifest, examples, candidates),
            [*_slate_columns(con, manifest), *_item_columns(con)],
            _histories(con, manifest),
        )
    found.warnings += _warnings(found)
    return found


def _examples(con: duckdb.DuckDBPyConnection, manifest: Manifest, count: int, candidates: int) -> list[Example]:
    """Requests at equal distances in the train split, those with a history first among neighbours."""
    total = manifest.splits["train"].slates
    rows = con.execute(f"""
        SELECT request_id, prefix, item, context, click, conversion FROM (
            SELECT *, row_number() OVER () - 1 AS row FROM slates WHERE split = 'train')
        WHERE row IN ({", ".join(str(total * (2 * n + 1) // (2 * count)) for n in range(count))}) ORDER BY row
    """).fetchall()
    texts: dict[int, str] = {}
    wanted = sorted({item for row in rows for item in row[2][:candidates]})
    if wanted:
        listed = ", ".join(map(str, wanted))
        texts = dict(con.execute(f"SELECT item_index, text FROM items WHERE item_index IN ({listed})").fetchall())
    return [
        Example(
            request,
            prefix,
            [(texts[i], c or "", k, v) for i, c, k, v in list(zip(*parts, strict=True))[:candidates]],
            len(parts[0]),
        )
        for request, prefix, *parts in rows
    ]


def _slate_columns(con: duckdb.DuckDBPyConnection, manifest: Manifest) -> Iterator[ColumnSummary]:
    kinds = columns_of(con, "slates")
    lists = [*(f"field_{n}" for n in manifest.fields), *(f"feature_{n}" for n in manifest.features)]
    lists += [f"label_{name}" for name in manifest.label_columns]
    told = dict.fromkeys(name.partition("_")[2] for name in lists)
    for name in told:
        column = next(f"{start}_{name}" for start in ("feature", "field", "label") if f"{start}_{name}" in kinds)
        source = f"(SELECT unnest({quote(column)}) AS x FROM (SELECT * FROM slates LIMIT {MOST_ROWS}))"
        yield _summary(con, source, kinds[column].removesuffix("[]"), "impressions", name)
    for name in manifest.user_groups:
        source = f"(SELECT any_value({quote('user_' + name)}) AS x FROM slates GROUP BY user_id)"
        yield _summary(con, source, "VARCHAR", "users", name)


def _item_columns(con: duckdb.DuckDBPyConnection) -> Iterator[ColumnSummary]:
    for name, kind in columns_of(con, "items").items():
        if name not in OF_ITEMS:
            yield _summary(con, f"(SELECT {quote(name)} AS x FROM items)", kind, "items", name)


def _summary(con: duckdb.DuckDBPyConnection, source: str, kind: str, table: str, name: str) -> ColumnSummary:
    text = f"trim({text_sql('x', kind)})"
    # Of a number, text would cost more than all the rest, and every one has another.
    as_number = kind == "DOUBLE" or kind in WHOLE
    key = "CASE WHEN isfinite(CAST(x AS DOUBLE)) THEN x END" if as_number else f"nullif(nullif({text}, ''), 'nan')"
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE told AS
        SELECT {key} AS x, sum(n) AS n FROM (SELECT x, count(*) AS n FROM {source} GROUP BY x) GROUP BY ALL
    """)
    rows, known, distinct, numbers, low, median, high = one(
        con,
        """
        WITH numbers AS (SELECT TRY_CAST(x AS DOUBLE) AS v, n FROM told),
        ordered AS (SELECT v, n, sum(n) OVER (ORDER BY v) AS upto FROM numbers WHERE isfinite(v)),
        middle AS (SELECT sum(n) / 2 AS half FROM ordered)
        SELECT (SELECT sum(n) FROM told), (SELECT sum(n) FROM told WHERE x IS NOT NULL),
            (SELECT count(x) FROM told), sum(n), min(v),
            min(v) FILTER (upto >= half) / 2 + min(v) FILTER (upto > half) / 2, max(v)
        FROM ordered, middle
        """,
    )
    rows, known, distinct = rows or 0, known or 0, distinct or 0
    top = con.execute(f"""
        SELECT {text if as_number else "x"}, n
        FROM (SELECT x, n FROM told WHERE x IS NOT NULL ORDER BY n DESC, x LIMIT 1)
    """).fetchone()
    are_numbers = known > 0 and numbers == known
    low, median, high = (low, median, high) if are_numbers else (None, None, None)
    frequent, times = top or (None, 0)
    return ColumnSummary(
        table, name, 1 - known / max(rows, 1), distinct, low, median, high, frequent, int(times) / max(known, 1)
    )


def _histories(con: duckdb.DuckDBPyConnection, manifest: Manifest) -> dict[str, float]:
    """The share of requests of each split whose prefix has a section of the history."""
    sections = manifest.history if isinstance(manifest.history, list) else [manifest.history]
    labels = [history_text(["x"], str(s.get("label", "")))[:-1] for s in sections if s.get("max_events", 1)]
    labels = [label for label in labels if label.strip()]
    if not labels:
        return {}
    has = " OR ".join(f"contains(prefix, {literal(label)})" for label in labels)
    rows = con.execute(f"SELECT split, avg(CAST({has} AS DOUBLE)) FROM slates GROUP BY split").fetchall()
    return {split: dict(rows).get(split, 0.0) for split in SPLITS}


def _warnings(found: Preview) -> Iterator[str]:
    manifest = found.manifest
    if found.histories and not any(found.histories.values()):
        yield (
            "no request has a history: where there are events, check that user_id is written as in impressions, that "
            "their moments are before the requests, and that their items or titles are known"
        )
    for label in ("click", "conversion"):
        for name in SPLITS:
            split = manifest.splits[name]
            count = getattr(split, f"{label}s")
            if label not in manifest.absent_labels and count in (0, split.impressions):
                what = "has no" if not count else "has nothing but"
                yield f"the {name} split {what} {label}s: it measures nothing; move data.split or check the column"
    for column in found.columns:
        where = f"{column.name} of {column.table}"
        if column.missing == 1:
            yield f"{where} is empty: drop it, or check its name and format"
        elif column.distinct == 1 and column.missing == 0:
            yield f"{where} is '{column.frequent}' everywhere and tells nothing: drop it"
