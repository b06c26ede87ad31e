"""A connection to Spark in the place of one to DuckDB: it takes the preparation's statements in DuckDB's words.

A table is Parquet files in a work folder behind a temporary view; what changes it puts another view in its place.
"""

from collections.abc import Mapping
from datetime import datetime
from itertools import count
from typing import Any

import duckdb
import pyarrow as pa
import sqlglot
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.functions import arrow_udf
from sqlglot import exp

from equipoise.data.prepare.spark import values
from equipoise.data.prepare.spark.asof import join_asof
from equipoise.data.prepare.spark.dialect import Dialect, Untranslatable
from equipoise.data.prepare.spark.files import read_files
from equipoise.data.prepare.spark.kinds import duckdb_kind, spark_kind
from equipoise.data.prepare.spark.numbered import number_rows, numbered_by
from equipoise.data.prepare.spark.results import Result


class SparkFailure(duckdb.Error):
    """What Spark says of a statement, where DuckDB's callers look for its own."""


class SparkConnection:
    """What the preparation calls of `duckdb.DuckDBPyConnection`, over a session of Spark.

    Args:
        session: of its own, with the settings of `equipoise.data.prepare.spark.session`.
        work: folder, reached by the driver and all executors, in which this connection alone writes.
    """

    def __init__(self, session: SparkSession, work: str) -> None:
        self.session, self.work = session, work
        self.dialect = Dialect(self._kinds, self._define)
        self.tables: dict[str, DataFrame] = {}
        self.views: dict[str, DataFrame] = {}
        self.folders: dict[str, str] = {}
        self._made = count(1)
        self._functions: set[str] = set()
        self._last: Result | None = None

    def execute(self, query: str, parameters: Mapping[str, datetime] | None = None) -> "SparkConnection":
        """Run statements of DuckDB; the rows of the last are there for `fetchone`, `fetchall` and `fetchnumpy`."""
        for statement in sqlglot.parse(query, dialect="duckdb"):
            assert statement is not None
            try:
                self._last = self._run(_bound(statement, parameters or {}))
            except (PySparkException, Py4JError) as error:
                raise SparkFailure(reason(error)) from error
        return self

    def sql(self, query: str) -> Result:
        """The rows of a query."""
        self.execute(query)
        assert self._last is not None
        return self._last

    def cursor(self) -> "SparkConnection":
        """Another reader of the same tables."""
        other = SparkConnection.__new__(SparkConnection)
        other.__dict__ = {**self.__dict__, "_last": None}
        return other

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row of the last query."""
        return self._collected("fetchone")

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows of the last query."""
        return self._collected("fetchall")

    def fetchnumpy(self) -> dict[str, Any]:
        """The columns of the last query."""
        return self._collected("fetchnumpy")

    def _collected(self, how: str) -> Any:
        assert self._last is not None
        try:
            return getattr(self._last, how)()
        except (PySparkException, Py4JError) as error:
            raise SparkFailure(reason(error)) from error

    def register(self, name: str, table: pa.Table) -> None:
        """Let an Arrow table be read by a name."""
        self._put(self.views, name, self.session.createDataFrame(table))

    def unregister(self, name: str) -> None:
        """Forget a view."""
        self._forget(name)

    def register_filesystem(self, system: object) -> None:
        """Nothing: Spark opens URLs by its own connectors."""

    def close(self) -> None:
        """Forget all tables; their files are the caller's to delete."""
        for name in [*self.tables, *self.views]:
            self._forget(name)

    # Statements

    def _run(self, statement: exp.Expr) -> Result | None:
        if isinstance(statement, exp.Describe):
            return self._describe(statement)
        if isinstance(statement, exp.Query):
            return self._select(statement)
        if isinstance(statement, exp.Set):
            return None  # a setting of DuckDB's own
        if isinstance(statement, exp.Create) and statement.kind in ("TABLE", "VIEW"):
            self._create(statement)
        elif isinstance(statement, exp.Insert):
            self._insert(statement)
        elif isinstance(statement, exp.Delete):
            self._delete(statement)
        elif isinstance(statement, exp.Update):
            self._update(statement)
        elif isinstance(statement, exp.Drop):
            for table in statement.find_all(exp.Table):
                self._forget(table.name)
        elif isinstance(statement, exp.Alter) and isinstance(statement.args["actions"][0], exp.AlterRename):
            self._rename(statement.this.name, statement.args["actions"][0].this.name)
        else:
            raise Untranslatable(f"data.engine: spark does not know this statement: {statement.sql('duckdb')}")
        return None

    def _describe(self, statement: exp.Describe) -> Result:
        query = _query(statement.this)
        known_name = query.args["from_"].name if query.sql() == f"SELECT * FROM {query.args['from_'].name}" else ""
        frame = self.tables.get(known_name, self.views.get(known_name))
        frame = self._frame(query) if frame is None else frame
        rows = [(field.name, duckdb_kind(field.dataType)) for field in frame.schema.fields]
        for name, kind in rows:
            if not kind:
                shown = frame.schema[name].dataType.simpleString()
                raise SparkFailure(f"column '{name}' is of Spark's type {shown}, which nothing here reads")
        known = Result.__new__(Result)
        known._given, known.row_number = 0, None
        known.__dict__["_rows"] = rows
        return known

    def _select(self, query: exp.Query) -> Result:
        rows = next((s for s in query.find_all(exp.Select) if any(_is_row(w) for w in s.find_all(exp.Window))), None)
        counted = exp.select("1").from_(rows.args["from_"].this.copy()) if rows is not None else None
        frame = self._frame(query)
        return Result(frame, None if counted is None else lambda number: self._row_number(counted, number))

    def _row_number(self, rows: exp.Select, number: int) -> int:
        """The number of a row in the order of files, from the one that its partition gave it."""
        partition, own = divmod(number - 1, 1 << 33)
        frame = self._frame(rows.copy()).select(F.spark_partition_id().alias("p")).where(F.col("p") < partition)
        return frame.count() + own + 1

    def _create(self, statement: exp.Create) -> None:
        query = statement.args.get("expression")
        if query is None:
            table = statement.this.this.name
            columns = [(f"`{c.name}`", c.args["kind"].sql("spark")) for c in statement.this.expressions]
            kinds = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in columns)
            self._store(table, self.session.sql(f"SELECT {kinds} LIMIT 0"))
            return
        if statement.kind == "VIEW":
            self._put(self.views, statement.this.name, self._frame(_query(query)))
            return
        self._store_query(statement.this.name, _query(query))

    def _store_query(self, name: str, query: exp.Query) -> None:
        if (numbered := numbered_by(query)) is None:
            self._store(name, self._frame(query))
            return
        path = f"{self.work}/{next(self._made):04d}-{name}"
        frame = number_rows(self._frame(numbered.inner), numbered, path)
        frame.createOrReplaceTempView("numbered")
        final = self.session.sql(self.dialect.sql(numbered.outer(frame.columns)))
        self.session.catalog.dropTempView("numbered")
        self._put(self.tables, name, final)

    def _insert(self, statement: exp.Insert) -> None:
        name = statement.this.name
        target = self.tables[name].schema
        frame = self._frame(_query(statement.expression))
        places = [F.col(f"`{own}`").cast(f.dataType).alias(f.name)
                  for own, f in zip(_apart(frame).columns, target.fields, strict=True)]  # fmt: skip
        _apart(frame).select(places).write.mode("append").parquet(self.folders[name])
        self._put(self.tables, name, self.session.read.schema(target).parquet(self.folders[name]))

    def _delete(self, statement: exp.Delete) -> None:
        table, where = statement.this, statement.args["where"].this
        if statement.args.get("using"):
            raise Untranslatable("DELETE … USING")
        if isinstance(where, exp.Not) and isinstance(where.this, exp.In) and where.this.args.get("query") is not None:
            kept: exp.Expr = where.this  # ids are never NULL
        elif where.find(exp.Query) is not None:
            kept = exp.Not(this=exp.Paren(this=where))
        else:
            kept = exp.Not(this=exp.Coalesce(this=exp.Paren(this=where), expressions=[exp.false()]))
        changes = where.find(exp.Query) is not None
        self._replace(table.name, exp.select("*").from_(table.copy()).where(kept.copy()), changes)

    def _update(self, statement: exp.Update) -> None:
        table, given = statement.this, {e.this.name: e.expression for e in statement.expressions}
        where, source = statement.args.get("where"), statement.args.get("from_")
        condition = where.this if where is not None else None
        query = exp.select().from_(table.copy())
        if source is not None and condition is not None:
            # A row that has no partner in the source stays.
            inner, alias = source.this.copy(), source.this.alias
            inner.set("alias", None)
            marked = exp.select("*", exp.alias_(exp.true(), "is_met")).from_(exp.alias_(inner.copy(), alias))
            query = query.join(exp.alias_(marked.subquery(), alias), on=condition.copy(), join_type="left")
            condition = exp.Is(this=exp.column("is_met", alias), expression=exp.true())
        for field in self.tables[table.name].schema.fields:
            own = exp.column(exp.to_identifier(field.name, quoted=True), table.name)
            value: exp.Expr = own
            if field.name in given:
                kind = exp.DataType.build(duckdb_kind(field.dataType), dialect="duckdb")
                value = exp.Cast(this=given[field.name].copy(), to=kind)
                if condition is not None:
                    value = exp.Case(ifs=[exp.If(this=condition.copy(), true=value)], default=own)
            query = query.select(exp.alias_(value, field.name, quoted=True))
        self._replace(table.name, query, source is not None or query.find(exp.Subquery, exp.In) is not None)

    def _replace(self, name: str, query: exp.Query, store: bool) -> None:
        """Put the rows of a query in a table's place; what is computed from its own rows alone is not stored again."""
        if store:
            self._store(name, self._frame(query))
        else:
            self._put(self.tables, name, self._frame(query))

    def _rename(self, old: str, new: str) -> None:
        shelf = self.tables if old in self.tables else self.views
        frame, folder = shelf[old], self.folders.get(old)
        self._forget(old)
        self._put(shelf, new, frame)
        if folder is not None:
            self.folders[new] = folder

    # Frames

    def _frame(self, query: exp.Expr) -> DataFrame:
        """The frame of a query of DuckDB; the tree is used up."""
        holder = exp.Subquery(this=query)
        for table in list(holder.find_all(exp.Table)):
            self._open(table)
        for select in list(holder.find_all(exp.Select)):
            if any(str(join.args.get("method") or "") == "ASOF" for join in select.args.get("joins") or []):
                join_asof(self.session, select, self._new_name)
        return self.session.sql(self.dialect.sql(holder.this))

    def _open(self, table: exp.Table) -> None:
        """Put a view in the place of a function that reads files or lists tables."""
        read = table.this
        if isinstance(read, exp.Identifier) or read is None:
            return
        name = self._new_name("read")
        if isinstance(read, exp.Anonymous) and str(read.this).lower() in ("duckdb_tables", "duckdb_views"):
            column = str(read.this).lower().removeprefix("duckdb_").removesuffix("s") + "_name"
            names = list(self.tables if column == "table_name" else self.views)
            frame = self.session.createDataFrame([(each,) for each in names], f"{column} STRING")
        else:
            frame = read_files(self.session, read)
        frame.createOrReplaceTempView(name)
        table.set("this", exp.to_identifier(name))

    def _store(self, name: str, frame: DataFrame) -> None:
        """Write a frame as the files of a table, in a new folder."""
        path = f"{self.work}/{next(self._made):04d}-{name}"
        frame.write.parquet(path)
        self._put(self.tables, name, self.session.read.schema(frame.schema).parquet(path))
        self.folders[name] = path

    def _put(self, shelf: dict[str, DataFrame], name: str, frame: DataFrame) -> None:
        frame.createOrReplaceTempView(name)
        shelf[name] = frame

    def _forget(self, name: str) -> None:
        self.tables.pop(name, None)
        self.views.pop(name, None)
        self.folders.pop(name, None)
        self.session.catalog.dropTempView(name)

    def _new_name(self, start: str) -> str:
        return f"{start}_{next(self._made):04d}"

    def _kinds(self, query: str) -> list[str]:
        return [duckdb_kind(field.dataType) for field in self.session.sql(query).schema.fields]

    def _define(self, name: str, expression: str, kind: str) -> None:
        if name in self._functions:
            return
        if not (given := spark_kind(kind)):
            raise Untranslatable(f"Spark has no type for {kind} of {expression}")
        function: Any = arrow_udf(values.evaluator(expression), given)  # type: ignore[call-overload]
        self.session.udf.register(name, function)
        self._functions.add(name)


