"""Opens files of tables: Parquet, CSV and JSONL, gzip or not; also folders, globs and hive partitions of one of them.

What a CSV file holds is text, and a string of JSON is text: ids, titles and codes are told as they are written. Who
needs a number reads it as one. Numbers of JSON stay numbers, unless other rows of the column hold texts.
"""

import csv
import glob
import gzip
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import duckdb

from equipoise.common.errors import UserError
from equipoise.data.prepare.remote import Remote
from equipoise.data.values import element_kind, is_list_kind

PARQUET = (".parquet", ".pq")
JSON_LINES = (".jsonl", ".ndjson", ".json")
CSV = (".csv", ".tsv")
READ_AS_TEXT = ("DATE", "TIME", "UUID", "INTERVAL")
"""Starts of the types that DuckDB guesses strings of JSON to be."""
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")
GZIP_MARK = b"\x1f\x8b"
File = TypeVar("File", Path, Remote)


def quote(name: str) -> str:
    """An identifier quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string literal for SQL."""
    return "'" + text.replace("'", "''") + "'"


def columns_of(con: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """Column name to DuckDB type of a relation."""
    return {name: kind for name, kind, *_ in con.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()}


def is_there(path: Path, place: str) -> bool:
    """Whether a path leads anywhere; raises UserError where that cannot be told, as of too long names."""
    try:
        return path.exists()
    except OSError as error:
        raise UserError(f"{place} {path} cannot be read ({error.strerror}): correct the path") from error


def find_table(path: Path, place: str) -> list[Path]:
    """The files of a table: the file itself, the files of a folder, or those that a glob names.

    Args:
        path: a file, a folder or a glob.
        place: what names it, for messages.

    Raises:
        UserError: there is none, or they are of several kinds.
    """
    there = is_there(path, place)
    if there and path.is_file():
        return [path]
    if there and path.is_dir():
        inside = sorted(file for file in path.rglob("*") if kind_of_file(file.name) and file.is_file())
        # Writers keep what is unfinished, and their notes, in names that begin with _ or a dot.
        files = [file for file in inside if not _hidden(file.relative_to(path))]
        if not files:
            raise UserError(f"{place} {path} is a folder without *.parquet, *.csv or *.jsonl files: name one with such")
        return one_kind(files, f"{place} {path}")
    if glob.has_magic(str(path)):
        root = Path(path.anchor)
        files = sorted(file for file in root.glob(str(path.relative_to(root))) if file.is_file())
        if not files:
            raise UserError(f"{place} {path} matches no file: correct the path")
        return one_kind(files, f"{place} {path}")
    if re.match(r"[a-z][a-z0-9+]*:/", str(path)) and not there:
        raise UserError(f"{place} {path} is no path of this machine: copy the file here and name its path")
    raise UserError(f"{place} {path} does not exist: correct the path")


def kind_of_file(name: str) -> str:
    """parquet, json or csv by the ending of a name, "" of any other."""
    ending = name.lower().removesuffix(".gz")
    kinds = {"parquet": PARQUET, "json": JSON_LINES, "csv": CSV}
    return next((kind for kind, endings in kinds.items() if ending.endswith(endings)), "")


def one_kind(files: Sequence[File], place: str) -> list[File]:
    """The files, all of one kind; raises UserError for the first of another one."""
    kind = kind_of_file(files[0].name)
    other = next((file for file in files if kind_of_file(file.name) != kind), None)
    if other is not None:
        raise UserError(f"{place} matches {files[0]} and {other}, which are of two kinds: name files of one kind")
    return list(files)


def _hidden(path: Path) -> bool:
    return any(part.startswith(("_", ".")) for part in path.parts)


def file_relation(con: duckdb.DuckDBPyConnection, path: Path, place: str = "") -> str:
    """The table function, or the query in brackets, that reads a table (`find_table`) by its ending.

    Raises:
        UserError: there is no such file, its ending is unknown, or it is not what its name says.
    """
    return relation_of(con, find_table(path, place), single=path.is_file())


def relation_of(con: duckdb.DuckDBPyConnection, files: Sequence[Path | Remote], single: bool) -> str:
    """What reads files of one kind as one table; `single`: the folders above say nothing of it.

    Raises:
        UserError: the ending is unknown, or a file is not what its name says.
    """
    kind = kind_of_file(files[0].name)
    if kind == "parquet":
        return _parquet(files, single)
    for file in files:
        _refuse_disguised(file)
    if kind == "json":
        return _json_lines(con, files, single)
    if kind == "csv":
        return _csv(files, single)
    raise UserError(f"{files[0]} has an unknown ending: use .parquet, .csv or .jsonl")


def _hive(single: bool) -> str:
    # A partition's value is text, as all that is written in names.
    return ", hive_partitioning=false" if single else ", hive_partitioning=true, hive_types_autocast=false"


def _parquet(files: Sequence[Path | Remote], single: bool) -> str:
    return f"read_parquet([{_places(files)}]{_hive(single)}{'' if single else ', union_by_name=true'})"


def _places(files: Sequence[Path | Remote]) -> str:
    return ", ".join(_where(file) for file in files)


def _where(path: Path | Remote) -> str:
    """The path as a literal in which nothing is a wildcard."""
    return literal(re.sub(r"([*?\[])", r"[\1]", str(path)))


def _json_lines(con: duckdb.DuckDBPyConnection, files: Sequence[Path | Remote], single: bool) -> str:
    given = f"read_json([{_places(files)}], format='newline_delimited', hive_partitioning=false"
    kinds = columns_of(con, f"{given}, sample_size=-1, union_by_name=true)")
    columns = ", ".join(f"{literal(name)}: {literal(_json_kind(kind))}" for name, kind in kinds.items())
    return f"{given.replace(', hive_partitioning=false', _hive(single))}, columns={{{columns}}})"


def _json_kind(kind: str) -> str:
    """The type that a column of JSON is read as: what DuckDB took for dates or UUIDs is the text that it was."""
    if is_list_kind(kind):
        return f"{_json_kind(element_kind(kind))}[]"
    return "VARCHAR" if kind.startswith(READ_AS_TEXT) or kind in ('"NULL"', "HUGEINT", "UHUGEINT") else kind


def _csv(files: Sequence[Path | Remote], single: bool) -> str:
    """Every cell as text. The dialect is that of the header line: a sniffer would read broken rows in its own way.

    Files whose headers differ are joined by the names of their columns.
    """
    by_header: dict[tuple[str, tuple[str, ...]], list[Path | Remote]] = {}
    for file in files:
        by_header.setdefault(_dialect(file), []).append(file)
    reads = []
    for (delimiter, names), group in by_header.items():
        columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
        dialect = f"delim={literal(delimiter)}, quote='\"', escape='\"', skip=0, header=true, auto_detect=false"
        reads.append(f"read_csv([{_places(group)}], {dialect}{_hive(single)}, columns={{{columns}}})")
    return reads[0] if len(reads) == 1 else "(" + " UNION ALL BY NAME ".join(f"SELECT * FROM {r}" for r in reads) + ")"


def _dialect(path: Path | Remote) -> tuple[str, tuple[str, ...]]:
    """The delimiter of a CSV file and its columns, by its header line."""
    header = _header(path)
    delimiter = max(",;\t|", key=header.count)
    names = next(csv.reader([header], delimiter=delimiter), [])
    names = [name.strip() or f"column{place}" for place, name in enumerate(names)]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path} has the column '{repeated}' twice: rename one")
    return delimiter, tuple(names)


