"""The one rule by which values of tables and requests become plain: text, whole numbers, float64, true or false.

Every reader applies it where a value enters: `prepare` and files of requests in SQL (`plain_sql`), `score` on Arrow
columns (`plain_column`), Python and HTTP value by value (`plain_value`). So a column tells the same, however it is
stored: DECIMAL and float32 are the number that they spell, moments are UTC text, bytes are UTF-8 text, a list is its
values with ", " between. What is text already stays as it is: "1.10", "3E2" and "007" are no numbers.
"""

import math
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa

WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
PLAIN = {"VARCHAR", "DOUBLE", "BOOLEAN", *WHOLE}
"""DuckDB's types that are plain already."""
ZONED = ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS")
"""DuckDB's moments with an offset; pandas writes nanoseconds."""
NESTED = ("STRUCT", "MAP", "UNION")
"""DuckDB's types that no prompt can tell."""
MISSING = ("", "nan", "NaN")
"""Texts that tell nothing: writers without a null of their own spell it so."""
LIST_SEPARATOR = ", "
MOST_WHOLE = 1e38
"""Whole numbers below it are written with all their digits, others as float64 are written."""
DIGITS = (6, 7, 8, 9)
"""Significant digits that spell a number of 32 bits."""
_LIST = re.compile(r"\[\d*\]\Z")
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")


def is_list_kind(kind: str) -> bool:
    """Whether a type of DuckDB is a list or an array."""
    return _LIST.search(kind) is not None


def element_kind(kind: str) -> str:
    """The type of a list's values."""
    return _LIST.sub("", kind)


def plain_sql(column: str, kind: str, lists: str = "text") -> str:
    """SQL of a column as a plain value; structs stay as they are.

    Args:
        column: an expression.
        kind: its type, as DuckDB names it.
        lists: `text` joins the values of a list, `keep` makes them plain one by one, also inside lists.
    """
    if is_list_kind(kind):
        element = element_kind(kind)
        if element.startswith(NESTED):
            return column
        if lists == "keep":
            each = f"x{len(kind)}"  # lists of lists nest their names
            plain = plain_sql(each, element, lists)
            return column if plain == each else f"[{plain} FOR {each} IN {column}]"
        texts = f"[{text_sql('x', element)} FOR x IN {column} IF x IS NOT NULL]"
        return f"nullif(array_to_string({texts}, {LIST_SEPARATOR!r}), '')"
    if kind in PLAIN or kind.startswith(NESTED):
        return column
    if kind == "FLOAT":
        spelled = {digits: f"format('{{:.{digits}g}}', CAST({column} AS DOUBLE))" for digits in DIGITS}
        cases = (f"WHEN CAST({text} AS FLOAT) = {column} THEN CAST({text} AS DOUBLE)" for text in spelled.values())
        return f"CASE WHEN {column} IS NOT NULL THEN CASE {' '.join(cases)} ELSE CAST({column} AS DOUBLE) END END"
    if decimal := _DECIMAL.match(kind):
        digits, scale = map(int, decimal.groups())
        whole = "BIGINT" if digits <= 18 else "VARCHAR"
        return f"CAST({column} AS {whole})" if not scale else f"CAST(CAST({column} AS VARCHAR) AS DOUBLE)"
    if kind in ZONED:
        return f"CAST(CAST(timezone('UTC', CAST({column} AS TIMESTAMPTZ)) AS TIMESTAMP) AS VARCHAR) || '+00'"
    if kind.startswith("TIMESTAMP"):
        return f"CAST(CAST({column} AS TIMESTAMP) AS VARCHAR)"
    if kind == "BLOB":
        return f"coalesce(TRY(decode({column})), lower(hex({column})))"
    if kind == "JSON":  # values of several types in one column
        number = f"CAST(json_extract_string({column}, '$') AS DOUBLE)"
        return (
            f"CASE json_type({column}) WHEN 'DOUBLE' THEN {text_sql(number, 'DOUBLE')} "
            f"WHEN 'NULL' THEN NULL ELSE json_extract_string({column}, '$') END"
        )
    return f"CAST({column} AS VARCHAR)"


def text_sql(column: str, kind: str) -> str:
    """SQL of the text of a value, as `value_text` gives it; NULL where it is NaN, infinite or null."""
    plain = plain_sql(column, kind)
    if kind in ("DOUBLE", "FLOAT") or (kind.startswith("DECIMAL") and "VARCHAR) AS DOUBLE" in plain):
        is_whole = f"abs({plain}) < {MOST_WHOLE:.0f}::DOUBLE AND {plain} = floor({plain})"
        whole = f"CAST(CAST({plain} AS HUGEINT) AS VARCHAR)"
        text = f"CASE WHEN {is_whole} THEN {whole} ELSE CAST({plain} AS VARCHAR) END"
        return f"CASE WHEN isfinite({plain}) THEN {text} END"
    return plain if kind == "VARCHAR" else f"CAST({plain} AS VARCHAR)"


