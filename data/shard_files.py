"""The Parquet shards of a split, opened one after another; only their footers are read."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.common.errors import UserError
from equipoise.data.manifest import Manifest


def open_shards(folder: Path, manifest: Manifest, split: str) -> Iterator[tuple[Path, pq.ParquetFile]]:
    """Path and opened file of every shard of a split, in order.

    Raises:
        UserError: a shard is missing, or its footer is unreadable.
    """
    for name in manifest.splits[split].files:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing: run `equipoise prepare` again")
        try:
            shard = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            manifest.verify(folder)  # names the file that is not as it was written
            raise UserError(f"{path} cannot be read ({error}): run `equipoise prepare` again") from error
        with shard:
            yield path, shard


def count_slates(folder: Path, manifest: Manifest, split: str) -> int:
    """How many slates the shards of a split hold.

    Raises:
        UserError: a shard is missing, or its footer is unreadable.
    """
    return sum(shard.metadata.num_rows for _, shard in open_shards(folder, manifest, split))
