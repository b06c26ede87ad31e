"""The last state of rates: how often each key was shown and had the label, for requests that do not bring the rates.

`equipoise prepare` writes a file per rate (data/prepare/rates.py), exports hold copies, `equipoise rates update` goes
on from them. Columns: `level`, `key_NAME` of each column of `by` (null where the level does not count by it), `shown`,
`positives`; the metadata say of which rate and of which moment it is.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from equipoise.common.errors import UserError
from equipoise.common.sealed import refuse_changed
from equipoise.configs.rates import RateConfig
from equipoise.data.features import category_text

FOLDER = "rates"
METADATA = b"equipoise.rate"
LEAST = 1e-6
"""Rates are kept so far from 0 and 1, that float32 tells them from these."""

Key = tuple[str, ...]


def levels_of(rate: RateConfig) -> list[list[str]]:
    """The columns by which each level counts: none, those of the parent where there is one, those of `by`."""
    return [[], *([rate.parent] if rate.parent else []), rate.by]


@dataclass(frozen=True)
class RateState:
    """One rate as it was after its last impression.

    Attributes:
        rate: what is counted.
        moment: when the last label was known, UTC, to which counts are decayed.
        levels: per level the row of each key.
        shown, positives: float64, of all rows.
    """

    rate: RateConfig
    moment: datetime
    levels: list[dict[Key, int]]
    shown: np.ndarray
    positives: np.ndarray

    def values(self, cells: Sequence[str | None]) -> tuple[float, float]:
        """Smoothed rate and count of the key whose cells of `by` these are, NaN where one is unknown.

        A new key has the rate of the level above, and count 0.
        """
        if None in cells:
            return math.nan, math.nan
        by_name = dict(zip(self.rate.by, cells, strict=True))
        rate, shown = math.nan, 0.0
        for columns, rows in zip(levels_of(self.rate), self.levels, strict=True):
            row = rows.get(tuple(str(by_name[name]) for name in columns))
            shown, positives = (0.0, 0.0) if row is None else (float(self.shown[row]), float(self.positives[row]))
            if not columns:
                rate = (positives + 0.5) / (shown + 1.0) if row is not None else math.nan
            else:
                rate = (positives + self.rate.strength * rate) / (shown + self.rate.strength)
        return min(max(rate, LEAST), 1.0 - LEAST), shown


def read_state(path: Path) -> RateState:
    """Read the file of a rate.

    Raises:
        UserError: it is missing or broken.
    """
    rate, moment, _ = read_metadata(path)
    refuse_changed(path.parent, "restore it, or export again")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is missing or holds no state of a rate: prepare or export again") from error
    level = table.column("level").to_numpy()
    levels = []
    for number, columns in enumerate(levels_of(rate)):
        rows = np.flatnonzero(level == number)
        taken = table.take(pa.array(rows))
        keys = zip(*(taken.column(f"key_{name}").to_pylist() for name in columns), strict=True) if columns else [()]
        levels.append(dict(zip(keys, rows.tolist(), strict=False)))
    return RateState(rate, moment, levels, table.column("shown").to_numpy(), table.column("positives").to_numpy())


def read_metadata(path: Path) -> tuple[RateConfig, datetime, datetime]:
    """The rate of a file of a state, its moment, and the timestamp of its last impression (UTC).

    Raises:
        UserError: it is missing or broken.
    """
    try:
        record = json.loads(pq.read_schema(path).metadata[METADATA])
        moment, last = (datetime.fromisoformat(record[name]) for name in ("moment", "last"))
        return RateConfig(**record["rate"]), moment, last
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, ValidationError) as error:
        raise UserError(f"{path} is missing or holds no state of a rate: prepare or export again") from error


class RateLookup:
    """The values of rate features for requests that do not bring them.

    Args:
        states: of all rates of the data.
    """

    def __init__(self, states: Sequence[RateState] = ()) -> None:
        self._of: dict[str, tuple[RateState, int]] = {}
        for state in states:
            for place, name in enumerate(state.rate.names):
                self._of.setdefault(name, (state, place))

    @classmethod
    def read(cls, paths: Iterable[Path]) -> "RateLookup":
        """The states in these files.

        Raises:
            UserError: one is missing or broken.
        """
        return cls([read_state(path) for path in paths])

    def __contains__(self, name: str) -> bool:
        return name in self._of

    @cached_property
    def keys(self) -> list[str]:
        """The columns that rates count by, each once."""
        return list(dict.fromkeys(name for state, _ in self._of.values() for name in state.rate.by))

    def keys_of(self, name: str) -> list[str]:
        """The columns that a rate or count counts by."""
        return self._of[name][0].rate.by

    def value(self, name: str, cell: Callable[[str], object]) -> float | None:
        """The value of a feature, None where it is no rate, or unknown.

        Args:
            name: of the feature.
            cell: the value of a column of `keys`, None where it is unknown.
        """
        if name not in self._of:
            return None
        state, place = self._of[name]
        value = state.values([key_text(cell(column)) for column in state.rate.by])[place]
        return None if math.isnan(value) else value


def key_text(value: object) -> str | None:
    """A cell as it is counted by: text as `category_text` writes it, None where nothing is in it."""
    return category_text(value) or None
