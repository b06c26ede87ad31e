"""Reading blocks of rows: every row once, in order, and no row group that nobody asked for."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from equipoise.common.errors import UserError
from equipoise.data.requests import files as request_files
from equipoise.data.requests.files import cut_blocks, find_request_files, read_blocks


def write(path: Path, rows: int, group: int) -> Path:
    pq.write_table(pa.table({"number": range(rows), "other": ["x"] * rows}), path, row_group_size=group)
    return path


@pytest.fixture
def groups_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row group of every batch that pyarrow decoded."""
    asked: list[int] = []
    original = pq.ParquetFile.iter_batches

    def spy(self: pq.ParquetFile, *arguments: Any, **options: Any) -> Any:
        for batch in original(self, *arguments, **options):
            asked.extend(options["row_groups"])
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    return asked


@pytest.mark.parametrize(("block", "group"), [(10, 10), (7, 10), (25, 10), (10, 1000), (3, 100)])
def test_every_row_once_and_cut_alike_whoever_reads(
    tmp_path: Path, block: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_files, "READ_ROWS", 4)
    files = find_request_files(write(tmp_path / "r.parquet", 103, group))
    blocks = cut_blocks(files, block)
    assert [b.number for b in blocks] == list(range(-(-103 // block)))

    def pieces(chosen: list) -> dict[int, list[list[int]]]:
        found: dict[int, list[list[int]]] = {}
        for owner, first, batch in read_blocks(chosen, ["number"]):
            assert batch.column_names == ["number"]
            assert first == batch.column("number")[0].as_py()
            found.setdefault(owner.number, []).append(batch.column("number").to_pylist())
        return found

    everything = pieces(blocks)
    assert [n for parts in everything.values() for part in parts for n in part] == list(range(103))
    assert max(len(part) for parts in everything.values() for part in parts) <= 4
    assert pieces(blocks[1::2]) == {n: parts for n, parts in everything.items() if n % 2}


def test_row_groups_of_other_processes_are_not_read(tmp_path: Path, groups_read: list[int]) -> None:
    blocks = cut_blocks(find_request_files(write(tmp_path / "r.parquet", 100, 10)), 20)
    list(read_blocks(blocks[1::2], ["number"]))
    assert groups_read == [2, 3, 6, 7]


def test_a_large_row_group_is_left_where_the_last_row_was_found(tmp_path: Path, groups_read: list[int]) -> None:
    blocks = cut_blocks(find_request_files(write(tmp_path / "r.parquet", 10_000, 5_000)), 100)
    rows = sum(batch.num_rows for _, _, batch in read_blocks(blocks[2:3], ["number"]))
    assert rows == 100
    assert groups_read == [0] * 5  # batches of 64 rows up to row 300


def test_files_of_a_folder_follow_each_other_and_empty_ones_are_skipped(tmp_path: Path) -> None:
    for name, rows in (("b", 5), ("a", 3), ("c", 0)):
        write(tmp_path / f"{name}.parquet", rows, 10)
    blocks = cut_blocks(find_request_files(tmp_path), 2)
    assert [(b.file.path.stem, b.start, b.stop) for b in blocks] == [
        ("a", 0, 2), ("a", 2, 3), ("b", 0, 2), ("b", 2, 4), ("b", 4, 5)
    ]  # fmt: skip


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.parquet does not exist"):
        find_request_files(tmp_path / "none.parquet")
    with pytest.raises(UserError, match=r"holds no \*\.parquet file"):
        find_request_files(tmp_path)
    with pytest.raises(UserError, match="holds no requests"):
        find_request_files(write(tmp_path / "empty.parquet", 0, 10))
    (tmp_path / "text.parquet").write_text("request_id\n1\n")
    with pytest.raises(UserError, match=r"text\.parquet cannot be read as Parquet"):
        find_request_files(tmp_path / "text.parquet")


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    blocks = cut_blocks(find_request_files(write(tmp_path / "r.parquet", 100, 10)), 50)
    write(tmp_path / "r.parquet", 60, 10)
    with pytest.raises(UserError, match="has fewer rows"):
        list(read_blocks(blocks, ["number"]))
