"""Turns a query of DuckDB into one of Spark that gives the same rows.

sqlglot writes what both engines mean alike in Spark's words. What Spark lacks is rewritten here; what a value means is
left to DuckDB (`equipoise.data.prepare.spark.values`).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping

import duckdb
from sqlglot import ErrorLevel, exp

from equipoise.data.prepare.spark import values

_AS_TEXT = {"VARCHAR", "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT"}
"""Types whose values both engines write alike."""
_WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT"}
_WHOLE_TYPES = {exp.DataType.Type[name] for name in ("TINYINT", "SMALLINT", "INT", "BIGINT", "INT128", "UBIGINT")}
_REAL_TYPES = {exp.DataType.Type.DOUBLE, exp.DataType.Type.FLOAT}
_MOMENT_TYPES = {exp.DataType.Type[name] for name in ("TIMESTAMP", "TIMESTAMPTZ", "DATE", "TIMESTAMPNTZ")}
_ALIKE = (
    *(
        exp.And,
        exp.Or,
        exp.Not,
        exp.Coalesce,
        exp.Nullif,
        exp.Greatest,
        exp.Least,
        exp.Trim,
        exp.Case,
        exp.If,
        exp.Array,
    ),
    # Powers and logarithms may differ in the last digit, as sums in another order do.
    *(
        exp.Pow,
        exp.Ln,
        exp.Floor,
        exp.Substring,
        exp.Abs,
        exp.ArraySize,
        exp.Contains,
        exp.MD5,
        exp.Exists,
        exp.Cast,
        exp.RowNumber,
        exp.AggFunc,
    ),
)
"""Functions that both engines mean alike; DuckDB evaluates all others."""
_NATIVE = {"epoch_us", "hash", "monotonically_increasing_id"}
"""Functions without a class of their own that Spark evaluates, under other names."""
_BLOCKED = (exp.AggFunc, exp.Window, exp.Query, exp.Subquery, exp.Exists, exp.Star, exp.Placeholder)
"""What no row alone can tell."""
_THROUGH = (exp.If, exp.Ordered, exp.Alias, exp.Tuple, exp.WindowSpec, exp.Filter, exp.Where, exp.Order, exp.Interval)
"""Parts of an expression that are no values."""


FUNCTION = "duckdb_value_"
"""Start of the names of functions that DuckDB evaluates."""


class Untranslatable(duckdb.NotImplementedException):
    """A statement that Spark is not told."""


class Dialect:
    """Translates queries.

    Args:
        kinds_of: the types of the columns of a query of Spark, as DuckDB names them.
        define: makes a function known to Spark: its name, expression and type.
    """

    def __init__(self, kinds_of: Callable[[str], list[str]], define: Callable[[str, str, str], None]) -> None:
        self.kinds_of, self.define = kinds_of, define

    def sql(self, query: exp.Expr) -> str:
        """The query in Spark's words; the tree is used up."""
        holder = exp.Subquery(this=query)
        for select in _inner_first(holder):
            _rewrite(select)
            self._leave_values(select)
            _rename(select)
        for each in list(holder.find_all(exp.Query)):
            _spell(each)
        _spell(holder)
        return holder.this.sql(dialect="spark", unsupported_level=ErrorLevel.RAISE)

    def _leave_values(self, select: exp.Select) -> None:
        """Put functions in the place of the select's expressions that DuckDB is to evaluate."""
        slots = list(_slots(select))
        suspects = [slot for slot in slots if any(_may_be_of_value(node) for node in _own(slot))]
        columns = list({c.sql(): c for slot in suspects for c in _columns(slot)}.values())
        if not suspects:
            return
        given = dict(zip([c.sql() for c in columns], self._kinds(select, columns), strict=True))
        for slot in suspects:
            self._visit(slot, given)

    def _kinds(self, select: exp.Select, columns: list[exp.Column]) -> list[str]:
        """The types of columns of what a select reads from."""
        if not columns:
            return []
        query = exp.Select(expressions=[exp.alias_(c.copy(), values.argument(n)) for n, c in enumerate(columns)])
        query.set("from_", select.args["from_"].copy() if select.args.get("from_") else None)
        joins = []
        for join in select.args.get("joins") or []:
            join = join.copy()
            if join.args.get("kind") in ("SEMI", "ANTI"):
                continue
            condition = join.args.get("on")
            if condition is not None and any(_may_be_of_value(node) for node in _own(condition)):
                join.set("on", None)
                join.set("side", None)
                join.set("kind", "CROSS")
            joins.append(join)
        query.set("joins", joins)
        tables: list[exp.CTE] = []
        for above in [*_above(select)]:
            found = above.args.get("with_")
            if found is not None:
                inside = [cte for cte in found.expressions if cte.find(exp.Select) is not None and _holds(cte, select)]
                stop = found.expressions.index(inside[0]) if inside else len(found.expressions)
                tables = [cte.copy() for cte in found.expressions[:stop]] + tables
        if tables:
            query.set("with_", exp.With(expressions=tables))
        holder = exp.Subquery(this=query)
        for each in list(holder.find_all(exp.Query)):
            _spell(each)
        return self.kinds_of(holder.this.sql(dialect="spark"))

    def _visit(self, node: exp.Expr, given: Mapping[str, str]) -> None:
        """Replace the largest parts of an expression that are of values and of one row."""
        if isinstance(node, exp.Query | exp.Subquery | exp.DataType | exp.Identifier):
            return
        if not any(self._is_of_value(part, given) for part in _own(node)):
            return
        blocked = any(isinstance(part, _BLOCKED) for part in _own(node, queries=True))
        if not blocked and not isinstance(node, (*_THROUGH, exp.And, exp.Paren)) and not _joins(node):
            self._replace(node, given)
            return
        for child in list(node.iter_expressions()):
            self._visit(child, given)

    def _replace(self, node: exp.Expr, given: Mapping[str, str]) -> None:
        columns = list({c.sql(): c for c in _columns(node)}.values())
        if not columns:
            return
        names = [c.sql() for c in columns]
        expression, kinds = _over_arguments(node, names), tuple(given[name] for name in names)
        kind = values.kind_of(expression, kinds)
        key = hashlib.md5("\n".join([expression, kind, *kinds]).encode()).hexdigest()
        name = FUNCTION + key
        self.define(name, expression, kind)
        node.replace(exp.Anonymous(this=name, expressions=[c.copy() for c in columns]))

    def _is_of_value(self, node: exp.Expr, given: Mapping[str, str]) -> bool:
        if not _may_be_of_value(node):
            return False
        if not isinstance(node, exp.Cast):
            return True
        if any(isinstance(part, _BLOCKED) for part in _own(node, queries=True)):
            return False  # what is inside is looked at
        names = list({c.sql() for c in _columns(node.this)})
        if not names:
            return False
        kind = values.kind_of(_over_arguments(node.this, names), tuple(given[name] for name in names))
        to = node.to.this
        if to in exp.DataType.TEXT_TYPES:
            return kind not in _AS_TEXT
        if to in _WHOLE_TYPES:
            return kind not in (*_WHOLE, "BOOLEAN") or to in (exp.DataType.Type.INT128, exp.DataType.Type.UBIGINT)
        if to in _REAL_TYPES:
            return kind not in (*_WHOLE, "BOOLEAN", "DOUBLE", "FLOAT")
        if to in _MOMENT_TYPES:
            return kind not in ("TIMESTAMP", "DATE") or to == exp.DataType.Type.TIMESTAMPTZ
        return kind != '"NULL"'


