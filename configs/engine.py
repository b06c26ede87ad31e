"""Which engine prepares the tables, in a run configuration."""

from typing import Literal

from pydantic import Field

from equipoise.configs.section import Section

Engine = Literal["duckdb", "spark"]


class SparkConfig(Section):
    """Where Spark runs, for `engine: spark`."""

    master: str | None = None
    """Where Spark runs: local[4], yarn, spark://host:7077, k8s://…; null takes what spark-submit or the environment
    gives."""
    conf: dict[str, str] = Field(default_factory=dict)
    """Settings of Spark, such as {spark.driver.memory: 4g}."""
    work: str | None = None
    """Folder that the driver and all executors reach, for tables on their way: hdfs:///tmp, s3a://bucket/tmp; what is
    written there is deleted afterwards. null is enough for a local master."""
