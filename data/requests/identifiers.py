"""Ids as text: whole numbers and strings are ids, nothing else."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from equipoise.common.errors import UserError


def is_identifier(kind: pa.DataType) -> bool:
    """Whether values of this Arrow type can be ids."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_integer(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )


def as_text(column: Any, source: str, name: str) -> Any:
    """A column of ids (Array or ChunkedArray) as strings, null where there is none or it is empty.

    Raises:
        UserError: names the source and the column whose type holds no ids.
    """
    if not is_identifier(column.type):
        raise UserError(f"{source} has {name} of type {column.type}: write ids as text or whole numbers")
    text = column.cast(pa.string())
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
