"""Adds later impressions to the last state of rates, so that it is what `prepare` would have written of them all."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path

import duckdb

from equipoise.common.atomic import atomic_dir
from equipoise.common.errors import UserError
from equipoise.common.nearest import did_you_mean
from equipoise.common.sealed import seal
from equipoise.configs.rates import RateConfig
from equipoise.data.database_bar import hide_bar
from equipoise.data.prepare.files import file_relation, literal, quote, unreadable
from equipoise.data.prepare.rates import (
    microseconds_of,
    moment_of,
    rate_columns,
    read_columns,
    refuse_bad_values,
    write_state,
)
from equipoise.data.prepare.tables import REQUIRED, Tables, one, stage
from equipoise.data.rates import read_metadata

MEMORY = "4GB"
TIME = "%Y-%m-%d %H:%M:%S"


def update_states(
    states: Sequence[Path], impressions: Path, items: Path, item_keys: Mapping[str, str], out: Path
) -> tuple[int, datetime]:
    """Write the files of `states` with the impressions of a table added to a folder, whole or not at all.

    Args:
        states: files of rates.
        impressions: Parquet, CSV or JSONL: `timestamp`, the rates' labels, and the columns that they count by as far as
            items do not have them.
        items: Parquet file with `item_id` and columns of items.
        item_keys: of columns that rates count by their names in `items`.
        out: folder of the new files, which may be that of the old ones.

    Returns:
        How many impressions were counted, and the moment of the last (UTC).

    Raises:
        UserError: a column is missing, a value cannot be read, or an impression is not later than the state.
    """
    rates = {path: read_metadata(path) for path in states}
    with tempfile.TemporaryDirectory() as spill, closing(duckdb.connect(str(Path(spill) / "work.duckdb"))) as con:
        con.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = {literal(spill)}; SET TimeZone = 'UTC'")
        hide_bar(con)
        tables = _open(con, impressions, items, item_keys)
        _write_rows(tables, [rate for rate, *_ in rates.values()])
        count, first, last = one(con, "SELECT count(*), min(moment), max(moment) FROM rate_rows")
        for rate, _, counted in rates.values():
            if first <= microseconds_of(counted):
                raise UserError(
                    f"{impressions} has an impression of {moment_of(first):{TIME}}, but {rate.rate} counts those until "
                    f"{counted:{TIME}} already: give later ones alone"
                )
        with atomic_dir(out) as folder:
            for path, (rate, *_) in rates.items():
                write_state(con, rate, folder / path.name, before=path)
            seal(folder)
    return count, moment_of(last)


def _open(con: duckdb.DuckDBPyConnection, impressions: Path, items: Path, keys: Mapping[str, str]) -> Tables:
    """The file as raw_impressions, and the table items."""
    try:
        relation = file_relation(con, impressions)
        con.execute(f"CREATE VIEW raw_impressions AS SELECT * FROM {relation}")
    except duckdb.Error as error:
        raise unreadable(impressions, error) from error
    columns = "".join(f", {quote(column)} AS {quote(name)}" for name, column in keys.items() if name != "item_id")
    con.execute(f"CREATE TABLE items AS SELECT item_id{columns} FROM read_parquet({literal(str(items))})")
    return Tables(con, source="rates", labels={"impressions": str(impressions), "items": str(items)})


def _write_rows(tables: Tables, rates: Sequence[RateConfig]) -> None:
    """Create rate_rows as `add_rate` and `state_sql` read it."""
    con = tables.con
    given = tables.columns("impressions")
    of_items = [name for name, *_ in con.execute("DESCRIBE items").fetchall()]
    needed = ["timestamp", *rate_columns(rates)]
    if any(name in of_items and name not in given for name in needed):
        needed.append("item_id")
    for name in needed:
        if name not in given and (name not in of_items or name == "item_id"):
            raise UserError(
                f"{tables.labels['impressions']} has no column '{name}', which the rates need"
                f"{did_you_mean(name, given)}: add it"
            )
    names = dict.fromkeys([*REQUIRED["impressions"], *needed])
    stage(tables, "impressions", [name for name in names if name in given])
    for rate in rates:
        refuse_bad_values(tables, rate)
    join = "LEFT JOIN items t USING (item_id)" if "item_id" in given else "LEFT JOIN items t ON false"
    columns = f"epoch_us(i.timestamp) AS moment{read_columns(tables, rates)}"
    con.execute(f"CREATE TABLE rate_rows AS SELECT {columns} FROM impressions i {join}")
