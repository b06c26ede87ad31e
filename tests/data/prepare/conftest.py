"""One session of Spark for all tests of this folder."""

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest


@pytest.fixture(scope="package")
def session() -> Iterator[Any]:
    """A session with two cores, which `prepare` joins; it interprets, since compiling takes longer than tiny tables."""
    if find_spec("pyspark") is None or find_spec("sqlglot") is None or shutil.which("java") is None:
        pytest.skip('pyspark, sqlglot (pip install "equipoise[spark]") and java are needed')
    from pyspark.sql import SparkSession

    conf = {"spark.ui.enabled": "false", "spark.log.level": "OFF", "spark.sql.shuffle.partitions": "2"}
    conf |= {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
    conf |= {"spark.sql.adaptive.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    conf |= {"spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # CI calls pytest without its environment on the PATH
    builder = SparkSession.Builder().master("local[2]")
    for name, value in conf.items():
        builder = builder.config(name, value)
    started = builder.getOrCreate()
    yield started
    started.stop()
