"""From a checked request to its ranking: prepare it in a thread, let it wait for a pass, within its time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from fastapi import Request

from equipoise.common.errors import UserError
from equipoise.serving.explain import (
    Explanation,
    check_slate,
    check_work,
    explanation,
    positions_of,
    split_request,
    variants_of,
    without_parts,
)
from equipoise.serving.pricing import Pricing
from equipoise.serving.promise import Keeper, read_promises
from equipoise.serving.prompt_parts import CutRequest
from equipoise.serving.ranking import Ranking
from equipoise.serving.recommender import PreparedRequest, Recommender, RequestError
from equipoise.serving.retrieve import Recalled
from equipoise.serving.server.batching import MicroBatcher, QueueFull, ScoredOutcome
from equipoise.serving.server.bodies import ExplainRequest, PriceRequest, RecallRequest, SlateRequest, Strict
from equipoise.serving.server.exploration import Shown
from equipoise.serving.server.metrics import Metrics
from equipoise.serving.server.options import ServerOptions
from equipoise.serving.server.refusal import CLIENT_GONE, Overloaded, Refusal
from equipoise.serving.server.traces import Traces

T = TypeVar("T")

MAX_RECALLS = 32
"""Requests for recall that are searched in one pass."""
MAX_VARIANTS = 4
"""Variants of one explained request that wait for the model together."""
NO_TRACES = Traces()


@dataclass(frozen=True)
class CachedRanking:
    """A ranking, and whether its prefix came from the cache; None where its pass had prefixes of both kinds."""

    ranking: Ranking
    prefix_cached: bool | None


SERVICE = "equipoise.service"
"""In the scope of a request: the service that answers it."""


def service_of(request: Request) -> "Service":
    """The service that answers a request."""
    return request.scope[SERVICE]


class Service:
    """What the endpoints share.

    Args:
        recommender: the loaded export.
        options: limits.
        metrics: of the server, where another service has begun them.
        traces: of the server.

    Attributes:
        version: of the export.
        in_flight: requests that are being answered.
        shown_examples: of GET /examples, once they were asked for.
    """

    def __init__(
        self,
        recommender: Recommender,
        options: ServerOptions,
        metrics: Metrics | None = None,
        traces: Traces = NO_TRACES,
    ) -> None:
        limits = replace(recommender.limits, unknown_fields=options.unknown_fields)
        if options.max_candidates is not None:
            limits = replace(limits, candidates=options.max_candidates)
        if limits != recommender.limits:
            recommender = recommender.with_limits(limits)
        self.recommender, self.options = recommender, options
        self.keeper = make_keeper(recommender, options)
        self.version, self.in_flight = recommender.version, 0
        self.shown = Shown(recommender, options)
        self.shown_examples: list[Any] | None = None
        self.metrics, self.traces = metrics or Metrics(self), traces
        self._model = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.batcher = MicroBatcher(
            self._score,
            most_candidates=options.batch_candidates,
            most_waiting=options.queue,
            wait_s=options.batch_wait_ms / 1000,
            batching=options.batching,
            observe=self.metrics.saw_pass,
            thread=self._model,
        )
        self.recalls = MicroBatcher(
            recommender.recall_prepared,
            most_candidates=MAX_RECALLS,
            most_waiting=options.queue,
            wait_s=options.batch_wait_ms / 1000,
            batching=options.batching,
            thread=self._model,
        )
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        self.reading = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._explaining = asyncio.Lock()

    @property
    def waiting(self) -> int:
        """Requests that wait for the model."""
        return len(self.batcher)

    def start(self) -> None:
        """Begin to answer; needs a running event loop."""
        self.batcher.start()
        self.recalls.start()
        self.shown.start()

    def carry_over(self, before: "Service") -> None:
        """Let promises that both keep, and counts of what was logged, go on from where they stand."""
        self.shown.carry_over(before.shown)
        if self.keeper is None or before.keeper is None:
            return
        for objective, state in before.keeper.states.items():
            if objective in self.keeper.states:
                self.keeper.states[objective] = state

    async def close(self) -> None:
        """Finish what is running."""
        await self.recalls.close()
        await self.batcher.close()
        await asyncio.to_thread(self.shown.close)
        for thread in (self._model, self._preparing, self.reading):
            await asyncio.to_thread(thread.shutdown)

    async def rank(
        self, asked: SlateRequest, request: Request, shown: bool = True
    ) -> tuple[Mapping[str, int], ScoredOutcome[CachedRanking]]:
        """Score a request; also tells how often each field that is read was not given.

        Args:
            asked: the checked body.
            request: whose client may leave.
            shown: whether the list is shown, so that promises count it, and it may be drawn and logged.

        Raises:
            Refusal: 422 the request cannot be scored, 503 too much to do or too slow, 499 the client left.
        """
        first = self.options.first if shown else None
        missing, outcome = await self._answered(asked, request, partial(self._prepare_ranking, first=first))
        if self.keeper is not None and shown and not asked.omega:
            self.keeper.observe(outcome.result.ranking)
        if shown and self.shown.active:
            ranking = self.shown(outcome.result.ranking, asked.model_dump(exclude_unset=True))
            outcome = replace(outcome, result=replace(outcome.result, ranking=ranking))
        return missing, outcome

    async def price(
        self, asked: PriceRequest, request: Request
    ) -> tuple[Pricing, Mapping[str, int], ScoredOutcome[CachedRanking]]:
        """Choose prices; arguments and errors as those of `rank`. Also tells what that tells."""
        question, outcome = await self._answered(asked, request, self.recommender.prepare_prices)
        return question.of_ranking(outcome.result.ranking), question.request.missing, outcome

    async def recall(self, asked: RecallRequest, request: Request) -> Recalled:
        """Search the catalogue; errors as those of `rank`."""
        async with self._limited(self.recalls):
            given = asked.model_dump(exclude_unset=True)
            prepared = await self._in_thread(self.recommender.prepare_recall, given)
            self.metrics.saw_missing(Counter(self.recommender.reader.missing_of_shopper(given)))
            with self.traces.span("search"):
                return (await while_connected(self.recalls.submit(prepared, 1), request)).result

    def _prepare_ranking(
        self, given: dict[str, Any], first: int | None = None
    ) -> tuple[Mapping[str, int], PreparedRequest]:
        prepared = self.recommender.prepare(self._kept(given), first)
        return prepared.request.missing, prepared

    def _kept(self, given: dict[str, Any]) -> dict[str, Any]:
        """The request with the ω of promises, where it asks for none of its own."""
        if self.keeper is None:
            return given
        return {**given, "omega": self.keeper.omega() | (given.get("omega") or {})}

    async def _answered(
        self, asked: Strict, request: Request, prepare: Callable[[dict[str, Any]], tuple[T, PreparedRequest]]
    ) -> tuple[T, ScoredOutcome[CachedRanking]]:
        """What `prepare` made of the body, and the scores of the prepared request."""
        async with self._limited(self.batcher):
            read, prepared = await self._in_thread(prepare, asked.model_dump(exclude_unset=True))
            self.metrics.saw_missing(prepared.request.missing)
            count = len(prepared.request.candidates)
            with self.traces.span("score") as span:
                outcome = await while_connected(self.batcher.submit(prepared, count), request)
                if span is not None:
                    span.set_attributes({f"equipoise.{name}": value for name, value in self._told(count, outcome)})
            return read, outcome

    def _told(self, count: int, outcome: ScoredOutcome[CachedRanking]) -> Iterator[tuple[str, str | float]]:
        """What the span of a scored request tells."""
        yield from (("export", self.version), ("candidates", count), ("waited_s", outcome.waited))
        yield from ((f"pass.{name}", value) for name, value in vars(outcome.model_pass).items())
        if outcome.result.prefix_cached is not None:
            yield "prefix_cached", outcome.result.prefix_cached

    async def explain(self, asked: ExplainRequest, request: Request) -> Explanation:
        """Explain candidates: each variant of the request waits for a pass by itself, so that others go in between.

        Args:
            asked: the checked body.
            request: whose client may leave.

        Raises:
            Refusal: as `rank`.
        """
        async with self._limited(self.batcher):
            given = self._kept(asked.model_dump(exclude_unset=True))
            with self.traces.span("explain"):
                return await while_connected(self._one_explanation(given), request)

    async def _one_explanation(self, given: dict[str, Any]) -> Explanation:
        """One after the other: each is as much work as many rankings, which go on in between."""
        async with self._explaining:
            return await self._explain(given)

    async def _explain(self, given: dict[str, Any]) -> Explanation:
        loop = asyncio.get_running_loop()
        ranked, named = split_request(given)

        def begin() -> tuple[CutRequest, PreparedRequest]:
            cut = self.recommender.cut(ranked)
            check_slate(self.recommender.limits, cut)
            check_work(self.options.max_explained, len(cut.read.candidates), len(cut.shopper))  # before any is scored
            return cut, self.recommender.tokenized(cut.read)

        cut, full = await loop.run_in_executor(self._preparing, begin)
        self.metrics.saw_missing(cut.read.missing)
        count = len(cut.read.candidates)
        ranking = (await self.batcher.submit(full, count)).result.ranking
        positions = positions_of(self.recommender.limits, cut, named, ranking)
        variants = variants_of(cut, positions)
        check_work(self.options.max_explained, count, len(variants))

        def tokenize() -> list[PreparedRequest]:
            return [self.recommender.tokenized(read) for read in without_parts(cut, variants)]

        prepared = await loop.run_in_executor(self._preparing, tokenize)
        some = asyncio.Semaphore(min(MAX_VARIANTS, self.options.queue))

        async def score(variant: PreparedRequest) -> Ranking:
            async with some:
                return (await self.batcher.submit(variant, count)).result.ranking

        tasks = [asyncio.ensure_future(score(each)) for each in prepared]
        try:
            rankings = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        terms = {each: self.recommender.prior_terms(cut.read, each) for each in positions}
        return explanation(cut, positions, ranking, variants, rankings, lambda read, position: terms[position])

    @asynccontextmanager
    async def _limited(self, batcher: MicroBatcher) -> AsyncIterator[None]:
        """Within, a request is answered in its time, or refused.

        Raises:
            Refusal: 422 it cannot be answered, 503 too much to do or too slow.
        """
        if batcher.full:
            raise self._overloaded("queue")
        try:
            async with asyncio.timeout(self.options.timeout_s):
                yield
        except RequestError as error:
            raise Refusal(422, str(error), error.field) from error
        except QueueFull as error:
            raise self._overloaded("queue") from error
        except TimeoutError as error:
            raise self._overloaded("time") from error

    async def _in_thread(self, prepare: Callable[[dict[str, Any]], T], given: dict[str, Any]) -> T:
        with self.traces.span("prepare"):
            return await asyncio.get_running_loop().run_in_executor(self._preparing, prepare, given)

    def _score(self, prepared: Sequence[PreparedRequest]) -> list[CachedRanking]:
        """In the model's thread."""
        cache = self.recommender.cache
        hits, misses = cache.hits, cache.misses
        rankings = self.recommender.score_prepared(prepared)
        hit, missed = cache.hits > hits, cache.misses > misses
        return [CachedRanking(ranking, None if hit and missed else hit) for ranking in rankings]

    def _overloaded(self, reason: str) -> Overloaded:
        self.metrics.refused.labels(reason).inc()
        if reason == "queue":
            return Overloaded(f"{self.options.queue} requests are waiting already: try again in a moment")
        return Overloaded(f"no answer within {self.options.timeout_s:g} seconds: try again in a moment")


def make_keeper(recommender: Recommender, options: ServerOptions) -> Keeper | None:
    """What keeps the promises of `--keep`; None where none is asked for.

    Raises:
        UserError: they cannot be read, or kept by this export.
    """
    if options.keep is None:
        if options.keep_state is not None:
            raise UserError("--keep-state remembers promises: add --keep, or leave it out")
        return None
    rule = recommender.reader.lists
    promises = read_promises(options.keep, rule, recommender.bounds)
    assert rule is not None, "promises are read for a rule"
    return Keeper(promises, rule, recommender.operating_point, options.keep_state)


async def while_connected(work: Coroutine[Any, Any, T], request: Request) -> T:
    """The result of a coroutine, which is cancelled as soon as the client leaves.

    Raises:
        Refusal: the client left.
    """
    task = asyncio.ensure_future(work)
    left = asyncio.create_task(_leaving(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Refusal(CLIENT_GONE, "the client left", "client")
    finally:
        for pending in (task, left):
            pending.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def _leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
