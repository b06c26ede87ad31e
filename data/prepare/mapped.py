"""Opens a table of a configuration as the relation raw_NAME: found, decoded, under our names and spellings."""

import codecs
from dataclasses import dataclass
from pathlib import Path

import duckdb

from equipoise.common.errors import UserError
from equipoise.common.nearest import did_you_mean
from equipoise.configs.tables import TableFile, YesNoWords
from equipoise.data.prepare.files import (
    columns_of,
    find_table,
    kind_of_file,
    literal,
    one_kind,
    opened,
    quote,
    relation_of,
    unreadable,
)
from equipoise.data.prepare.formats import check_pattern, describe, format_sql, zoned_sql
from equipoise.data.prepare.remote import Remote, find_remote
from equipoise.data.values import text_sql

HEAD_BYTES = 1 << 20
"""Bytes of a file in another encoding that are decoded to read its header."""
JOINED = "|"
"""Between the values of columns that are joined to one."""
PIECE = 1 << 20


@dataclass(frozen=True)
class Formatted:
    """A column with a format: its own text and what the format reads, as SQL over the view file_TABLE."""

    table: str
    name: str
    given: str
    read: str
    form: str | YesNoWords


def open_table_file(
    con: duckdb.DuckDBPyConnection, name: str, file: TableFile, work: Path, head: bool = False
) -> list[Formatted]:
    """Create the views file_NAME, as the table is, and raw_NAME, under our names; returns its formatted columns.

    Args:
        con: of the tables.
        name: of the table.
        file: where it is and how it is mapped.
        work: folder for decoded copies of files in another encoding; it must last as long as the views.
        head: whether only headers matter, so that a decoded copy may be cut.

    Raises:
        UserError: nothing is there or it cannot be read, or the mapping names a column that is not there.
    """
    place = f"data.tables.{name}"
    try:
        con.execute(f"CREATE VIEW file_{name} AS SELECT * FROM {_relation(con, name, file, work, head)}")
        return _map(con, name, file)
    except duckdb.Error as error:
        if file.query is not None:
            reason = " ".join(str(error).split())[:300].rstrip(".:")
            raise UserError(f"{place}.query cannot be answered: {reason}: correct it") from error
        raise unreadable(file.label, error) from error
    except OSError as error:
        raise UserError(f"{place} {file.label} cannot be read ({error}): correct it") from error


def _relation(con: duckdb.DuckDBPyConnection, name: str, file: TableFile, work: Path, head: bool) -> str:
    place = f"data.tables.{name}"
    if file.query is not None:
        _attach(con, file, place)
        return f"({file.query.strip().rstrip(';')})"
    assert file.path is not None
    files: list[Path] | list[Remote]
    if file.is_remote:
        files, single = find_remote(con, file.path, place, kind_of_file)
        files = one_kind(files, f"{place} {file.path}")
    else:
        files, single = find_table(Path(file.path), place), Path(file.path).is_file()
    if codecs.lookup(file.encoding).name != "utf-8" and kind_of_file(files[0].name):
        if kind_of_file(files[0].name) == "parquet":
            raise UserError(f"{place} {file.path} is Parquet, which has no encoding: drop encoding: {file.encoding}")
        return relation_of(con, [_decoded(f, file, name, work, head, not single) for f in files], single)
    return relation_of(con, files, single)


def _attach(con: duckdb.DuckDBPyConnection, file: TableFile, place: str) -> None:
    con.execute("SET autoinstall_known_extensions = false")
    for alias, database in file.attach.items():
        try:
            con.execute(f"ATTACH IF NOT EXISTS {literal(database)} AS {quote(alias)} (READ_ONLY)")
        except duckdb.Error as error:
            reason = " ".join(str(error).split())[:300].rstrip(".:")
            kind = database.split(":", 1)[0]
            install = f"install DuckDB's extension once (INSTALL {kind}), or " if ":" in database else ""
            raise UserError(f"{place}.attach.{alias} cannot be opened: {reason}: {install}correct it") from error


