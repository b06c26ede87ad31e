"""The engine that prepares: DuckDB in this process, or Spark on a cluster (`data.engine`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import duckdb

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig
from equipoise.data.database_bar import hide_bar
from equipoise.data.prepare.files import kind_of_file


@contextmanager
def open_engine(config: DataConfig, work: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty connection that reads timestamps as UTC; it keeps its files in `work`, a new folder.

    With `data.engine: spark` it is a `SparkConnection`, which offers what the preparation calls of DuckDB's.

    Raises:
        UserError: the engine cannot be started, or does not read such tables.
    """
    work.mkdir()
    if config.engine == "spark":
        refuse_unread_by_spark(config)
        from equipoise.data.prepare.spark.session import open_spark  # pyspark is an extra

        with open_spark(config.spark, work) as spark:
            yield cast(duckdb.DuckDBPyConnection, spark)
        return
    con = duckdb.connect(str(work / "work.duckdb"))
    try:
        try:
            con.execute(f"SET memory_limit = '{config.memory_limit}'")
        except duckdb.Error as error:
            raise UserError(
                f"data.memory_limit '{config.memory_limit}' is not understood: write it like 4GB"
            ) from error
        con.execute(f"SET temp_directory = '{str(work / 'spill').replace(chr(39), chr(39) * 2)}'")
        con.execute("SET TimeZone = 'UTC'")
        hide_bar(con)
        yield con
    finally:
        con.close()


def refuse_unread_by_spark(config: DataConfig) -> None:
    """Refuse what Spark is not asked to read.

    Raises:
        UserError: names the setting and the way out.
    """
    way_out = "or set data.engine=duckdb"
    if config.tables is None:
        raise UserError(
            f"data.engine: spark reads your own tables, not source: {config.source}: set data.tables, {way_out}"
        )
    for name, file in config.tables.files.items():
        place = f"data.tables.{name}"
        if file.path is not None and kind_of_file(file.path) == "json":
            raise UserError(f"{place}: data.engine: spark does not read JSON lines: write them as Parquet, {way_out}")
        if file.path is not None and file.path.lower().startswith("hf://"):
            raise UserError(
                f"{place}: data.engine: spark does not read hf://: copy the table to the cluster, {way_out}"
            )
        if file.attach:
            raise UserError(
                f"{place}.attach opens databases in DuckDB alone: with data.engine: spark, query a table of the "
                f"cluster's catalogue, {way_out}"
            )
        if file.encoding.lower().replace("_", "-") not in ("utf-8", "utf8"):
            raise UserError(
                f"{place}.encoding: {file.encoding} is not read by data.engine: spark: save the table as UTF-8 or "
                f"Parquet, {way_out}"
            )
