"""Features in the tables: where a value comes from, and over which values of the train split it is standardised."""

from configs.errors import UserError
from configs.features import FeatureConfig
from data.features import KINDS, FeatureScale
from data.tables import Tables, columns_of, one, quote


def feature_sql(tables: Tables, name: str) -> str:
    """The value of a feature in a query over impressions `i` joined with items `t`, whose own it is by default."""
    return f"coalesce({', '.join(_number(f'{side}.{quote(name)}') for side in _sides(tables, name))})"


def scale_of(tables: Tables, feature: FeatureConfig) -> FeatureScale:
    """The scale of a feature over the impressions of the train split.

    Raises:
        UserError: a value is no number that its scale takes, or all known ones are the same.
    """
    _refuse_bad_value(tables, feature)
    name = feature.name
    value, log = feature_sql(tables, name), "ln(v)" if feature.scale == "log" else "ln(1 + v)"
    known, mean, std, least, most = one(
        tables.con,
        f"""
        SELECT count(v), avg({log}), stddev_pop({log}), min(v), max(v) FROM (
            SELECT {value} AS v FROM impressions i JOIN items t USING (item_id) JOIN requests r USING (request_id)
            WHERE r.split = 0)
        """,
    )
    if not known or not std > 1e-6:
        told = "is unknown in every" if not known else f"is {least:g} in every known"
        raise UserError(
            f"{tables.labels['impressions']} (data.tables.impressions): {name} {told} impression of the train split, "
            f"which teaches nothing: mend the column or drop '{name}' from data.features"
        )
    return FeatureScale(scale=feature.scale, mean=mean, std=std, least=least, most=most)


def _number(column: str) -> str:
    """A column as DOUBLE, NULL where it is no number or NaN, as writers without a null of their own put it."""
    return f"nullif(TRY_CAST({column} AS DOUBLE), 'nan'::DOUBLE)"


def _sides(tables: Tables, name: str) -> list[str]:
    return [side for side, table in (("i", "impressions"), ("t", "items")) if name in columns_of(tables.con, table)]


def _refuse_bad_value(tables: Tables, feature: FeatureConfig) -> None:
    """Refuse a value that is given but is no finite number above 0, or of 0 or more for log1p."""
    name, bound = feature.name, ">" if feature.scale == "log" else ">="
    counts = ", give it `scale: log1p` where 0 may be" if feature.scale == "log" else ""
    for side in _sides(tables, name):
        table = {"i": "impressions", "t": "items"}[side]
        column = quote(name)
        number = _number(column)
        found = tables.con.execute(
            f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL "
            f"AND lower(trim(CAST({column} AS VARCHAR))) NOT IN ('', 'nan') "
            f"AND NOT coalesce({number} {bound} 0 AND isfinite({number}), false) LIMIT 1"
        ).fetchone()
        if found:
            raise UserError(
                f"{tables.labels[table]} (data.tables.{table}) has {name} '{found[0]}', but this feature is a "
                f"{KINDS[feature.scale]}: mend the column, leave the value empty{counts}, or drop '{name}' from "
                "data.features"
            )
