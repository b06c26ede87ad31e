"""Files of tables: what is written in them is told as it is written; what is no table is refused with the reason."""

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from equipoise.common.errors import UserError
from equipoise.data.prepare.files import columns_of, file_relation, unreadable
from equipoise.data.values import text_sql


def read(path: Path) -> list[dict[str, Any]]:
    """All rows of a file, as DuckDB reads it for us."""
    with duckdb.connect() as con:
        try:
            relation = file_relation(con, path, "data.tables.items")
            return con.execute(f"SELECT * FROM {relation}").to_arrow_table().to_pylist()
        except duckdb.Error as error:
            raise unreadable(path, error) from error


CODES = [
    "1.10",
    "3E2",
    "007",
    "true",
    "03-05-2025",
    "2025-03-05",
    "NULL",
    "ABCDEF00-0000-0000-0000-00000000000A",
    "1_0",
]


def test_a_csv_file_holds_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("item_id;code;none\n" + "".join(f"{n};{code};\n" for n, code in enumerate(CODES)))
    assert [row["code"] for row in read(tmp_path / "t.csv")] == CODES
    assert {row["none"] for row in read(tmp_path / "t.csv")} == {None}


def test_a_string_of_json_is_text(tmp_path: Path) -> None:
    lines = [json.dumps({"code": code, "one": CODES[5], "list": [CODES[7]], "n": 5, "x": 1.5}) for code in CODES]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    rows = read(tmp_path / "t.jsonl")
    assert [row["code"] for row in rows] == CODES
    assert rows[0] == {"code": "1.10", "one": CODES[5], "list": [CODES[7]], "n": 5, "x": 1.5}
    with duckdb.connect() as con:
        kinds = columns_of(con, file_relation(con, tmp_path / "t.jsonl"))
    assert kinds == {"code": "VARCHAR", "one": "VARCHAR", "list": "VARCHAR[]", "n": "BIGINT", "x": "DOUBLE"}


def test_a_column_of_json_with_texts_and_numbers_is_text_without_quotes(tmp_path: Path) -> None:
    cells = [103, "103", "lamp no 1", 1984, 1.5, "1.50", True, None, 2**63, "ABCDEF00-0000-0000-0000-00000000000A"]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"title": cell}) + "\n" for cell in cells))
    with duckdb.connect() as con:
        relation = file_relation(con, tmp_path / "t.jsonl")
        text = text_sql("title", columns_of(con, relation)["title"])
        told = [row[0] for row in con.execute(f"SELECT {text} FROM {relation}").fetchall()]
    assert told == ["103", "103", "lamp no 1", "1984", "1.5", "1.50", "true", None, str(2**63), cells[-1]]


def test_gzip_is_read_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"item_id\n1.10\n"))
    assert read(tmp_path / "t.csv.gz") == [{"item_id": "1.10"}]


def test_folders_globs_and_partitions_of_parquet_are_one_table(tmp_path: Path) -> None:
    for month in ("01", "02"):
        folder = tmp_path / "all" / f"month={month}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"item_id": [f"i{month}"]}), folder / "part[0].parquet")
    (tmp_path / "all" / "_SUCCESS").write_text("")
    pq.write_table(pa.table({"other": [1]}), tmp_path / "all" / "_unfinished.parquet")
    expected = [{"item_id": "i01", "month": "01"}, {"item_id": "i02", "month": "02"}]
    assert sorted(read(tmp_path / "all"), key=str) == expected
    assert sorted(read(tmp_path / "all" / "*" / "*.parquet"), key=str) == expected
    assert read(tmp_path / "all" / "month=01" / "part[0].parquet") == [{"item_id": "i01"}]


FAULTS: dict[str, tuple[bytes, str]] = {
    "latin1.csv": ("item_id,title\n1,tea\n2,thé\n".encode("latin1"), "not written in UTF-8 (line 3): save it as UTF-8"),
    "latin1.jsonl": ('{"item_id": 1}\n{"item_id": "é"}\n'.encode("latin1"), "not written in UTF-8 (line 2)"),
    "utf16.csv": ("item_id\n1\n".encode("utf-16"), "is written in UTF-16: save it as UTF-8"),
    "items.csv.gz": (b"item_id\n1\n", "is named .gz, but is not compressed: drop .gz from its name"),
    "items.csv": (gzip.compress(b"item_id\n1\n"), "is compressed by gzip: add .gz to its name"),
    "cut.csv.gz": (gzip.compress(b"item_id\n" + bytes(range(48, 58)) * 999)[:-30], "cannot be read"),
    "array.json": (b'[{"item_id": 1}]', "is one JSON array: write one object per line"),
    "twice.csv": (b"item_id,item_id\n1,2\n", "has the column 'item_id' twice"),
    "quote.csv": (b'item_id,title\n1,tea\n2,"open\n3,x\n', "Line: 3"),
    "wide.csv": (b"item_id,title\n1,tea\n2,tea,more\n", "Line: 3, Expected Number of Columns: 2 Found: 3"),
    "ends.csv": (b"item_id,title\r\n1,tea\n2,tea\r\n3,x\n" * 3, "mixed line ends (line 2"),
    "text.txt": (b"item_id\n1\n", "unknown ending"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_table_is_refused_with_place_and_reason(tmp_path: Path, name: str) -> None:
    content, sentence = FAULTS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        read(tmp_path / name)
    assert name in str(refused.value)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_not_there_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ways = {"empty": "without *.parquet", "*.parquet": "matches no file", "none.csv": "does not exist"}
    for name, sentence in ways.items():
        with pytest.raises(UserError, match=r"data\.tables\.items") as refused:
            read(tmp_path / name)
        assert sentence in str(refused.value)
    with pytest.raises(UserError, match="no path of this machine"):
        read(Path("s3://bucket/items.parquet"))
