"""Jobs as processes of their own, forked from a server that has imported the heavy libraries once.

A process of a tiny job spends most of its time on imports. These start with them, and else alike: own process, own
arguments, own environment, exit code. What starts real processes (the `equipoise` command, `accelerate launch`, an
export's check) is tested with real ones where it is the subject, and at least once for DDP and for DeepSpeed.
"""

import argparse
import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

PRELOADED = [
    "equipoise.train.job",
    "equipoise.launch.cli",
    "datasets",
    "peft",
    "accelerate.commands.launch",
    "torch.distributed.run",
    "deepspeed",
]
LAUNCHER_VARIABLES = ("ACCELERATE_", "RANK", "WORLD_SIZE")
ROOT = Path(__file__).resolve().parents[1]
SECONDS_TO_STOP = 30.0  # what torch's own launcher leaves to the other ranks once one has failed


def run_forked(
    arguments: Sequence[str], timeout: float = 600, folder: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command line of `equipoise` (`["train", CONFIG, …]`) in `folder`, with changes to the environment."""
    return _fork(_equipoise, arguments, timeout, folder, environment)


def launch_forked(
    arguments: Sequence[str], timeout: float = 600, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `accelerate launch ARGUMENTS` with its own reading of the file and its variables, but with forked ranks."""
    return _fork(_accelerate, arguments, timeout, ROOT, environment)


class ForkedPython:
    """In place of the module `subprocess` where a benchmark starts `[sys.executable, "-m", MODULE, …]`: forks it."""

    PIPE, STDOUT = subprocess.PIPE, subprocess.STDOUT

    @staticmethod
    def run(command: Sequence[str], env: Mapping[str, str] = os.environ, **_: Any) -> subprocess.CompletedProcess[str]:
        """Like `subprocess.run(command, env=env, capture_output=True, text=True)`."""
        return _fork(_module, command[2:], 600, ROOT, dict(env))

    class Popen:
        """One process whose output is kept and read as a whole."""

        returncode: int | None = None

        def __init__(self, command: Sequence[str], **options: Any) -> None:
            self._thread = threading.Thread(target=self._run, args=(command, options))
            self._thread.start()

        def _run(self, command: Sequence[str], options: dict[str, Any]) -> None:
            self._done = ForkedPython.run(command, **options)

        def communicate(self, timeout: float) -> tuple[str, None]:
            """What it printed, once it has ended."""
            self._thread.join(timeout)
            self.returncode = self._done.returncode
            return self._done.stderr + self._done.stdout, None

        def kill(self) -> None:
            """Nothing: it has ended by itself or by its time limit."""


def forkserver() -> Any:
    """The context of processes that begin with what PRELOADED names."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # a server that runs already keeps what it has imported
    return context


def _fork(
    job: Callable[[list[str]], None], arguments: Sequence[str], timeout: float, folder: Path, changes: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    context = forkserver()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)}
    environment = {**inherited, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **changes}
    with tempfile.TemporaryDirectory() as printed_to:
        files = [Path(printed_to) / name for name in ("stdout", "stderr")]
        handed_over = (job, list(arguments), [str(file) for file in files], environment, str(folder))
        process = context.Process(target=_run, args=handed_over)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            os.killpg(process.pid or 0, signal.SIGKILL)  # with the ranks that it has forked
            process.join()
        printed = [file.read_text(errors="replace") if file.exists() else "" for file in files]
    return subprocess.CompletedProcess(arguments, process.exitcode or 0, *printed)


def _run(
    job: Callable[[list[str]], None], arguments: list[str], files: list[str], environment: dict[str, str], folder: str
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    try:
        job(arguments)
    finally:
        atexit._run_exitfuncs()  # which processes of multiprocessing leave out
        sys.stdout.flush()


def _equipoise(arguments: list[str]) -> None:
    from equipoise.launch.cli import main

    sys.argv = ["equipoise", *arguments]
    main(arguments)


def _module(arguments: list[str]) -> None:
    name = arguments[0]
    sys.argv = list(arguments)
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _accelerate(arguments: list[str]) -> None:
    import torch.distributed.run
    from accelerate.commands.launch import main

    torch.distributed.run.run = _fork_ranks
    sys.argv = ["accelerate", *arguments]
    main()


def _fork_ranks(launched: argparse.Namespace) -> None:
    """In place of torch's launcher: fork the ranks; once one fails, end the others and exit with 1, as it does."""
    size, nodes = int(launched.nproc_per_node), int(launched.nnodes.split(":")[0])  # 1:1 by default
    first = int(launched.node_rank) * size
    port = launched.master_port if nodes == 1 else launched.rdzv_endpoint.rpartition(":")[2]
    sys.stdout.flush()
    ranks = {}
    for rank in range(size):
        child = os.fork()
        if child == 0:
            known = {"RANK": first + rank, "LOCAL_RANK": rank, "WORLD_SIZE": nodes * size, "LOCAL_WORLD_SIZE": size}
            os.environ.update({name: str(value) for name, value in known.items()})
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            _end_with(lambda: _run_script(launched))
        ranks[child] = rank
    failed, deadline = False, float("inf")
    while ranks:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child in ranks:
            print(f"rank {ranks.pop(child)} ended with {os.waitstatus_to_exitcode(status)}", file=sys.stderr)
            if status and not failed:
                failed, deadline = True, time.monotonic() + SECONDS_TO_STOP
                for other in ranks:
                    os.kill(other, signal.SIGTERM)
        elif time.monotonic() > deadline:
            for other in ranks:
                os.kill(other, signal.SIGKILL)
        else:
            time.sleep(0.02)
    if failed:
        sys.exit(1)


def _run_script(launched: argparse.Namespace) -> None:
    sys.argv = [launched.training_script, *launched.training_script_args]
    run = runpy.run_module if launched.module else runpy.run_path
    run(launched.training_script, run_name="__main__", **({"alter_sys": True} if launched.module else {}))


def _end_with(work: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