def _may_be_of_value(node: exp.Expr) -> bool:
    if isinstance(node, exp.Cast):
        return not isinstance(node.this, exp.Null | exp.Literal)
    if isinstance(node, exp.Comprehension | exp.AtTimeZone):
        return True
    if isinstance(node, exp.Anonymous):
        return str(node.this).lower() not in _NATIVE and not str(node.this).startswith(FUNCTION)
    return isinstance(node, exp.Func) and not isinstance(node, _ALIKE)


def _joins(node: exp.Expr) -> bool:
    """Whether a node compares the two sides of a join, which Spark must see."""
    return (
        isinstance(node, exp.EQ)
        and node.find_ancestor(exp.Join, exp.Select) is not None
        and isinstance(node.find_ancestor(exp.Join, exp.Select), exp.Join)
    )


def _over_arguments(node: exp.Expr, names: list[str]) -> str:
    """An expression in DuckDB's words over numbered arguments in the place of columns of these names."""
    holder = exp.Paren(this=node.copy())
    for column in list(holder.find_all(exp.Column)):
        if column.sql() in names:
            column.replace(exp.column(values.argument(names.index(column.sql()))))
    return holder.this.sql(dialect="duckdb")


def _own(node: exp.Expr, queries: bool = False) -> Iterator[exp.Expr]:
    """A node and what is below it, queries within it left out; `queries`: these themselves told."""
    if isinstance(node, exp.Query | exp.Subquery):
        if queries:
            yield node
        return
    yield node
    for child in node.iter_expressions():
        yield from _own(child, queries)


def _columns(node: exp.Expr) -> Iterator[exp.Column]:
    """The columns that an expression reads of a table; the variable of a list comprehension is none."""
    for column in _own(node):
        if not isinstance(column, exp.Column) or isinstance(column.this, exp.Star):
            continue
        around = column.find_ancestor(exp.Comprehension)
        if around is None or column.table or around.args["expression"].name != column.name:
            yield column


