"""Parquet files of requests, cut into blocks of rows and read a few rows at a time."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.common.errors import UserError

READ_ROWS = 64
BUFFER_BYTES = 1 << 20
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class RequestFile:
    """One Parquet file of requests.

    Attributes:
        path, schema: where it is and what columns it has.
        rows: requests that it holds.
        size: its bytes.
        tail: sha256 of its last 64 KiB, which hold Parquet's table of contents.
    """

    path: Path
    schema: pa.Schema
    rows: int
    size: int
    tail: str


@dataclass(frozen=True)
class Block:
    """The rows `start` … `stop` − 1 of a file, which become one part of the scores; blocks count over all files."""

    number: int
    file: RequestFile
    start: int
    stop: int


def find_request_files(path: Path) -> list[RequestFile]:
    """The file, or the *.parquet files of the folder in the order of their names, without empty ones.

    Raises:
        UserError: there is none, one cannot be read, or there are no rows.
    """
    paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not paths:
        raise UserError(f"{path} holds no *.parquet file: name a Parquet file of requests or a folder of them")
    files = [_look(file) for file in paths]
    filled = [file for file in files if file.rows]
    if not filled:
        raise UserError(f"{path} holds no requests: name a file with at least one row")
    return filled


def _look(path: Path) -> RequestFile:
    if not path.is_file():
        raise UserError(f"{path} does not exist: name a Parquet file of requests or a folder of them")
    try:
        with pq.ParquetFile(path) as parquet:
            schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
        with path.open("rb") as handle:
            size = handle.seek(0, 2)
            handle.seek(max(0, size - TAIL_BYTES))
            tail = hashlib.sha256(handle.read()).hexdigest()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read as Parquet ({_first_line(error)}): write it again") from error
    return RequestFile(path, schema, rows, size, tail)


def cut_blocks(files: Sequence[RequestFile], size: int) -> list[Block]:
    """Blocks of `size` rows, file after file; the last block of a file may be shorter."""
    blocks: list[Block] = []
    for file in files:
        for start in range(0, file.rows, size):
            blocks.append(Block(len(blocks), file, start, min(start + size, file.rows)))
    return blocks


def read_blocks(blocks: Sequence[Block], columns: Sequence[str]) -> Iterator[tuple[Block, int, pa.RecordBatch]]:
    """The rows of blocks of one file, in order, as (block, number of the first row, at most READ_ROWS rows).

    Row groups without a row of these blocks are not read. Within a block the cuts do not depend on which other blocks
    are asked for.

    Raises:
        UserError: the file cannot be read, or ends before the blocks do.
    """
    file = blocks[0].file
    try:
        with pq.ParquetFile(file.path, pre_buffer=False, buffer_size=BUFFER_BYTES) as parquet:
            start, first = 0, 0
            for group in range(parquet.num_row_groups):
                stop = start + parquet.metadata.row_group(group).num_rows
                while first < len(blocks) and blocks[first].stop <= start:
                    first += 1
                last = first
                while last < len(blocks) and blocks[last].start < stop:
                    last += 1
                if last > first:
                    yield from _read_group(parquet, group, start, blocks[first:last], columns)
                start = stop
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file.path} cannot be read ({_first_line(error)}): write it again") from error
    if start < blocks[-1].stop:
        raise UserError(f"{file.path} has fewer rows than when scoring began: leave the requests as they are")


def _read_group(
    parquet: pq.ParquetFile, group: int, start: int, blocks: Sequence[Block], columns: Sequence[str]
) -> Iterator[tuple[Block, int, pa.RecordBatch]]:
    for batch in parquet.iter_batches(READ_ROWS, row_groups=[group], columns=list(columns)):
        stop = start + batch.num_rows
        for block in blocks:
            low, high = max(block.start, start), min(block.stop, stop)
            if low < high:
                yield block, low, batch.slice(low - start, high - low)
        start = stop
        if start >= blocks[-1].stop:
            return


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0].rstrip(".:")
