"""Weighs impressions: by a column, by inverse propensities, or so that group and label are independent."""

from equipoise.common.errors import UserError
from equipoise.common.nearest import did_you_mean
from equipoise.configs.features import FeatureConfig
from equipoise.configs.weights import WeightsConfig
from equipoise.data.prepare.feature_table import feature_joins, feature_sql
from equipoise.data.prepare.files import quote
from equipoise.data.prepare.labels import label_sql
from equipoise.data.prepare.tables import LABELS, Tables, check_columns, one
from equipoise.data.weights import WeightCell, WeightStats

COLUMN = "equipoise:weight"
"""The column of the clean impressions that holds their weights."""
UNKNOWN = "unknown"
"""The group of impressions whose group is missing, as in the metrics of user groups."""


def check_weight_columns(tables: Tables, config: WeightsConfig | None) -> None:
    """Refuse columns that no raw table has, and values that cannot weigh, before any work is done.

    Raises:
        UserError: names the file, the column, its first bad value and the fix.
    """
    if config is None:
        return
    because = ", which data.weights names"
    if config.reweigh is None:
        check_columns(tables, "impressions", config.columns, because)
        _check_numbers(tables, config)
        return
    known = {name for table in tables.labels if table != "events" for name in tables.columns(table)}
    if config.reweigh not in known:
        raise UserError(
            f"neither {tables.labels['impressions']} nor {tables.labels['items']} nor a table of users has a column "
            f"'{config.reweigh}', which data.weights.reweigh names{did_you_mean(config.reweigh, known)}: "
            "add or rename it"
        )
    check_columns(tables, "impressions", [config.label], ", which data.weights.label names")
    if config.label not in LABELS:
        number = label_sql(config.label)
        _refuse_first(tables, config.label, f"coalesce({number} NOT IN (0, 1), true)", "write 0 or 1")


def _number(name: str) -> str:
    return f"TRY_CAST(i.{quote(name)} AS DOUBLE)"


def _check_numbers(tables: Tables, config: WeightsConfig) -> None:
    name = config.columns[0]
    number = _number(name)
    if config.propensity is not None:
        fine, fix = f"{number} > 0 AND {number} <= 1", "write the probability that it was shown, above 0 and at most 1"
        _refuse_first(tables, name, f"NOT coalesce({fine}, false)", fix)
        return
    fine = f"isfinite({number}) AND {number} >= 0"
    _refuse_first(tables, name, f"NOT coalesce({fine}, false)", "write a number of 0 or more; 0 leaves the row out")
    if not one(tables.con, f"SELECT coalesce(max({number}), 0) FROM raw_impressions i")[0]:
        raise UserError(
            f"{tables.labels['impressions']} (data.tables.impressions) has {name} 0 in every row, which leaves nothing "
            "to learn from: correct the column or drop data.weights"
        )


def _refuse_first(tables: Tables, name: str, bad: str, fix: str) -> None:
    query = f"SELECT row_number() OVER () AS row, i.{quote(name)} AS value, {bad} AS bad FROM raw_impressions i"
    first = tables.con.execute(f"SELECT row, value FROM ({query}) WHERE bad ORDER BY row LIMIT 1").fetchone()
    if first:
        value = "" if first[1] is None else first[1]
        raise UserError(
            f"{tables.labels['impressions']} (data.tables.impressions) has {name} '{value}' in row {first[0]}, which "
            f"data.weights reads: {fix}"
        )


def drop_weightless(tables: Tables, config: WeightsConfig | None) -> None:
    """Leave impressions of weight 0 out, and count them."""
    if config is None or config.column is None:
        return
    con = tables.con
    before = one(con, "SELECT count(*) FROM impressions")[0]
    con.execute(f"DELETE FROM impressions i WHERE {_number(config.column)} = 0")
    after = one(con, "SELECT count(*) FROM impressions")[0]
    if not after:
        raise UserError(
            f"every impression of {tables.labels['impressions']} that shows a known item has {config.column} 0: "
            "correct the column or drop data.weights"
        )
    tables.drop("impressions of weight 0", before - after)


