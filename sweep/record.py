"""What a sweep keeps in each run folder: job.json (state and settings), job.yaml (the config to run) and a lock.

Nothing heavy is imported here: every running job has a process that reads this.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from equipoise.common.atomic import atomic_write
from equipoise.common.errors import UserError
from equipoise.common.file_lock import Held, hold
from equipoise.sweep.plan import digest

RECORD, CONFIG, LOCK = "job.json", "job.yaml", "job.lock"
State = Literal["waiting", "running", "stopped", "failed", "finished"]


@dataclass
class JobRecord:
    """A run of a sweep as it stands.

    Attributes:
        state: `running` is what a killed one leaves too; `read_record` tells them apart.
        config: the resolved configuration, as JSON.
        accelerate: the settings of the launcher's config file, or null for one plain process.
        accelerate_file: where they lie.
        data: which prepared data it was begun with; see `data_mark`.
        threads: of each process.
        splits: to evaluate on.
        step: what is, or was last, executed: `train`, `evaluate_test`, …
        attempts: how often it was started.
        seconds: of all attempts together, the running one not included.
        started, ended: of the last attempt, seconds since 1970.
        error, log: of a failed run: the last line that tells why, and where to read more.
    """

    name: str
    config: dict[str, Any]
    accelerate: dict[str, Any] | None = None
    accelerate_file: str | None = None
    data: str | None = None
    threads: int = 1
    splits: list[str] = field(default_factory=list)
    state: State = "waiting"
    step: str | None = None
    attempts: int = 0
    seconds: float = 0.0
    started: float | None = None
    ended: float | None = None
    error: str | None = None
    log: str | None = None

    def write(self, folder: Path) -> None:
        """Write job.json, whole or not at all."""
        with atomic_write(folder / RECORD) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(folder: Path) -> JobRecord | None:
    """The record in a run folder; None where there is none. A running one whose process is gone reads `stopped`.

    Raises:
        UserError: job.json is damaged.
    """
    path = folder / RECORD
    try:
        record = JobRecord(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: remove {folder} to run it anew") from error
    if record.state == "running" and not is_locked(folder):
        record.state = "stopped"
    return record


def data_mark(folder: str | Path) -> str | None:
    """A hash of the files of a prepared folder, as its manifest tells them; None where it is not prepared yet."""
    try:
        hashes = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))["hashes"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return digest(hashes)


class LockedError(Exception):
    """Another process executes this run."""


@contextmanager
def locked(folder: Path, tries: int = 10) -> Iterator[None]:
    """Hold the run for this process, however it ends.

    Raises:
        LockedError: another process holds it.
    """
    for again in reversed(range(tries)):
        try:
            handle = hold(folder / LOCK)
            break
        except Held as error:
            if not again:
                raise LockedError(str(folder)) from error
            time.sleep(0.1)
    with handle:
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process executes this run now."""
    if not (folder / LOCK).exists():
        return False
    try:
        with locked(folder, tries=1):
            return False
    except LockedError:
        return True


def is_trained(folder: Path) -> bool:
    """Whether the run's training has ended well."""
    try:
        return bool(json.loads((folder / "summary.json").read_text())["finished"])
    except (FileNotFoundError, ValueError, KeyError):
        return False


def evaluation(folder: Path, split: str) -> Path:
    """The evaluation of a split, which appears when it is complete."""
    return folder / f"evaluation_{split}.json"


def last_step(folder: Path) -> int | None:
    """The last optimizer step that the run has logged, from the end of its metrics."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue  # a line that is being written, or is cut off at the front
    return None
