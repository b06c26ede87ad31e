"""Logs of drawn lists, with what happened, as arrays over requests.

Shape suffixes: R requests, C candidates of the longest one, K places of the longest shown list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb
import numpy as np

from equipoise.common.errors import UserError
from equipoise.common.lists import pad
from equipoise.common.plackett_luce import position_propensities
from equipoise.common.shown_tables import ATTRIBUTE, CANDIDATES, DELTA

NEEDED = ("request_id", "item_id", "index", "position", "propensity", "temperature", "list_utility", "base", "version")
CLICKS, CONVERSIONS, VALUE = "clicks", "conversions", "value"
REWARDS = (CLICKS, CONVERSIONS, VALUE)
"""What lists earn."""


@dataclass(frozen=True, eq=False)
class ShownLists:
    """Requests whose lists were drawn.

    Attributes:
        filled_RC: bool, where there is a candidate.
        base_RC: Σ v log p + boost, float64, −inf where there is none.
        list_utility_RC: what the draw was Plackett–Luce on, float64, −inf where there is none.
        delta: adjustment of each list-wise objective, float64 (R, C).
        attributes: item attributes that lists are made by, object (R, C).
        probability: of each pointwise objective, float64 (R, C).
        value_RC: what a conversion is worth, NaN where it is unknown.
        order_RK: the candidate at each shown place, −1 for none.
        propensity_RK: of each place given those before it.
        temperature_R: of the draws, above 0.
        rewards: `clicks`, `conversions` and `value` at each shown place, float64 (R, K), as far as there are labels.
        request: request_id, object (R,).
        items_RC: item_id, object.
        cluster_R: number of the user from 0, int64.
        skipped: requests that were left out, by reason.
        version: of the export that scored them.
    """

    filled_RC: np.ndarray
    base_RC: np.ndarray
    list_utility_RC: np.ndarray
    delta: Mapping[str, np.ndarray]
    attributes: Mapping[str, np.ndarray]
    probability: Mapping[str, np.ndarray]
    value_RC: np.ndarray
    order_RK: np.ndarray
    propensity_RK: np.ndarray
    temperature_R: np.ndarray
    rewards: Mapping[str, np.ndarray]
    request: np.ndarray
    items_RC: np.ndarray
    cluster_R: np.ndarray
    skipped: Mapping[str, int]
    version: str

    def __len__(self) -> int:
        return len(self.request)

    @cached_property
    def position_propensity_RK(self) -> np.ndarray:
        """P(the shown candidate is at its place), whatever is before it."""
        return position_propensities(self.list_utility_RC, self.order_RK, self.temperature_R)

    @cached_property
    def shown_RK(self) -> np.ndarray:
        """bool, where a place was shown."""
        return self.order_RK >= 0

    def at_places(self, values_RC: np.ndarray, order_RK: np.ndarray) -> np.ndarray:
        """Values of the candidates at places, float64 (R, K), 0 where there is none."""
        found_RK = np.take_along_axis(values_RC, order_RK.clip(min=0), axis=1)
        return np.where(order_RK >= 0, found_RK, 0.0)


def read_shown(log: Path, labels: Path | None = None, version: str | None = None) -> ShownLists:
    """Read a log of `equipoise serve --log`.

    Args:
        log: its folder.
        labels: table of what happened: request_id, item_id, click, and optionally conversion and value (Parquet, CSV);
            a candidate that it does not name was not clicked. None: the candidates have these columns themselves.
        version: of the export whose lists are read; None: the only one there is.

    Raises:
        UserError: it is no log, labels are missing or name what was not shown, a request stands twice, there are
            several versions, or no list was drawn.
    """
    con = duckdb.connect()
    try:
        columns = _open(con, log)
        label_columns = _open_labels(con, log, labels, columns)
        version = _version(con, log, version)
        con.execute("CREATE TABLE drawn AS SELECT * FROM candidates WHERE version = ?", [version])
        skipped = _skipped(con)
        return _arrays(con, log, columns, label_columns, skipped, version)
    except duckdb.Error as error:
        raise UserError(f"{log} cannot be read ({str(error).splitlines()[0]}): name a folder of --log") from error
    finally:
        con.close()


def _open(con: duckdb.DuckDBPyConnection, log: Path) -> list[str]:
    parts = sorted((log / CANDIDATES).glob("*.parquet"))
    if not parts:
        raise UserError(f"{log} holds no {CANDIDATES}/*.parquet: name a folder that `equipoise serve --log` wrote")
    con.execute(
        "CREATE TABLE candidates AS SELECT * FROM read_parquet(?, union_by_name = true)", [[str(p) for p in parts]]
    )
    columns = [row[0] for row in con.execute("DESCRIBE candidates").fetchall()]
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise UserError(
            f"{log}/{CANDIDATES} lacks the column {missing[0]}: it is not what `equipoise serve --log` wrote"
        )
    twice = con.execute('SELECT request_id FROM candidates GROUP BY request_id, "index" HAVING count(*) > 1 LIMIT 1')
    if row := twice.fetchone():
        raise UserError(
            f"{log} has request '{row[0]}' twice: a request_id names one shown list, so give each its own, or drop the "
            "later rows"
        )
    return columns


def _open_labels(con: duckdb.DuckDBPyConnection, log: Path, labels: Path | None, columns: list[str]) -> list[str]:
    """Create the table outcomes (request_id, item_id, click, …); which of its columns there are."""
    if labels is None:
        if "click" not in columns:
            raise UserError(
                f"{log} tells what was shown and not what was clicked: name a table with request_id, item_id, click "
                "(and conversion, value) by --labels"
            )
        names: list[str] = [name for name in ("click", "conversion") if name in columns]
        con.execute(f"CREATE TABLE outcomes AS SELECT request_id, item_id, {', '.join(names)} FROM candidates")
        return names
    read = {".parquet": "read_parquet(?)", ".csv": "read_csv(?, all_varchar = true)"}.get(labels.suffix.lower())
    if read is None:
        raise UserError(f"--labels {labels} has an unknown ending: give .parquet or .csv")
    try:
        con.execute(f"CREATE TABLE given AS SELECT * FROM {read}", [str(labels)])
    except duckdb.Error as error:
        raise UserError(f"--labels {labels} cannot be read: {str(error).splitlines()[0]}") from error
    known = [row[0] for row in con.execute("DESCRIBE given").fetchall()]
    for name in ("request_id", "item_id", "click"):
        if name not in known:
            raise UserError(f"--labels {labels} has no column {name}: add it")
    names = [name for name in ("click", "conversion", "value") if name in known]
    numbers = ", ".join(f"max(TRY_CAST({name} AS DOUBLE)) AS {name}" for name in names)
    con.execute(
        "CREATE TABLE outcomes AS SELECT request_id::VARCHAR AS request_id, item_id::VARCHAR AS item_id, "
        f"{numbers} FROM given GROUP BY ALL"
    )
    for name in names:
        bad = "NOT (click IN (0, 1))" if name == "click" else f"NOT ({name} >= 0)"
        row = con.execute(f"SELECT request_id FROM outcomes WHERE {name} IS NOT NULL AND ({bad}) LIMIT 1").fetchone()
        if row:
            raise UserError(f"--labels {labels}: {name} of request '{row[0]}' is out of range: correct the table")
    stray, every = con.execute(
        "SELECT count(*) FILTER (c.position IS NULL), count(*) FROM outcomes o LEFT JOIN candidates c "
        "USING (request_id, item_id) WHERE o.click = 1"
    ).fetchone() or (0, 0)
    if stray == every:
        raise UserError(
            f"--labels {labels} has no click on what {log} shows: both must write request_id and item_id alike"
        )
    return names


def _version(con: duckdb.DuckDBPyConnection, log: Path, version: str | None) -> str:
    found = [row[0] for row in con.execute("SELECT DISTINCT version FROM candidates ORDER BY 1").fetchall()]
    if version is None and len(found) > 1:
        raise UserError(f"{log} holds lists of several exports ({', '.join(found)}): name one by --version or --export")
    if version is not None and version not in found:
        raise UserError(
            f"{log} holds lists of {', '.join(found)} and none of {version}: name the export that logged them"
        )
    return version or found[0]


def _skipped(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Delete requests that tell nothing of other lists; how many, by reason."""
    reasons = {
        "not drawn (temperature 0)": "temperature <= 0",
        "without an item_id": "item_id IS NULL",
    }
    skipped = {}
    for reason, wrong in reasons.items():
        ids = f"SELECT request_id FROM drawn WHERE {wrong}"
        count = con.execute(f"SELECT count(DISTINCT request_id) FROM ({ids})").fetchone()
        con.execute(f"DELETE FROM drawn WHERE request_id IN ({ids})")
        if count and count[0]:
            skipped[reason] = int(count[0])
    return skipped