def weigh(tables: Tables, config: WeightsConfig | None) -> WeightStats | None:
    """Add the column COLUMN, DOUBLE with a mean of 1 over the train split, to the impressions of `requests`.

    Returns:
        what the manifest says of them; None without weights.

    Raises:
        UserError: a group has a single label in the train split, or there is a single group.
    """
    if config is None:
        return None
    con = tables.con
    raw, cells = _number(str(config.column)), ""
    if config.propensity is not None:
        raw = f"1 / greatest({_number(config.propensity)}, {config.min_propensity!r})"
    if config.reweigh is not None:
        group = f"coalesce({feature_sql(tables, FeatureConfig(name=config.reweigh, scale='category'))}, '{UNKNOWN}')"
        label = f"CAST({label_sql(config.label)} AS TINYINT)"
        _write_cells(tables, config, group, label)
        # A group that the train split did not show has no cell.
        raw = "coalesce(c.weight, 1.0)"
        cells = f"{feature_joins(tables)} LEFT JOIN weight_cells c ON c.group_name = {group} AND c.label = {label}"
    con.execute(f"""
        CREATE TABLE weighed AS SELECT i.*, {raw} AS {quote(COLUMN)}
        FROM impressions i JOIN requests r USING (request_id){cells}
    """)
    con.execute("DROP TABLE impressions; ALTER TABLE weighed RENAME TO impressions")
    weight, train = quote(COLUMN), "JOIN requests r USING (request_id) WHERE r.split = 0"
    mean = one(con, f"SELECT avg({weight}) FROM impressions i {train}")[0]
    con.execute(f"UPDATE impressions SET {weight} = {weight} / {mean!r}")
    return _stats(tables, config, mean)


def _write_cells(tables: Tables, config: WeightsConfig, group: str, label: str) -> None:
    """Create weight_cells (group_name, label, n, weight) of the train split."""
    tables.con.execute(f"""
        CREATE TABLE weight_cells AS
        SELECT group_name, label, n, (sum(n) OVER (PARTITION BY group_name))::DOUBLE
               * (sum(n) OVER (PARTITION BY label))::DOUBLE / (n::DOUBLE * (sum(n) OVER ())::DOUBLE) AS weight
        FROM (
            SELECT {group} AS group_name, {label} AS label, count(*) AS n
            FROM impressions i JOIN requests r USING (request_id){feature_joins(tables)}
            WHERE r.split = 0 GROUP BY ALL
        )
    """)
    where = f"data.weights.reweigh: {config.reweigh}"
    groups = one(tables.con, "SELECT count(DISTINCT group_name) FROM weight_cells")[0]
    if groups < 2:
        raise UserError(f"{where} has a single value in the train split: name another column, or drop data.weights")
    single = tables.con.execute(
        "SELECT group_name, any_value(label), sum(n) FROM weight_cells GROUP BY group_name HAVING count(*) < 2 "
        "ORDER BY group_name LIMIT 1"
    ).fetchone()
    if single:
        raise UserError(
            f"{where} '{single[0]}' has {config.label} {single[1]} in all of its {single[2]} rows of the train split, "
            "which no weights make independent: merge small groups in the column, or name another one"
        )


def _stats(tables: Tables, config: WeightsConfig, mean: float) -> WeightStats:
    con, weight = tables.con, quote(COLUMN)
    numbers = one(
        con,
        f"SELECT min({weight}), max({weight}), sum({weight}) ** 2 / sum({weight} ** 2), sum({weight}), "
        f"coalesce(sum({weight}) FILTER (click = 1), 0), "
        f"coalesce(sum({weight}) FILTER (click = 1 AND conversion = 1), 0), count(*) "
        "FROM impressions JOIN requests r USING (request_id) WHERE r.split = 0",
    )
    names = ("least", "most", "effective_rows", "impressions", "clicks", "clicked_conversions")
    cells = []
    if config.reweigh is not None:
        found = con.execute("SELECT group_name, label, n, weight FROM weight_cells ORDER BY ALL").fetchall()
        cells = [WeightCell(group=group, label=y, rows=n, weight=w / mean) for group, y, n, w in found]
    known = dict(zip(names, numbers, strict=False))
    tables.notes.append(
        f"data.weights: weights of the train split go from {known['least']:.3g} to {known['most']:.3g} (mean 1); its "
        f"{numbers[-1]:,} rows tell as much as {known['effective_rows']:,.0f} equal ones."
    )
    return WeightStats(settings=config.prepared(), divided_by=mean, cells=cells, **known)
