"""Item recall: the best of an export's whole catalogue for one shopper.

    {"request_id"?: id, "user"?: {field: value}, "history"?: as in requests.py, "prefix"?: text,
     "bought"?: {item_id: times} or [item_id], "exclude"?: [item_id], "exclude_bought"?: bool, "top"?: number}

`bought` is how often the shopper has bought which items: a repeat purchase is likelier. With `exclude_bought` none of
them comes back. Ids that the catalogue does not hold are ignored and counted, for items leave a catalogue while
shoppers' pasts do not change.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.export.item_index import RecallIndex, read_index
from equipoise.serving.request_error import RequestError
from equipoise.serving.requests import EXAMPLE_KEYS, RequestReader
from equipoise.serving.values import identifier, kind_of, known_keys, mapping, number, sequence

KEYS = ("request_id", "user", "history", "prefix", "bought", "exclude", "exclude_bought", "top")
DEFAULT_TOP = 100


@dataclass(frozen=True)
class PreparedRecall:
    """A request that is ready for the model.

    Attributes:
        request_id: as given.
        text_ids: token ids of the shopper's text.
        bought, times: int64 item numbers, ascending, and float64 counts.
        exclude: int64 item numbers, ascending, that must not come back.
        top: how many items are wanted.
        unknown: ids that the catalogue does not hold.
    """

    request_id: str | None
    text_ids: list[int]
    bought: np.ndarray
    times: np.ndarray
    exclude: np.ndarray
    top: int
    unknown: int


@dataclass(frozen=True)
class Recalled:
    """The best items of the catalogue, best first.

    Attributes:
        request_id: as given.
        item_ids, scores: of the items; a score is log p up to a constant of the shopper.
        titles: where the export knows them.
        unknown: ids of the request that the catalogue does not hold.
    """

    request_id: str | None
    item_ids: list[str]
    scores: list[float]
    titles: list[str | None]
    unknown: int

    def to_json(self) -> dict[str, Any]:
        """As POST /recall answers."""
        ranked = zip(self.item_ids, self.scores, self.titles, strict=True)
        items = [
            {"item_id": item, "rank": rank, "score": score, "title": title}
            for rank, (item, score, title) in enumerate(ranked, start=1)
        ]
        return {"request_id": self.request_id, "items": items, "unknown": self.unknown}


class RecallCatalogue:
    """The searchable catalogue of an export.

    Args:
        name: of the objective.
        index: its items' vectors.
        weights: scale, prior and repeat.
        item_ids: in the order of the index.
        titles: by item_id.
    """

    def __init__(
        self,
        name: str,
        index: RecallIndex,
        weights: Mapping[str, float],
        item_ids: Sequence[str],
        titles: Mapping[str, str],
    ) -> None:
        self.name, self.index, self.weights = name, index, dict(weights)
        self.item_ids, self.titles = list(item_ids), titles
        self.numbers = {item: number for number, item in enumerate(self.item_ids)}

    @classmethod
    def load(cls, folder: Path, name: str, item_ids: Sequence[str], titles: Mapping[str, str]) -> "RecallCatalogue":
        """Open the index that `equipoise export` or `equipoise index` wrote.

        Raises:
            UserError: it is missing, broken, or of another number of items.
        """
        index, about = read_index(folder)
        if len(index) != len(item_ids):
            raise UserError(f"{folder} holds {len(index):,} items, the export {len(item_ids):,}: run `equipoise index`")
        return cls(name, index, about["weights"], item_ids, titles)

    def read(self, reader: RequestReader, request: Any) -> tuple[str, PreparedRecall]:
        """The shopper's text of a request, and the rest of it, its text not yet tokenised.

        Raises:
            RequestError: names the field, what is wrong with it and the way out.
        """
        request = mapping("the request", request)
        known_keys("the request", {key: None for key in request if key not in EXAMPLE_KEYS}, KEYS)
        chars = reader.limits.text_chars
        name = request.get("request_id")
        times = self._bought(request.get("bought"), reader)
        excluded = sequence("exclude", request.get("exclude") or [])
        self._check_count("exclude", len(excluded), reader)
        left_out = [identifier(f"exclude[{position}]", item, chars) for position, item in enumerate(excluded)]
        hide = request.get("exclude_bought")
        if hide is not None and not isinstance(hide, bool):
            raise RequestError("exclude_bought", f"is {kind_of(hide)}: give true or false")
        known = {self.numbers[item]: count for item, count in times.items() if item in self.numbers}
        bought = np.array(sorted(known), dtype=np.int64)
        out = {self.numbers[item] for item in left_out if item in self.numbers} | (set(known) if hide else set())
        prepared = PreparedRecall(
            request_id=None if name is None else identifier("request_id", name, chars),
            text_ids=[],
            bought=bought,
            times=np.array([known[item] for item in bought], dtype=np.float64),
            exclude=np.array(sorted(out), dtype=np.int64),
            top=self._top(request.get("top"), reader.limits.recalled),
            unknown=len({*times, *left_out} - self.numbers.keys()),
        )
        return reader.shopper(request), prepared

    def _bought(self, given: Any, reader: RequestReader) -> dict[str, float]:
        chars = reader.limits.text_chars
        if given is None:
            return {}
        self._check_count("bought", len(given) if isinstance(given, Mapping | list | tuple) else 0, reader)
        if not isinstance(given, Mapping):
            ids_given = sequence("bought", given)
            ids = [identifier(f"bought[{position}]", item, chars) for position, item in enumerate(ids_given)]
            return {item: float(count) for item, count in Counter(ids).items()}
        times = {}
        for item, count in given.items():
            value = number(f"bought.{str(item)[:40]}", count)
            if not 0 <= value <= 1e6:
                raise RequestError(f"bought.{str(item)[:40]}", f"is {value:g}: give how often, from 0 to 1e6")
            times[identifier("bought", item, chars)] = value
        return times

    @staticmethod
    def _check_count(field: str, count: int, reader: RequestReader) -> None:
        if count > reader.limits.past:
            raise RequestError(field, f"has {count:,} entries: give at most {reader.limits.past:,}")

    @staticmethod
    def _top(top: Any, max_top: int) -> int:
        if top is None:
            return min(DEFAULT_TOP, max_top)
        value = number("top", top)
        if value != int(value) or not 1 <= value <= max_top:
            raise RequestError("top", f"is {value:g}: give a whole number from 1 to {max_top:,}")
        return int(value)

    def search(self, shoppers: np.ndarray, requests: Sequence[PreparedRecall]) -> list[Recalled]:
        """The answers to some requests.

        Args:
            shoppers: unit vectors, float32 (requests, D).
            requests: the requests.
        """
        if not requests:
            return []
        scale, repeat = self.weights["scale"], self.weights["repeat"]
        boosts = [(request.bought, repeat * np.log1p(request.times)) for request in requests]
        max_top = max(request.top for request in requests)
        items, scores = self.index.search(
            shoppers * np.float32(scale), max_top, [request.exclude for request in requests], boosts
        )
        return [
            self._answer(request, items[row, : request.top], scores[row, : request.top])
            for row, request in enumerate(requests)
        ]

    def _answer(self, request: PreparedRecall, items: np.ndarray, scores: np.ndarray) -> Recalled:
        is_item = items >= 0
        ids = [self.item_ids[item] for item in items[is_item]]
        values = [float(score) for score in scores[is_item]]
        return Recalled(request.request_id, ids, values, [self.titles.get(item) for item in ids], request.unknown)
