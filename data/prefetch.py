"""Lets a thread work ahead, a few results at most."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

_END = object()


def prefetched(source: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """What `source` gives, made in a thread that is at most `depth` results ahead; its errors are raised here.

    The thread ends when the source does, or when this iterator is closed.
    """
    ready: queue.Queue[Any] = queue.Queue(depth)
    closed = threading.Event()

    def put(value: Any) -> bool:
        while not closed.is_set():
            try:
                ready.put(value, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for value in source:
                if not put((value, None)):
                    return
        except BaseException as error:  # whatever it is, the reader must not wait for ever
            put((None, error))
        else:
            put((_END, None))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            value, error = ready.get()
            if error is not None:
                raise error
            if value is _END:
                return
            yield value
    finally:
        closed.set()
        thread.join()
