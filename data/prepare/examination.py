"""How likely each place of a slate is looked at, estimated next to a model of what is shown there.

The position-based model (Richardson et al. 2007; Craswell et al. 2008): an item is clicked where its place is looked
at, which depends on the place alone, and it is liked, which depends on item, shopper and context alone:

    P(click) = e_k · σ(f(x)),   e = 1 at the first place

Both are fitted together by maximum likelihood (which the regression EM of Wang et al. 2018 climbs in steps): f is a
penalised linear model of the item, `data.features` and rates, its numbers also squared; e_k is free at every place.
What the shop's ranking knew and these columns do not tell looks like an effect of the place; rates of a shopper, or
whatever the ranking went by, belong among the features.
"""

import logging

import numpy as np
import pyarrow as pa
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from equipoise.common.errors import UserError
from equipoise.configs.features import FeatureConfig
from equipoise.configs.schema import DataConfig
from equipoise.data.examination import PositionStats, check_position
from equipoise.data.features import NumberScale, Scales
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.feature_table import feature_joins, feature_sql
from equipoise.data.prepare.tables import Tables, one, quote

log = logging.getLogger(__name__)

COLUMN = "equipoise examination"
"""The column of the clean impressions that holds the examination of their places."""
MOST_ROWS = 300_000
"""Impressions that the estimate reads: those of whole requests, spread over the train split."""
LEAST_ROWS = 300
"""Impressions of a place; later places with fewer are one with the last that has as many."""
MOST_PLACES, MOST_VALUES = 64, 5_000
"""Places, and values of a category, that are told apart."""
PENALTY = 1.0
"""Half of it times the squared coefficient is added to the log loss."""


def examine(tables: Tables, config: DataConfig, scales: Scales, kept: Manifest | None = None) -> PositionStats | None:
    """Add the column COLUMN to the impressions of `requests`; None without `data.position`.

    Args:
        scales: of the features.
        kept: that of `data.scales_from`, whose estimate holds here too.

    Raises:
        UserError: a position is no whole number, there is a single place, or `kept` read another column.
    """
    if kept is not None:
        check_position(kept.position, config.position, config.scales_from)
    if config.position is None:
        return None
    con, position = tables.con, f"TRY_CAST(i.{quote(config.position)} AS DOUBLE)"
    where = f"{tables.labels['impressions']} (data.position: {config.position})"
    bad = con.execute(
        f"SELECT i.request_id, i.{quote(config.position)} FROM impressions i WHERE {position} IS NULL "
        f"OR {position} < 0 OR {position} <> floor({position}) LIMIT 1"
    ).fetchone()
    if bad:
        raise UserError(
            f"{where} has '{bad[1]}' in request {bad[0]}, which is no place: give whole numbers from 0, in every row"
        )
    if kept is not None and kept.position is not None:
        _add_column(tables, position, kept.position)
        return kept.position
    counts = con.execute(
        f"SELECT {position}::BIGINT AS p, count(*) FROM impressions i JOIN requests r USING (request_id) "
        "WHERE r.split = 0 GROUP BY p ORDER BY p"
    ).fetchall()
    first = int(counts[0][0])
    by_place = {int(place) - first: int(count) for place, count in counts}
    places = 1
    while places < MOST_PLACES and by_place.get(places, 0) >= LEAST_ROWS:
        places += 1
    if places < 2:
        raise UserError(
            f"{where} has fewer than {LEAST_ROWS} training impressions at a second place, which tells nothing: drop "
            "data.position"
        )
    rows = _rows(tables, config, position, first, places)
    columns = [rows[f"x{number}"] for number in range(len(config.features) + 1)]
    matrix = design(columns, [None, *(_scale(feature, scales) for feature in config.features)])
    examination = fit_examination(matrix, rows["place"], rows["click"], places)
    impressions = [by_place[place] for place in range(places)]
    impressions[-1] += sum(count for place, count in by_place.items() if place >= places)
    stats = PositionStats(
        column=config.position,
        first=first,
        examination=examination.tolist(),
        impressions=impressions,
        eta=power_law(examination, np.array(impressions)),
        rows=len(rows["click"]),
    )
    _add_column(tables, position, stats)
    tables.notes.append(
        f"data.position: place {places} is looked at {examination[-1]:.2f} times as often as the first one, about "
        f"(place)^-{stats.eta:.2f}; training takes this out, if the columns tell what the ranking went by."
    )
    return stats


def _scale(feature: FeatureConfig, scales: Scales) -> NumberScale | None:
    scale = scales[feature.name]
    return scale if isinstance(scale, NumberScale) else None


