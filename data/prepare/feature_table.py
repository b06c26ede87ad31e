"""Features in the tables: where a value comes from, and over which values of the train split it is standardised."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from equipoise.common.errors import UserError
from equipoise.configs.features import FeatureConfig
from equipoise.data.features import KINDS, CategoryScale, FeatureScale, NumberScale, decorrelating, same_features
from equipoise.data.prepare.files import columns_of, literal, quote
from equipoise.data.prepare.tables import Tables, one
from equipoise.data.values import MISSING, text_sql

SIDES = {"i": "impressions", "t": "items", "u": "users"}
"""Where a value may come from: the first table that has it."""


def feature_joins(tables: Tables) -> str:
    """What impressions `i`, joined with requests `r`, are joined with so that `feature_sql` finds all its sides."""
    users = " LEFT JOIN users u ON u.user_id = r.user_id" if tables.has("users") else ""
    return f" JOIN items t USING (item_id){users}"


def feature_sql(tables: Tables, feature: FeatureConfig) -> str:
    """The value of a feature in a query over `feature_joins`: DOUBLE, or VARCHAR of a category; NULL where unknown."""
    cell = _text if feature.scale == "category" else _number
    return f"coalesce({', '.join(cell(tables, side, feature.name) for side in _sides(tables, feature.name))})"


def scales_of(tables: Tables, features: Sequence[FeatureConfig]) -> dict[str, FeatureScale]:
    """The scales of features over the impressions of the train split.

    Raises:
        UserError: a value is not a number that its scale takes, or all known ones that heads read are the same.
    """
    scales = {f.name: _categories(tables, f) if f.scale == "category" else _scale(tables, f) for f in features}
    numbers = [feature for feature in features if feature.scale != "category" and feature.heads]
    if len(numbers) > 1:
        for index, (feature, row) in enumerate(
            zip(numbers, decorrelating(_correlations(tables, numbers)), strict=True)
        ):
            mix = {other.name: float(part) for other, part in zip(numbers[: index + 1], row, strict=False)}
            scales[feature.name] = scales[feature.name].model_copy(update={"mix": mix})
    return scales


def kept_scales(
    tables: Tables, features: Sequence[FeatureConfig], kept: Mapping[str, FeatureScale], where: Path
) -> dict[str, FeatureScale]:
    """The scales of another prepared folder, after the values of this one were looked at.

    Args:
        tables: with impressions and requests.
        features: of this folder.
        kept: scales of the other one.
        where: it is.

    Raises:
        UserError: it was prepared with other features, or a value is not a number that its scale takes.
    """
    if not same_features(kept, features):
        raise UserError(
            f"data.scales_from: {where} was prepared with other data.features ({', '.join(kept) or 'none'}) than this "
            "config has: name a folder with the same ones"
        )
    for feature in features:
        if feature.scale != "category":
            _refuse_bad_value(tables, feature)
    return dict(kept)


def _shown(tables: Tables, columns: str) -> str:
    """A query over the impressions of the train split."""
    joins = feature_joins(tables)
    return f"SELECT {columns} FROM impressions i JOIN requests r USING (request_id){joins} WHERE r.split = 0"


def _log(feature: FeatureConfig, value: str) -> str:
    scaled = {"log": f"ln({value})", "log1p": f"ln(1 + {value})", "logit": f"ln({value}) - ln(1 - {value})"}
    return scaled.get(feature.scale, value)


def _scale(tables: Tables, feature: FeatureConfig) -> NumberScale:
    _refuse_bad_value(tables, feature)
    shown, log = _shown(tables, f"{feature_sql(tables, feature)} AS v"), _log(feature, "v")
    known, mean, std, least, most = one(
        tables.con, f"SELECT count(v), avg({log}), stddev_pop({log}), min(v), max(v) FROM ({shown})"
    )
    assert feature.scale != "category"
    if not known or not std > 1e-6 * (1 + abs(mean) if feature.scale == "none" else 1):
        if feature.heads:
            _refuse_constant(tables, feature, f"{least:g}" if known else None)
        mean, std, least, most = (mean, 1.0, least, most) if known else (0.0, 1.0, 0.0, 0.0)
    return NumberScale(scale=feature.scale, heads=feature.heads, mean=mean, std=std, least=least, most=most)


def _categories(tables: Tables, feature: FeatureConfig) -> CategoryScale:
    shown = _shown(tables, f"{feature_sql(tables, feature)} AS v")
    most = 2 if feature.hashed else feature.levels or feature.max_categories
    counts = tables.con.execute(
        f"SELECT v, count(*) AS n, sum(count(*)) OVER () FROM ({shown}) WHERE v IS NOT NULL GROUP BY v "
        f"ORDER BY n DESC, v LIMIT {most + 1}"
    ).fetchall()
    if len(counts) < 2 and feature.heads:
        _refuse_constant(tables, feature, f"'{counts[0][0]}'" if counts else None)
    if len(counts) > most and not feature.hashed:
        setting = "levels" if feature.levels else "max_categories"
        tables.notes.append(f"{feature.name} has more than {most} texts ({setting}): its rarer ones count as unknown")
    kept = [] if feature.hashed else counts[:most]
    return CategoryScale(
        values=[text for text, *_ in kept],
        shares=[] if feature.levels else [n / known for _, n, known in kept],
        heads=feature.heads,
        slopes=feature.interactions,
        max_categories=feature.max_categories,
        levels=feature.levels,
        hashed=feature.hashed,
        rate=feature.rate,
    )


def _correlations(tables: Tables, numbers: Sequence[FeatureConfig]) -> np.ndarray:
    """Of each pair over the impressions where both are known, float64 (F, F); 0 where too few are."""
    count = len(numbers)
    columns = ", ".join(f"{_log(f, feature_sql(tables, f))} AS v{index}" for index, f in enumerate(numbers))
    pairs = [(a, b) for a in range(count) for b in range(a)]
    correlations = ", ".join(f"corr(v{a}, v{b})" for a, b in pairs)
    coefficients = one(tables.con, f"SELECT {correlations} FROM ({_shown(tables, columns)})")
    matrix = np.eye(count)
    for (a, b), value in zip(pairs, coefficients, strict=True):
        matrix[a, b] = matrix[b, a] = value if value is not None and np.isfinite(value) else 0.0
    # Pairs known in different rows may make a matrix that is none of correlations: without its negative part it is one.
    values_F, vectors_FF = np.linalg.eigh(matrix)
    nearest = (vectors_FF * np.clip(values_F, 0.0, None)) @ vectors_FF.T
    size_F = np.sqrt(np.diag(nearest))
    return nearest / np.outer(size_F, size_F)


def _refuse_constant(tables: Tables, feature: FeatureConfig, only: str | None) -> None:
    state = "is unknown in every" if only is None else f"is {only} in every known"
    raise UserError(
        f"{tables.labels['impressions']} (data.tables.impressions): {feature.name} {state} impression of the train "
        f"split, which teaches nothing: correct the column or drop '{feature.name}' from data.features"
    )


def _number(tables: Tables, side: str, name: str) -> str:
    """A cell as DOUBLE, NULL where it is not a number or NaN, as writers without a null of their own put it."""
    return f"nullif(TRY_CAST({side}.{quote(name)} AS DOUBLE), 'nan'::DOUBLE)"


def _text(tables: Tables, side: str, name: str) -> str:
    """A cell as VARCHAR as `category_text` writes it, NULL where it is missing."""
    column, kind = f"{side}.{quote(name)}", columns_of(tables.con, SIDES[side])[name]
    text = f"trim({text_sql(column, kind)})"
    return f"CASE WHEN {text} NOT IN ({', '.join(map(literal, MISSING))}) THEN {text} END"


def _sides(tables: Tables, name: str) -> list[str]:
    known = [(side, table) for side, table in SIDES.items() if side != "u" or tables.has("users")]
    return [side for side, table in known if name in columns_of(tables.con, table)]


def _refuse_bad_value(tables: Tables, feature: FeatureConfig) -> None:
    """Refuse a value that is given but is not a finite number that its scale takes."""
    bounds = {"log": "{0} > 0", "log1p": "{0} >= 0", "logit": "({0} > 0 AND {0} < 1)"}
    name, bound = feature.name, bounds.get(feature.scale, "{0} IS NOT NULL")
    counts = ", give it `scale: log1p` where 0 may be" if feature.scale == "log" else ""
    counts += ", give it `scale: none` where any number may be" if feature.scale != "none" else ""
    for side in _sides(tables, name):
        table = SIDES[side]
        column = f"{side}.{quote(name)}"
        number = _number(tables, side, name)
        bad_row = tables.con.execute(
            f"SELECT {column} FROM {table} {side} WHERE {column} IS NOT NULL "
            f"AND lower(trim(CAST({column} AS VARCHAR))) NOT IN ('', 'nan') "
            f"AND NOT coalesce({bound.format(number)} AND isfinite({number}), false) LIMIT 1"
        ).fetchone()
        if bad_row:
            raise UserError(
                f"{tables.labels[table]} (data.tables.{table}) has {name} '{bad_row[0]}', but this feature is a "
                f"{KINDS[feature.scale]}: correct the column, leave the value empty{counts}, or give it `scale: "
                f"category` if it is one, or drop '{name}' from data.features"
            )
