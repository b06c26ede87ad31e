"""Item recall: the best of an export's whole catalogue for one shopper.

    {"request_id"?: id, "user"?: {field: value}, "history"?: as in requests.py, "prefix"?: text,
     "bought"?: {item_id: times} or [item_id], "exclude"?: [item_id], "exclude_bought"?: bool, "top"?: number,
     "quota"?: {"never_bought"?: number, "new"?: number}}

`bought` is how often the shopper has bought which items: a repeat purchase is likelier. With `exclude_bought` none of
them comes back. Ids that the catalogue does not hold are ignored and counted, for items leave a catalogue while
shoppers' pasts do not change. `quota` is how many of the answer the shopper must not have bought yet, and how many are
items that nobody had bought when purchases were counted last.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.export.item_index import SOURCES, Boost, RecallIndex, read_index
from equipoise.modeling.recall_sources import SOURCES as SOURCE_NAMES
from equipoise.modeling.recall_sources import RecallSources
from equipoise.serving.request_error import RequestError
from equipoise.serving.requests import EXAMPLE_KEYS, RequestReader
from equipoise.serving.values import identifier, kind_of, known_keys, mapping, number, sequence

KEYS = ("request_id", "user", "history", "prefix", "bought", "exclude", "exclude_bought", "top", "quota")
QUOTAS = ("never_bought", "new")
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
        quota: how many of them at least are of each of QUOTAS.
        unknown: ids that the catalogue does not hold.
    """

    request_id: str | None
    text_ids: list[int]
    bought: np.ndarray
    times: np.ndarray
    exclude: np.ndarray
    top: int
    quota: Mapping[str, int]
    unknown: int


@dataclass(frozen=True)
class Recalled:
    """The best items of the catalogue, best first.

    Attributes:
        request_id: as given.
        item_ids, scores: of the items; a score is log p up to a constant of the shopper.
        titles: where the export knows them.
        sources: what each score is a sum of, those that are not 0, by the names of `recall_sources.SOURCES`.
        unknown: ids of the request that the catalogue does not hold.
    """

    request_id: str | None
    item_ids: list[str]
    scores: list[float]
    titles: list[str | None]
    sources: list[dict[str, float]]
    unknown: int

    def to_json(self) -> dict[str, Any]:
        """As POST /recall answers."""
        ranked = zip(self.item_ids, self.scores, self.titles, self.sources, strict=True)
        items = [
            {"item_id": item, "rank": rank, "score": score, "title": title, "sources": sources}
            for rank, (item, score, title, sources) in enumerate(ranked, start=1)
        ]
        return {"request_id": self.request_id, "items": items, "unknown": self.unknown}


