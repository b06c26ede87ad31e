"""Reads the input tables with DuckDB and checks them: what comes out of here can be relied on.

A source (files here, or a module of `data.sources`) leaves the relations raw_impressions, raw_items and, where it has
them, raw_users and raw_events in a DuckDB connection. `clean` turns them into impressions, items, users and events with
string ids, UTC timestamps and labels 0 or 1. Hard errors raise UserError; rows that can be left out are counted.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from equipoise.common.errors import UserError
from equipoise.common.nearest import did_you_mean
from equipoise.configs.tables import TablesConfig
from equipoise.data.prepare.files import columns_of, quote, unreadable
from equipoise.data.prepare.mapped import Formatted, open_table_file, refuse_unread
from equipoise.data.values import ZONED, plain_sql, text_sql

REQUIRED = {
    "impressions": ("request_id", "timestamp", "user_id", "item_id", "click", "conversion"),
    "items": ("item_id", "title"),
    "users": ("user_id",),
    "events": ("user_id", "timestamp", "item_id"),
}
KEYS = {"impressions": ("request_id", "item_id"), "items": ("item_id",), "users": ("user_id",)}
ID_COLUMNS = ("request_id", "user_id", "item_id")
LABELS = ("click", "conversion")
TEXTS = {"items": ("title",), "events": ("title", "kind")}
"""Columns that are text, whatever they are stored as."""
EARLIEST, LATEST = "TIMESTAMP '1900-01-01'", "TIMESTAMP '2200-01-01'"
"""Moments outside are of a wrong unit, as milliseconds that were taken for seconds are."""


@dataclass
class Tables:
    """The tables of one data set inside a connection, and what was found out about them so far."""

    con: duckdb.DuckDBPyConnection
    source: str
    labels: dict[str, str]
    split_column: str | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    users_seen: int = 0
    unread_labels: tuple[str, ...] = ()
    absent_labels: list[str] = field(default_factory=list)
    formatted: list[Formatted] = field(default_factory=list)
    follows: bool = False  # rows of some days alone, after those of a part before, which were checked as a whole

    def has(self, table: str) -> bool:
        """Whether the data set has this table."""
        return table in self.labels

    def columns(self, table: str) -> dict[str, str]:
        """Column name to DuckDB type of a raw table; empty where there is no such table."""
        return columns_of(self.con, f"raw_{table}") if self.has(table) else {}

    def drop(self, reason: str, rows: int) -> None:
        """Count rows that are left out."""
        if rows:
            self.dropped[reason] = self.dropped.get(reason, 0) + rows


def one(con: duckdb.DuckDBPyConnection, query: str) -> tuple:
    """The single row of a query that always has one."""
    row = con.execute(query).fetchone()
    assert row is not None
    return row


def missing_columns(
    tables: Tables, table: str, names: Iterable[str], because: str | Mapping[str, str] = ""
) -> list[str]:
    """A clause on these columns that a raw table lacks, naming its file and the nearest ones; none where it has all.

    `because` says who reads them: of all, or by name.
    """
    known = tables.columns(table)
    why = because if isinstance(because, Mapping) else dict.fromkeys(names := list(names), because)
    missing = [
        f"'{name}'{why.get(name, '')}{did_you_mean(name, known)}" for name in dict.fromkeys(names) if name not in known
    ]
    if not missing:
        return []
    columns = "column" if len(missing) == 1 else "columns"
    return [f"{tables.labels[table]} (data.tables.{table}) has no {columns} {', '.join(missing)}"]


def refuse_missing(clauses: list[str]) -> None:
    """Raise UserError with all clauses on missing columns, where there are any."""
    if clauses:
        one = len(clauses) == 1 and "no columns" not in clauses[0]
        it = "it" if one else "them"
        raise UserError(f"{'; '.join(clauses)}: add or rename {it}, or map {it} with data.tables.TABLE.columns")


def missing_required(
    tables: Tables, optional: Collection[str] = (), because: Mapping[str, str] | None = None
) -> list[str]:
    """A clause for each table that lacks columns of its kind.

    Args:
        tables: raw.
        optional: labels that impressions may lack.
        because: who reads a label, by its name.
    """
    needed = REQUIRED | {"impressions": tuple(name for name in REQUIRED["impressions"] if name not in optional)}
    return [c for table in tables.labels for c in missing_columns(tables, table, needed[table], because or {})]


def check_columns(tables: Tables, table: str, names: Iterable[str], because: str = "") -> None:
    """Raise UserError where a raw table lacks some of these columns, naming its file, all of them, and the nearest."""
    refuse_missing(missing_columns(tables, table, names, because))


def open_files(
    con: duckdb.DuckDBPyConnection,
    config: TablesConfig,
    work: Path,
    head: bool = False,
    without: Collection[str] = (),
) -> Tables:
    """Open the configured files as raw relations, under our names.

    Args:
        con: empty.
        config: of the tables.
        work: folder for copies of files in other encodings, which must last as long as the connection.
        head: whether only headers matter.
        without: tables that are left closed.

    Raises:
        UserError: a file is missing or unreadable, or lacks a column that its mapping names.
    """
    files = {name: file for name, file in config.files.items() if name not in without}
    tables = Tables(con, source="tables", labels={name: file.label for name, file in files.items()})
    for name, file in files.items():
        tables.formatted += open_table_file(con, name, file, work / "decoded", head)
    return tables


def clean(tables: Tables, impression_columns: Iterable[str], events: bool) -> None:
    """Check the raw tables and create impressions, items, users and (if asked) events from them.

    `impression_columns` are the columns beyond the required ones that prompts, fields and splits read; columns whose
    name no table has were refused before. Raises UserError with the file, the column or key, and the fix.
    """
    refuse_missing(missing_required(tables))
    extra = [name for name in impression_columns if name not in REQUIRED["impressions"]]
    stage(tables, "impressions", [*REQUIRED["impressions"], *extra])
    last = one(tables.con, "SELECT max(timestamp) FROM impressions")[0]
    if last.year == 1970:
        tables.notes.append(
            f"every timestamp of impressions is in 1970 (the last one is {last}), as seconds are that were read as "
            "milliseconds: check their unit."
        )
    stage(tables, "items", tables.columns("items"))
    if tables.has("users"):
        stage(tables, "users", tables.columns("users"))
    else:
        tables.con.execute("CREATE TABLE users (user_id VARCHAR)")
    if events and tables.has("events"):
        optional = [name for name in ("title", "kind") if name in tables.columns("events")]
        stage(tables, "events", [*REQUIRED["events"], *optional])
    for table in KEYS:
        if tables.has(table):
            _refuse_duplicates(tables, table)


def stage(tables: Tables, table: str, names: Iterable[str]) -> None:
    """Create the clean table from the raw one: typed columns, rows without a required value dropped and counted.

    Raises:
        UserError: a timestamp or label cannot be read, or no row is left.
    """
    kinds = tables.columns(table)
    names = list(names)
    columns = ", ".join(f"{_typed(table, name, kinds[name])} AS {quote(name)}" for name in names)
    try:
        for formatted in tables.formatted:
            if formatted.table == table and formatted.name in names:
                refuse_unread(tables.con, tables.labels[table], formatted)
        for name in names:
            _refuse_bad_values(tables, table, name, kinds[name])
        tables.con.execute(f"CREATE TABLE {table} AS SELECT {columns} FROM raw_{table}")
    except duckdb.Error as error:
        raise unreadable(tables.labels[table], error) from error
    for name in tables.unread_labels if table == "impressions" else ():
        column = quote(name)
        rows = one(tables.con, f"SELECT count(*) FROM {table} WHERE {column} IS NULL")[0]
        tables.con.execute(f"UPDATE {table} SET {column} = 0 WHERE {column} IS NULL")
        tables.absent_labels += [name] if rows else []
    for name in REQUIRED[table]:
        # An item without a title may still have a text: the prompt decides.
        if name != "title" and name in names:
            rows = one(tables.con, f"SELECT count(*) FROM {table} WHERE {quote(name)} IS NULL")[0]
            tables.con.execute(f"DELETE FROM {table} WHERE {quote(name)} IS NULL")
            tables.drop(f"{table} without {name}", rows)
    if not one(tables.con, f"SELECT count(*) FROM {table}")[0] and table in ("impressions", "items"):
        raise UserError(f"{tables.labels[table]} (data.tables.{table}) holds no usable row: check the file")


def _typed(table: str, name: str, kind: str) -> str:
    """The SQL expression that gives a column of a table its type; NULL where a value cannot be read."""
    column = quote(name)
    if name in ID_COLUMNS:
        # Whole floats come from writers that turn ids with gaps into floats: 12.0 is the id 12.
        return f"nullif({text_sql(column, kind)}, '')"
    if name == "timestamp" and name in REQUIRED[table]:
        return moment(column, kind)
    if name in LABELS and table == "impressions":
        if kind == "VARCHAR":
            column = f"CASE lower(trim({column})) WHEN 'true' THEN '1' WHEN 'false' THEN '0' ELSE {column} END"
        return f"CAST(TRY_CAST({column} AS DOUBLE) AS TINYINT)"
    return text_sql(column, kind) if name in TEXTS.get(table, ()) else plain_sql(column, kind)


def moment(column: str, kind: str) -> str:
    """SQL of a timestamp in UTC, NULL where it cannot be read; text without an offset is taken as UTC."""
    if kind in ZONED:
        return f"CAST(timezone('UTC', CAST({column} AS TIMESTAMPTZ)) AS TIMESTAMP)"
    if kind == "VARCHAR":
        return f"CAST(timezone('UTC', TRY_CAST(trim({column}) AS TIMESTAMPTZ)) AS TIMESTAMP)"
    return f"TRY_CAST({column} AS TIMESTAMP)"


def _refuse_bad_values(tables: Tables, table: str, name: str, kind: str) -> None:
    """Refuse a timestamp that cannot be read, or a label other than 0 and 1, with its first value and row."""
    column = quote(name)
    given = f"{column} IS NOT NULL AND trim(CAST({column} AS VARCHAR)) <> ''"
    if name == "timestamp" and name in REQUIRED[table]:
        is_time = kind in ("VARCHAR", "DATE", '"NULL"') or kind.startswith("TIMESTAMP")
        read = moment(column, kind)
        bad = f"{given} AND ({read} IS NULL OR {read} NOT BETWEEN {EARLIEST} AND {LATEST})" if is_time else given
        way_out = (
            "write timestamps as ISO 8601, such as 2024-05-01 13:30:00, in the years 1900 to 2199, or say how they are "
            f"written, such as data.tables.{table}.formats: {{timestamp: '%d.%m.%Y %H:%M'}} or epoch_seconds"
        )
    elif name in LABELS and table == "impressions":
        text = f"lower(trim(CAST({column} AS VARCHAR)))"
        number = f"TRY_CAST({text} AS DOUBLE)"
        bad = f"{given} AND {text} NOT IN ('true', 'false') AND ({number} IS NULL OR {number} NOT IN (0, 1))"
        way_out = (
            f"write labels as 0 or 1, or say how they are written: data.tables.{table}.formats: {{{name}: yes_no}}"
        )
    else:
        return
    query = f"SELECT row_number() OVER () AS row, CAST({column} AS VARCHAR) AS value, {bad} AS bad FROM raw_{table}"
    first = tables.con.execute(f"SELECT row, value FROM ({query}) WHERE bad ORDER BY row LIMIT 1").fetchone()
    if first:
        raise UserError(
            f"{tables.labels[table]} (data.tables.{table}) has {name} '{first[1]}' in row {first[0]}: {way_out}"
        )


def _refuse_duplicates(tables: Tables, table: str) -> None:
    keys = ", ".join(quote(name) for name in KEYS[table])
    query = f"SELECT {keys}, count(*) FROM {table} GROUP BY {keys} HAVING count(*) > 1 ORDER BY {keys} LIMIT 1"
    repeated = tables.con.execute(query).fetchone()
    if repeated:
        key = ", ".join(f"{name} '{value}'" for name, value in zip(KEYS[table], repeated, strict=False))
        raise UserError(
            f"{tables.labels[table]} (data.tables.{table}) holds {key} {repeated[-1]} times: keep one row per key"
        )
