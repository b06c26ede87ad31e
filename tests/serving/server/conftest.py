"""A server over a stand-in for the model: requests really read and ranked, scores from a hash, faults on demand."""

import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np
import pytest

from equipoise.configs.schema import HistoryConfig, PromptConfig
from equipoise.export.item_index import RecallIndex
from equipoise.serving.items import KnownItems
from equipoise.serving.limits import Limits
from equipoise.serving.omega import OperatingPoint
from equipoise.serving.price_request import read_question
from equipoise.serving.pricing import PriceQuestion
from equipoise.serving.prompt_parts import CutRequest, cut
from equipoise.serving.ranking import Ranking
from equipoise.serving.requests import ReadRequest, RequestReader
from equipoise.serving.retrieve import PreparedRecall, RecallCatalogue, Recalled
from equipoise.serving.server.app import create_app
from equipoise.serving.server.options import ServerOptions
from equipoise.serving.server.uvicorn_server import listen, make_server

PROMPT = {
    "prefix": ["age {age}", "shopped {baskets|count}"],
    "item": ["{title}", "{brand}"],
    "context": ["seen {seen}"],
}
HISTORY = {"max_events": 3, "label": "buys "}
ITEMS = {f"i{number}": f"item number {number}" for number in range(40)}


@dataclass
class StandInCache:
    """Remembers prefixes by their text."""

    max_bytes: int = 1 << 20
    hits: int = 0
    misses: int = 0
    item_hits: int = 0
    item_misses: int = 0
    known: set[str] = field(default_factory=set)

    @property
    def bytes(self) -> int:
        """Made up: 1 KiB each."""
        return 1024 * len(self.known)

    def look_up(self, prefix: str) -> None:
        """Count a prefix."""
        self.hits, self.misses = self.hits + (prefix in self.known), self.misses + (prefix not in self.known)
        self.known.add(prefix)


@dataclass(frozen=True)
class Prepared:
    """A request as texts."""

    request: ReadRequest


def vectors_of(texts: Sequence[str]) -> np.ndarray:
    """A vector of four numbers for each text, by a hash."""
    parts = [[zlib.crc32(f"{place}{text}".encode()) / 2**31 - 1 for place in range(4)] for text in texts]
    return np.array(parts, dtype=np.float32).reshape(-1, 4)


class StandIn:
    """What `Recommender` offers a server.

    `seconds` is how long a pass takes, and none ends before `released` is set; a request with the prefix "fail" fails,
    with "nan" it gets scores that are no numbers; `passes` are the numbers of requests of each pass.
    """

    name, version = "stand-in", "stand-in@1"
    pointwise, listwise = ("ctr", "cvr"), ("diversity", "fairness")

    def __init__(self, priced: bool = False) -> None:
        prompt = PROMPT | ({"context": [*PROMPT["context"], "price {price|money}"]} if priced else {})
        point = OperatingPoint({"diversity": 0.5, "fairness": 0.0}, {"diversity": (0.0, 5.0), "fairness": (0.0, 2.0)})
        items = KnownItems(dict(ITEMS), {name: text.title() for name, text in ITEMS.items()})
        self.reader = RequestReader(PromptConfig(**prompt), HistoryConfig(**HISTORY), items, point, Limits(100))
        self.cache = StandInCache()
        index = RecallIndex(vectors_of(list(ITEMS.values())), np.linspace(-1, 0, len(ITEMS), dtype=np.float32))
        weights = {"scale": 2.0, "prior": 1.0, "repeat": 3.0}
        self.catalogue = RecallCatalogue("recall", index, weights, list(ITEMS), items.titles)
        self.seconds = 0.0
        self.passes: list[int] = []
        self.busy = threading.Lock()
        self.released = threading.Event()
        self.released.set()
        self.examples = [
            {
                "name": f"shopper {number}",
                "request_id": f"r{number}",
                "prefix": f"age {30 + number}",
                "candidates": [{"item_id": f"i{place}", "context": f"seen {place}"} for place in range(12)],
                "clicked": [number],
                "converted": [],
            }
            for number in range(3)
        ]

    @property
    def operating_point(self) -> Mapping[str, float]:
        """ω where a request gives none."""
        return self.reader.operating_point.omega

    @property
    def bounds(self) -> Mapping[str, tuple[float, float]]:
        """Of ω."""
        return self.reader.operating_point.bounds

    def with_limits(self, limits: Limits) -> "StandIn":
        """Its own limits become these."""
        self.limits = limits
        return self

    @property
    def limits(self) -> Limits:
        """Of one request."""
        return self.reader.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self.reader.limits = limits

    def prepare(self, request: Mapping[str, Any], first: int | None = None) -> Prepared:
        """As the real one, but for the token ids."""
        return Prepared(self.reader.read(request))

    def cut(self, request: Mapping[str, Any]) -> CutRequest:
        """As the real one."""
        return cut(self.reader, request, self.reader.read(request))

    def tokenized(self, read: ReadRequest) -> Prepared:
        """As the real one, but for the token ids."""
        return Prepared(read)

    def prior_terms(self, read: ReadRequest, position: int) -> list[Any]:
        """It begins as no simple model."""
        return []

    def score_prepared(self, prepared: Sequence[Prepared]) -> list[Ranking]:
        """Scores that depend on the texts alone."""
        assert self.busy.acquire(blocking=False), "two passes at once"
        try:
            self.passes.append(len(prepared))
            time.sleep(self.seconds)
            assert self.released.wait(60)
            if any(each.request.prefix == "fail" for each in prepared):
                raise RuntimeError("told to fail")
            return [self._ranking(each.request) for each in prepared]
        finally:
            self.busy.release()

    def prepare_prices(self, request: Mapping[str, Any]) -> tuple[PriceQuestion, Prepared]:
        """As the real one, but for the token ids."""
        question = read_question(self.reader, request, {})
        return question, Prepared(question.request)

    def prepare_recall(self, request: Mapping[str, Any]) -> PreparedRecall:
        """As the real one; the token ids are the shopper's text."""
        text, prepared = self.catalogue.read(self.reader, request)
        return replace(prepared, text_ids=list(text.encode()))

    def recall_prepared(self, prepared: Sequence[PreparedRecall]) -> list[Recalled]:
        """The real search with a shopper's vector by a hash."""
        assert self.busy.acquire(blocking=False), "two passes at once"
        try:
            self.passes.append(len(prepared))
            time.sleep(self.seconds)
            texts = [bytes(each.text_ids).decode() for each in prepared]
            return self.catalogue.search(vectors_of(texts), prepared)
        finally:
            self.busy.release()

    def _ranking(self, request: ReadRequest) -> Ranking:
        self.cache.look_up(request.prefix)

        def numbers(kind: str) -> list[float]:
            if request.prefix == "nan":
                return [float("nan")] * len(request.candidates)
            texts = [f"{kind}{request.prefix}{each.text}{each.context}" for each in request.candidates]
            return [zlib.crc32(text.encode()) / 2**31 - 1 for text in texts]

        ids = [candidate.item_id for candidate in request.candidates]
        logits = {name: numbers(name) for name in self.pointwise}
        deltas = {name: numbers(name) for name in self.listwise}
        given = {"values": [c.value for c in request.candidates], "boosts": [c.boost for c in request.candidates]}
        weights = request.weights
        return Ranking.of(request.request_id, ids, logits, deltas, request.omega, request.top, weights=weights, **given)


