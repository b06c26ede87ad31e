"""The slates of a prepared folder as a view of DuckDB, for those who look at them all."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import duckdb

from equipoise.common.errors import UserError
from equipoise.data.database_bar import hide_bar
from equipoise.data.manifest import SPLITS, Manifest
from equipoise.data.prepare.files import literal


@contextmanager
def prepared_slates(folder: Path, manifest: Manifest, values: Sequence[str]) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the view `slates`: the shards' columns, and `split`.

    Args:
        folder: that `prepare` wrote.
        manifest: its own.
        values: in SQL, what `split` is for each of SPLITS.

    Raises:
        UserError: a file cannot be read, now or by a later query.
    """
    parts = []
    for name, value in zip(SPLITS, values, strict=True):
        files = ", ".join(literal(str(folder / file)) for file in manifest.splits[name].files)
        parts.append(f"SELECT {value} AS split, * FROM read_parquet([{files}])")
    with closing(duckdb.connect()) as con:
        hide_bar(con)
        con.execute("SET TimeZone = 'UTC'")
        try:
            con.execute(f"CREATE VIEW slates AS {' UNION ALL BY NAME '.join(parts)}")
            yield con
        except duckdb.Error as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder} cannot be read ({reason}): run `equipoise prepare` again") from error
