"""Processes that a sweep starts: a session of their own, marked by their run, and gone when their parent is."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import psutil

MARK = "EQUIPOISE_JOB"
PR_SET_PDEATHSIG = 1
PATIENCE_SECONDS = 10.0


def start(command: Sequence[str], environment: Mapping[str, str], output: IO[bytes] | int) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own; on Linux it gets SIGTERM when this process ends, however it ends."""
    return subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_die_with_parent(),
    )


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to all processes of a started command."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def end_stragglers(folder: Path, patience: float = 300.0) -> int:
    """Ask processes that an earlier, killed job of this run left behind to stop, and wait until they are gone.

    Returns:
        How many there were.
    """
    left = _marked(folder)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(left, timeout=patience)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=10)
    return len(left)


def mark(folder: Path) -> dict[str, str]:
    """The environment variable by which all processes of a run are known."""
    return {MARK: str(folder.resolve())}


def _marked(folder: Path) -> list[psutil.Process]:
    marker, processes = str(folder.resolve()), []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == marker:
                processes.append(process)
    return processes


class StopRequest:
    """SIGINT and SIGTERM as a request that is handed on; one that comes ten seconds after the first is a SIGKILL.

    Args:
        hand_on: gets the signal to send to what is running.
    """

    def __init__(self, hand_on: Callable[[int], None]) -> None:
        self.asked = False
        self.number = signal.SIGTERM
        self._when = 0.0
        self._hand_on = hand_on
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._when, self.number = True, now, signal.Signals(number)
        self._hand_on(signal.SIGKILL if now - self._when > PATIENCE_SECONDS else signal.SIGTERM)
