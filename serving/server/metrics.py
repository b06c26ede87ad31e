"""What the server counts, in the form that Prometheus reads."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from equipoise.modeling.prefix_cache import PrefixCache
from equipoise.serving.promise import Keeper
from equipoise.serving.recommender import Recommender
from equipoise.serving.server.batching import Pass
from equipoise.serving.server.exploration import Shown

logger = logging.getLogger("equipoise.serve")

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
REQUESTS = (1, 2, 4, 8, 16, 32, 64)
CANDIDATES = (10, 20, 50, 100, 200, 500, 1000, 2000)


class Served(Protocol):
    """What is read of a service."""

    recommender: Recommender
    keeper: Keeper | None
    shown: Shown
    version: str

    @property
    def waiting(self) -> int:
        """Requests that wait for the model."""


class ExportCollector(Collector):
    """Reads the export of the moment and its prefix cache when Prometheus asks."""

    def __init__(self, metrics: "Metrics") -> None:
        self._metrics = metrics

    @property
    def _cache(self) -> PrefixCache:
        return self._metrics.served.recommender.cache

    def collect(self) -> Iterator[Metric]:
        """Version; hits, misses, and bytes."""
        info = GaugeMetricFamily("equipoise_export", "The export that answers.", labels=["version"])
        info.add_metric([self._metrics.served.version], 1)
        yield info
        yield CounterMetricFamily("equipoise_prefix_cache_hits", "Prefixes found in the cache.", self._cache.hits)
        yield CounterMetricFamily("equipoise_prefix_cache_misses", "Prefixes encoded anew.", self._cache.misses)
        yield CounterMetricFamily("equipoise_item_cache_hits", "Items found in the cache.", self._cache.item_hits)
        yield CounterMetricFamily("equipoise_item_cache_misses", "Items encoded anew.", self._cache.item_misses)
        yield GaugeMetricFamily("equipoise_prefix_cache_bytes", "Memory of cached prefixes.", self._cache.bytes)
        limit = self._cache.max_bytes
        yield GaugeMetricFamily("equipoise_prefix_cache_limit_bytes", "Memory that the cache may take.", limit)


class PromiseCollector(Collector):
    """Reads where promises stand when Prometheus asks."""

    def __init__(self, metrics: "Metrics") -> None:
        self._metrics = metrics

    @property
    def _keeper(self) -> Keeper:
        keeper = self._metrics.served.keeper
        assert keeper is not None, "every export of a server keeps the same promises"
        return keeper

    def collect(self) -> Iterator[Metric]:
        """ω, value of the last window, bound, and windows, kept and broken ones."""
        omega = GaugeMetricFamily("equipoise_promise_omega", "ω that keeps a promise.", labels=["promise"])
        value = GaugeMetricFamily("equipoise_promise_value", "Measure of the last window.", labels=["promise"])
        bound = GaugeMetricFamily("equipoise_promise_bound", "Least value that is promised.", labels=["promise"])
        windows = CounterMetricFamily("equipoise_promise_windows", "Windows measured.", labels=["promise"])
        broken = CounterMetricFamily("equipoise_promise_broken_windows", "Windows below the bound.", labels=["promise"])
        for promise in self._keeper.promises:
            state = self._keeper.states[promise.objective]
            omega.add_metric([promise.words], state.omega)
            if state.value is not None:
                value.add_metric([promise.words], state.value)
            bound.add_metric([promise.words], promise.bound)
            windows.add_metric([promise.words], state.windows)
            broken.add_metric([promise.words], state.broken)
        yield from (omega, value, bound, windows, broken)


class LogCollector(Collector):
    """Reads what was logged of what was shown when Prometheus asks."""

    def __init__(self, metrics: "Metrics") -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Logged requests, and those that were answered without."""
        log = self._metrics.served.shown.log
        assert log is not None, "every export of a server is logged alike"
        yield CounterMetricFamily("equipoise_logged_requests", "Requests in written parts.", log.counts.logged)
        yield CounterMetricFamily("equipoise_log_dropped_requests", "Requests not logged.", log.counts.dropped)


class Metrics:
    """Counters of one server, in a registry of their own.

    Args:
        served: the service that answers.
    """

    def __init__(self, served: Served) -> None:
        self.served = served
        self.registry = CollectorRegistry()
        self._told: set[str] = set()
        names: dict[str, Any] = {"registry": self.registry, "namespace": "equipoise"}
        self.requests = Counter("requests", "Answered requests.", ("route", "status"), **names)
        self.seconds = Histogram(
            "request_seconds", "Time of a request, reading included.", ("route",), buckets=SECONDS, **names
        )
        self.refused = Counter("overload", "Requests refused for lack of capacity.", ("reason",), **names)
        self.missing = Counter("missing_fields", "Times that a field which is read was not given.", ("field",), **names)
        self.passes = Histogram("pass_seconds", "Time of a pass of the model.", buckets=SECONDS, **names)
        self.batch = Histogram("batch_requests", "Requests of a pass.", buckets=REQUESTS, **names)
        self.candidates = Histogram("batch_candidates", "Candidates of a pass.", buckets=CANDIDATES, **names)
        self.answers = Counter("answers", "Answers by the version of the export.", ("version",), **names)
        self.switches = Counter("switches", "Exports that took over, or were refused.", ("result",), **names)
        waiting = Gauge("queue_requests", "Requests that wait for the model.", **names)
        waiting.set_function(lambda: self.served.waiting)
        self.registry.register(ExportCollector(self))
        if served.keeper is not None:
            self.registry.register(PromiseCollector(self))
        if served.shown.log is not None:
            self.registry.register(LogCollector(self))

    def follow(self, served: Served) -> None:
        """Read another service from now on."""
        self.served = served

    def saw_missing(self, missing: Mapping[str, int]) -> None:
        """Count fields that a request did not give, by PLACE.NAME: names of the export, none that clients invent."""
        for name, times in missing.items():
            self.missing.labels(name).inc(times)
            if name not in self._told:
                self._told.add(name)
                logger.warning("a request lacks %s, which the export reads; /metrics counts how often", name)

    def saw_pass(self, done: Pass) -> None:
        """Count a pass of the model."""
        self.passes.observe(done.seconds)
        self.batch.observe(done.requests)
        self.candidates.observe(done.candidates)

    def saw_request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def page(self) -> bytes:
        """All of them as text."""
        return generate_latest(self.registry)
