"""The score table: what a model said about every impression of a split, next to what happened.

All metrics, baselines and reports read this and nothing else, so an evaluation can be repeated without the model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.lists import ListRule

VERSION = 1
METADATA_KEY = b"equipoise.score_table"


def relevance_of(logs: Mapping[str, np.ndarray], exponents: Mapping[str, float] | None) -> np.ndarray:
    """r = Σ v log p, float64 (N,), of log p by objective; without exponents 1 of ctr and cvr, as far as there are."""
    exponents = exponents or {name: 1.0 for name in ("ctr", "cvr") if name in logs}
    first, *others = (exponent * logs[name] for name, exponent in exponents.items())
    return sum(others, first)


@dataclass(eq=False)
class ScoreTable:
    """One row per impression; the rows of a request are contiguous.

    Attributes:
        request: request number, int64 (N,).
        item: item_index, int32 (N,).
        user: user_id, object (N,).
        click, conversion: labels 0 or 1, int8 (N,).
        pctr: probability of a click, float64 (N,).
        pcvr: probability of a conversion given a click, float64 (N,); None without a cvr objective.
        delta: adjustment δ of each list-wise objective by name, float64 (N,).
        fields: raw context fields by name, float64 (N,), NaN where missing.
        user_groups: user attributes by name, object (N,), None where unknown.
        items: item attributes by name, strings over item_index (I,).
        predictions: probability, value or count of each further pointwise objective by name, float64 (N,).
        labels: further labels by column, float64 (N,), NaN where there is none.
        exponents: v of the pointwise objectives in the relevance; None: 1 of ctr and cvr.
        weight: how much each row counts in metrics, float64 (N,); None counts all alike.
        lists: how lists are made of the scores; None: sorted by relevance plus ω δ.

    Raises:
        UserError: arrays of different lengths, requests torn apart, labels other than 0 and 1, an item_index without
            attributes, or predictions that are not probabilities.
    """

    request: np.ndarray
    item: np.ndarray
    user: np.ndarray
    click: np.ndarray
    conversion: np.ndarray
    pctr: np.ndarray
    pcvr: np.ndarray | None = None
    delta: dict[str, np.ndarray] = field(default_factory=dict)
    fields: dict[str, np.ndarray] = field(default_factory=dict)
    user_groups: dict[str, np.ndarray] = field(default_factory=dict)
    items: dict[str, np.ndarray] = field(default_factory=dict)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    exponents: dict[str, float] | None = None
    weight: np.ndarray | None = None
    lists: ListRule | None = None

    def __post_init__(self) -> None:
        self.request = np.asarray(self.request, np.int64)
        self.item = np.asarray(self.item, np.int32)
        self.user = np.asarray(self.user, object)
        self.pctr = np.asarray(self.pctr, np.float64)
        self.pcvr = None if self.pcvr is None else np.asarray(self.pcvr, np.float64)
        self.weight = None if self.weight is None else np.asarray(self.weight, np.float64)
        self.delta = {name: np.asarray(values, np.float64) for name, values in self.delta.items()}
        self.fields = {name: np.asarray(values, np.float64) for name, values in self.fields.items()}
        self.user_groups = {name: np.asarray(values, object) for name, values in self.user_groups.items()}
        self.predictions = {name: np.asarray(values, np.float64) for name, values in self.predictions.items()}
        self.labels = {name: np.asarray(values, np.float64) for name, values in self.labels.items()}
        self.items = {name: np.asarray(values, object) for name, values in self.items.items()}
        self._check_lengths()
        self._check_requests()
        self.click = _labels("click", self.click)
        self.conversion = _labels("conversion", self.conversion)
        self._check_predictions()

    def __len__(self) -> int:
        return len(self.request)

    @property
    def item_count(self) -> int:
        """Number of items I that have attributes; 0 where none are kept."""
        return max(map(len, self.items.values()), default=0)

    @property
    def logs(self) -> dict[str, np.ndarray]:
        """log p of every pointwise objective whose numbers are never negative, float64 (N,)."""
        numbers = {"ctr": self.pctr} | ({} if self.pcvr is None else {"cvr": self.pcvr})
        numbers |= {name: values for name, values in self.predictions.items() if (values >= 0).all()}
        smallest = np.finfo(np.float64).tiny  # an underflown probability must rank last, not become -inf
        return {name: np.log(np.maximum(values, smallest)) for name, values in numbers.items()}

    @property
    def relevance(self) -> np.ndarray:
        """r = Σ v log p by the formula; log pCTR + log pCVR (as far as there is one) without it; float64 (N,)."""
        return relevance_of(self.logs, self.exponents)

    @property
    def every_label(self) -> dict[str, np.ndarray]:
        """All labels by column, click and conversion among them, (N,)."""
        return {"click": self.click, "conversion": self.conversion, **self.labels}

    @property
    def clicked_conversion(self) -> np.ndarray:
        """click ∧ conversion, int8 (N,): the label of pCTCVR."""
        return self.click & self.conversion

    def item_values(self, attribute: str) -> np.ndarray:
        """The attribute of every item, object (I,); raises UserError where the items table has no such column."""
        if attribute not in self.items:
            names = ", ".join(sorted(self.items)) or "none"
            raise UserError(f"the score table keeps no item attribute '{attribute}': name one that it has ({names})")
        return self.items[attribute]

    def _columns(self) -> dict[str, np.ndarray]:
        """All columns of the file by their name there, each (N,)."""
        columns = {"request": self.request, "item": self.item, "user": self.user}
        columns |= {"click": self.click, "conversion": self.conversion, "pctr": self.pctr}
        if self.pcvr is not None:
            columns["pcvr"] = self.pcvr
        if self.weight is not None:
            columns["weight"] = self.weight
        columns |= {f"delta_{name}": values for name, values in self.delta.items()}
        columns |= {f"prediction_{name}": values for name, values in self.predictions.items()}
        columns |= {f"label_{name}": values for name, values in self.labels.items()}
        columns |= {f"field_{name}": values for name, values in self.fields.items()}
        columns |= {f"user_{name}": values for name, values in self.user_groups.items()}
        return columns

    def _check_lengths(self) -> None:
        for name, values in self._columns().items():
            if np.shape(values) != (len(self),):
                raise UserError(f"score table: {name} has shape {np.shape(values)}, but there are {len(self)} rows")
        if len({len(values) for values in self.items.values()}) > 1:
            raise UserError("score table: the item attributes are of different lengths: take one items table")
        if not len(self):
            return
        if self.item.min() < 0:
            raise UserError("score table: item holds a negative item_index: prepare the data again")
        if self.items and self.item.max() >= self.item_count:
            raise UserError(
                f"score table: item {self.item.max()} is none of the {self.item_count} items with attributes: "
                "take the items table of the same prepared folder"
            )

    def _check_requests(self) -> None:
        pieces = int((np.diff(self.request) != 0).sum()) + min(len(self), 1)
        if pieces != len(np.unique(self.request)):
            raise UserError("score table: the rows of a request are not contiguous: sort them by request")

    def _check_predictions(self) -> None:
        for name, values in (("pctr", self.pctr), ("pcvr", self.pcvr)):
            if values is None:
                continue
            wrong = ~((values >= 0) & (values <= 1))
            if wrong.any():
                raise UserError(
                    f"score table: {wrong.sum()} values of {name} are no probabilities (the first is "
                    f"{values[wrong][0]} in row {wrong.argmax()}): evaluate an earlier checkpoint"
                )
        for name, values in self.predictions.items():
            if not np.isfinite(values).all():
                raise UserError(f"score table: predictions of {name} are not finite: evaluate an earlier checkpoint")
        for name, values in self.delta.items():
            if not np.isfinite(values).all():
                raise UserError(f"score table: delta of {name} is not finite: evaluate an earlier checkpoint")

    def save(self, path: Path, origin: Mapping[str, Any] | None = None) -> None:
        """Write one Parquet file, whole or not at all; item attributes become columns `item_NAME` of each row.

        Attributes of items that no row shows are left out.

        Args:
            path: of the file.
            origin: what the scores were made from, as JSON can hold it; `read_origin` gives it back.
        """
        arrays = {}
        for name, values in self._columns().items():
            arrays[name] = _text(values) if values.dtype == object else pa.array(values)
        for name, values in self.items.items():
            arrays[f"item_{name}"] = _text(values[self.item])
        header = {"version": VERSION, "item_count": self.item_count, "items": list(self.items)}
        header |= {"origin": origin and dict(origin)} | ({"exponents": self.exponents} if self.exponents else {})
        header |= {"lists": self.lists.to_json()} if self.lists else {}
        metadata = {METADATA_KEY: json.dumps(header).encode()}
        with atomic_write(path) as partial:
            pq.write_table(pa.table(arrays).replace_schema_metadata(metadata), partial)

    @classmethod
    def load(cls, path: Path) -> "ScoreTable":
        """Read what `save` wrote; items that no row shows have the attribute None.

        Raises:
            UserError: the file is missing, unreadable, no score table, or of another version.
        """
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path} cannot be read as a score table: evaluate again ({error})") from error
        header = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
        if header.get("version") != VERSION:
            raise UserError(f"{path} is no score table of version {VERSION}: evaluate again")
        columns = {name: table.column(name).to_numpy() for name in table.column_names}
        items = {}
        for name in header["items"]:
            items[name] = np.full(header["item_count"], None, object)
            items[name][columns["item"]] = columns[f"item_{name}"]
        plain = ("request", "item", "user", "click", "conversion", "pctr")
        return cls(
            **{name: columns[name] for name in plain},
            pcvr=columns.get("pcvr"),
            delta=_with_prefix(columns, "delta_"),
            fields=_with_prefix(columns, "field_"),
            user_groups=_with_prefix(columns, "user_"),
            items=items,
            predictions=_with_prefix(columns, "prediction_"),
            labels=_with_prefix(columns, "label_"),
            exponents=header.get("exponents"),
            weight=columns.get("weight"),
            lists=ListRule.of(header.get("lists")),
        )


def read_origin(path: Path) -> dict[str, Any] | None:
    """What the scores of a file were made from; None without such a record, a readable file, or this version."""
    header = _header(path)
    return header.get("origin") if header.get("version") == VERSION else None


def read_lists(path: Path) -> ListRule | None:
    """How lists are made of the scores of a file; None where they are sorted by relevance plus ω δ."""
    return ListRule.of(_header(path).get("lists"))


def _header(path: Path) -> dict[str, Any]:
    try:
        return json.loads((pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"{}"))
    except (OSError, pa.ArrowInvalid, ValueError):
        return {}


def _labels(name: str, values: np.ndarray) -> np.ndarray:
    """The labels as int8 (N,), after a check that they are 0 or 1."""
    values = np.asarray(values)
    if not np.isin(values, (0, 1)).all():
        raise UserError(f"score table: {name} holds values other than 0 and 1: prepare the data again")
    return values.astype(np.int8)


def _text(values: np.ndarray) -> pa.Array:
    """A string column; None and NaN become null."""
    texts = [None if value is None or value != value else str(value) for value in values]
    return pa.array(texts, pa.string())


def _with_prefix(columns: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): values for name, values in columns.items() if name.startswith(prefix)}
