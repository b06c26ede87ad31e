"""The runs of a sweep on this machine, several at a time."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence

from equipoise.common.errors import UserError
from equipoise.sweep.board import Board
from equipoise.sweep.children import StopRequest, signal_group, start
from equipoise.sweep.job import STATES, JobOutcome
from equipoise.sweep.plan import PlannedRun
from equipoise.sweep.record import is_locked, read_record

POLL_SECONDS = 0.1


class RunPool:
    """Executes runs in slots, one for each of `devices`; a process watches over each run (`equipoise.sweep.job`).

    Args:
        runs: whose folders are ready.
        devices: what each slot adds to the environment; see `share_devices`.
        board: is told what happens.
    """

    def __init__(self, runs: Sequence[PlannedRun], devices: Sequence[dict[str, str]], board: Board) -> None:
        self.waiting = deque(runs)
        self.elsewhere: list[PlannedRun] = []
        self.devices = devices
        self.free = list(range(len(devices)))
        self.running: dict[int, tuple[PlannedRun, subprocess.Popen[bytes]]] = {}
        self.board = board

    def run(self) -> int | None:
        """Execute all; returns the signal that ended it early, if one did, when all jobs have saved and ended."""
        with StopRequest(self._hand_on) as stop:
            while self.running or (not stop.asked and (self.waiting or self.elsewhere)):
                if not stop.asked:
                    self._fill(stop)
                self._collect()
                self.board.refresh()
                time.sleep(POLL_SECONDS)
        return stop.number if stop.asked else None

    def _fill(self, stop: StopRequest) -> None:
        if not self.waiting:
            self._take_back()
        while self.waiting and self.free and not stop.asked:
            run, slot = self.waiting.popleft(), self.free.pop(0)
            environment = {**os.environ, **self.devices[slot]}
            command = [sys.executable, "-m", "equipoise.sweep.job", str(run.folder)]
            with (run.folder / "job.log").open("ab") as log:
                self.running[slot] = (run, start(command, environment, log))
            self.board.tell(run, "running")

    def _take_back(self) -> None:
        """Runs that another sweep had taken and has let go: ended, or ours to go on with."""
        for run in [run for run in self.elsewhere if not is_locked(run.folder)]:
            self.elsewhere.remove(run)
            record = read_record(run.folder)
            if record is not None and record.state in ("finished", "failed"):
                self.board.tell(run, record.state, "by another sweep")
            else:
                self.waiting.append(run)

    def _collect(self) -> None:
        for slot, (run, process) in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[slot]
            self.free.append(slot)
            if code == JobOutcome.ELSEWHERE:
                self.elsewhere.append(run)
                self.board.tell(run, "waiting", "another sweep executes it")
                continue
            self._tell(run, code)

    def _tell(self, run: PlannedRun, code: int) -> None:
        record = read_record(run.folder)
        assert record is not None, "a job keeps its record"
        # An exception in the job's own process gives exit code 1 too, but leaves no failed record.
        if code in (JobOutcome.FINISHED, JobOutcome.STOPPED) or (
            code == JobOutcome.FAILED and record.state == "failed"
        ):
            told = f"{record.error}; see {record.log}" if record.error else f"{record.seconds:.0f} s"
            self.board.tell(run, STATES[JobOutcome(code)], told)
        elif code < 0:
            self.board.tell(run, "stopped", f"its job was ended by signal {-code}")
        else:
            record.state, record.error = "failed", f"the job itself ended with exit code {code}"
            record.log = str(run.folder / "job.log")
            record.write(run.folder)
            self.board.tell(run, "failed", f"{record.error}; see {record.log}")

    def _hand_on(self, number: int) -> None:
        for _, process in self.running.values():
            signal_group(process, signal.SIGTERM)  # a job that is asked again kills what it runs by itself


def share_devices(gpus: int | None, parallel: int) -> list[dict[str, str]]:
    """Per slot, the environment that shows it `gpus` GPUs of its own out of those that this process may use.

    Raises:
        UserError: there are too few.
    """
    if gpus is None:
        return [{} for _ in range(parallel)]
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name] or _count_devices()
    if len(visible) < gpus * parallel:
        raise UserError(
            f"parallel: {parallel} runs with gpus: {gpus} each need {gpus * parallel} GPUs, and {len(visible)} are "
            "visible: lower parallel or gpus"
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(visible[slot * gpus : (slot + 1) * gpus])} for slot in range(parallel)]


def _count_devices() -> list[str]:
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
