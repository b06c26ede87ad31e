"""Names of types: DuckDB's, which the preparation speaks, and Spark's."""

import re

from pyspark.sql import types as spark

_PLAIN: dict[type[spark.DataType], str] = {
    spark.StringType: "VARCHAR",
    spark.DoubleType: "DOUBLE",
    spark.FloatType: "FLOAT",
    spark.BooleanType: "BOOLEAN",
    spark.ByteType: "TINYINT",
    spark.ShortType: "SMALLINT",
    spark.IntegerType: "INTEGER",
    spark.LongType: "BIGINT",
    spark.DateType: "DATE",
    spark.TimestampNTZType: "TIMESTAMP",
    spark.TimestampType: "TIMESTAMP WITH TIME ZONE",
    spark.BinaryType: "BLOB",
    spark.NullType: '"NULL"',
}
_OF_DUCKDB = {
    "VARCHAR": "STRING",
    "TIMESTAMP": "TIMESTAMP_NTZ",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP_LTZ",
    "BLOB": "BINARY",
    '"NULL"': "STRING",
    "INTEGER": "INT",
}


def duckdb_kind(kind: spark.DataType) -> str:
    """The type of DuckDB that holds the values of a type of Spark, as DuckDB names it; "" where there is none."""
    if isinstance(kind, spark.ArrayType):
        element = duckdb_kind(kind.elementType)
        return f"{element}[]" if element else ""
    if isinstance(kind, spark.StructType):
        fields = [(field.name.replace('"', '""'), duckdb_kind(field.dataType)) for field in kind.fields]
        return (
            "STRUCT(" + ", ".join(f'"{name}" {each}' for name, each in fields) + ")"
            if all(each for _, each in fields)
            else ""
        )
    if isinstance(kind, spark.MapType):
        key, value = duckdb_kind(kind.keyType), duckdb_kind(kind.valueType)
        return f"MAP({key}, {value})" if key and value else ""
    if isinstance(kind, spark.DecimalType):
        return f"DECIMAL({kind.precision},{kind.scale})"
    return _PLAIN.get(type(kind), "")


def spark_kind(kind: str) -> str:
    """The type of Spark, in SQL, that holds the values of a type of DuckDB; "" where there is none."""
    if kind.endswith("[]"):
        element = spark_kind(kind.removesuffix("[]"))
        return f"ARRAY<{element}>" if element else ""
    if re.fullmatch(r"DECIMAL\(\d+,\s*\d+\)", kind) or kind in _OF_DUCKDB.values():
        return kind
    return _OF_DUCKDB.get(kind, kind if kind in _PLAIN.values() else "")
