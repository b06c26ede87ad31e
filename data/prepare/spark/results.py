"""Results of Spark in the forms that DuckDB's connection gives them."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

FIRST_PARTITION = 1 << 33
"""Rows that `monotonically_increasing_id` numbers in the first partition."""


class Result:
    """The rows of a query, collected when they are asked for.

    Args:
        frame: of the query.
        row_number: what turns a number of `monotonically_increasing_id` into that of a row; None where there is none.
    """

    def __init__(self, frame: DataFrame, row_number: Callable[[int], int] | None = None) -> None:
        self.frame, self.row_number = frame, row_number
        self._given = 0

    @cached_property
    def table(self) -> pa.Table:
        """All rows."""
        return _nullable(self.frame.toArrow())

    @cached_property
    def _rows(self) -> list[tuple[Any, ...]]:
        rows = list(zip(*(column.to_pylist() for column in self.table.columns), strict=True))
        if self.row_number is None:
            return rows
        number = self.row_number
        return [tuple(number(v) if isinstance(v, int) and v > FIRST_PARTITION else v for v in row) for row in rows]

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows that were not given yet."""
        rows = self._rows[self._given :]
        self._given = len(self._rows)
        return rows

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row, None after the last."""
        if self._given >= len(self._rows):
            return None
        self._given += 1
        return self._rows[self._given - 1]

    def fetchnumpy(self) -> dict[str, np.ndarray]:
        """Columns; masked where a value is missing."""
        return {name: _numpy(self.table.column(name)) for name in self.table.column_names}

    def to_arrow_table(self) -> pa.Table:
        """All rows."""
        return self.table

    def to_arrow_reader(self, batch_size: int) -> pa.RecordBatchReader:
        """All rows in their order, a partition of the cluster in memory at a time."""
        schema = _nullable(self.frame.limit(0).toArrow()).schema
        return pa.RecordBatchReader.from_batches(schema, self._batches(schema, batch_size))

    def _batches(self, schema: pa.Schema, size: int) -> Iterator[pa.RecordBatch]:
        """Batches of `size` rows, a last one of fewer, however Spark cut them: files do not depend on it."""
        held, count = [pa.Table.from_batches([], schema)], 0
        for (packed,) in self.frame.mapInArrow(_packed, "batch binary").toLocalIterator():
            with pa.ipc.open_stream(bytes(packed)) as reader:
                part = reader.read_all()
            columns = [column.cast(kind) for column, kind in zip(part.columns, schema.types, strict=True)]
            held.append(pa.Table.from_arrays(columns, schema=schema))
            count += part.num_rows
            while count >= size:
                whole = pa.concat_tables(held)
                yield from whole.slice(0, size).combine_chunks().to_batches()
                held, count = [whole.slice(size)], count - size
        yield from pa.concat_tables(held).combine_chunks().to_batches()


def _packed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Each batch as the bytes of a stream, in a column of one row."""
    for batch in batches:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        yield pa.record_batch([pa.array([sink.getvalue().to_pybytes()], pa.binary())], names=["batch"])


def _nullable(table: pa.Table) -> pa.Table:
    """The table under the types that DuckDB would give it: everything may be missing, lists hold items."""
    fields = [pa.field(field.name, _kind(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields))


def _kind(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_kind(kind.value_type))
    return pa.string() if pa.types.is_large_string(kind) else kind


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    values = column.to_numpy()
    if not column.null_count:
        return values
    missing = column.is_null().to_numpy()
    if pa.types.is_integer(column.type):
        return np.ma.masked_array(column.fill_null(0).to_numpy(), missing)
    return np.ma.masked_array(values, missing)
