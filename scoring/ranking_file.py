"""Rankings as a Parquet, CSV or JSONL file that appears whole."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError

ENDINGS = (".parquet", ".csv", ".jsonl")


@contextmanager
def ranking_file(
    path: Path, names: Sequence[str], pointwise: Sequence[str], listwise: Sequence[str], more: Sequence[str] = ()
) -> Iterator[Callable[[Mapping[str, Sequence[Any]]], int]]:
    """A function that appends columns (`serving.frames.ranking_columns`) to the file and returns how many rows it got.

    Args:
        path: whose ending says which kind of file it is; it appears when the block ends well.
        names: those of request_id and user_id that the requests have.
        pointwise, listwise: the objectives.
        more: names of further numbers.

    Raises:
        UserError: the ending is unknown.
    """
    numbers = [
        "utility",
        *(f"p{name}" for name in pointwise),
        "relevance",
        *(f"delta_{name}" for name in listwise),
        *more,
    ]
    fields = [(name, pa.string()) for name in names]
    fields += [("rank", pa.int32()), ("position", pa.int32()), ("item_id", pa.string())]
    with table_file(path, pa.schema([*fields, *((name, pa.float32()) for name in numbers)])) as write:
        yield write


@contextmanager
def table_file(path: Path, schema: pa.Schema) -> Iterator[Callable[[Mapping[str, Sequence[Any]]], int]]:
    """A function that appends columns to a file, as above, and returns how many rows it got.

    Args:
        path: whose ending says which kind of file it is; it appears when the block ends well.
        schema: of the rows.

    Raises:
        UserError: the ending is unknown.
    """
    kind = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)
    if kind is None:
        raise UserError(f"{path} has an unknown ending: use {', '.join(ENDINGS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial, _sink(kind, partial, schema) as put:

        def write(columns: Mapping[str, Sequence[Any]]) -> int:
            table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
            put(table)
            return table.num_rows

        yield write


@contextmanager
def _sink(kind: str, path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    if kind == ".parquet":
        with pq.ParquetWriter(path, schema, compression="zstd") as parquet:
            yield parquet.write_table
    elif kind == ".csv":
        with pc.CSVWriter(path, schema) as sheet:
            yield sheet.write_table
    else:
        with path.open("w", encoding="utf-8") as lines:

            def put(table: pa.Table) -> None:
                for row in table.to_pylist():
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")

            yield put
