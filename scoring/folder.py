"""The folder that `equipoise score` fills: score.json first, then one part per block, each whole or not at all."""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError

log = logging.getLogger(__name__)

RECORD = "score.json"
ROW_GROUP = 1 << 16
BLOCK = b"equipoise.block"
"""Key in a part's metadata: which block it is of."""
_PART = re.compile(r"scores-(\d{5,})\.parquet\Z")
_PARTIAL = re.compile(r"\.(scores-\d{5,}\.parquet|score\.json)\.\d+\.partial\Z")


class PartWriter:
    """Gathers tables and writes them as row groups of about ROW_GROUP rows."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self.writer = writer
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, table: pa.Table) -> None:
        """Write these rows, now or with later ones."""
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            self.writer.write_table(pa.concat_tables(self._waiting))
        self._waiting, self._rows = [], 0


class ScoreFolder:
    """Where scores go.

    Args:
        folder: it may be missing or empty, or hold earlier scores.
        record: what determines the scores, as JSON can hold it; see `begin`.
    """

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self.folder, self.record = folder, record

    def begin(self, overwrite: bool) -> None:
        """Make the folder ready to be filled or filled further.

        Raises:
            UserError: it holds something else, or scores of other inputs or settings and `overwrite` is not given.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file: name a folder for the scores")
        record = self.folder / RECORD
        present = list(self.folder.iterdir()) if self.folder.is_dir() else []
        strange = [path.name for path in present if not _is_ours(path.name)]
        if strange or (present and not record.is_file() and any(_PART.match(path.name) for path in present)):
            name = strange[0] if strange else present[0].name
            raise UserError(f"{self.folder} holds other files than scores ({name}): name another folder")
        for path in present:
            if _PARTIAL.match(path.name):
                path.unlink()
        if record.is_file() and not overwrite:
            self._compare(record)
            self._drop_damaged()
            return
        for path in present:
            if _PART.match(path.name):
                path.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(record) as partial:
            partial.write_text(json.dumps(self.record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _compare(self, path: Path) -> None:
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} cannot be read: add --overwrite to score anew") from error
        for name, value in self.record.items():
            if not isinstance(before, dict) or before.get(name) != value:
                raise UserError(
                    f"{self.folder} was begun otherwise ({_difference(before, name, value)}): name another folder, "
                    "or add --overwrite to score anew"
                )

    def _drop_damaged(self) -> None:
        """Remove parts that are not as they were written, so that their blocks are scored again."""
        for number in sorted(self.finished()):
            if not self._is_whole(number):
                log.warning(f"{self.part(number)} is not as it was written: its requests are scored again")
                self.part(number).unlink()

    def _is_whole(self, number: int) -> bool:
        """Whether a part is that of its block, and every page of it has its checksum; parts of before have none."""
        try:
            with pq.ParquetFile(self.part(number), page_checksum_verification=True) as file:
                block = (file.metadata.metadata or {}).get(BLOCK, str(number).encode())
                if block != str(number).encode() or file.schema_arrow.names != self.record["columns"]:
                    return False
                return sum(batch.num_rows for batch in file.iter_batches()) == file.metadata.num_rows
        except (OSError, pa.ArrowException):
            return False

    def finished(self) -> set[int]:
        """Numbers of the blocks whose parts are there."""
        matches = (_PART.match(path.name) for path in self.folder.iterdir())
        return {int(match.group(1)) for match in matches if match}

    def part(self, number: int) -> Path:
        """The part of a block."""
        return self.folder / f"scores-{number:05d}.parquet"

    def impressions(self, number: int) -> int:
        """Rows of a finished part."""
        return pq.read_metadata(self.part(number)).num_rows

    @contextmanager
    def writing(self, number: int, schema: pa.Schema) -> Iterator[PartWriter]:
        """Write the part of a block; it appears when the block ends well, and not at all otherwise."""
        options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
        with atomic_write(self.part(number)) as partial, pq.ParquetWriter(partial, schema, **options) as file:
            writer = PartWriter(file)
            yield writer
            writer.flush()
            file.add_key_value_metadata({BLOCK: str(number)})


def _is_ours(name: str) -> bool:
    return name == RECORD or bool(_PART.match(name) or _PARTIAL.match(name))


def _difference(before: Any, name: str, value: Any) -> str:
    """The first place where two values of the record differ, with its name."""
    old = before.get(name) if isinstance(before, dict) else None
    while isinstance(old, dict) and isinstance(value, dict):
        key = next(key for key in [*value, *old] if old.get(key) != value.get(key))
        name, old, value = f"{name}.{key}", old.get(key), value.get(key)
    if isinstance(old, list) and isinstance(value, list):
        if len(old) != len(value):
            return f"{name}: {len(old)} then, {len(value)} now"
        return _difference(*next(({name: a}, name, b) for a, b in zip(old, value, strict=True) if a != b))
    return f"{name}: {old} then, {value} now"