def value_text(value: Any) -> str | None:
    """The text of any value, so that 3, 3.0 and Decimal("3") are one; None where it is NaN, infinite or null."""
    value = plain_value(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < MOST_WHOLE else str(value)
    return None if value is None else str(value)


def plain_value(value: Any) -> Any:
    """A Python or NumPy value as a plain one; None of what is missing; a mapping stays as it is."""
    if value is None or isinstance(value, str | bool | int):
        return str(value) if isinstance(value, np.str_) else value
    if isinstance(value, np.float16 | np.float32):
        return _spelled(float(value))
    if isinstance(value, np.generic):
        return plain_value(value.item())
    if isinstance(value, float):
        return value
    if isinstance(value, Decimal):
        return float(value) if value.is_finite() else None
    if isinstance(value, bytes):
        return _bytes_text(value)
    if isinstance(value, date | time):
        return None if value != value else _moment_text(value)  # pandas' NaT is a datetime
    if isinstance(value, list | tuple | np.ndarray):
        return LIST_SEPARATOR.join(text for each in value if (text := value_text(each)) is not None) or None
    if isinstance(value, UUID):
        return str(value)
    return None if type(value).__name__ in ("NAType", "NaTType") else value


def _spelled(value: float) -> float:
    """A number of 32 bits as its fewest digits spell it: 8.2, not 8.199999809265137."""
    spelled = (float(f"{value:.{digits}g}") for digits in DIGITS)
    return next((number for number in spelled if np.float32(number) == value), value)


def _bytes_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def _moment_text(value: date | time) -> str:
    """As DuckDB writes it: UTC where there is an offset, without the zeros at the end of a second."""
    if not isinstance(value, datetime):
        return _without_zeros(value.isoformat())
    zoned = value.tzinfo is not None
    moment = value.astimezone(UTC).replace(tzinfo=None) if zoned else value
    return _without_zeros(moment.isoformat(sep=" ", timespec="microseconds")) + ("+00" if zoned else "")


def _without_zeros(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def plain_column(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """An Arrow column as a plain one; of a list, the values of a request's candidates, each becomes plain."""
    kind = column.type
    if _is_arrow_list(kind):
        if _is_plain(kind.value_type) or pa.types.is_struct(kind.value_type):
            return column
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        array = array if pa.types.is_large_list(kind) else array.cast(pa.large_list(kind.value_type))
        inner, nested = array.flatten(), _is_arrow_list(kind.value_type)
        texts = pa.array([plain_value(each) for each in inner.to_pylist()], pa.string()) if nested else None
        values = plain_column(inner) if texts is None else texts
        return pa.LargeListArray.from_arrays(_offsets(array), values, mask=array.is_null())
    if _is_plain(kind) or pa.types.is_struct(kind) or pa.types.is_map(kind):
        return column
    if pa.types.is_dictionary(kind):
        return plain_column(column.cast(kind.value_type))
    if pa.types.is_floating(kind):
        numbers = column.cast(pa.float64()).to_pylist()
        return pa.array([None if number is None else _spelled(number) for number in numbers], pa.float64())
    if pa.types.is_decimal(kind):
        whole = pa.int64() if kind.precision <= 18 else pa.string()
        return column.cast(whole) if not kind.scale else column.cast(pa.string()).cast(pa.float64())
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz and "UTC"), safe=False)
    return pa.array([plain_value(value) for value in column.to_pylist()], pa.string())


def plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch of requests whose columns have become plain, lists value by value."""
    return pa.RecordBatch.from_arrays([plain_column(column) for column in batch.columns], batch.schema.names)


def plain_table(table: pa.Table) -> pa.Table:
    """A table whose columns of other types than plain ones have become plain; a list of values becomes their text."""
    for place, name in enumerate(table.column_names):
        column = table.column(name)
        kind = column.type
        if _is_arrow_list(kind) and not pa.types.is_struct(kind.value_type):
            column = pa.array([plain_value(value) for value in column.to_pylist()], pa.string())
        table = table.set_column(place, name, plain_column(column))
    return table


def _offsets(array: pa.LargeListArray) -> pa.Array:
    """Where each list begins among the values that `flatten` gives, int64; nulls hold none."""
    sizes: Sequence[int | None] = array.value_lengths().to_pylist()
    return pa.array(np.cumsum([0, *(size or 0 for size in sizes)]), pa.int64())


def _is_arrow_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_plain(kind: pa.DataType) -> bool:
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return text or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_float64(kind)