def _arrays(
    con: duckdb.DuckDBPyConnection,
    log: Path,
    columns: list[str],
    labels: list[str],
    skipped: dict[str, int],
    version: str,
) -> ShownLists:
    told = ", ".join(f"coalesce(o.{name}, 0) AS label_{name}" for name in labels)
    rows = con.execute(
        f'SELECT d.*, {told} FROM drawn d LEFT JOIN outcomes o USING (request_id, item_id) ORDER BY request_id, "index"'
    ).fetchnumpy()
    request = np.asarray(rows["request_id"], object)
    if not len(request):
        raise UserError(
            f"{log} holds no drawn list of {version}, and lists that are certain tell nothing of others: serve with "
            "--explore TEMPERATURE and --log"
        )
    first = np.flatnonzero(np.r_[True, request[1:] != request[:-1]])
    sizes = np.diff(np.r_[first, len(request)])

    def numbers(name: str, blank: float = np.nan) -> np.ndarray:
        return pad(np.ma.filled(np.ma.asarray(rows[name], np.float64), np.nan), sizes, blank)

    position_RC = numbers("position")
    shown_RC = np.isfinite(position_RC)
    order_RK = np.full((len(sizes), int(shown_RC.sum(axis=1).max())), -1)
    which_R, candidate = np.nonzero(shown_RC)
    order_RK[which_R, position_RC[shown_RC].astype(np.int64)] = candidate
    made = ShownLists(
        filled_RC=np.arange(int(sizes.max()))[None] < sizes[:, None],
        base_RC=numbers("base", -np.inf),
        list_utility_RC=numbers("list_utility", -np.inf),
        delta={n.removeprefix(DELTA): numbers(n, 0.0) for n in columns if n.startswith(DELTA)},
        attributes={n.removeprefix(ATTRIBUTE): pad(rows[n], sizes, None) for n in columns if n.startswith(ATTRIBUTE)},
        probability={n[1:]: numbers(n, 0.0) for n in ("pctr", "pcvr") if n in columns},
        value_RC=numbers("label_value" if "value" in labels else "value") if "value" in [*columns, *labels] else
        np.full(shown_RC.shape, np.nan),
        order_RK=order_RK,
        propensity_RK=np.ones(order_RK.shape),
        temperature_R=np.asarray(rows["temperature"], np.float64)[first],
        rewards={},
        request=request[first],
        items_RC=pad(np.asarray(rows["item_id"], object), sizes, None),
        cluster_R=np.unique(np.asarray(rows["user_id"], str)[first], return_inverse=True)[1],
        skipped=skipped,
        version=version,
    )  # fmt: skip
    propensity_RK = np.where(order_RK >= 0, made.at_places(numbers("propensity", 1.0), order_RK), 1.0)
    click_RK = made.at_places(numbers("label_click", 0.0), order_RK)
    rewards = {CLICKS: click_RK}
    if "conversion" in labels:
        rewards[CONVERSIONS] = click_RK * made.at_places(numbers("label_conversion", 0.0), order_RK)
        worth_RK = made.at_places(made.value_RC, order_RK)
        if not (np.isnan(worth_RK) & (rewards[CONVERSIONS] > 0)).any() and np.isfinite(made.value_RC[shown_RC]).any():
            rewards[VALUE] = rewards[CONVERSIONS] * np.nan_to_num(worth_RK)
    return _with(made, propensity_RK, rewards)


def _with(made: ShownLists, propensity_RK: np.ndarray, rewards: Mapping[str, np.ndarray]) -> ShownLists:
    fields = {**vars(made), "propensity_RK": propensity_RK, "rewards": rewards}
    names = ShownLists.__dataclass_fields__
    return ShownLists(**{name: value for name, value in fields.items() if name in names})