def _decoded(path: Path | Remote, file: TableFile, name: str, work: Path, head: bool, partitioned: bool) -> Path:
    """A copy of a file in UTF-8, below `work` in the same folders, so that partitions are read from them."""
    work.mkdir(parents=True, exist_ok=True)
    parts = [part for part in Path(str(path)).parent.parts if "=" in part and partitioned]
    number = sum(1 for _ in (work / name).rglob("*")) if (work / name).is_dir() else 0
    ending = path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]
    copy = (work / name).joinpath(*parts) / f"{number:06d}.{ending}"
    copy.parent.mkdir(parents=True, exist_ok=True)
    # What is called latin-1 is cp1252 wherever a euro sign is in it, as browsers know.
    codec = "cp1252" if codecs.lookup(file.encoding).name == "iso8859-1" else file.encoding
    decoder = codecs.getincrementaldecoder(codec)(errors="c1" if codec == "cp1252" else "strict")
    taken, line = 0, 1
    with opened(path) as source, copy.open("w", encoding="utf-8", newline="") as target:
        while piece := source.read(PIECE):
            try:
                text = decoder.decode(piece)
            except UnicodeError as error:
                raise UserError(
                    f"{path} (data.tables.{name}) is not written in {file.encoding} (about line {line}): name its "
                    "encoding, such as cp1252"
                ) from error
            if not taken:
                text = text.removeprefix("\ufeff")
            line += text.count("\n")
            taken += len(piece)
            if head and taken >= HEAD_BYTES:
                text = text[: text.rfind("\n") + 1]
                target.write(text)
                break
            target.write(text)
    return copy


def _c1(error: UnicodeError) -> tuple[str, int]:
    """The five bytes that cp1252 leaves open, as latin-1 reads them."""
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("c1", _c1)


def _map(con: duckdb.DuckDBPyConnection, name: str, file: TableFile) -> list[Formatted]:
    """Create raw_NAME from file_NAME."""
    place, kinds = f"data.tables.{name}", columns_of(con, f"file_{name}")
    missing = []
    for ours, theirs in file.columns.items():
        for one in [theirs] if isinstance(theirs, str) else theirs:
            if one not in kinds:
                missing.append(f"'{one}', which {place}.columns.{ours} names{did_you_mean(one, kinds)}")
    if missing:
        word = "column" if len(missing) == 1 else "columns"
        raise UserError(f"{file.label} ({place}) has no {word} {', '.join(missing)}: correct the name")
    used = {theirs for theirs in file.columns.values() if isinstance(theirs, str)}
    given: dict[str, tuple[str, str]] = {}
    for ours, theirs in file.columns.items():
        if isinstance(theirs, str):
            given[ours] = quote(theirs), kinds[theirs]
        else:
            texts = [text_sql(quote(one), kinds[one]) for one in theirs]
            given[ours] = f" || '{JOINED}' || ".join(f"({text})" for text in texts), "VARCHAR"
    given |= {one: (quote(one), kind) for one, kind in kinds.items() if one not in used and one not in given}
    formatted: list[Formatted] = []
    columns: list[str] = []
    for ours, (column, kind) in given.items():
        form = file.formats.get(ours)
        read = column
        if form is not None:
            if isinstance(form, str) and "%" in form:
                check_pattern(con, form, f"{place}.formats.{ours}")
            read = format_sql(column, kind, form, file.timezone)
            formatted.append(Formatted(name, ours, column, read, form))
        elif ours == "timestamp":
            read = zoned_sql(column, kind, file.timezone)
        columns.append(f"{read} AS {quote(ours)}")
    for ours in file.formats:
        if ours not in given:
            raise UserError(
                f"{file.label} ({place}) has no column '{ours}', which {place}.formats names"
                f"{did_you_mean(ours, given)}: correct the name"
            )
    con.execute(f"CREATE VIEW raw_{name} AS SELECT {', '.join(columns)} FROM file_{name}")
    return formatted


def refuse_unread(con: duckdb.DuckDBPyConnection, label: str, column: Formatted) -> None:
    """Refuse a value that the format of its column does not read, naming it, its row and the way out."""
    empty = f"({column.given}) IS NULL OR trim(CAST({column.given} AS VARCHAR)) = ''"
    query = (
        f"SELECT row_number() OVER () AS row, CAST({column.given} AS VARCHAR) AS value, "
        f"NOT ({empty}) AND ({column.read}) IS NULL AS bad FROM file_{column.table}"
    )
    first = con.execute(f"SELECT row, value FROM ({query}) WHERE bad ORDER BY row LIMIT 1").fetchone()
    if first:
        setting = f"data.tables.{column.table}.formats.{column.name}"
        shown = column.form if isinstance(column.form, str) else "its words"
        raise UserError(
            f"{label} (data.tables.{column.table}) has {column.name} '{first[1]}' in row {first[0]}, but {setting} "
            f"({shown}) reads {describe(column.form)}: correct the value or the format"
        )
