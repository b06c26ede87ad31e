"""`equipoise …` as a process of its own, forked from a server that has imported the heavy libraries once.

A process of `equipoise` spends most of a tiny job on imports. This one starts with them, and else alike: own process,
own arguments, own environment, exit code. What the launchers themselves do is tested with real ones.
"""

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HEAVY = ["equipoise.train.job", "equipoise.launch.cli", "datasets", "peft", "accelerate"]
LAUNCHERS = ("ACCELERATE_", "RANK", "WORLD_SIZE")
ROOT = Path(__file__).resolve().parents[1]


def run_forked(
    arguments: Sequence[str], timeout: float = 600, folder: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command line (`["train", CONFIG, …]`) in `folder`, by default the root, with changes to the environment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)  # a server that runs already keeps what it has imported
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    told = {**inherited, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment}
    with tempfile.TemporaryDirectory() as printed_to:
        files = [Path(printed_to) / name for name in ("stdout", "stderr")]
        process = context.Process(target=_run, args=(list(arguments), [str(file) for file in files], told, str(folder)))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
        printed = [file.read_text(errors="replace") if file.exists() else "" for file in files]
    return subprocess.CompletedProcess(arguments, process.exitcode or 0, *printed)


def _run(arguments: list[str], files: list[str], environment: dict[str, str], folder: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    from equipoise.launch.cli import main

    sys.argv = ["equipoise", *arguments]
    try:
        main(arguments)
    finally:
        atexit._run_exitfuncs()  # which processes of multiprocessing leave out
        sys.stdout.flush()