class RecallCatalogue:
    """The searchable catalogue of an export.

    Args:
        name: of the objective.
        index: its items' vectors.
        weights: scale, prior and repeat.
        sources: what recall knows beside the vectors; None of an export of before there were any.
        own_dimension: columns of the index that are the run's vectors; None: all. The others are of the sources.
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
        sources: RecallSources | None = None,
        own_dimension: int | None = None,
    ) -> None:
        self.name, self.index, self.weights, self.sources = name, index, dict(weights), sources
        self.own_dimension = index.vectors.shape[1] if own_dimension is None else own_dimension
        never = np.zeros(0, np.int64) if sources is None else np.flatnonzero(~sources.counts.bought)
        self.new_items = never
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
        sources = RecallSources.read(folder / SOURCES) if (folder / SOURCES).is_dir() else None
        return cls(name, index, about["weights"], item_ids, titles, sources, about.get("own_dimension"))

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
        given = request.get("exclude")
        excluded = [] if given is None else sequence("exclude", given)
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
            top=(top := self._top(request.get("top"), reader.limits.recalled)),
            quota=self._quota(request.get("quota"), top),
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

    def _quota(self, given: Any, top: int) -> dict[str, int]:
        if given is None:
            return {}
        known_keys("quota", mapping("quota", given), QUOTAS)
        if given.get("new") and self.sources is None:
            raise RequestError("quota.new", "this export does not know which items are new: train and export again")
        quota = {}
        for name, count in given.items():
            value = number(f"quota.{name}", count)
            if value != int(value) or not 0 <= value <= top:
                raise RequestError(f"quota.{name}", f"is {value:g}: give a whole number from 0 to top, {top:,}")
            quota[name] = int(value)
        return quota

    def search(self, shoppers: np.ndarray, requests: Sequence[PreparedRecall]) -> list[Recalled]:
        """The answers to some requests.

        Args:
            shoppers: unit vectors, float32 (requests, D), D the own dimension of the index.
            requests: the requests.
        """
        if not requests:
            return []
        queries = np.float32(self.weights["scale"]) * np.asarray(shoppers, np.float32)
        if self.sources is not None:
            own = [self.sources.query(request.bought, request.times) for request in requests]
            queries = np.hstack([queries, np.stack(own)])
        terms = [self._own_terms(request) for request in requests]
        boosts = [(items, sum(each.values(), np.zeros(len(items)))) for items, each in terms]
        max_top = max(request.top for request in requests)
        items, scores = self.index.search(queries, max_top, [request.exclude for request in requests], boosts)
        answers = []
        for row, request in enumerate(requests):
            found = items[row, : request.top], scores[row, : request.top]
            found = self._fill(found, request, queries[row], boosts[row])
            answers.append(self._answer(request, *found, queries[row], terms[row]))
        return answers

    def _own_terms(self, request: PreparedRecall) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """What is added to the scores of some items for this shopper alone: their numbers, and of each source float."""
        repeat = self.weights["repeat"] * np.log1p(request.times)
        if self.sources is None:
            return request.bought, {"bought": repeat}
        items, terms = self.sources.own_terms(request.bought, request.times)
        at = np.searchsorted(items, request.bought[request.times > 0])
        terms["bought"][at] += repeat[request.times > 0]
        return items, terms

    def _fill(self, found: Boost, request: PreparedRecall, query: np.ndarray, boost: Boost) -> Boost:
        """The found items, the worst ones replaced until each quota is filled or nothing is left to fill it."""
        if request.quota.get("new") and len(self.new_items):
            rest = np.setdiff1d(self.new_items, np.union1d(request.exclude, request.bought))
            values = self.index.vectors[rest] @ query + self.index.bias[rest]
            _, at, of = np.intersect1d(rest, boost[0], assume_unique=True, return_indices=True)
            values[at] += boost[1][of]
            order = np.lexsort((rest, -values))[: request.quota["new"]]
            is_new = np.isin(found[0], rest)
            found = _filled(found, (rest[order], values[order]), is_new, request.quota["new"], request.top)
        if request.quota.get("never_bought"):
            count = request.quota["never_bought"]
            out = np.union1d(request.exclude, request.bought)
            others, values = self.index.search(query[None], count, [out], [boost])
            kept = others[0] >= 0
            is_member = (found[0] >= 0) & ~np.isin(found[0], request.bought)
            found = _filled(found, (others[0][kept], values[0][kept]), is_member, count, request.top)
        return found

    def _answer(
        self,
        request: PreparedRecall,
        items: np.ndarray,
        scores: np.ndarray,
        query: np.ndarray,
        terms: tuple[np.ndarray, dict[str, np.ndarray]],
    ) -> Recalled:
        items, scores = items[items >= 0], scores[items >= 0]
        vectors, own = self.index.vectors[items], self.own_dimension
        parts = {"popularity": self.index.bias[items].astype(np.float64)}
        _, at, of = np.intersect1d(items, terms[0], assume_unique=True, return_indices=True)
        for name, values in terms[1].items():
            parts[name] = np.zeros(len(items))
            parts[name][at] = values[of]
        parts["history_vectors"] = vectors[:, own:] @ query[own:]
        parts["vectors"] = vectors[:, :own] @ query[:own]
        sources = [
            {name: float(parts[name][row]) for name in SOURCE_NAMES if name in parts and parts[name][row]}
            for row in range(len(items))
        ]
        ids = [self.item_ids[item] for item in items]
        titles = [self.titles.get(item) for item in ids]
        return Recalled(request.request_id, ids, [float(score) for score in scores], titles, sources, request.unknown)


def _filled(found: Boost, others: Boost, is_member: np.ndarray, wanted: int, top: int) -> Boost:
    """`found`, its worst items that are no members replaced by the best of `others`, best first, until `wanted` are."""
    present = found[0] >= 0
    items, scores, is_member = found[0][present], found[1][present], is_member[present]
    missing = wanted - int(is_member.sum())
    fresh = ~np.isin(others[0], items)
    more, values = others[0][fresh][: max(missing, 0)], others[1][fresh][: max(missing, 0)]
    room = max(len(items) + len(more) - top, 0)
    dropped = np.flatnonzero(~is_member)[::-1][:room]
    items, scores = np.delete(items, dropped), np.delete(scores, dropped)
    items, scores = np.concatenate([items, more])[:top], np.concatenate([scores, values])[:top]
    order = np.lexsort((items, -scores))
    return items[order], scores[order]