def _rows(tables: Tables, config: DataConfig, position: str, first: int, places: int) -> dict[str, np.ndarray]:
    """`place`, `click` and the columns of the item (x0) and the features of training impressions."""
    total = one(tables.con, "SELECT count(*) FROM impressions JOIN requests r USING (request_id) WHERE r.split = 0")[0]
    every = max(1, -(-total // MOST_ROWS))
    columns = "".join(f", {feature_sql(tables, f)} AS x{n}" for n, f in enumerate(config.features, 1))
    joins = feature_joins(tables) if config.features else ""
    found = tables.con.execute(
        f"SELECT least({position}::BIGINT - {first}, {places - 1}) AS place, i.click, i.item_id AS x0{columns} "
        f"FROM impressions i JOIN requests r USING (request_id){joins} "
        f"WHERE r.split = 0 AND r.ordinal % {every} = 0 ORDER BY r.ordinal, i.item_id"
    ).fetchnumpy()
    return {
        name: np.ma.filled(values, np.nan) if values.dtype.kind == "f" else np.ma.getdata(values)
        for name, values in found.items()
    }


def design(columns: list[np.ndarray], scales: list[NumberScale | None]) -> sparse.csr_matrix:
    """The columns of f as a matrix, float64 (N, F): 1, one-hot categories, and numbers with their squares.

    Args:
        columns: numbers or texts, (N,).
        scales: of the numbers; None of a category.
    """
    count = len(columns[0])
    parts = [sparse.csr_matrix(np.ones((count, 1)))]
    for values, scale in zip(columns, scales, strict=True):
        if scale is None:
            _, codes, sizes = np.unique(values.astype(str), return_inverse=True, return_counts=True)
            rank = np.empty(len(sizes), np.int64)
            rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
            code = np.minimum(rank[codes], MOST_VALUES)
            parts.append(sparse.csr_matrix((np.ones(count), (np.arange(count), code)), (count, int(code.max()) + 1)))
            continue
        raw = np.asarray(values, np.float64)
        number = np.where(np.isfinite(raw), np.nan_to_num(scale.standardise(raw)), 0.0).clip(-5, 5)
        parts.append(sparse.csr_matrix(np.stack([number, number**2 - 1, ~np.isfinite(raw)], axis=1)))
    return sparse.hstack(parts).tocsr()


def fit_examination(columns: sparse.csr_matrix, place: np.ndarray, click: np.ndarray, places: int) -> np.ndarray:
    """Examination by place, float64 (places,), 1 at the first and at most 1 elsewhere.

    Args:
        columns: of f, (N, F); the first is 1.
        place: from 0, int (N,).
        click: 0 or 1, (N,).
        places: how many there are.
    """
    count, width = columns.shape
    place, label = np.asarray(place, np.int64), np.asarray(click, np.float64)
    penalty = np.full(width, PENALTY)
    penalty[0] = 0.0

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        weights, seen = free[:width], free[width:]
        liked = columns @ weights
        log_p = np.concatenate([[0.0], log_expit(seen)])[place] + log_expit(liked)
        p = np.exp(log_p)
        missed = np.maximum(-np.expm1(log_p), 1e-12)
        total = -(label * log_p + (1 - label) * np.log(missed)).sum() + 0.5 * (penalty * weights**2).sum()
        slope = -(label - (1 - label) * p / missed)
        of_weights = columns.T @ (slope * expit(-liked)) + penalty * weights
        of_seen = np.bincount(place, slope, places)[1:] * expit(-seen)
        return float(total / count), np.concatenate([of_weights, of_seen]) / count

    start = np.zeros(width + places - 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 400, "gtol": 1e-6, "ftol": 1e-11})
    return np.concatenate([[1.0], expit(found.x[width:])])


def power_law(examination: np.ndarray, impressions: np.ndarray) -> float:
    """η of (place + 1)^−η, place from 0, nearest to the logarithms of examinations, by impressions."""
    distance = np.log(np.arange(len(examination)) + 1.0)
    return float(-(impressions * distance * np.log(examination)).sum() / (impressions * distance**2).sum())


def _add_column(tables: Tables, position: str, stats: PositionStats) -> None:
    last = len(stats.examination) - 1
    known = pa.table({"place": list(range(last + 1)), "examination": stats.examination})
    con = tables.con
    con.register("place_examination", known)
    con.execute(f"""
        CREATE TABLE examined AS SELECT i.*, e.examination AS {quote(COLUMN)}
        FROM impressions i JOIN place_examination e
        ON e.place = greatest(0, least({position}::BIGINT - {stats.first}, {last}))
    """)
    con.execute("DROP TABLE impressions; ALTER TABLE examined RENAME TO impressions")
    con.unregister("place_examination")