def _bound(statement: exp.Expr, parameters: Mapping[str, datetime]) -> exp.Expr:
    for place in list(statement.find_all(exp.Placeholder, exp.Parameter)):
        moment = parameters[place.name].isoformat(sep=" ")
        place.replace(exp.Cast(this=exp.Literal.string(moment), to=exp.DataType.build("TIMESTAMP")))
    return statement


def _query(node: exp.Expr) -> exp.Query:
    inner = node.this if isinstance(node, exp.Subquery) and not node.alias else node
    assert isinstance(inner, exp.Query)
    return inner


def _is_row(window: exp.Window) -> bool:
    return isinstance(window.this, exp.RowNumber) and not window.args.get("order")


def _apart(frame: DataFrame) -> DataFrame:
    """The same columns under names that differ."""
    return frame.toDF(*(f"c{number}" for number in range(len(frame.columns))))


def reason(error: Exception) -> str:
    """One sentence of what Spark, or DuckDB in one of its tasks, says."""
    if "TIMESTAMP(NANOS" in str(error):
        return "it holds moments in nanoseconds, which Spark does not read (write microseconds)"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    absent = [line.split(": ", 1)[1] for line in lines if line.startswith("ModuleNotFoundError: ")]
    if absent:
        return (
            f"the Python of Spark's tasks lacks packages ({absent[-1]}): install equipoise[spark] for it, or set "
            "PYSPARK_PYTHON to a Python that has it"
        )
    inner = [line for line in lines if line.startswith(("_duckdb.", "duckdb.", "pyarrow.lib."))]
    told = inner[-1].split(": ", 1)[-1] if inner else next((line for line in lines), type(error).__name__)
    return told.split(" SQLSTATE")[0]
