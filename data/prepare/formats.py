"""SQL that reads a column as a configuration says that it is written: numbers, moments, yes and no.

What is read is the plain value that an unmapped table would hold: a number keeps its digits as text ("1.234,50" is
"1234.50"), a moment is a UTC timestamp, yes and no are true and false. What a format cannot read is NULL; empty is too.
"""

import re

import duckdb

from equipoise.common.errors import UserError
from equipoise.configs.tables import EPOCHS, NO, NUMBER_FORMATS, YES, YES_NO, YesNoWords
from equipoise.data.prepare.files import literal
from equipoise.data.values import ZONED

SPACES = r"[\s\x{00A0}\x{202F}\x{2009}]+"
"""Spaces of all kinds, RE2: word processors and statistics offices write narrow ones between digits."""
_UNITS = r"euros?|kr\.?|zł|zl|kč|ft|lei|leva|лв\.?|руб\.?|р\.|грн\.?|fr\.?|rs\.?|tl|din\.?|kn|元|円|원"
CURRENCY = rf"(\p{{Sc}}|[A-Z]{{2,3}}\p{{Sc}}|[A-Z]{{3}}|R\$|(?i:{_UNITS}))"
APOSTROPHES = "'’ʼ`"
ZONE_AT_END = r"([+-]\d\d(:?\d\d)?|[Zz]|UTC|GMT)$"


def format_sql(column: str, kind: str, form: str | YesNoWords, zone: str = "UTC") -> str:
    """SQL of a column as a format reads it; NULL where it cannot be read.

    Args:
        column: an expression.
        kind: its type, as DuckDB names it; what is a number or moment already stays as it is.
        form: as of `equipoise.configs.tables.TableFile.formats`.
        zone: time zone of moments without their own.
    """
    if isinstance(form, YesNoWords):
        return _words_sql(column, kind, form.yes, form.no)
    if form == YES_NO:
        return _words_sql(column, kind, YES, NO)
    if form in EPOCHS:
        scale = 1_000_000 // EPOCHS[form]
        number = f"TRY_CAST(trim(CAST({column} AS VARCHAR)) AS DECIMAL(38, 6))"
        return f"TRY(make_timestamp(CAST(round({number} * {scale}) AS BIGINT)))"
    if "%" in form:
        return _moment_sql(column, kind, form, zone)
    return number_sql(column, form) if kind == "VARCHAR" else column


def number_sql(column: str, form: str) -> str:
    """SQL of the plain text of a number, its currency left out: "−1.234,50 €" is "-1234.50" with `german`."""
    group, point = NUMBER_FORMATS[form]
    text = f"trim(regexp_replace({column}, {literal(SPACES)}, ' ', 'g'))"
    text = f"replace({text}, '−', '-')"
    bare = rf"regexp_replace({text}, '^([-+(]?)\s*{CURRENCY}\s*', '\1')"
    bare = rf"regexp_replace({bare}, '\s*{CURRENCY}\s*([-)]?)$', '\2')"
    sign = {"": "", " ": " ", "'": f"[{APOSTROPHES}]".replace("'", "''")}.get(group, re.escape(group))
    inner = "2,3" if group == "," else "3"  # 1,23,456 is written in India
    digits = rf"\d{{1,3}}({sign}\d{{{inner}}})*{sign}\d{{3}}|\d+" if group else r"\d+"
    decimals = rf"({re.escape(point)}(\d+|[-–])?)?"
    amount = f"(?:{digits}){decimals}"
    pattern = rf"(?:[-+]\s?)?{amount}|{amount}-|\({amount}\)|[-+]?{re.escape(point)}\d+"
    grouped = f"[{APOSTROPHES}]".replace("'", "''") if group == "'" else re.escape(group)
    plain = f"regexp_replace({bare}, '{grouped}', '', 'g')" if group else bare
    plain = f"replace({plain}, '{point}', '.')" if point != "." else plain
    minus = f"{bare} LIKE '-%' OR regexp_matches({bare}, '^\\(|\\d-$')"
    number = rf"regexp_extract({plain}, '(\d+(\.\d+)?|\.\d+)')"
    number = f"CASE WHEN {number} LIKE '.%' THEN '0' ELSE '' END || {number}"
    return (
        f"CASE WHEN regexp_full_match({bare}, '{pattern}') THEN CASE WHEN {minus} THEN '-' ELSE '' END || {number} END"
    )


def _words_sql(column: str, kind: str, yes: tuple[str, ...] | list[str], no: tuple[str, ...] | list[str]) -> str:
    text = f"lower(trim(coalesce(CAST({column} AS VARCHAR), '')))"
    if kind in ("DOUBLE", "FLOAT") or kind.startswith("DECIMAL"):  # 1.0 is yes as 1 is
        text = f"regexp_replace({text}, '\\.0+$', '')"
    means_yes, means_no = (", ".join(literal(word.strip().lower()) for word in words) for words in (yes, no))
    return f"CASE WHEN {text} IN ({means_yes}) THEN true WHEN {text} IN ({means_no}) THEN false END"


def _moment_sql(column: str, kind: str, pattern: str, zone: str) -> str:
    if kind in ZONED or kind.startswith("TIMESTAMP") or kind == "DATE":
        return zoned_sql(column, kind, zone)
    text = f"trim(regexp_replace(CAST({column} AS VARCHAR), {literal(SPACES)}, ' ', 'g'))"
    read = f"try_strptime({text}, {literal(pattern)})"
    if "%z" in pattern.lower():
        return f"timezone('UTC', {read})"
    return _shifted(read, zone)


def zoned_sql(column: str, kind: str, zone: str) -> str:
    """SQL of a moment in UTC, of a column without a format; moments without a time zone are of `zone`."""
    if kind in ZONED or zone == "UTC":
        return column
    if kind == "VARCHAR":
        own = f"regexp_matches(trim({column}), '{ZONE_AT_END}') AND length(trim({column})) > 10"
        instant = f"timezone('UTC', TRY_CAST(trim({column}) AS TIMESTAMPTZ))"
        shifted = _shifted(f"TRY_CAST(trim({column}) AS TIMESTAMP)", zone)
        return f"CASE WHEN {own} THEN {instant} ELSE {shifted} END"
    return _shifted(f"CAST({column} AS TIMESTAMP)", zone) if kind == "DATE" or kind.startswith("TIMESTAMP") else column


def _shifted(moment: str, zone: str) -> str:
    return moment if zone == "UTC" else f"timezone('UTC', timezone({literal(zone)}, {moment}))"


def check_pattern(con: duckdb.DuckDBPyConnection, pattern: str, place: str) -> None:
    """Refuse a pattern of moments that DuckDB does not know; `place` is its setting."""
    try:
        con.execute(f"SELECT try_strptime('x', {literal(pattern)})")
    except duckdb.Error as error:
        reason = " ".join(str(error).splitlines()[0].split())[:160]
        raise UserError(f"{place}: '{pattern}' is no pattern of a moment ({reason}): write it like %d.%m.%Y") from error


def describe(form: str | YesNoWords) -> str:
    """What a format reads, for messages."""
    if isinstance(form, YesNoWords):
        return f"{', '.join(form.yes)} as yes and {', '.join(word or 'nothing' for word in form.no)} as no"
    if form == YES_NO:
        return "words for yes and no"
    if form in EPOCHS:
        return f"{form.removeprefix('epoch_')} since 1970"
    if "%" in form:
        return "moments of that pattern"
    group, point = NUMBER_FORMATS[form]
    return f"numbers like 1{group}234{point}50"
