"""Looks at a table without knowing it: how it is encoded, and what each of its columns holds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from equipoise.common.errors import UserError
from equipoise.configs.tables import EPOCHS, NO, YES, TableFile
from equipoise.data.prepare.files import columns_of, literal, quote
from equipoise.data.prepare.formats import format_sql
from equipoise.data.prepare.mapped import open_table_file
from equipoise.data.values import text_sql

MOST_ROWS = 500_000
"""Rows that are looked at; a proposal does not need more."""
DATES = (
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%Y/%m/%d",
    "%Y%m%d",
    "%d.%m.%y",
    "%d/%m/%y",
    "%m/%d/%y",
)
TIMES = (
    "",
    " %H:%M",
    " %H:%M:%S",
    " %H:%M:%S.%g",
    " %I:%M %p",
    " %I:%M:%S %p",
    ", %H:%M",
    ", %H:%M:%S",
    " %Hh%M",
    " à %H:%M",
)
MOMENTS = tuple(date + time for date in DATES for time in TIMES)
NUMBERS = ("plain", "german", "french", "english", "swiss")
ENCODINGS = ("utf-8", "cp1252")
"""Tried in this order; bytes that neither knows are of cp1252 too, as browsers read them."""
_UNIT = r"(?:[^\W\d_]{2,5}\.?|[A-Z]{1,3}[$£¥]|[^\w\s.,])?"
NUMBER = re.compile(rf"[-+(−]?\s*{_UNIT}\s*[-+−]?[\d.,'’ʼ`\s]*\d[\d.,'’ʼ`\s]*[-–]?\s*{_UNIT}\s*[-)]?")
"""What may be a number with a currency; whether it is one, and which, the formats say."""
EARLY, LATE = 946_684_800, 2_145_916_800
"""Seconds of 2000 and 2038: numbers outside are no moments."""


@dataclass
class Column:
    """What a column holds.

    Attributes:
        name: its own.
        rows, filled, distinct: of the rows that were looked at, those with a value, and different values.
        values: up to 2,000 of its values.
        moments: formats that read all values as moments; "" is ISO 8601.
        numbers: formats that read all values as numbers, those that read them alike by the first.
        is_yes_no: whether it holds words of yes and no, or 0 and 1, alone.
        length: mean number of signs.
    """

    name: str
    kind: str
    rows: int
    filled: int
    distinct: int
    values: list[str]
    moments: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    is_yes_no: bool = False
    length: float = 0.0

    @property
    def is_key(self) -> bool:
        """Whether every row has a value of its own."""
        return self.rows > 0 and self.distinct == self.rows


@dataclass
class Look:
    """A table as it was found: its file settings and columns by name."""

    file: TableFile
    relation: str
    columns: dict[str, Column]

    @property
    def label(self) -> str:
        """Its path."""
        return self.file.label


def look(con: duckdb.DuckDBPyConnection, path: str, number: int, work: Path) -> Look:
    """Look at the table of a path or URL.

    Args:
        con: shared by the tables; gets a view per table.
        path: of the table.
        number: of the table, from 0.
        work: folder for decoded copies.

    Raises:
        UserError: it cannot be read.
    """
    file = _opened(con, path, f"t{number}", work)
    relation = f"looked_{number}"
    kinds = columns_of(con, f"raw_t{number}")
    texts = ", ".join(f"trim({text_sql(quote(name), kind)}) AS {quote(name)}" for name, kind in kinds.items())
    con.execute(f"CREATE TABLE {relation} AS SELECT {texts} FROM (SELECT * FROM raw_t{number} LIMIT {MOST_ROWS})")
    return Look(file, relation, {name: _column(con, relation, name, kind) for name, kind in kinds.items()})


def _opened(con: duckdb.DuckDBPyConnection, path: str, name: str, work: Path) -> TableFile:
    """The settings of the file: the first encoding that reads all of it."""
    for encoding in ENCODINGS:
        file = TableFile(path=path, encoding=encoding)
        try:
            open_table_file(con, name, file, work)
            con.execute(f"SELECT count(*), min(COLUMNS(*)::VARCHAR) FROM raw_{name}").fetchall()
            return file
        except (UserError, duckdb.Error) as error:
            con.execute(f"DROP VIEW IF EXISTS raw_{name}; DROP VIEW IF EXISTS file_{name}")
            if "is written in UTF-16" in str(error):
                file = TableFile(path=path, encoding="utf-16")
                open_table_file(con, name, file, work)
                return file
            last = error
            if encoding == "utf-8" and not re.search("unicode|utf-8|encod", str(error), re.IGNORECASE):
                break
    if isinstance(last, UserError):
        raise UserError(str(last).replace(f"data.tables.{name}", "init"))
    raise UserError(f"{path} cannot be read: {' '.join(str(last).split())[:200]}: correct the file") from last


def _column(con: duckdb.DuckDBPyConnection, relation: str, name: str, kind: str) -> Column:
    column = quote(name)
    row = con.execute(f"""
        SELECT count(*), count(*) FILTER ({column} <> ''), count(DISTINCT {column}) FILTER ({column} <> ''),
               avg(length({column})) FILTER ({column} <> '') FROM {relation}
    """).fetchone()
    assert row is not None
    rows, filled, distinct, length = row
    values = [
        v
        for (v,) in con.execute(f"SELECT DISTINCT {column} FROM {relation} WHERE {column} <> '' LIMIT 2000").fetchall()
    ]
    found = Column(name, kind, rows, filled, distinct, values, length=length or 0.0)
    if not values:
        return found
    given = f"(SELECT DISTINCT {column} AS x FROM {relation} WHERE {column} <> '')"
    found.moments = _moments(con, given, values, kind)
    if not found.moments and all(NUMBER.fullmatch(value) for value in values[:200]):
        found.numbers = (
            ["plain"] if all(map(str.isdecimal, values)) and distinct <= len(values) else _numbers(con, given)
        )
    low = {value.lower() for value in values}
    found.is_yes_no = len(low) <= 4 and low <= {*YES, *NO}
    return found


def _moments(con: duckdb.DuckDBPyConnection, given: str, values: Sequence[str], kind: str) -> list[str]:
    if kind.startswith(("TIMESTAMP", "DATE")):
        return [""]
    if all(re.fullmatch(r"\d{9,17}(\.\d+)?", value) for value in values):
        for form, scale in EPOCHS.items():
            if all(EARLY * scale <= float(value) < LATE * scale for value in values):
                return [form]
    if not re.search(r"\d\d?[./-]\d\d?[./-]\d\d|\d{4}[./-]\d\d?[./-]\d|^\d{8}$", values[0]):
        return []
    iso = "TRY_CAST(x AS TIMESTAMPTZ) IS NOT NULL AND regexp_matches(x, '^\\d{4}-')"
    sample = con.execute(_all_read(f"(SELECT {unfolded(values[:50])} AS x)", MOMENTS)).fetchone()
    assert sample is not None
    fits = [form for form, reads_all in zip(MOMENTS, sample, strict=True) if reads_all]
    row = con.execute(f"SELECT bool_and({iso}) FROM {given}").fetchone()
    assert row is not None
    found = [""] if row[0] else []
    if fits:
        read = con.execute(_all_read(given, fits)).fetchone()
        assert read is not None
        found += [form for form, reads_all in zip(fits, read, strict=True) if reads_all]
    return found


def _all_read(given: str, forms: Sequence[str]) -> str:
    """SQL of whether each of some formats reads all texts x."""
    reads = (f"bool_and({format_sql('x', 'VARCHAR', form)} IS NOT NULL)" for form in forms)
    return f"SELECT {', '.join(reads)} FROM {given}"


def unfolded(values: Sequence[str]) -> str:
    """SQL that unfolds texts to rows."""
    return f"unnest([{', '.join(map(literal, values))}])"


def _numbers(con: duckdb.DuckDBPyConnection, given: str) -> list[str]:
    """The formats that read all values, one of those that read them alike."""
    reads = {form: format_sql("x", "VARCHAR", form) for form in NUMBERS}
    counts = ", ".join(
        f"bool_and(({sql}) IS NOT NULL), md5(string_agg(({sql}), '|' ORDER BY x))" for sql in reads.values()
    )
    row = con.execute(f"SELECT {counts} FROM {given}").fetchone()
    assert row is not None
    kept: dict[str, str] = {}
    for place, form in enumerate(reads):
        if row[2 * place]:
            kept.setdefault(row[2 * place + 1], form)
    return list(kept.values())
