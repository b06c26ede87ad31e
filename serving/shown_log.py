"""What was shown, written as tables that `prepare` and `equipoise ope` read (docs/logs_and_ope.md).

    LOG/impressions/PART.parquet   one row per shown candidate: place, propensity, scores, and the fields of the request
    LOG/candidates/PART.parquet    one row per candidate of each request, shown or not: what lists are drawn from

A request only puts its ranking into a queue; a thread makes rows of it. A part is written when it has enough rows or is
old enough, under a temporary name that is renamed. What may wait is bounded: beyond it, requests are answered and not
logged, which is counted. A part that cannot be written is reported and counted as well; the server goes on.
"""

import logging
import os
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.shown_tables import ATTRIBUTE, CANDIDATES, DELTA, IMPRESSIONS, PROBABILITY
from equipoise.data.features import CategoryScale
from equipoise.data.prompts import is_missing
from equipoise.data.values import value_text
from equipoise.serving.ranking import Ranking, Scored
from equipoise.serving.requests import RequestReader

log = logging.getLogger("equipoise.serve")

TEXT, NUMBER = pa.string(), pa.float64()
MOST_WAITING = 200_000
"""Candidates that may wait for the thread."""
PART_CANDIDATES, PART_SECONDS = 50_000, 60.0
"""Candidates of a part, and after how long it is written with fewer."""
OF_REQUEST = [("request_id", TEXT), ("timestamp", pa.timestamp("us")), ("user_id", TEXT), ("item_id", TEXT)]
OF_PLACE = [("position", pa.int32()), ("propensity", NUMBER)]
OF_DRAW = [("temperature", NUMBER), ("slate_log_propensity", NUMBER), ("version", TEXT)]


@dataclass(frozen=True)
class ShownRequest:
    """A request as it came, and the ranking that was answered."""

    given: Mapping[str, Any]
    ranking: Ranking
    moment: datetime


