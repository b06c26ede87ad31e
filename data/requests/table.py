"""Requests in a Parquet, CSV or JSONL file, one row each or one row per candidate, read a few at a time."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb

from equipoise.common.errors import UserError
from equipoise.data.database_bar import hide_bar
from equipoise.data.prepare.files import columns_of, file_relation, kind_of_file, quote, unreadable
from equipoise.data.prepare.tables import ID_COLUMNS, one
from equipoise.data.values import is_list_kind, plain_sql, text_sql

READ_ROWS = 1024
SORT_MEMORY = "1GB"
LISTS = ("history", "recent", "bought")
"""Columns that hold lists of titles or ids, which a cell of CSV spells."""


@dataclass(frozen=True)
class RequestTable:
    """A file of requests, open in a DuckDB connection.

    Attributes:
        con: the connection; what has to be sorted is spilled to its temporary folder.
        path: of the file.
        kinds: column name → DuckDB's type.
        key: the column that names a request: `request_id` or, where there is none, `user_id`.
        per_candidate: whether a row is one candidate; otherwise a row is one request.
    """

    con: duckdb.DuckDBPyConnection
    path: Path
    kinds: dict[str, str]
    key: str
    per_candidate: bool

    def count(self) -> int:
        """The number of requests."""
        expression = f"count(DISTINCT {quote(self.key)})" if self.per_candidate else "count(*)"
        return one(self.con, f"SELECT {expression} FROM requests")[0]

    def requests(self, columns: list[str]) -> Iterator[list[dict[str, Any]]]:
        """The rows of one request after the other, with these columns, in the order of the file.

        Rows of one request need not be next to each other; the request comes where its first row is.

        Raises:
            UserError: the file cannot be read, or a row names no request.
        """
        names = ", ".join(map(quote, columns))
        query = f"SELECT {names} FROM requests"
        if self.per_candidate:
            query = f"""
                SELECT {names} FROM (SELECT *, row_number() OVER () AS _row FROM requests)
                ORDER BY min(_row) OVER (PARTITION BY {quote(self.key)}), _row
            """
        try:
            yield from self._grouped(query)
        except duckdb.Error as error:
            raise unreadable(self.path, error) from error

    def _grouped(self, query: str) -> Iterator[list[dict[str, Any]]]:
        rows = self._rows(query)
        if not self.per_candidate:
            yield from ([row] for row in rows)
            return
        for _, group in groupby(rows, key=lambda row: row[self.key]):
            yield list(group)

    def _rows(self, query: str) -> Iterator[dict[str, Any]]:
        for batch in self.con.cursor().sql(query).to_arrow_reader(READ_ROWS):
            for row in batch.to_pylist():
                if row[self.key] is None:
                    raise UserError(f"{self.path} has a row without {self.key}: fill it or drop the row")
                yield row | {name: self._titles(name, row[name]) for name in LISTS if row.get(name)}

    def _titles(self, name: str, cell: Any) -> Any:
        """A history in one cell of CSV: JSON, or titles with | between them; what is a list already stays one."""
        if not isinstance(cell, str) or kind_of_file(self.path.name) != "csv":
            return cell
        if cell.lstrip()[:1] not in ("[", "{"):
            return [title.strip() for title in cell.split("|")]
        try:
            return json.loads(cell)
        except ValueError as error:
            raise UserError(
                f"{self.path} has a {name} that is no JSON ('{cell[:60]}'): write it as a list of titles in JSON, or "
                "with | between titles"
            ) from error


@contextmanager
def request_connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection for one file of requests: what has to be sorted is spilled beyond `SORT_MEMORY`, times are UTC."""
    with tempfile.TemporaryDirectory() as spill, closing(duckdb.connect()) as con:
        con.execute(f"SET memory_limit = '{SORT_MEMORY}'; SET temp_directory = '{spill}'; SET TimeZone = 'UTC'")
        hide_bar(con)
        yield con


def open_requests(con: duckdb.DuckDBPyConnection, path: Path) -> RequestTable:
    """Open a file as the relation `requests`, for one file per connection.

    Raises:
        UserError: it is missing or unreadable, is empty, or has no column that names requests.
    """
    kinds = open_table(con, path, "requests")
    key = next((name for name in ("request_id", "user_id") if name in kinds), None)
    if key is None:
        raise UserError(f"{path} has neither request_id nor user_id: add a column that names its requests")
    return RequestTable(con, path, kinds, key, "item_id" in kinds and not kinds["item_id"].endswith("]"))


def open_table(con: duckdb.DuckDBPyConnection, path: Path, name: str) -> dict[str, str]:
    """Open a file as the relation `name` of plain values, ids as text; returns its columns and their types.

    A list stays a list, of plain values. What CSV holds is text.

    Raises:
        UserError: it is missing, unreadable or empty.
    """
    try:
        relation = file_relation(con, path)
        given = columns_of(con, relation).items()
        columns = ", ".join(f"{_plain(column, kind)} AS {quote(column)}" for column, kind in given)
        con.execute(f"CREATE VIEW {quote(name)} AS SELECT {columns} FROM {relation}")
        kinds = columns_of(con, quote(name))
        if not one(con, f"SELECT count(*) FROM {quote(name)}")[0]:
            raise UserError(f"{path} has no rows: give it at least one")
    except duckdb.Error as error:
        raise unreadable(path, error) from error
    return kinds


def _plain(column: str, kind: str) -> str:
    is_id = column in ID_COLUMNS and not is_list_kind(kind)
    return f"nullif({text_sql(quote(column), kind)}, '')" if is_id else plain_sql(quote(column), kind, lists="keep")
