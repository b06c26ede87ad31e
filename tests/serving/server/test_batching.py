"""Micro-batching by itself."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from equipoise.serving.server.batching import MicroBatcher, Pass, QueueFull


class Gate:
    """A model that waits for a word before each pass; `x` fails alone, and with it every pass that it is in."""

    def __init__(self) -> None:
        self.passes: list[list[str]] = []
        self.started, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, prepared: Sequence[str]) -> list[str]:
        self.passes.append(list(prepared))
        self.started.release()
        assert self.go.acquire(timeout=10)
        if "x" in prepared:
            raise ValueError("x cannot be scored")
        return [each.upper() for each in prepared]

    async def wait(self) -> None:
        """Until a pass has begun."""
        await asyncio.to_thread(self.started.acquire, timeout=10)


def run(work: Callable[[Gate, MicroBatcher[str, str]], Coroutine[Any, Any, None]], **options: Any) -> tuple[Gate, list]:
    """Run a test with a batcher of up to 10 candidates and 4 waiting requests."""
    gate, seen = Gate(), list[Pass]()

    async def whole() -> None:
        settings = {"most_candidates": 10, "most_waiting": 4, "observe": seen.append, **options}
        batcher: MicroBatcher[str, str] = MicroBatcher(gate, **settings)
        batcher.start()
        try:
            async with asyncio.timeout(20):
                await work(gate, batcher)
        finally:
            gate.go.release(100)
            await batcher.close()

    asyncio.run(whole())
    return gate, seen


async def behind_a_running_pass(gate: Gate, batcher: MicroBatcher[str, str], *sizes: int) -> list[asyncio.Task]:
    """Requests a, b, c … of these sizes that arrive while `first` passes."""
    tasks = [asyncio.create_task(batcher.submit("first", 1))]
    await gate.wait()
    for name, size in zip("abcdefgh", sizes, strict=False):
        tasks.append(asyncio.create_task(batcher.submit(name, size)))
        await asyncio.sleep(0)
    return tasks


def test_requests_that_arrive_during_a_pass_share_the_next() -> None:
    async def work(gate: Gate, batcher: MicroBatcher[str, str]) -> None:
        tasks = await behind_a_running_pass(gate, batcher, 3, 3, 3)
        gate.go.release(100)
        outcomes = await asyncio.gather(*tasks)
        assert [outcome.result for outcome in outcomes] == ["FIRST", "A", "B", "C"]
        assert [outcome.model_pass.requests for outcome in outcomes] == [1, 3, 3, 3]
        assert outcomes[1].waited > 0

    gate, seen = run(work)
    assert gate.passes == [["first"], ["a", "b", "c"]]
    assert [(each.requests, each.candidates) for each in seen] == [(1, 1), (3, 9)]


def test_a_pass_is_full_at_its_candidates_and_a_larger_request_passes_alone() -> None:
    async def work(gate: Gate, batcher: MicroBatcher[str, str]) -> None:
        tasks = await behind_a_running_pass(gate, batcher, 6, 4, 1, 50)
        gate.go.release(100)
        await asyncio.gather(*tasks)

    gate, _ = run(work)
    assert gate.passes == [["first"], ["a", "b"], ["c"], ["d"]]


def test_without_batching_each_passes_alone() -> None:
    async def work(gate: Gate, batcher: MicroBatcher[str, str]) -> None:
        tasks = await behind_a_running_pass(gate, batcher, 1, 1)
        gate.go.release(100)
        await asyncio.gather(*tasks)

    gate, _ = run(work, batching=False)
    assert gate.passes == [["first"], ["a"], ["b"]]


def test_a_failing_request_fails_alone() -> None:
    async def work(gate: Gate, batcher: MicroBatcher[str, str]) -> None:
        first = asyncio.create_task(batcher.submit("first", 1))
        await gate.wait()
        tasks = [asyncio.create_task(batcher.submit(name, 1)) for name in ("a", "x", "b")]
        await asyncio.sleep(0)
        gate.go.release(100)
        await first
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[1], ValueError)
        assert [results[0].result, results[2].result] == ["A", "B"]  # type: ignore[union-attr]
        assert (await batcher.submit("after", 1)).result == "AFTER"

    gate, _ = run(work)
    assert gate.passes == [["first"], ["a", "x", "b"], ["a"], ["x"], ["b"], ["after"]]


def test_the_queue_has_an_end() -> None:
    async def work(gate: Gate, batcher: MicroBatcher[str, str]) -> None:
        tasks = await behind_a_running_pass(gate, batcher, 1, 1, 1, 1)
        assert batcher.full and len(batcher) == 4
        with pytest.raises(QueueFull):
            await batcher.submit("e", 1)
        gate.go.release(100)
        await asyncio.gather(*tasks)
        assert not batcher.full

    run(work)


def test_who_gives_up_leaves_the_queue() -> None:
    async def work(gate: Gate, batcher: MicroBatcher[str, str]) -> None:
        tasks = await behind_a_running_pass(gate, batcher, 1, 1)
        tasks[1].cancel()
        await asyncio.sleep(0)
        assert len(batcher) == 1
        tasks[0].cancel()  # in its pass already: the pass ends, nobody hears of it
        gate.go.release(100)
        assert (await tasks[2]).result == "B"

    gate, _ = run(work)
    assert gate.passes == [["first"], ["b"]]


def test_a_pass_with_room_waits_if_it_is_told_to() -> None:
    async def work(gate: Gate, batcher: MicroBatcher[str, str]) -> None:
        gate.go.release(100)
        first = asyncio.create_task(batcher.submit("a", 1))
        await asyncio.sleep(0.02)
        assert gate.passes == []
        second = asyncio.create_task(batcher.submit("b", 1))
        await asyncio.gather(first, second)

    gate, _ = run(work, wait_s=0.5)
    assert gate.passes == [["a", "b"]]


def test_a_model_that_loses_a_request_is_found_out() -> None:
    async def work(gate: Gate, batcher: MicroBatcher[str, str]) -> None:
        with pytest.raises(RuntimeError, match="answered 0 of 1"):
            await batcher.submit("a", 1)

    batcher_score = lambda prepared: []  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gate, "__call__", lambda self, prepared: batcher_score(prepared))
        run(work)


def test_closing_lets_the_running_pass_end_and_cancels_the_rest() -> None:
    ended: list[str] = []

    def slow(prepared: Sequence[str]) -> list[str]:
        threading.Event().wait(0.2)
        ended.extend(prepared)
        return list(prepared)

    async def whole() -> None:
        batcher: MicroBatcher[str, str] = MicroBatcher(slow, most_candidates=1, most_waiting=4)
        batcher.start()
        tasks = [asyncio.create_task(batcher.submit(name, 1)) for name in "ab"]
        await asyncio.sleep(0.05)
        await batcher.close()
        assert ended == ["a"]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)

    asyncio.run(whole())
