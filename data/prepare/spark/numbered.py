"""Numbers all rows of a query in one order without moving them to one task.

`row_number() OVER (ORDER BY …)` of a whole table would be a single task's work. Here the rows are sorted in ranges, one
of each task; a row's number is its place in its range, plus the rows of the ranges before.
"""

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import LongType
from sqlglot import exp

ROW, KEY = "equipoise_row", "equipoise_key_"
_PARTITION = 33
"""Bits of the place within a partition."""


@dataclass(frozen=True)
class Numbered:
    """A query that is cut in two: `inner` without the number, with `keys` to order by; `projections` of the whole."""

    inner: exp.Select
    keys: list[tuple[str, bool]]
    projections: list[exp.Expr | None]

    def outer(self, columns: list[str]) -> exp.Select:
        """The query over the numbered rows of `inner`, whose columns these are."""
        others = [exp.column(exp.to_identifier(name, quoted=True)) for name in columns if name != ROW]
        whole: list[exp.Expr] = []
        taken = 0
        for place, projection in enumerate(self.projections):
            if projection is not None:
                whole.append(projection.copy())
                continue
            stop = len(others) - sum(p is None for p in self.projections[place + 1 :])
            is_star = self.inner.expressions[taken].is_star
            mine = others[:stop] if is_star else others[:1]
            others, taken = others[len(mine) :], taken + 1
            whole += mine
        return exp.Select(expressions=whole).from_("numbered")


def numbered_by(query: exp.Query) -> Numbered | None:
    """The parts of a query that numbers all its rows; None of any other one."""
    if not isinstance(query, exp.Select) or query.args.get("group") or query.args.get("distinct"):
        return None
    windows = [w for p in query.expressions for w in p.find_all(exp.Window) if _is_whole(w)]
    if len(windows) != 1 or query.args.get("with_"):
        return None
    order, inner = windows[0].args["order"], query.copy()
    inner.set("order", None)
    own, projections = [], []
    for original, copy in zip(query.expressions, list(inner.expressions), strict=True):
        if any(_is_whole(w) for w in original.find_all(exp.Window)):
            next(w for w in original.find_all(exp.Window) if _is_whole(w)).replace(exp.column(ROW))
            projections.append(original)
        else:
            own.append(copy)
            projections.append(None)
    keys = []
    for place, ordered in enumerate(order.expressions):
        own.append(exp.alias_(ordered.this.copy(), f"{KEY}{place}"))
        keys.append((f"{KEY}{place}", bool(ordered.args.get("desc"))))
    inner.set("expressions", own)
    return Numbered(inner, keys, projections)


def _is_whole(window: exp.Window) -> bool:
    named = isinstance(window.this, exp.RowNumber) and window.args.get("order") is not None
    return named and not window.args.get("partition_by")


def number_rows(frame: DataFrame, numbered: Numbered, path: str) -> DataFrame:
    """The rows of `numbered.inner`, stored at a path in their order, with the column ROW, from 1."""
    order = [F.col(name).desc_nulls_last() if down else F.col(name).asc_nulls_last() for name, down in numbered.keys]
    names = [name for name, _ in numbered.keys]
    frame.orderBy(*order).drop(*names).withColumn(ROW, F.monotonically_increasing_id()).write.parquet(path)
    stored = frame.sparkSession.read.schema(frame.drop(*names).schema.add(ROW, LongType())).parquet(path)
    partition = F.shiftright(ROW, _PARTITION)
    sizes = stored.groupBy(partition.alias("p")).count().orderBy("p").collect()
    before, total = {}, 0
    for place, size in sizes:
        before[place], total = total - (place << _PARTITION), total + size
    offsets = F.lit(0).cast("bigint")
    if before:
        table = F.create_map(*(F.lit(v).cast("bigint") for item in before.items() for v in item))
        offsets = table[partition]
    return stored.withColumn(ROW, F.col(ROW) + offsets + 1)
