"""ASOF LEFT JOIN, which Spark lacks: rows of both sides in one order, and the last of the right side carried on."""

from collections.abc import Callable

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from sqlglot import exp

_MOMENT, _SIDE = "equipoise_moment", "equipoise_side"


def join_asof(session: SparkSession, select: exp.Select, new_name: Callable[[str], str]) -> None:
    """Put a view in the place of a table and those that are joined with it by ASOF LEFT JOIN, in this select.

    A joined table becomes a column of its name with a struct of its row, NULL where none comes before, so that NAME.x
    stays what it is. Joins are on equal keys of both, and on left.moment > right.moment.
    """
    left = select.args["from_"].this
    frame, alias = session.table(left.name), left.alias_or_name
    names = []
    for join in select.args["joins"]:
        right = join.this.alias_or_name
        frame = _joined(frame, session.table(join.this.name), join.args["on"], alias, right)
        names.append(right)
    view = new_name("asof")
    frame.createOrReplaceTempView(view)
    left.set("this", exp.to_identifier(view))
    left.set("alias", exp.TableAlias(this=exp.to_identifier(alias)))
    select.set("joins", [])
    for star in [c for c in select.find_all(exp.Column) if isinstance(c.this, exp.Star) and c.table == alias]:
        kept_out = star.this.args.get("except_") or []
        star.this.set("except_", [*kept_out, *(exp.to_identifier(name) for name in names)])


def _joined(frame: DataFrame, other: DataFrame, on: exp.Expr, left: str, right: str) -> DataFrame:
    keys, moments = [], None
    for condition in on.flatten() if isinstance(on, exp.And) else [on]:
        sides = {c.table: c.name for c in (condition.this, condition.expression)}
        if isinstance(condition, exp.EQ):
            keys.append((sides[left], sides[right]))
        else:
            assert isinstance(condition, exp.GT) and condition.this.table == left, condition
            moments = sides[left], sides[right]
    assert moments is not None
    row = F.struct(*(F.col(f"`{name}`") for name in other.columns)).alias(right)
    mine = frame.withColumns({_MOMENT: F.col(f"`{moments[0]}`"), _SIDE: F.lit(0)})
    theirs = other.select(
        *(F.col(f"`{own}`").alias(name) for name, own in keys), F.col(f"`{moments[1]}`").alias(_MOMENT),
        F.lit(1).alias(_SIDE), row,
    )  # fmt: skip
    both = mine.unionByName(theirs, allowMissingColumns=True)
    # Of one moment the left rows come first: what is of the same moment is not before them.
    window = Window.partitionBy(*(F.col(f"`{name}`") for name, _ in keys)).orderBy(_MOMENT, _SIDE)
    last = F.last(F.col(f"`{right}`"), ignorenulls=True).over(window.rowsBetween(Window.unboundedPreceding, 0))
    return both.withColumn(right, last).where(F.col(_SIDE) == 0).drop(_MOMENT, _SIDE)