@dataclass
class Live:
    """A running server: its address, the stand-in behind it, and a client."""

    host: str
    port: int
    recommender: StandIn
    client: httpx.Client
    server: Any

    def stop(self) -> None:
        """Tell it to end, as a signal does."""
        self.server.should_exit = True

    def counted(self, name: str) -> float:
        """The value of a metric, by its name with labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return float(next((line.split()[-1] for line in lines if line.startswith(f"{name} ")), 0.0))

    def alive(self) -> bool:
        """Whether an ordinary request is answered as it should be."""
        answer = self.client.post("/rank", json=slate())
        return answer.status_code == 200 and len(answer.json()["candidates"]) == 5


def slate(count: int = 5, **changes: Any) -> dict[str, Any]:
    """An ordinary request."""
    return {"user": {"age": 40}, "candidates": [{"item_id": f"i{place}"} for place in range(count)], **changes}


@pytest.fixture
def request_of() -> Callable[..., dict[str, Any]]:
    """`slate`, for tests: importlib mode keeps them from importing this file."""
    return slate


@pytest.fixture
def stand_in() -> StandIn:
    """A stand-in of its own."""
    return StandIn()


@pytest.fixture(scope="session")
def make_stand_in() -> type[StandIn]:
    """Its class, for those that take options."""
    return StandIn


def serving() -> Iterator[Callable[..., Live]]:
    """Start servers in threads of this process; options as keyword arguments. They end with the generator."""
    running: list[tuple[Any, threading.Thread, httpx.Client]] = []

    def start(recommender: Any = None, head_seconds: float | None = None, followed: Any = None, **options: Any) -> Live:
        recommender, chosen = recommender or StandIn(), ServerOptions(port=0, **options)
        listener = listen(chosen.host, chosen.port)
        host, port = listener.getsockname()[:2]
        started = threading.Event()
        server = make_server(create_app(recommender, chosen, followed), chosen, started.set)
        if head_seconds is not None:
            protocol = type("Hasty", (server.config.http,), {"head_seconds": head_seconds})
            server.config.http = protocol
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        assert started.wait(20)
        headers = {"authorization": f"Bearer {chosen.token}"} if chosen.token else {}
        client = httpx.Client(base_url=f"http://{host}:{port}", headers=headers, timeout=30, trust_env=False)
        running.append((server, thread, client))
        return Live(host, port, recommender, client, server)

    yield start
    for server, thread, client in running:
        client.close()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


start_server = pytest.fixture(serving, name="start_server")
"""Servers of one test."""
start_servers = pytest.fixture(serving, scope="module", name="start_servers")
"""Servers of a file of tests."""
