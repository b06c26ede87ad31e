"""Ids as text: whole numbers and strings are ids, nothing else."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from equipoise.common.errors import UserError
from equipoise.data.values import plain_column


def is_identifier(kind: pa.DataType) -> bool:
    """Whether values of this Arrow type can be ids: of fractional ones, those that are whole numbers."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or isinstance(kind, pa.UuidType)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )


def _fit_64_bits(column: Any) -> bool:
    most = pc.max(pc.abs(column)).as_py()
    return most is None or most < 2**63


def as_text(column: Any, source: str, name: str) -> Any:
    """A column of ids (Array or ChunkedArray) as strings, null where there is none or it is empty.

    Raises:
        UserError: names the source and the column whose type holds no ids.
    """
    plain = plain_column(column)
    if pa.types.is_floating(plain.type):
        whole = pc.all(pc.equal(plain, pc.floor(plain))).as_py()
        plain = plain.cast(pa.int64()) if whole is not False and _fit_64_bits(plain) else plain
    if pa.types.is_floating(plain.type) or not is_identifier(plain.type):
        raise UserError(f"{source} has {name} of type {column.type}: write ids as text or whole numbers")
    text = plain.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
