"""Several processes behind one socket, each with a model of its own, and what all of them count."""

import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from equipoise.common.errors import UserError
from equipoise.common.process import usable_cores
from equipoise.serving.server.options import ServerOptions

log = logging.getLogger("equipoise.serve")

SHORT_SECONDS, MOST_SHORT_LIVES = 10.0, 3
"""A worker that ends so soon after it answered, or before, so often one after another, is not started again."""
POLL_SECONDS = 0.5
ANSWER_SECONDS = 2.0
"""How long another worker may take to tell its counts."""


@dataclass(frozen=True)
class Worker:
    """Which of several processes this one is.

    Attributes:
        number: from 0.
        count: of them all.
        folder: of the sockets by which they tell each other what they count.
    """

    number: int
    count: int
    folder: Path

    def own(self, options: ServerOptions) -> ServerOptions:
        """The options of this process: draws and files that no other has."""
        seed, state = options.explore_seed, options.keep_state
        if seed is not None:
            seed = int(np.random.SeedSequence([seed, self.number]).generate_state(1)[0])
        if state is not None:
            state = state.with_name(f"{state.stem}-{self.number}{state.suffix}")
        return replace(options, explore_seed=seed, keep_state=state)

    def threads(self) -> int:
        """Its share of the cores."""
        return max(1, usable_cores() // self.count)


# The process that starts the others


@dataclass
class _Life:
    """One process of a worker."""

    process: Any
    told: Connection
    answered: float | None = None

    def listen(self, seconds: float = 0) -> None:
        """Note when it has said that it answers."""
        if self.answered is None and self.told.poll(seconds):
            with suppress(EOFError):  # it has ended
                self.told.recv()
                self.answered = time.monotonic()

    def was_short(self) -> bool:
        """Whether it ended before it answered, or soon after."""
        self.listen()
        return self.answered is None or time.monotonic() - self.answered < SHORT_SECONDS


def run_workers(count: int, target: Callable[..., None], arguments: tuple[Any, ...], ready: Callable[[], None]) -> None:
    """Run processes until SIGTERM or Ctrl-C, which they get as well; one that ends is started again.

    Args:
        count: of processes.
        target: run in each, with a `Worker`, a connection on which it says that it answers, and the arguments.
        arguments: for `target`; they are pickled.
        ready: called once all answer.

    Raises:
        UserError: a worker ended before it answered, or soon after, several times; it has said why itself.
    """
    folder = Path(tempfile.mkdtemp(prefix="equipoise-"))
    context, stopping = get_context("spawn"), threading.Event()
    earlier = {name: signal.signal(name, lambda *_: stopping.set()) for name in (signal.SIGTERM, signal.SIGINT)}
    lives: dict[int, _Life] = {}

    def start(number: int) -> None:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=target, args=(Worker(number, count, folder), theirs, *arguments), name=f"worker-{number}"
        )
        process.start()
        theirs.close()
        lives[number] = _Life(process, ours)

    try:
        for number in range(count):  # one by one: what is wrong with the export is said once
            if not stopping.is_set():
                start(number)
                _await_answer(lives[number], stopping)
        if not stopping.is_set():
            ready()
        _keep_alive(lives, start, stopping)
    finally:
        _stop(lives)
        for name, handler in earlier.items():
            signal.signal(name, handler)
        shutil.rmtree(folder, ignore_errors=True)


def _await_answer(life: _Life, stopping: threading.Event) -> None:
    while life.answered is None and not stopping.is_set():
        alive = life.process.is_alive()
        life.listen(POLL_SECONDS)
        if not alive and life.answered is None and not stopping.is_set():
            raise UserError("a worker ended before it answered: see what it said above")


def _keep_alive(lives: dict[int, _Life], start: Callable[[int], None], stopping: threading.Event) -> None:
    short = dict.fromkeys(lives, 0)
    while not stopping.is_set():
        wait([life.process.sentinel for life in lives.values()], POLL_SECONDS)
        for number, life in list(lives.items()):
            life.listen()
            if life.process.is_alive() or stopping.is_set():
                continue
            short[number] = short[number] + 1 if life.was_short() else 0
            if short[number] >= MOST_SHORT_LIVES:
                raise UserError(f"worker {number} ends again and again: see what it said above")
            log.warning("worker %d has ended (exit code %s): it is started again", number, life.process.exitcode)
            start(number)


def _stop(lives: dict[int, _Life]) -> None:
    for life in lives.values():
        if life.process.is_alive():
            life.process.terminate()
    for life in lives.values():
        life.process.join()


# In each of the others


def end_with_parent() -> None:
    """Let this process end as by SIGTERM where the one that started it is gone."""
    parent = parent_process()
    assert parent is not None, "workers are started by another process"

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


class Counts(Collector):
    """What all workers count, with the label `worker`.

    Args:
        worker: this one.
        page: its own counts as text.
    """

    def __init__(self, worker: Worker, page: Callable[[], bytes]) -> None:
        self.worker, self.page = worker, page
        place = self._place(worker.number)
        Path(place).unlink(missing_ok=True)  # of one that was killed
        self._listener = Listener(place, "AF_UNIX")
        threading.Thread(target=self._answer, name="counts", daemon=True).start()

    def _place(self, number: int) -> str:
        return str(self.worker.folder / f"{number}.sock")

    def _answer(self) -> None:
        while True:
            try:
                with self._listener.accept() as asker:
                    asker.send_bytes(self.page())
            except OSError:
                if not self.worker.folder.exists():
                    return

    def whole_page(self) -> bytes:
        """The counts of all workers that answer, as text."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Every measure once, with the samples of all workers."""
        families: dict[str, Metric] = {}
        for number in range(self.worker.count):
            page = self.page() if number == self.worker.number else self._ask(number)
            for family in text_string_to_metric_families(page.decode()):
                known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    known.samples.append(sample._replace(labels={**sample.labels, "worker": str(number)}))
        return iter(families.values())

    def _ask(self, number: int) -> bytes:
        try:
            with Client(self._place(number), "AF_UNIX") as other:
                return other.recv_bytes() if other.poll(ANSWER_SECONDS) else b""
        except (OSError, EOFError):
            return b""  # it starts just now
