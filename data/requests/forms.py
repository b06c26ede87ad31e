"""What a file of requests may look like, and its rows as texts: prepared slates, or raw fields rendered as in training.

Both forms give the same `Request`s, so that all that follows knows one of them only.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig
from equipoise.data.features import CategoryScale, FeatureScale, Scales
from equipoise.data.prompts import piece_fields
from equipoise.data.rates import RateLookup
from equipoise.data.requests.catalogue import Catalogue
from equipoise.data.requests.field_columns import check_field_columns
from equipoise.data.requests.files import RequestFile
from equipoise.data.requests.identifiers import as_text, is_identifier
from equipoise.data.requests.renderer import PromptRenderer
from equipoise.data.requests.things import ThingColumns
from equipoise.data.things import ThingTexts
from equipoise.data.values import plain_batch, plain_value

PREPARED = ("prefix", "item", "context")
MOST_CANDIDATES = 4096


@dataclass(frozen=True)
class Request:
    """One row of a file: its ids, its prefix as text, and number (in the catalogue) and context of each candidate.

    `features`: raw values of the features, float64 (C, F), NaN where unknown; None where the heads read none. `things`:
    what the candidates are compared with; None where nothing is compared.
    """

    request_id: str
    user_id: str | None
    part: int | None
    prefix: str
    items: list[int]
    contexts: list[str]
    features: np.ndarray | None = None
    things: ThingTexts | None = None


def is_list(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of the kinds of lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


class RequestForm(ABC):
    """How the rows of one file become requests.

    Args:
        file: its schema decides which columns are read.
        catalogue: the items that may be asked for.
        columns_read: columns that are read where the file has them.
        features: scales of the features; where the column of one is missing, items give the value. A category may
            stand once per request.
        label: what its column is called before its name.
        rates: the last state of rates among the features, for those without a column.

    Raises:
        UserError: a column has a type that cannot be read.
    """

    items: str
    """The column with one list of candidates per row."""

    def __init__(
        self,
        file: RequestFile,
        catalogue: Catalogue,
        columns_read: Sequence[str],
        features: Scales,
        label: str = "",
        rates: RateLookup | None = None,
    ) -> None:
        self.rates = rates or RateLookup()
        self.things: ThingColumns | None = None
        self.path, self.catalogue, self.features = file.path, catalogue, dict(features)
        self.column_of = {name: f"{label}{name}" for name in features}
        self.kinds = {field.name: field.type for field in file.schema}
        columns = dict.fromkeys([*columns_read, *self.column_of.values(), *self.rates.keys])
        self.columns = [name for name in columns if name in self.kinds]
        for name, column in self.column_of.items():
            if not isinstance(self.features[name], CategoryScale):
                self._must_be_list(column, "one number per candidate")
        for name in ("request_id", "user_id"):
            if name in self.columns and not is_identifier(self.kinds[name]):
                raise UserError(
                    f"{self.path} has {name} of type {self.kinds[name]}: write ids as text or whole numbers"
                )
        self._must_be_list(self.items, "one list of candidates per request")

    def requests(self, batch: pa.RecordBatch, first: int) -> Iterator[list[Request]]:
        """The rows of a batch, whose first is row `first` of the file, at most about MOST_CANDIDATES at a time.

        Raises:
            UserError: names file, request and way out.
        """
        batch = plain_batch(batch)
        ids = self._ids(batch, "request_id")
        for row, name in enumerate(ids):
            if name is None:
                raise UserError(f"{self.path} has no request_id in row {first + row}: give every request one")
        sizes = pc.list_value_length(batch.column(self.items)).to_pylist()
        for name, size in zip(ids, sizes, strict=True):
            if not size:
                raise self._fault(name, f"has no candidates in {self.items}: give it some or drop the row")
        start, filled = 0, 0
        for row, size in enumerate(sizes):
            if row > start and filled + size > MOST_CANDIDATES:
                yield self._compared(batch.slice(start, row - start), ids[start:row], sizes[start:row])
                start, filled = row, 0
            filled += size
        yield self._compared(batch.slice(start), ids[start:], sizes[start:])

    def _compared(self, batch: pa.RecordBatch, ids: list[str], sizes: list[int]) -> list[Request]:
        """The rows of a small batch, with what their candidates are compared with."""
        requests = self._read(batch, ids, sizes)
        if self.things is None:
            return requests
        things = self.things.read(batch, [request.items for request in requests])
        return [replace(request, things=own) for request, own in zip(requests, things, strict=True)]

    def compare(self, item: str) -> None:
        """Also read what candidates are compared with; `item`: the column of items that is compared."""
        self.things = ThingColumns(self.path, self.kinds, self.catalogue, item, isinstance(self, PreparedForm))
        self.columns = list(dict.fromkeys([*self.columns, *self.things.columns]))
        for name in {"recent", "things"} & set(self.things.columns):
            self._must_be_list(name, "what the shopper took, the latest first")

    @abstractmethod
    def _read(self, batch: pa.RecordBatch, ids: list[str], sizes: list[int]) -> list[Request]:
        """The rows of a small batch; `ids` and `sizes` are their request_id and numbers of candidates."""

    def _feature_values(
        self, batch: pa.RecordBatch, ids: list[str], sizes: list[int], items: Sequence[int]
    ) -> np.ndarray | None:
        """The raw features of all candidates of a small batch, float64 (N, F): the file's, else the items'."""
        if not self.features:
            return None
        columns = []
        for name, scale in self.features.items():
            column, known = self.column_of[name], self.catalogue.values(name, items, scale)
            if column in self.columns:
                cells = batch.column(column).to_pylist()
                if is_list(self.kinds[column]):
                    self._same_lengths(batch, column, ids, sizes)
                else:  # a category of the shopper
                    cells = [[cell] * size for cell, size in zip(cells, sizes, strict=True)]
                lists = zip(cells, sizes, ids, strict=True)
                given = [
                    self._feature(v, column, request, scale) for vs, n, request in lists for v in (vs or [None] * n)
                ]
                known = [own if value is None else value for value, own in zip(given, known, strict=True)]
            elif name in self.rates:
                known = self._rates(name, batch, ids, sizes, items)
            columns.append([math.nan if value is None else value for value in known])
        return np.array(columns, dtype=np.float64).T

    def _rates(
        self, name: str, batch: pa.RecordBatch, ids: list[str], sizes: list[int], items: Sequence[int]
    ) -> list[float | None]:
        """A rate or count of all candidates by the columns that it counts by: the file's, else the items'."""
        cells: dict[str, list[Any]] = {}
        for key in self.rates.keys_of(name):
            cells[key] = self.catalogue.cells(key, items)
            if key in self.columns and key != self.items:
                column = batch.column(key).to_pylist()
                if is_list(self.kinds[key]):
                    self._same_lengths(batch, key, ids, sizes)
                lists = [
                    value if isinstance(value, list) else [value] * size
                    for value, size in zip(column, sizes, strict=True)
                ]
                given = [value for values in lists for value in values]
                cells[key] = [own if value is None else value for value, own in zip(given, cells[key], strict=True)]
        rows = (dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True))
        return [self.rates.value(name, row.__getitem__) for row in rows]

    def _feature(self, value: Any, column: str, request: str, scale: FeatureScale) -> float | None:
        try:
            return scale.read(value)
        except ValueError as error:
            raise self._fault(
                request, f"has a {column} of which {error}: correct it, or leave it empty where it is unknown"
            ) from error

    def _ids(self, batch: pa.RecordBatch, name: str) -> list[Any]:
        if name not in self.columns:
            return [None] * batch.num_rows
        return as_text(batch.column(name), str(self.path), name).to_pylist()

    def _must_be_list(self, name: str, meaning: str) -> None:
        if name in self.kinds and not is_list(self.kinds[name]):
            raise UserError(f"{self.path} has {name} of type {self.kinds[name]}: make it a list, {meaning}")

    def _same_lengths(self, batch: pa.RecordBatch, name: str, ids: list[str], sizes: list[int]) -> None:
        for request, size, other in zip(ids, sizes, pc.list_value_length(batch.column(name)).to_pylist(), strict=True):
            if other is not None and other != size:
                raise self._fault(request, f"has {size} {self.items} but {other} {name}: give every candidate one")

    def _fault(self, request: str, sentence: str) -> UserError:
        return UserError(f"{self.path}: request '{request}' {sentence}")


class PreparedForm(RequestForm):
    """Slates as `equipoise prepare` writes them (docs/slate_format.md)."""

    items = "item"

    def __init__(
        self, file: RequestFile, catalogue: Catalogue, features: Scales, rates: RateLookup | None = None
    ) -> None:
        super().__init__(file, catalogue, ["request_id", "user_id", "part", *PREPARED], features, "feature_", rates)
        self._must_be_list("context", "one text per candidate")
        value = self.kinds["item"].value_type
        if not pa.types.is_integer(value):
            raise UserError(f"{self.path} has item of lists of {value}: prepared slates hold item_index, whole numbers")
        if not catalogue.numbered:
            raise UserError(
                f"{self.path} holds prepared slates, which name items by item_index, but --items {catalogue.path} has "
                "no item_index: name the items.parquet that was prepared with them"
            )

    def _read(self, batch: pa.RecordBatch, ids: list[str], sizes: list[int]) -> list[Request]:
        self._same_lengths(batch, "context", ids, sizes)
        users = self._ids(batch, "user_id")
        parts = batch.column("part").to_pylist() if "part" in self.columns else [None] * len(ids)
        rows = zip(
            ids,
            users,
            parts,
            batch.column("prefix").to_pylist(),
            batch.column("item").to_pylist(),
            batch.column("context").to_pylist(),
            strict=True,
        )
        requests = []
        for name, user, part, prefix, items, contexts in rows:
            for item in items:
                if item is None or not 0 <= item < len(self.catalogue):
                    raise self._fault(
                        name,
                        f"has item {item}, but {self.catalogue.path} holds items 0 to {len(self.catalogue) - 1}: "
                        "name the items.parquet that was prepared with these slates with --items",
                    )
            texts = [text or "" for text in contexts] if contexts is not None else [""] * len(items)
            requests.append(Request(name, user, part, prefix or "", items, texts))
        features = self._feature_values(batch, ids, sizes, [item for request in requests for item in request.items])
        return with_features(requests, features)


class RawForm(RequestForm):
    """Requests with the fields that the prompts of a run read."""

    items = "item_id"

    def __init__(
        self,
        file: RequestFile,
        catalogue: Catalogue,
        config: DataConfig,
        features: Scales,
        rates: RateLookup | None = None,
    ) -> None:
        self.renderer = PromptRenderer(config.prompt, config.history)
        fields = piece_fields(config.prompt.prefix)
        columns_read = ["request_id", "user_id", "item_id", "history", *fields, *self.renderer.context_fields]
        super().__init__(file, catalogue, columns_read, features, rates=rates)
        if not is_identifier(self.kinds["item_id"].value_type):
            raise UserError(
                f"{self.path} has item_id of lists of {self.kinds['item_id'].value_type}: write ids as text or whole "
                "numbers"
            )
        if not pa.types.is_struct(self.kinds.get("history", pa.null())):
            self._must_be_list("history", "the titles of past events")
        for name in self.renderer.context_fields:
            self._must_be_list(name, "one value per candidate")
        self.prefix_fields = [name for name in fields if name in self.columns]
        wanted = [*fields, *self.renderer.context_fields]
        wanted += [n for n in features if n not in self.rates and n not in catalogue.rows.column_names]
        check_field_columns(str(self.path), wanted, list(self.kinds), [*self.columns, "recent"])

    def _read(self, batch: pa.RecordBatch, ids: list[str], sizes: list[int]) -> list[Request]:
        items = self._items(batch, ids, sizes)
        contexts = self._contexts(batch, ids, sizes)
        rows = batch.select(self.prefix_fields).to_pylist() if self.prefix_fields else [{}] * len(ids)
        fields = [{name: plain_value(value) for name, value in row.items()} for row in rows]  # a list becomes text
        histories = batch.column("history").to_pylist() if "history" in self.columns else [None] * len(ids)
        users = self._ids(batch, "user_id")
        requests = []
        ends = list(accumulate(sizes))
        for row, (end, size) in enumerate(zip(ends, sizes, strict=True)):
            span, prefix = slice(end - size, end), self._prefix(ids[row], fields[row], histories[row])
            requests.append(Request(ids[row], users[row], None, prefix, items[span], contexts[span]))
        return with_features(requests, self._feature_values(batch, ids, sizes, items))

    def _prefix(self, name: str, fields: dict[str, Any], history: Any) -> str:
        try:
            histories = self.renderer.by_section(history)
        except ValueError as error:
            raise self._fault(name, f"has a history that {error}") from error
        return self.renderer.prefix(fields, [titles or () for titles in histories])

    def _items(self, batch: pa.RecordBatch, ids: list[str], sizes: list[int]) -> list[int]:
        names = as_text(batch.column("item_id").flatten(), str(self.path), "item_id").to_pylist()
        numbers = [self.catalogue.numbers.get(name, -1) if name is not None else -1 for name in names]
        if -1 in numbers:
            index = numbers.index(-1)
            request = next(name for name, end in zip(ids, accumulate(sizes), strict=True) if index < end)
            if names[index] is None:
                raise self._fault(request, "has a candidate without item_id: fill it or drop the candidate")
            raise self._fault(
                request,
                f"asks for item '{names[index]}', which {self.catalogue.path} lacks: drop the candidate or name a "
                "table that has it with --items",
            )
        return numbers

    def _contexts(self, batch: pa.RecordBatch, ids: list[str], sizes: list[int]) -> list[str]:
        columns: list[list[Any]] = []
        for name in self.renderer.context_fields:
            if name not in self.columns:
                columns.append([None] * sum(sizes))
                continue
            self._same_lengths(batch, name, ids, sizes)
            lists = zip(batch.column(name).to_pylist(), sizes, strict=True)
            columns.append([value for values, size in lists for value in (values or [None] * size)])
        return self.renderer.contexts(columns, sum(sizes))


def with_features(requests: list[Request], features: np.ndarray | None) -> list[Request]:
    """Requests with their rows of a table of all their candidates' features."""
    if features is None:
        return requests
    ends = np.cumsum([len(request.items) for request in requests])
    return [
        replace(request, features=features[end - len(request.items) : end])
        for request, end in zip(requests, ends.tolist(), strict=True)
    ]


def form_of(
    file: RequestFile,
    catalogue: Catalogue,
    config: DataConfig,
    features: Scales | None = None,
    rates: RateLookup | None = None,
) -> RequestForm:
    """The form of a file, recognised by its columns; `features`: scales of the features; `rates`: their last state.

    Raises:
        UserError: it has the columns of neither form, or columns of types that cannot be read.
    """
    names = set(file.schema.names)
    if "request_id" in names and names.issuperset(PREPARED):
        form: RequestForm = PreparedForm(file, catalogue, features or {}, rates)
    elif names.issuperset(("request_id", "item_id")):
        form = RawForm(file, catalogue, config, features or {}, rates)
    else:
        raise UserError(
            f"{file.path} holds neither prepared slates (request_id, {', '.join(PREPARED)}) nor raw requests "
            "(request_id, item_id): add the missing columns"
        )
    if config.comparison is not None:
        form.compare(config.comparison.item)
    return form
