"""Requests as rows of a table, and rankings as rows.

Columns of requests: `request_id` or `user_id` names the request; `user_id` is handed through. The shopper: `history`
(list of titles) and the fields of the export's prefix templates, or `prefix`, its text; `recent` (list of titles), what
it took, the latest first, where that is not the history. The candidates: `item_id`, and optionally `text` of the item,
fields of the context templates, or `context`, its text, features, `value` (or the field that the export's operating
point names as value) and `boost`. One row is one request, and then the candidates' columns hold lists; or one row is
one candidate (`item_id` holds no lists), and then the shopper's columns are the same in all rows of a request. A
missing value makes its piece of the prompt vanish.

Columns of rankings, one row per candidate: `request_id` and `user_id` where they were given, `rank`, `position` (the
index among the given candidates, from 0), `item_id`, `utility`, `pctr`, `pcvr` …, `relevance`, `delta_NAME`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from equipoise.common.errors import UserError
from equipoise.data.prompts import is_missing
from equipoise.data.requests.field_columns import check_field_columns
from equipoise.data.requests.table import RequestTable
from equipoise.data.values import plain_value, value_text
from equipoise.serving.ranking import Ranking
from equipoise.serving.request_error import RequestError
from equipoise.serving.requests import RequestReader

if TYPE_CHECKING:
    from pandas import DataFrame

T = TypeVar("T")
Made = TypeVar("Made")

MAX_TOGETHER = 64
"""Requests of one forward."""


class RequestRows:
    """Turns the rows of one request into a request as JSON.

    Args:
        reader: knows the fields of the prompts.
        columns: of the table.
        per_candidate: whether a row is one candidate.
        candidates: of every request, in place of those in the rows.
        extra: further columns with one value per candidate, handed on where they are filled.
    """

    def __init__(
        self,
        reader: RequestReader,
        columns: Collection[str],
        per_candidate: bool,
        candidates: Sequence[Mapping[str, Any]] | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        self.extra = [name for name in extra if name in columns and candidates is None]
        self.per_candidate, self.common = per_candidate, candidates
        self.numbers = {*self.extra, *reader.context.numeric}
        self.names = [name for name in ("request_id", "user_id") if name in columns]
        fields = reader.fields
        self.user = [name for name in fields["user"] if name in columns]
        self.context = [name for name in fields["context"] if name in columns and candidates is None]
        features = [
            name
            for name in dict.fromkeys([*fields["features"], *reader.rates.keys])
            if name in columns and name != "item_id"
        ]  # an id is read anyway
        keys = set(reader.rates.keys)  # of rates: they may stand once per request, as categories may
        self.categories = [name for name in features if name in keys or reader.scales[name].scale == "category"]
        self.features = features if candidates is None else []
        self.ready = [name for name in ("prefix", "history", "recent") if name in columns]
        self.texts = [name for name in ("text", "context") if name in columns and candidates is None]
        self.worth = worth_columns(reader, columns) if candidates is None else {}
        self.attributes = [name for name in reader.attributes if name in columns and candidates is None]
        own = ["item_id"] if candidates is None else []
        of_candidates = [
            *own,
            *self.texts,
            *self.context,
            *self.worth.values(),
            *self.features,
            *self.extra,
            *self.attributes,
        ]
        self.columns = list(dict.fromkeys([*self.names, *self.user, *self.ready, *self.categories, *of_candidates]))
        self._wanted = _wanted_fields(reader, columns, candidates is None)

    def check_names(self, source: str, columns: Collection[str]) -> None:
        """Refuse columns of a table with nearly the name of a field that it lacks, and tell the fields that it lacks.

        Args:
            source: the table, for messages.
            columns: all that it has, and those that others fill.

        Raises:
            UserError: names the column and the field that was meant.
        """
        check_field_columns(source, self._wanted, columns, [*self.columns, *self.extra])

    def prepare(
        self, prepare: Callable[[dict[str, Any]], T], rows: Sequence[Mapping[str, Any]], more: Mapping[str, Any]
    ) -> T:
        """What `prepare` makes of the request of some rows as JSON, with `more` keys.

        Raises:
            RequestError: names the request, the field that is wrong and the way out.
        """
        with self.named(rows):
            return prepare({**self.request(rows), **more})

    def request(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The request of some rows as JSON, without weights.

        Raises:
            RequestError: the rows do not belong together.
        """
        name = next((rows[0][key] for key in self.names if rows[0][key] is not None), None)
        candidates = self._candidates(rows) if self.common is None else self._common(rows[0], self.common)
        return {"request_id": name, **self._shopper(rows), "candidates": candidates}

    @contextmanager
    def named(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[None]:
        """Name the request of these rows in every RequestError of the block."""
        name = next((rows[0][key] for key in self.names if rows[0][key] is not None), None)
        where = "" if name is None else f"request '{name}': "
        try:
            yield
        except RequestError as error:
            raise RequestError(f"{where}{error.field}", error.sentence) from error

    def _shopper(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        first = rows[0]
        for name in (*self.user, *self.ready):
            # Compared as text, for a missing number is not equal to itself.
            if any(str(row[name]) != str(first[name]) for row in rows[1:]):
                raise RequestError(name, "has several values: give all rows of a request the same")
        values = {name: first[name] for name in self.ready}
        recent = _titles(values.get("recent"))
        taken = {} if recent is None else {"recent": recent}
        if not is_missing(prefix := values.get("prefix")):
            return {"prefix": value_text(prefix), **taken}
        history = values.get("history")
        titles = (
            {key: _titles(each) for key, each in history.items()} if isinstance(history, Mapping) else _titles(history)
        )
        return {"user": {name: _value(first[name]) for name in self.user}, "history": titles, **taken}

    def _common(self, row: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The candidates of all requests, each with the categories of this one's shopper unless it has its own."""
        categories = {name: value for name in self.categories if not is_missing(value := _value(row[name]))}
        return (
            [{**candidate, "features": categories | (candidate.get("features") or {})} for candidate in candidates]
            if categories
            else candidates
        )

    def _candidates(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        features = [*self.features, *self.extra]
        names = list(
            dict.fromkeys(["item_id", *self.texts, *self.context, *self.worth.values(), *features, *self.attributes])
        )
        if self.per_candidate:
            return [self._candidate({name: row[name] for name in names}) for row in rows]
        row = rows[0]
        items = row["item_id"]
        if not _is_list(items):
            raise RequestError("item_id", "holds no list of candidates: give one")
        single = [name for name in self.categories if not _is_list(row[name])]  # one for all: it is the shopper's
        row = {**row, **{name: [row[name]] * len(items) for name in single}}
        for name in names[1:]:
            if row[name] is not None and (not _is_list(row[name]) or len(row[name]) != len(items)):
                raise RequestError(name, f"is no list with one value for each of the {len(items)} candidates: make one")
        return [
            self._candidate({name: None if row[name] is None else row[name][position] for name in names})
            for position in range(len(items))
        ]

    def _candidate(self, values: Mapping[str, Any]) -> dict[str, Any]:
        values = {name: number_of(value) if name in self.numbers else value for name, value in values.items()}
        extra = {name: values[name] for name in self.extra if not is_missing(values[name])}
        parts = (self.texts, self.context, self.worth, self.features, self.attributes)
        return {**candidate_of(values, *parts), **extra}

    def identity(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
        """request_id and user_id of a request, where the table has them, as text."""
        return {name: None if is_missing(rows[0][name]) else str(rows[0][name]) for name in self.names}


def _wanted_fields(reader: RequestReader, columns: Collection[str], own_candidates: bool) -> list[str]:
    """The fields that prompts and heads read of a table of requests, without those that ready texts stand for."""
    fields = reader.fields
    wanted = [] if "prefix" in columns else list(fields["user"])
    if own_candidates:
        wanted += [] if "context" in columns else fields["context"]
        known = reader.items.values.keys() | set(reader.rates.keys)  # by item_id, or as they are counted
        wanted += [name for name in fields["features"] if name not in known and name not in reader.rates]
    return wanted


def _titles(history: Any) -> Any:
    """A list of titles without its missing ones; what is no list is for the reader to refuse."""
    if history is None or not _is_list(history):
        return history
    return [x if isinstance(x, Mapping) else value_text(x) for x in history if not is_missing(x)]


def worth_columns(reader: RequestReader, columns: Collection[str]) -> dict[str, str]:
    """`value` and `boost`, each with the column that holds it, where there is one."""
    named = [("value", reader.value_field), ("value", "value"), ("boost", "boost")]  # the plain name wins
    return {key: name for key, name in named if name is not None and name in columns}


def candidate_of(
    values: Mapping[str, Any],
    texts: Iterable[str],
    context: Iterable[str],
    worth: Mapping[str, str],
    features: Iterable[str],
    attributes: Iterable[str] = (),
) -> dict[str, Any]:
    """A candidate as JSON from its columns: `item_id`, ready texts, context fields, value, boost, features, attributes.

    Args:
        values: of the columns.
        texts, context: columns of ready texts and of fields.
        worth: from `worth_columns`.
        features: columns of features.
        attributes: columns of what lists are made by.
    """
    candidate: dict[str, Any] = {"item_id": _value(values["item_id"])}
    candidate |= {name: value_text(values[name]) for name in texts if not is_missing(values[name])}
    candidate |= {key: number_of(values[name]) for key, name in worth.items() if not is_missing(values[name])}
    if "context" not in candidate:
        candidate["context"] = {name: _value(values[name]) for name in context}
    told = {name: value for name in attributes if (value := _value(values[name])) is not None}
    candidate |= {"attributes": told} if told else {}
    known = {name: value for name in features if (value := _value(values[name])) is not None}
    return {**candidate, "features": known} if known else candidate


def ranking_columns(
    objectives: tuple[Sequence[str], Sequence[str]],
    rankings: Sequence[Ranking],
    identities: Sequence[Mapping[str, str | None]],
) -> dict[str, list[Any]]:
    """Rankings as columns with one entry per candidate; `objectives`: names of the pointwise and the list-wise ones."""
    pointwise, listwise = objectives
    pairs = [
        (name, scored) for name, ranking in zip(identities, rankings, strict=True) for scored in ranking.candidates
    ]
    names = list(identities[0]) if identities else []
    columns: dict[str, list[Any]] = {key: [identity[key] for identity, _ in pairs] for key in names}
    columns |= {
        key: [getattr(scored, key) for _, scored in pairs] for key in ("rank", "position", "item_id", "utility")
    }
    columns |= {f"p{key}": [scored.number(key) for _, scored in pairs] for key in pointwise}
    columns["relevance"] = [scored.relevance for _, scored in pairs]
    columns |= {f"delta_{key}": [scored.deltas[key] for _, scored in pairs] for key in listwise}
    return columns


def rank_frame(
    reader: RequestReader,
    requests: "DataFrame",
    prepare: Callable[[dict[str, Any]], T],
    score: Callable[[list[T]], list[Ranking]],
    objectives: tuple[Sequence[str], Sequence[str]],
    more: Mapping[str, Any],
) -> "DataFrame":
    """Rank the requests of a pandas frame; without request_id and user_id, each row is a request of its own.

    Args:
        reader: knows the fields of the prompts.
        requests: the frame.
        prepare: makes a request as JSON ready for `score`.
        score: ranks such requests.
        objectives: names of the pointwise and the list-wise ones.
        more: keys of every request.

    Raises:
        RequestError: a column is missing, or a request cannot be answered.
    """
    import pandas as pd

    if "item_id" not in requests.columns:
        raise RequestError("the frame", "has no column item_id: add the candidates")
    requests = _by_their_digits(requests)
    known = requests.astype(object).where(requests.notna(), None)
    per_candidate = not any(_is_list(value) for value in known["item_id"])
    maker = RequestRows(reader, list(known.columns), per_candidate)
    maker.check_names("the frame", list(known.columns))
    key = next(iter(maker.names), None)
    if per_candidate and key is None:
        raise RequestError("the frame", "has neither request_id nor user_id: add one, or give lists of item_id")
    rows = known[maker.columns].to_dict("records")
    groups: dict[Any, list[dict[str, Any]]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row[key] if per_candidate else number, []).append(row)
    if per_candidate and None in groups:
        raise RequestError("the frame", f"has a row without {key}: fill it or drop the row")
    parts = []
    waiting = iter(groups.values())
    while some := list(islice(waiting, MAX_TOGETHER)):
        rankings = score([maker.prepare(prepare, group, more) for group in some])
        parts.append(pd.DataFrame(ranking_columns(objectives, rankings, [maker.identity(group) for group in some])))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(ranking_columns(objectives, [], []))


def _by_their_digits(frame: "DataFrame") -> "DataFrame":
    """The frame with numbers of 16 and 32 bits as the numbers that their digits spell."""
    import pandas as pd

    short = [name for name in frame.columns if pd.api.types.is_float_dtype(frame[name]) and frame[name].dtype != float]
    return frame.assign(**{str(name): frame[name].map(plain_value).astype(float) for name in short}) if short else frame


def prepared_requests(
    table: RequestTable,
    columns: list[str],
    prepare: Callable[[list[dict[str, Any]]], Made],
    together: int = MAX_TOGETHER,
) -> Iterator[list[Made]]:
    """What `prepare` makes of the rows of each request of a file, some requests at a time.

    Raises:
        UserError: the file cannot be read, or a request cannot be answered.
    """
    groups = table.requests(columns)
    while some := list(islice(groups, together)):
        try:
            yield [prepare(rows) for rows in some]
        except RequestError as error:
            raise UserError(f"{table.path}: {error}") from error


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray)


def _value(value: Any) -> Any:
    """A cell as a value of JSON: null where it is missing, dates and lists as text."""
    value = plain_value(value)
    return None if is_missing(value) else value


def number_of(value: Any) -> Any:
    """A cell that holds a number, also one of a CSV file, where all is text; the reader refuses others."""
    value = value if _is_list(value) else _value(value)
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
