"""What a value means is DuckDB's to say, on Spark too: DuckDB evaluates such expressions on batches of a task's rows.

Texts of numbers and moments, numbers and moments of texts, formats and regular expressions differ between engines in
corners; one of them decides. A user-defined function of Spark hands the columns to DuckDB as Arrow.
"""

from collections.abc import Callable
from functools import cache

import duckdb
import pyarrow as pa

from equipoise.data.database_bar import hide_bar


@cache
def database() -> duckdb.DuckDBPyConnection:
    """The database of this process, empty, with one thread and UTC."""
    con = duckdb.connect(config={"threads": 1})
    con.execute("SET TimeZone = 'UTC'")
    hide_bar(con)
    return con


def argument(number: int) -> str:
    """The name that an expression calls its column of that number by."""
    return f"a{number}"


def kind_of(expression: str, kinds: tuple[str, ...]) -> str:
    """The type of an expression over columns of these types, as DuckDB names it; raises duckdb.Error."""
    columns = ", ".join(f"NULL::{kind} AS {argument(n)}" for n, kind in enumerate(kinds)) or "NULL AS none"
    row = database().execute(f"DESCRIBE SELECT {expression} AS v FROM (SELECT {columns})").fetchone()
    assert row is not None
    return str(row[1])


def evaluator(expression: str) -> Callable[..., pa.Array]:
    """A function from columns (`argument`), Arrow (N,), to the values of an expression, Arrow (N,)."""

    def evaluate(*columns: pa.Array) -> pa.Array:
        con = database()
        con.register("batch", pa.table(list(columns), names=[argument(n) for n in range(len(columns))]))
        found = con.sql(f"SELECT {expression} AS v FROM batch").to_arrow_table().column(0).combine_chunks()
        con.unregister("batch")
        return found.chunk(0) if isinstance(found, pa.ChunkedArray) else found

    return evaluate
