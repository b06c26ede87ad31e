"""Statements of DuckDB on Spark: the rows are those that DuckDB gives, value by value."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from equipoise.data.values import text_sql

TEXTS = ["1", " 2.50 ", "1e3", "-0", "nan", "inf", "1d", "0x10", "1_000", "true", "", "x", None, "12.0", "1e-7"]
NUMBERS = [
    1.0,
    2.5,
    1e16,
    1e22,
    1e-7,
    1.7e308,
    0.1 + 0.2,
    -0.0,
    float("nan"),
    float("inf"),
    None,
    3e15,
    123456.0,
    7.0,
    2e-3,
]
TABLE = pa.table(
    {
        "k": pa.array([n % 4 if n % 7 else None for n in range(15)], pa.int32()),
        "n": pa.array(range(15), pa.int64()),
        "t": TEXTS,
        "d": NUMBERS,
        "f": pa.array([None if v is None else v % 97 for v in NUMBERS], pa.float32()),
        "w": pa.array(
            [datetime(2024, 1, 1, n, 0, 0, n * 1000) if n % 5 else None for n in range(15)], pa.timestamp("us")
        ),
        "l": pa.array([["b", None, "a"][: n % 4] for n in range(15)], pa.list_(pa.string())),
    }
)
PAIRS = pa.table(
    {"k": pa.array([0, 1, 1, 3], pa.int32()), "e": pa.array([2, 3, 9, 4], pa.int64()), "v": [1.0, 2.0, 4.0, 8.0]}
)
QUERIES = {
    "texts of numbers": f"SELECT n, {text_sql('d', 'DOUBLE')}, CAST(d AS VARCHAR), {text_sql('f', 'FLOAT')} FROM a",
    "numbers of texts": "SELECT n, TRY_CAST(t AS DOUBLE), TRY_CAST(trim(t) AS TIMESTAMPTZ) IS NULL FROM a",
    "texts of lists and moments": f"SELECT n, {text_sql('l', 'VARCHAR[]')}, {text_sql('w', 'TIMESTAMP')} FROM a",
    "moments": "SELECT n, epoch_us(w), w < TIMESTAMP '2024-01-01 07:00:00', CAST(w AS DATE) FROM a",
    "formats": "SELECT n, try_strptime(t, '%H'), regexp_full_match(t, '\\d+(\\.\\d)?'), lower(hex(encode(t))) FROM a",
    "lists in order": "SELECT k, list(t ORDER BY n) FROM a WHERE t IS NOT NULL GROUP BY k",
    "first by order": "SELECT k, first(t ORDER BY n) FILTER (n > 3), any_value(t) FILTER (n = 12), bool_or(n > 9) "
    "FROM a GROUP BY ALL",
    "nulls last": "SELECT n, row_number() OVER (PARTITION BY n % 2 ORDER BY d DESC, t, n) FROM a",
    "qualify": "SELECT n FROM a QUALIFY row_number() OVER (PARTITION BY k ORDER BY n DESC) <= 2",
    "semi and anti": "SELECT n FROM a SEMI JOIN b USING (k) UNION ALL SELECT n FROM a ANTI JOIN b ON a.n = b.e",
    "among": "SELECT n, k IN (SELECT k FROM b), CASE WHEN n NOT IN (SELECT e FROM b) THEN 1 END FROM a "
    "WHERE k IS NOT NULL",
    "not among": "SELECT n FROM a WHERE n NOT IN (SELECT e FROM b) AND n IN (SELECT n FROM a WHERE k = 1)",
    "as of": "SELECT a.n, b.v, b.e, a.* EXCLUDE (d, f, l) FROM a ASOF LEFT JOIN b ON a.k = b.k AND a.n > b.e",
    "as of the whole": "SELECT a.n, b.v * pow(2, 1) FROM a ASOF LEFT JOIN b ON a.n > b.e",
    "running": "SELECT n, sum(n) OVER (PARTITION BY k ORDER BY n), sum(n) OVER (ORDER BY n) FROM a",
    "chosen by a hash": "SELECT n, coalesce(CAST('0x' || substr(md5(t), 1, 8) AS UBIGINT) < 0.4 * 4294967296, false) "
    "FROM a",
    "empty lists": "SELECT n, coalesce(x.items, []) FROM a LEFT JOIN (SELECT 1::BIGINT AS n, [5] AS items) x USING (n)",
    "from alone": "FROM (FROM b)",
}


@pytest.fixture(scope="module")
def engines(session: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """DuckDB, and Spark in its place, with the tables a and b."""
    from equipoise.configs.engine import SparkConfig
    from equipoise.data.prepare.spark.session import open_spark

    with open_spark(SparkConfig(), tmp_path_factory.mktemp("spark")) as spark, duckdb.connect() as own:
        own.execute("SET TimeZone = 'UTC'")
        for con in (own, spark):
            for name, table in (("a", TABLE), ("b", PAIRS)):
                con.register("given", table)
                con.execute(f"CREATE TABLE {name} AS SELECT * FROM given")
                con.unregister("given")
        yield [own, spark]


def rows(con: Any, query: str) -> list[str]:
    """The rows of a query, in one order, spelled."""
    return sorted(repr(row) for row in con.execute(query).fetchall())


@pytest.mark.parametrize("name", QUERIES)
def test_the_same_rows(engines: list[Any], name: str) -> None:
    own, spark = (rows(con, QUERIES[name]) for con in engines)
    assert own == spark and own


def test_changes_of_a_table(engines: list[Any]) -> None:
    statements = [
        "CREATE TABLE c AS SELECT row_number() OVER (ORDER BY d DESC, n) - 1 AS place, n, k, t FROM a",
        "DELETE FROM c WHERE TRY_CAST(t AS DOUBLE) > 100",
        "DELETE FROM c WHERE n NOT IN (SELECT n FROM a WHERE n <> 4)",
        "DELETE FROM c i WHERE i.n IN (SELECT e FROM b) AND i.k IN (SELECT k FROM b WHERE v > 1)",
        "UPDATE c SET t = 'none' WHERE t IS NULL",
        "UPDATE c SET k = 7 + x.v FROM (SELECT e, CAST(v AS INTEGER) AS v FROM b) x WHERE x.e = c.n",
        "ALTER TABLE c RENAME TO g; CREATE VIEW h AS SELECT *, 1 AS one FROM g",
        "CREATE TABLE m (n BIGINT, names VARCHAR[])",
        "INSERT INTO m WITH few AS (SELECT n, t FROM h) SELECT n, list(t ORDER BY n) FROM few GROUP BY n",
        "INSERT INTO m SELECT 99, ['z']",
    ]
    for con in engines:
        for statement in statements:
            con.execute(statement)
    own, spark = engines
    for query in (
        "FROM h",
        "FROM m",
        "DESCRIBE SELECT * FROM h",
        "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'm'",
    ):
        told = [
            [row[:2] for row in con.execute(query).fetchall()] if "DESCRIBE" in query else rows(con, query)
            for con in engines
        ]
        assert told[0] == told[1], query
    with pytest.raises(duckdb.Error):
        spark.execute("FROM c")
    at = {"moment": datetime(2024, 1, 1, 8)}
    assert rows(own, "SELECT 1") == rows(spark, "SELECT 1")
    query = "SELECT count(*) FROM a WHERE w >= $moment"
    assert own.execute(query, at).fetchone() == spark.execute(query, at).fetchone()


def test_forms_of_results(engines: list[Any]) -> None:
    own, spark = engines
    query = "SELECT n, t, l, w FROM a ORDER BY n DESC"
    whole = spark.sql(query).to_arrow_table()
    assert whole.to_pylist() == own.cursor().sql(query).to_arrow_table().to_pylist()
    reader = spark.cursor().sql(query).to_arrow_reader(4)
    batches = list(reader)
    assert [batch.num_rows for batch in batches] == [4, 4, 4, 3] and reader.schema == whole.schema
    assert pa.Table.from_batches(batches).equals(whole)
    arrays = spark.execute("SELECT n, k FROM a ORDER BY n").fetchnumpy()
    assert arrays["n"].tolist() == list(range(15)) and arrays["k"].mask.tolist() == [n % 7 == 0 for n in range(15)]


def test_csv_as_duckdb_reads_it(engines: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "odd [1]{a,b}.csv"
    path.write_text('a,"b b",c\n1,"x,""y",\n,"",2020-01-01\n 2,"l1\nl2",é\n', encoding="utf-8")
    from equipoise.data.prepare.files import file_relation

    own, spark = engines
    relation = file_relation(own, path)
    assert rows(own, f"FROM {relation}") == rows(spark, f"FROM {relation}")
    path.write_bytes(b"a,b b,c\n1,2,\xe9\n")
    for con in engines:
        with pytest.raises(duckdb.Error, match=r"(?i)unicode|utf-8"):
            con.execute(f"CREATE TABLE bad AS FROM {relation}")
    path.write_text("a,b b,c\n1,2,3,4\n")
    for con in engines:
        with pytest.raises(duckdb.Error):
            con.execute(f"CREATE TABLE bad AS FROM {relation}")


def test_moments_in_nanoseconds_are_named(engines: list[Any], tmp_path: Path) -> None:
    pq.write_table(pa.table({"w": pa.array([1], pa.timestamp("ns"))}), tmp_path / "moments.parquet")
    with pytest.raises(duckdb.Error, match="moments in nanoseconds"):
        engines[1].execute(f"FROM read_parquet(['{tmp_path}/moments.parquet'])")


def test_a_value_that_cannot_be_read_is_one_sentence(engines: list[Any]) -> None:
    _, spark = engines
    with pytest.raises(duckdb.Error) as error:
        spark.execute("SELECT CAST(t AS DOUBLE) FROM a WHERE t = 'x'").fetchall()
    assert str(error.value).startswith("Conversion Error") and "\n" not in str(error.value)
    with pytest.raises(duckdb.Error, match="does not know this statement"):
        spark.execute("CREATE INDEX i ON a (n)")


def test_packages_that_tasks_lack_are_named() -> None:
    pytest.importorskip("pyspark")
    from equipoise.data.prepare.spark.connection import reason

    told = "An exception was thrown from the Python worker:\n  File a\nModuleNotFoundError: No module named 'pyarrow'\n"
    assert "lacks packages (No module named 'pyarrow'): install" in reason(RuntimeError(told))
