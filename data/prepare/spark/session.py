"""Starts Spark, or joins the session that is there, and gives a connection to it."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from equipoise.common.errors import UserError
from equipoise.configs.engine import SparkConfig

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from equipoise.data.prepare.spark.connection import SparkConnection

SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.timestampType": "TIMESTAMP_NTZ",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "false",
    # A row with a cell too many is an error whichever columns are read, and what names of folders tell is text.
    "spark.sql.csv.parser.columnPruning.enabled": "false",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "true",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}
"""Of the session that prepares; the rest is the cluster's, or `data.spark.conf`'s."""
QUIET = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}
PARTITIONS = "spark.sql.shuffle.partitions"


@contextmanager
def open_spark(config: SparkConfig, work: Path) -> Iterator["SparkConnection"]:
    """A connection to Spark, whose tables are deleted afterwards; Spark is stopped where this started it.

    Args:
        config: of Spark.
        work: folder of this machine, for Spark's log, and for its tables where it runs on this machine alone.

    Raises:
        UserError: pyspark, sqlglot or Java is missing, Spark does not start, or no folder for its tables is named.
    """
    refuse_missing_packages(config)
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    started, is_own = _start(config, work / "spark.log")
    try:
        session = started.newSession()
        for name, value in SETTINGS.items():
            session.conf.set(name, value)
        for name, value in config.conf.items():  # of a session that was there already
            if session.conf.isModifiable(name):
                session.conf.set(name, value)
        if (
            is_local(started)
            and PARTITIONS not in config.conf
            and started.sparkContext.getConf().get(PARTITIONS) is None
        ):
            session.conf.set(PARTITIONS, str(4 * started.sparkContext.defaultParallelism))
        if config.work is None and not is_local(started):
            raise UserError(
                f"Spark runs on {started.sparkContext.master}: name with data.spark.work a folder that its "
                "executors reach, such as hdfs:///tmp or s3a://bucket/tmp"
            )
        folder = f"{config.work.rstrip('/') if config.work else work}/equipoise-{uuid4().hex[:12]}"
        from equipoise.data.prepare.spark.connection import SparkConnection

        connection = SparkConnection(session, folder)
        try:
            yield connection
        finally:
            with suppress(PySparkException, Py4JError):
                connection.close()
                _delete(session, folder)
    finally:
        if is_own:
            with suppress(PySparkException, Py4JError):
                started.stop()


def is_local(session: "SparkSession") -> bool:
    """Whether Spark runs on this machine alone."""
    return str(session.sparkContext.master).startswith("local")


def refuse_missing_packages(config: SparkConfig) -> None:
    """Refuse what Spark cannot start without.

    Raises:
        UserError: names it and how it is installed.
    """
    missing = [name for name in ("pyspark", "sqlglot") if find_spec(name) is None]
    if missing:
        raise UserError(f'data.engine: spark needs {" and ".join(missing)}: pip install "equipoise[spark]"')
    if (config.master or os.environ.get("SPARK_REMOTE", "")).startswith("sc://"):
        raise UserError(
            "data.engine: spark does not speak Spark Connect (sc://): run prepare by spark-submit, or name a master "
            "such as yarn, k8s://… or local[4] in data.spark.master"
        )
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java") is None and not (home and (Path(home) / "bin" / "java").exists()):
        raise UserError(
            "data.engine: spark needs Java 17 or newer, and no `java` is on the PATH: install it, such as by apt-get "
            "install openjdk-17-jre-headless, or set JAVA_HOME"
        )


def _start(config: SparkConfig, log: Path) -> tuple["SparkSession", bool]:
    """The session of this process, and whether it is new; what Java writes goes to a log."""
    from pyspark.sql import SparkSession

    there = SparkSession.getActiveSession()
    if there is not None and not there.sparkContext._jsc.sc().isStopped():
        return there, False
    builder = SparkSession.Builder().appName("equipoise prepare")
    if config.master is not None:
        builder = builder.master(config.master)
    for name, value in (QUIET | config.conf).items():
        builder = builder.config(name, value)
    try:
        with _stderr_to(log):
            session = builder.getOrCreate()
        if is_local(session) and "PYSPARK_PYTHON" not in os.environ:
            session.sparkContext.pythonExec = sys.executable  # else `python3` of the PATH, without the packages of this
        return session, True
    except Exception as error:  # pyspark raises its own, Java's and plain ones
        told = [
            line.strip()
            for line in log.read_text(errors="replace").splitlines()
            if "Exception" in line or "Error" in line
        ]
        reason = (told or str(error).splitlines() or [type(error).__name__])[0][:300].rstrip(". ")
        raise UserError(f"Spark does not start ({reason}): correct data.spark.master or data.spark.conf") from error


@contextmanager
def _stderr_to(log: Path) -> Iterator[None]:
    """Let processes that start now write their errors to a file."""
    sys.stderr.flush()
    kept = os.dup(2)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _delete(session: "SparkSession", folder: str) -> None:
    """Delete a folder wherever it is."""
    java = session.sparkContext._jvm
    assert java is not None
    path = java.org.apache.hadoop.fs.Path(folder)
    path.getFileSystem(session.sparkContext._jsc.hadoopConfiguration()).delete(path, True)