class LogRows:
    """Makes rows of what was shown.

    Args:
        reader: of the export, which knows the fields that it reads.
        pointwise, listwise: names of the objectives.
        version: of the export.
    """

    def __init__(self, reader: RequestReader, pointwise: tuple[str, ...], listwise: tuple[str, ...], version: str):
        self.reader, self.version = reader, version
        self.pointwise, self.listwise = pointwise, listwise
        scores = [("score_utility", NUMBER), ("score_relevance", NUMBER)]
        scores += [(f"score_p{name}", NUMBER) for name in pointwise]
        scores += [(f"score_delta_{name}", NUMBER) for name in listwise]
        own = [*OF_REQUEST, *OF_PLACE, *OF_DRAW, *scores]
        taken = {name for name, _ in own}
        self.fields = {name: place for name, place in self._fields().items() if name not in taken}
        self.impressions = pa.schema([*own, *((name, self._kind(name)) for name in self.fields)])
        of_candidate = [("index", pa.int32()), ("list_utility", NUMBER), ("base", NUMBER), ("value", NUMBER)]
        of_candidate += [(f"{PROBABILITY}{name}", NUMBER) for name in pointwise]
        of_candidate += [(f"{DELTA}{name}", NUMBER) for name in listwise]
        of_candidate += [(f"{ATTRIBUTE}{name}", TEXT) for name in reader.attributes]
        self.candidates = pa.schema([*OF_REQUEST, *OF_PLACE, *OF_DRAW, *of_candidate])

    def _fields(self) -> dict[str, tuple[str, str]]:
        """Column → where a request has it, and its name there; a name that two places have is the candidate's."""
        found = {name: ("user", name) for name in self.reader.user.names}
        found |= {f"item_{name}": ("item", name) for name in self.reader.item.names}
        found |= {name: ("features", name) for name in self.reader.features if name not in self.reader.rates}
        return found | {name: ("context", name) for name in self.reader.context.names}

    def _kind(self, column: str) -> pa.DataType:
        place, name = self.fields[column]
        templates = {"user": self.reader.user, "item": self.reader.item, "context": self.reader.context}
        if place == "features" or name in self.reader.scales:
            return TEXT if isinstance(self.reader.scales[name], CategoryScale) else NUMBER
        return NUMBER if name in templates[place].numeric else TEXT

    def of(self, shown: ShownRequest) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The rows of impressions and of candidates."""
        ranking, drawn, given = shown.ranking, shown.ranking.exploration, shown.given
        user = given.get("user") or {}
        user_id = user.get("user_id")
        common = {
            "request_id": ranking.request_id,
            "timestamp": shown.moment,
            # Nobody knows who an anonymous shopper is: each is one of its own.
            "user_id": ranking.request_id if is_missing(user_id) else value_text(user_id),
            "temperature": 0.0 if drawn is None else drawn.temperature,
            "slate_log_propensity": 0.0 if drawn is None else drawn.log_propensity,
            "version": self.version,
        }
        visible = {scored.position for scored in ranking.candidates}
        impressions, candidates = [], []
        for scored in ranking.given:
            is_shown = scored.position in visible
            row = common | {
                "item_id": scored.item_id,
                "position": scored.rank - 1 if is_shown else None,
                "propensity": (1.0 if drawn is None else scored.propensity) if is_shown else None,
            }
            candidates.append(row | self._candidate(ranking, scored))
            if is_shown:
                impressions.append(row | self._impression(scored, user, given["candidates"][scored.position]))
        return impressions, candidates

    def _candidate(self, ranking: Ranking, scored: Scored) -> dict[str, Any]:
        terms = ranking.weights.terms(scored.log_probabilities, {}, None, scored.boost)
        drawn, index = ranking.exploration, ranking.places[scored.position]
        row = {
            "index": index,
            "list_utility": scored.utility if drawn is None else drawn.utilities[index],
            "base": sum(terms.values()),
            "value": scored.value,
        }
        row |= {f"{PROBABILITY}{name}": scored.number(name) for name in self.pointwise}
        row |= {f"{DELTA}{name}": scored.deltas[name] for name in self.listwise}
        return row | {f"{ATTRIBUTE}{name}": ranking.attributes[name][index] for name in self.reader.attributes}

    def _impression(self, scored: Scored, user: Mapping[str, Any], candidate: Any) -> dict[str, Any]:
        row: dict[str, Any] = {"score_utility": scored.utility, "score_relevance": scored.relevance}
        row |= {f"score_p{name}": scored.number(name) for name in self.pointwise}
        row |= {f"score_delta_{name}": scored.deltas[name] for name in self.listwise}
        places = dict(candidate) if isinstance(candidate, Mapping) else {}
        places["user"] = user
        for column, (place, name) in self.fields.items():
            sources = ("features", "context", "item", "user") if place == "features" else (place,)
            values = (own.get(name) for each in sources if isinstance(own := places.get(each), Mapping))
            value = next((each for each in values if not is_missing(each)), None)
            if value is None and place == "features":
                value = self.reader.items.values.get(name, {}).get(scored.item_id or "")
            row[column] = self._cell(value, self._kind(column))
        return row

    @staticmethod
    def _cell(value: Any, kind: pa.DataType) -> Any:
        if is_missing(value):
            return None
        return float(value) if kind == NUMBER else value_text(value)


@dataclass
class LogCounts:
    """Requests in written parts, and requests that were answered and not logged."""

    logged: int = 0
    dropped: int = 0


class ShownLog:
    """Writes what was shown into a folder, in a thread of its own, from `start` to `close`.

    Args:
        folder: of the tables; made where it is missing.
        rows: makes the rows.
        part_candidates, part_seconds: when a part is written.
        most_waiting: candidates that may wait.

    Raises:
        UserError: the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        rows: LogRows,
        part_candidates: int = PART_CANDIDATES,
        part_seconds: float = PART_SECONDS,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        open_log(folder)
        self.folder, self.rows = folder, rows
        self.part_candidates, self.part_seconds, self.most_waiting = part_candidates, part_seconds, most_waiting
        self.counts = LogCounts()
        self._queue: SimpleQueue[ShownRequest | None] = SimpleQueue()
        self._waiting, self._lock = 0, threading.Lock()
        self._name, self._number = f"{os.getpid()}-{secrets.token_hex(4)}", 0
        self._thread = threading.Thread(target=self._run, name="shown-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, shown: ShownRequest) -> None:
        """Log a request; returns at once. Where too much waits already, it is counted as dropped instead."""
        count = len(shown.ranking.given)
        with self._lock:
            full = self._waiting + count > self.most_waiting
            self._waiting += 0 if full else count
        if full:
            self._drop(1, f"--log {self.folder} is too slow for what is shown")
            return
        self._queue.put(shown)

    def close(self) -> None:
        """Write what waits, and end."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _drop(self, requests: int, reason: str) -> None:
        if not self.counts.dropped:  # once: /metrics counts the others
            log.warning("%s: requests are answered and not logged; /metrics counts them", reason)
        self.counts.dropped += requests

    def _run(self) -> None:
        open_ = True
        while open_:
            impressions: list[dict[str, Any]] = []
            candidates: list[dict[str, Any]] = []
            requests, until = 0, time.monotonic() + self.part_seconds
            while len(candidates) < self.part_candidates and (left := until - time.monotonic()) > 0:
                try:
                    shown = self._queue.get(timeout=left)
                except Empty:
                    break
                if shown is None:
                    open_ = False
                    break
                with self._lock:
                    self._waiting -= len(shown.ranking.given)
                try:
                    rows = self.rows.of(shown)
                except Exception:  # a row that cannot be made must not end the log
                    log.exception("a request could not be logged")
                    self.counts.dropped += 1
                    continue
                impressions += rows[0]
                candidates += rows[1]
                requests += 1
            if requests:
                self._write(impressions, candidates, requests)

    def _write(self, impressions: list[dict[str, Any]], candidates: list[dict[str, Any]], requests: int) -> None:
        self._number += 1
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{self._name}-{self._number:06d}.parquet"
        try:
            # Candidates first: an impression without its candidates would be of no use.
            for table, rows, schema in (
                (CANDIDATES, candidates, self.rows.candidates),
                (IMPRESSIONS, impressions, self.rows.impressions),
            ):
                with atomic_write(self.folder / table / name) as partial:
                    pq.write_table(pa.Table.from_pylist(rows, schema), partial, compression="zstd")
            self.counts.logged += requests
        except (OSError, pa.ArrowException) as error:
            self._drop(requests, f"--log {self.folder} cannot be written ({error})")


def open_log(folder: Path) -> None:
    """Make the folders of a log.

    Raises:
        UserError: they cannot be made or written to.
    """
    try:
        for table in (IMPRESSIONS, CANDIDATES):
            (folder / table).mkdir(parents=True, exist_ok=True)
            probe = folder / table / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
    except OSError as error:
        raise UserError(f"--log {folder} cannot be written to ({error.strerror}): name another folder") from error
