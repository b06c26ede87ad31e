"""The commands that a studio has started, as folders that outlive it: what runs, what was printed, how it ended."""

import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from equipoise.common.errors import UserError
from equipoise.launch.studio.job_process import write

COMMAND_LINE = [sys.executable, "-P", "-m", "equipoise.launch.cli"]
"""-P: a file of the workspace that is called like a module of Python's is not taken for it."""
NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
MOST_SHOWN = 60_000
"""Bytes of a job's output that are shown, the last ones."""
INHERITED_SECONDS = 20
"""A job without a process by then did not begin."""


@dataclass(frozen=True)
class Job:
    """A started command.

    Attributes:
        name: of its folder.
        command: such as `train`.
        words: the command as one writes it in a terminal.
        subject: the config or run that it is about, relative to the workspace.
        started: seconds since 1970.
        state: `running`, `done`, `failed`, `stopped` or `lost` (ended without saying how).
        code: its exit code, None while it runs or where it is lost.
    """

    name: str
    command: str
    words: str
    subject: str
    started: float
    state: str
    code: int | None


class Jobs:
    """The jobs of one workspace.

    Args:
        folder: of the jobs; made where it is missing.
        workspace: working folder of the commands.
    """

    def __init__(self, folder: Path, workspace: Path) -> None:
        self.folder, self.workspace = folder, workspace
        self.folder.mkdir(parents=True, exist_ok=True)
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, command: str, arguments: list[str], subject: str) -> Job:
        """Start `equipoise COMMAND ARGUMENTS…` in a session of its own.

        Raises:
            UserError: another job of the same subject is still running.
        """
        busy = next((job for job in self.all() if job.state == "running" and job.subject == subject), None)
        if busy is not None:
            raise UserError(f"{busy.words} is still running: wait for its end, or stop it")
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        folder = self.folder / name
        folder.mkdir()
        argv = [*COMMAND_LINE, command, *arguments]
        words = shlex.join(["equipoise", command, *arguments])
        record = {"command": command, "argv": argv, "words": words, "subject": subject, "started": time.time()}
        write(folder / "job.json", {**record, "workspace": str(self.workspace)})
        runner = [sys.executable, "-P", "-m", "equipoise.launch.studio.job_process", str(folder)]
        plain = {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "110", "PYTHONUNBUFFERED": "1"}
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        child = subprocess.Popen(runner, start_new_session=True, env=os.environ | plain, **silent)  # type: ignore[call-overload]
        self._children.append(child)
        return self.read(name)

    def all(self) -> list[Job]:
        """All jobs, the latest first."""
        self._children = [child for child in self._children if child.poll() is None]  # takes leave of those that ended
        names = sorted((path.name for path in self.folder.iterdir() if NAME.fullmatch(path.name)), reverse=True)
        return [self.read(name) for name in names if (self.folder / name / "job.json").is_file()]

    def read(self, name: str) -> Job:
        """One job.

        Raises:
            UserError: there is none of this name.
        """
        record = self._json(name, "job.json")
        if record is None:
            raise UserError(f"there is no job {name[:40]}: choose one of the list")
        result = self._json(name, "result.json")
        code = None if result is None else int(result["code"])
        if code is None:
            state = "running" if self._alive(name, record) else "lost"
        else:
            stopped = (self.folder / name / "stop").exists() and code != 0
            state = "done" if code == 0 else "stopped" if stopped else "failed"
        shown = {key: record[key] for key in ("command", "words", "subject", "started")}
        return Job(name, **shown, state=state, code=code)

    def output(self, name: str) -> str:
        """What a job has printed: its last lines, each as a terminal would show it in the end."""
        self.read(name)
        path = self.folder / name / "output.log"
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MOST_SHOWN))
            text = ESCAPES.sub("", file.read().decode("utf-8", "replace").replace("\r\n", "\n"))
        return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))

    def stop(self, name: str) -> None:
        """Ask a running job to end as Ctrl-C does: a training writes a checkpoint first.

        Raises:
            UserError: it is not running.
        """
        if self.read(name).state != "running":
            raise UserError(f"job {name} is not running: there is nothing to stop")
        process = self._json(name, "process.json")
        if process is None:
            raise UserError(f"job {name} has only begun: try again in a moment")
        (self.folder / name / "stop").touch()
        os.killpg(int(process["group"]), signal.SIGTERM)

    def _alive(self, name: str, record: dict[str, Any]) -> bool:
        process = self._json(name, "process.json")
        if process is None:
            return time.time() - record["started"] < INHERITED_SECONDS
        try:
            found = psutil.Process(int(process["pid"]))
            # A later process may have got the number: ours names the job among its arguments.
            return found.status() != psutil.STATUS_ZOMBIE and str(self.folder / name) in found.cmdline()
        except psutil.Error:
            return False

    def _json(self, name: str, file: str) -> dict[str, Any] | None:
        if not NAME.fullmatch(name):
            return None
        try:
            return json.loads((self.folder / name / file).read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder / name / file} cannot be read: remove the folder {name}") from error
