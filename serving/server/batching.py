"""Dynamic micro-batching: what arrives while the model is busy waits, and goes into its next pass together.

One thread runs the model. Under light load a request passes at once and alone; under heavy load passes grow by
themselves, so that nothing has to be tuned. A request that fails takes none of its neighbours with it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

logger = logging.getLogger("equipoise.serve")

Prepared = TypeVar("Prepared")
Result = TypeVar("Result")


class QueueFull(Exception):
    """As many requests are waiting as may wait."""


@dataclass(frozen=True)
class Pass:
    """A pass of the model: its requests, their candidates, and seconds it took."""

    requests: int
    candidates: int
    seconds: float


@dataclass(frozen=True)
class ScoredOutcome(Generic[Result]):
    """What one request got, the seconds it waited, and the pass that it went with."""

    result: Result
    waited: float
    model_pass: Pass


@dataclass(eq=False)
class _Waiting(Generic[Prepared, Result]):
    prepared: Prepared
    candidates: int
    answer: asyncio.Future[ScoredOutcome[Result]]
    since: float = field(default_factory=time.perf_counter)


class MicroBatcher(Generic[Prepared, Result]):
    """Collects requests into passes.

    Args:
        score: scores prepared requests in one pass; called by one thread at a time.
        most_candidates: of a pass; a larger request passes alone.
        most_waiting: requests that may wait.
        wait_s: how long a pass that has room waits for further requests.
        batching: False lets every request pass alone.
        observe: told every pass.
        thread: runs the model, where several batchers share one, whose owner shuts it down; by default one of its own.
    """

    def __init__(
        self,
        score: Callable[[Sequence[Prepared]], Sequence[Result]],
        *,
        most_candidates: int,
        most_waiting: int,
        wait_s: float = 0.0,
        batching: bool = True,
        observe: Callable[[Pass], None] = lambda done: None,
        thread: ThreadPoolExecutor | None = None,
    ) -> None:
        self._score, self._observe = score, observe
        self._most_candidates, self._most_waiting = most_candidates, most_waiting
        self._wait_s, self._batching = wait_s, batching
        self._queue: deque[_Waiting[Prepared, Result]] = deque()
        self._filled = asyncio.Event()
        self._thread, self._shared = thread or ThreadPoolExecutor(1, thread_name_prefix="model"), thread is not None
        self._worker: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether the next request would be refused."""
        return len(self._queue) >= self._most_waiting

    def start(self) -> None:
        """Begin to work; needs a running event loop."""
        self._worker = asyncio.create_task(self._work(), name="micro-batches")

    async def close(self) -> None:
        """Finish the running pass and stop."""
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
        for waiting in self._queue:
            waiting.answer.cancel()
        self._queue.clear()
        if not self._shared:
            await asyncio.to_thread(self._thread.shutdown)

    async def submit(self, prepared: Prepared, candidates: int) -> ScoredOutcome[Result]:
        """Score one request; a caller that is cancelled leaves the queue.

        Args:
            prepared: what `score` takes.
            candidates: how many it has.

        Raises:
            QueueFull: too many are waiting.
            Exception: what `score` raised for this request alone.
        """
        if self.full:
            raise QueueFull
        answer: asyncio.Future[ScoredOutcome[Result]] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(prepared, candidates, answer)
        self._queue.append(waiting)
        self._filled.set()
        try:
            return await answer
        except asyncio.CancelledError:
            with suppress(ValueError):  # it has left the queue already
                self._queue.remove(waiting)
            raise

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._filled.wait()
            if self._wait_s and self._batching and self._candidates_waiting() < self._most_candidates:
                await asyncio.sleep(self._wait_s)
            batch = self._take()
            if not batch:
                continue
            start = time.perf_counter()
            try:
                results = await loop.run_in_executor(self._thread, self._run, [waiting.prepared for waiting in batch])
            except asyncio.CancelledError:
                for waiting in batch:
                    waiting.answer.cancel()
                raise
            done = Pass(len(batch), sum(waiting.candidates for waiting in batch), time.perf_counter() - start)
            self._observe(done)
            for waiting, result in zip(batch, results, strict=True):
                if waiting.answer.done():  # its caller has given up
                    continue
                if isinstance(result, Exception):
                    waiting.answer.set_exception(result)
                else:
                    waiting.answer.set_result(ScoredOutcome(result, start - waiting.since, done))

    def _candidates_waiting(self) -> int:
        return sum(waiting.candidates for waiting in self._queue)

    def _take(self) -> list[_Waiting[Prepared, Result]]:
        """The oldest requests, as many as fit into a pass."""
        batch: list[_Waiting[Prepared, Result]] = []
        filled = 0
        while self._queue and (not batch or filled + self._queue[0].candidates <= self._most_candidates):
            waiting = self._queue.popleft()
            if waiting.answer.done():
                continue
            batch.append(waiting)
            filled += waiting.candidates
            if not self._batching:
                break
        if not self._queue:
            self._filled.clear()
        return batch

    def _run(self, prepared: list[Prepared]) -> list[Result | Exception]:
        """In the model's thread: the results, or the exception of each request that fails even alone."""
        try:
            return [*self._checked(prepared)]
        except Exception as error:
            if len(prepared) == 1:
                return [error]
            logger.exception("a pass of %d requests failed; they are tried one by one", len(prepared))
        results: list[Result | Exception] = []
        for one in prepared:
            try:
                results += self._checked([one])
            except Exception as error:
                results.append(error)
        return results

    def _checked(self, prepared: list[Prepared]) -> list[Result]:
        results = list(self._score(prepared))
        if len(results) != len(prepared):
            raise RuntimeError(f"the model answered {len(results)} of {len(prepared)} requests")
        return results