def _header(path: Path | Remote) -> str:
    try:
        with opened(path) as file:
            line = file.readline()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({_sentence(str(error))}): write it again") from error
    return line.decode("utf-8-sig", errors="replace").rstrip("\r\n")


def opened(path: Path | Remote) -> BinaryIO:
    """The bytes of a file, decompressed where its name ends in .gz."""
    if path.name.lower().endswith(".gz"):
        return cast(BinaryIO, gzip.open(path.open("rb"), "rb"))
    return path.open("rb")


def _refuse_disguised(path: Path | Remote) -> None:
    """Refuse a file that is not what its name says, or is text that nothing here reads."""
    try:
        with path.open("rb") as file:
            mark = file.read(2)
        named = path.name.lower().endswith(".gz")
        if named != (mark == GZIP_MARK):
            about = "is named .gz, but is not compressed: drop .gz from its name, or compress it"
            raise UserError(f"{path} {about if named else 'is compressed by gzip: add .gz to its name'}")
        with opened(path) as file:
            start = file.read(4)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({_sentence(str(error))}): write it again") from error
    if start.startswith(BYTE_ORDER_MARKS):
        raise UserError(
            f"{path} is written in UTF-16: save it as UTF-8 (iconv -f utf-16 -t utf-8), or (of data.tables) "
            "say so with encoding: utf-16"
        )
    if path.name.lower().removesuffix(".gz").endswith(JSON_LINES) and start.lstrip().startswith(b"["):
        raise UserError(f"{path} is one JSON array: write one object per line (jq -c '.[]'), as .jsonl")


def unreadable(path: str | Path, error: duckdb.Error) -> UserError:
    """DuckDB's complaint as one sentence with place, reason and fix."""
    if "invalid state" in str(error) and (line := _other_line_end(Path(path))):
        return UserError(f"{path} has mixed line ends (line {line} ends otherwise than line 1): save it with one kind")
    line = _undecodable(Path(path)) if "unicode" in str(error).lower() or "utf-8" in str(error).lower() else None
    if line is not None:
        return UserError(
            f"{path} is not written in UTF-8 (line {line}): save it as UTF-8, such as by iconv -f latin1 -t utf-8, or "
            "(of data.tables) say how it is written, such as encoding: cp1252"
        )
    reason = _reason(str(error))
    return UserError(f"{path} cannot be read: {reason}: correct the file or write it as Parquet")


def _reason(message: str) -> str:
    """The part of a message that says where and what: up to the list of advice, without the line's own text."""
    message = re.split(r"\n\s*\n|Possible (?:fixes|solutions)|\n\s*LINE \d", message)[0]
    lines = [line.strip() for line in message.splitlines()]
    told = [line for line in lines if line and not line.startswith(("Original Line", "file =", "*"))]
    return _sentence(", ".join(line.rstrip(".:") for line in told))


def _sentence(text: str) -> str:
    return " ".join(text.split())[:300].rstrip(".:, ")


def _other_line_end(path: Path) -> int | None:
    """The number of the first line that does not end as line 1 does, a last one without an end left out."""
    if not path.is_file():
        return None
    with opened(path) as file:
        ends = (line.endswith(b"\r\n") if line.endswith(b"\n") else None for line in file)
        first = next(ends, None)
        return next((number for number, end in enumerate(ends, 2) if end is not None and end != first), None)


def _undecodable(path: Path) -> int | None:
    """The number of the first line that is not UTF-8; None where there is none or no file."""
    if not path.is_file() or path.suffix.lower() in PARQUET:
        return None
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None
