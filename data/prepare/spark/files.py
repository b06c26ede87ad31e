"""Files of tables, read by Spark as `equipoise.data.prepare.files` asks DuckDB to."""

import re
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from sqlglot import exp

from equipoise.common.errors import UserError

PROTOCOLS = {"s3": "s3a", "gcs": "gs"}
"""Protocols under the names of Hadoop's connectors."""
REPLACED = "\N{REPLACEMENT CHARACTER}"


def read_files(session: SparkSession, read: exp.Expr) -> DataFrame:
    """The rows of `read_parquet` or `read_csv`.

    Raises:
        UserError: files of another kind.
    """
    if isinstance(read, exp.ReadParquet):
        places, *settings = read.expressions
    elif isinstance(read, exp.ReadCSV):
        places, settings = read.this, read.expressions
    else:
        raise UserError(
            "data.engine: spark reads Parquet and CSV: write tables of JSON lines as Parquet, or set data.engine=duckdb"
        )
    given = {setting.this.name.lower(): setting.expression for setting in settings}
    paths = [_path(each.name) for each in places.expressions]
    is_hive = given["hive_partitioning"].this if "hive_partitioning" in given else False
    reader = session.read.option("recursiveFileLookup", str(not is_hive).lower())
    if is_hive and (base := _base(paths)):
        reader = reader.option("basePath", base)
    if isinstance(read, exp.ReadParquet):
        return reader.option("mergeSchema", str(len(paths) > 1).lower()).parquet(*paths)
    names = [pair.this.name for pair in given["columns"].expressions]
    frame = reader.csv(
        paths, ", ".join(f"`{name.replace('`', '``')}` STRING" for name in names), sep=given["delim"].name, quote='"',
        escape='"', header=True, multiLine=True, mode="FAILFAST", enforceSchema=True, maxCharsPerColumn=-1,
    )  # fmt: skip
    return frame.select(*(_checked(name) if name in names else _column(name) for name in frame.columns))


def _column(name: str) -> Any:
    return F.col(f"`{name.replace('`', '``')}`")


def _checked(name: str) -> Any:
    """A column in which bytes that are no UTF-8, of which Spark makes a sign of its own, are an error."""
    told = F.concat(F.lit(f"Invalid unicode (byte sequence mismatch) in column {name}: "), _column(name))
    return F.when(F.contains(_column(name), F.lit(REPLACED)), F.raise_error(told)).otherwise(_column(name)).alias(name)


def _path(place: str) -> str:
    """A path of DuckDB, in which [*] is a star, as Spark takes it."""
    plain = re.sub(r"\[([*?\[])\]", r"\1", place)
    protocol, sign, rest = plain.partition("://")
    if not sign:
        return re.sub(r"([*?\[\]{}\\])", r"\\\1", plain)
    return f"{PROTOCOLS.get(protocol.lower(), protocol)}://{rest}"


def _base(paths: list[str]) -> str:
    """The folder above the first one of a partition; "" where there is none."""
    found = re.split(r"/[^/=]+=[^/]*/", paths[0], maxsplit=1)
    return found[0] if len(found) > 1 else ""
