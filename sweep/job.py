"""One run of a sweep from its folder alone: train, or go on training, then evaluate.

`python -m equipoise.sweep.job RUN` executes it; the exit code is one of `JobOutcome`.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

from equipoise.common.process import INTERRUPTED
from equipoise.sweep.children import StopRequest, end_stragglers, mark, signal_group, start
from equipoise.sweep.record import (
    CONFIG,
    JobRecord,
    LockedError,
    State,
    data_mark,
    evaluation,
    is_trained,
    locked,
    read_record,
)

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
ENDED_BY_US = {INTERRUPTED, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT}
NOISE = re.compile(r"ChildFailedError|CalledProcessError|SignalException")
REASON = re.compile(
    r"^(?:\[rank\d+\]:\s*)?(?:error: (.+)|((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)\b.*))$"
    r"|^\s*traceback\s*:\s*(Signal \d+ .*)$"
)


class JobOutcome(IntEnum):
    """How a job ended, as exit code."""

    FINISHED = 0
    FAILED = 1
    STOPPED = 75
    ELSEWHERE = 76


STATES: dict[JobOutcome, State] = {
    JobOutcome.FINISHED: "finished",
    JobOutcome.FAILED: "failed",
    JobOutcome.STOPPED: "stopped",
}


def run_job(folder: Path) -> JobOutcome:
    """Execute what is left of the run in `folder`, which holds job.json and job.yaml."""
    try:
        with locked(folder):
            end_stragglers(folder)
            return _Job(folder).run()
    except LockedError:
        return JobOutcome.ELSEWHERE


class _Job:
    """A run that this process holds."""

    def __init__(self, folder: Path) -> None:
        record = read_record(folder)
        assert record is not None, "a sweep writes job.json before it starts a job"
        self.folder, self.record = folder, record
        self.process: subprocess.Popen[bytes] | None = None

    def run(self) -> JobOutcome:
        """All steps that are left; a signal ends the current one, which saves what it can."""
        record, began = self.record, time.time()
        record.state, record.error, record.log = "running", None, None
        record.started, record.ended, record.attempts = began, None, record.attempts + 1
        record.data = record.data or data_mark(record.config["data"]["folder"])
        with StopRequest(self._hand_on) as stop:
            outcome = self._steps(stop)
        record.state = STATES[outcome]
        record.ended = time.time()
        record.seconds += record.ended - began
        record.write(self.folder)
        return outcome

    def _steps(self, stop: StopRequest) -> JobOutcome:
        for step, command in steps(self.folder, self.record):
            self.record.step = step
            self.record.write(self.folder)
            if stop.asked:
                return JobOutcome.STOPPED
            log = self.folder / f"{step}.log"
            before = log.stat().st_size if log.exists() else 0
            code = self._execute(command, log, stop)
            if stop.asked:
                return JobOutcome.FINISHED if self._complete() else JobOutcome.STOPPED
            if code in ENDED_BY_US:
                return JobOutcome.STOPPED
            if code:
                self.record.error, self.record.log = last_error(log, before, code), str(log)
                return JobOutcome.FAILED
            if step == "train" and not is_trained(self.folder):
                return JobOutcome.STOPPED  # a signal reached it from elsewhere: it has saved and ended well
        return JobOutcome.FINISHED

    def _complete(self) -> bool:
        return next(steps(self.folder, self.record), None) is None

    def _execute(self, command: list[str], log: Path, stop: StopRequest) -> int:
        with log.open("ab") as file:
            moment = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"# {moment} attempt {self.record.attempts}: {' '.join(command)}\n".encode())
            file.flush()
            self.process = start(command, environment(self.folder, self.record.threads), file)
            if stop.asked:  # the signal came while there was no process to hand it to
                self._hand_on(signal.SIGTERM)
            code = self.process.wait()
        signal_group(self.process, signal.SIGTERM)  # what a launcher that was killed leaves behind
        self.process = None
        return code

    def _hand_on(self, number: int) -> None:
        if self.process is not None:
            signal_group(self.process, number)


def steps(folder: Path, record: JobRecord) -> Iterator[tuple[str, list[str]]]:
    """What is left to do: the name of each step and its command."""
    launcher = [sys.executable, "-m"]
    if record.accelerate_file is not None:
        launcher += ["accelerate.commands.launch", "--config_file", record.accelerate_file]
        if int((record.accelerate or {}).get("num_machines", 1)) == 1:
            launcher += ["--main_process_port", "0"]  # a free one, so that runs do not meet
        launcher += ["-m"]
    if not is_trained(folder):
        resume = ["--resume"] if (folder / "config.yaml").exists() else []
        yield "train", [*launcher, "equipoise.launch.train", str(folder / CONFIG), *resume]
    for split in record.splits:
        if not evaluation(folder, split).exists():
            yield f"evaluate_{split}", [*launcher, "equipoise.launch.evaluate", str(folder), "--split", split]


def environment(folder: Path, threads: int) -> dict[str, str]:
    """Ours, with the run's mark and its share of the cores."""
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), **mark(folder)}


def last_error(log: Path, begin: int, code: int) -> str:
    """The line that tells why a command failed, in what it wrote to `log` after byte `begin`."""
    if code < 0:
        hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{hint}"
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - (1 << 20)))
        lines = file.read().decode(errors="replace").splitlines()[1:]
    for line in reversed(lines):
        match = REASON.match(line)
        if match and not NOISE.search(line):
            return next(reason for reason in match.groups() if reason)
    return next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}, without a word")


if __name__ == "__main__":
    sys.exit(run_job(Path(sys.argv[1])))
