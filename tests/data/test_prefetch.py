"""A thread that works ahead: in order, not too far, and never left behind."""

import threading
from collections.abc import Iterator

import pytest

from equipoise.data.prefetch import prefetched


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_everything_comes_in_order_and_the_thread_ends() -> None:
    assert list(prefetched(iter(range(100)))) == list(range(100))
    assert not running()


def test_it_is_at_most_depth_ahead() -> None:
    made: list[int] = []
    seen_two = threading.Event()

    def source() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            if number == 3:
                seen_two.set()
            yield number

    ready = prefetched(source(), depth=2)
    assert next(ready) == 0
    assert seen_two.wait(5)  # 0 taken, 1 and 2 in the queue, 3 waits to be put
    assert made == [0, 1, 2, 3]
    ready.close()
    assert not running()


def test_an_error_of_the_source_is_raised_after_what_came_before() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("two")

    ready = prefetched(source())
    assert next(ready) == 1
    with pytest.raises(ValueError, match="two"):
        next(ready)
    assert not running()