def _slots(select: exp.Select) -> Iterator[exp.Expr]:
    """The expressions of a select."""
    yield from select.expressions
    for join in select.args.get("joins") or []:
        if join.args.get("on") is not None:
            yield join.args["on"]
    for name in ("where", "group", "having", "qualify"):
        if select.args.get(name) is not None:
            yield from select.args[name].iter_expressions()


def _above(node: exp.Expr) -> Iterator[exp.Expr]:
    above: exp.Expr | None = node
    while above is not None:
        yield above
        above = above.parent


def _holds(node: exp.Expr, inner: exp.Expr) -> bool:
    return any(above is node for above in _above(inner))


def _inner_first(tree: exp.Expr) -> list[exp.Select]:
    found = list(tree.find_all(exp.Select))
    return sorted(found, key=lambda select: -sum(1 for _ in _above(select)))


def _rewrite(select: exp.Select) -> None:
    """What Spark has no word for, within one select."""
    for join in select.args.get("joins") or []:
        if str(join.args.get("kind") or "") in ("SEMI", "ANTI"):
            join.set("side", "LEFT")
    for node in list(_nodes(select)):
        if isinstance(node, exp.Not) and isinstance(node.this, exp.In) and node.this.args.get("query") is not None:
            _not_among(node)
        elif isinstance(node, exp.Window) and isinstance(node.this, exp.RowNumber) and not node.args.get("order"):
            row = exp.Anonymous(this="monotonically_increasing_id")
            node.replace(exp.Paren(this=exp.Add(this=row, expression=exp.Literal.number(1))))


def _rename(select: exp.Select) -> None:
    """Functions that have another name or form, within one select."""
    for node in list(_nodes(select)):
        if isinstance(node, exp.AnyValue):
            whole = node.parent if isinstance(node.parent, exp.IgnoreNulls) else node
            whole.replace(exp.Anonymous(this="any_value", expressions=[node.this, exp.true()]))
        elif isinstance(node, exp.ArrayAgg):
            _list(node)
        elif isinstance(node, exp.First) and isinstance(node.this, exp.Order):
            order = node.this
            node.replace(exp.ArgMin(this=order.this, expression=order.expressions[0].this))
        elif isinstance(node, exp.Anonymous) and str(node.this).upper() == "EPOCH_US":
            moment = exp.Cast(this=node.expressions[0], to=exp.DataType.build("TIMESTAMPTZ"))
            node.replace(exp.Anonymous(this="unix_micros", expressions=[moment]))
        elif isinstance(node, exp.Anonymous) and str(node.this).upper() == "HASH":
            node.replace(exp.Anonymous(this="pmod", expressions=[
                exp.Anonymous(this="xxhash64", expressions=node.expressions), exp.Literal.number(2**62)]))  # fmt: skip


def _nodes(select: exp.Select) -> Iterator[exp.Expr]:
    """The nodes of a select, those of queries inside left out."""
    for child in select.iter_expressions():
        yield from _own(child)


def _not_among(node: exp.Not) -> None:
    """x NOT IN (query) as an anti join: nothing compared here is NULL."""
    among = node.this
    inner = exp.Subquery(this=_query_of(among.args["query"]), alias=exp.TableAlias(
        this=exp.to_identifier("among"), columns=[exp.to_identifier("among_value")]))  # fmt: skip
    equal = exp.EQ(this=exp.column("among_value", "among"), expression=among.this.copy())
    node.replace(exp.Not(this=exp.Exists(this=exp.select("1").from_(inner).where(equal))))


def _query_of(node: exp.Expr) -> exp.Expr:
    return node.this if isinstance(node, exp.Subquery) else node


def _list(node: exp.ArrayAgg) -> None:
    """list(value ORDER BY key), keys ascending and never NULL."""
    order = node.this
    if not isinstance(order, exp.Order) or len(order.expressions) != 1 or order.expressions[0].args.get("desc"):
        raise Untranslatable("list() without one ascending key")
    pair = exp.Anonymous(this="named_struct", expressions=[
        exp.Literal.string("k"), order.expressions[0].this, exp.Literal.string("v"), order.this])  # fmt: skip
    pairs = exp.Anonymous(this="array_sort", expressions=[exp.Anonymous(this="collect_list", expressions=[pair])])
    value = exp.Lambda(this=exp.column("v", "pair"), expressions=[exp.to_identifier("pair")])
    node.replace(exp.Anonymous(this="transform", expressions=[pairs, value]))


def _spell(query: exp.Expr) -> None:
    """Types whose names mean something else to Spark."""
    for kind in query.find_all(exp.DataType):
        if kind.this == exp.DataType.Type.TIMESTAMP:
            kind.set("this", exp.DataType.Type.TIMESTAMPNTZ)
        elif kind.this == exp.DataType.Type.TIMESTAMPTZ:
            kind.set("this", exp.DataType.Type.TIMESTAMPLTZ)
