"""Trainings of two processes are killed at random moments and resumed; they end as if nobody had touched them."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from benchmarks.soak_work import STEPS, Work
from equipoise.common.errors import UserError
from equipoise.train.checkpoint_files import checkpoints, read_state

ENGINES = ("cpu_ddp2", "cpu_zero2", "cpu_zero3", "cpu_fsdp2")
SECONDS = 600.0
PORTIONS = 8
"""A run has so many times the steps of the small one, so that a kill rarely comes after its end."""


@dataclass
class Killed:
    """What the kills of one engine gave."""

    kills: int = 0
    unusable: int = 0
    largest: float = 0.0


def _launch(work: Work, engine: str, output: Path, *more: str) -> subprocess.Popen[bytes]:
    settings = [f"output={output}", "train.batch_size=2", f"train.max_steps={STEPS * PORTIONS}", *more]
    launcher = [sys.executable, "-m", "equipoise.launch.cli", "launch", "--accelerate", engine, "train"]
    return subprocess.Popen(
        [*launcher, str(work.config), *settings],
        env={**os.environ, "TORCH_EXTENSIONS_DIR": str(work.folder / "extensions")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a training.

    Raises:
        RuntimeError: it failed.
    """
    printed = process.communicate(timeout=SECONDS)[0].decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"a training failed with {process.returncode}: {printed[-2000:]}")


def _kill_one(process: subprocess.Popen[bytes], output: Path, draw: random.Random) -> bool:
    """Kill launcher and ranks at once, some time after the training has begun; False where it had ended."""
    before = (output / "metrics.jsonl").stat().st_size if (output / "metrics.jsonl").exists() else 0
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if (output / "metrics.jsonl").exists() and (output / "metrics.jsonl").stat().st_size > before:
            break
        time.sleep(0.05)
    time.sleep(draw.uniform(0.0, 2.0))
    if process.poll() is not None:
        _finish(process)
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(1.0)  # ranks that have sessions of their own see that their launcher is gone
    return True


def _unusable(output: Path) -> int:
    count = 0
    for folder in checkpoints(output):
        try:
            read_state(folder)
        except UserError:
            count += 1
    return count


def kill_often(work: Work, engine: str, kills: int, draw: random.Random) -> Killed:
    """Kill and resume trainings of an engine until so many kills have hit; each end is compared with the whole run."""
    found, whole = Killed(), work.folder / f"whole-{engine}"
    _finish(_launch(work, engine, whole))
    expected = load_file(whole / "adapters" / "adapters.safetensors")
    while found.kills < kills:
        output = work.folder / f"killed-{engine}"
        shutil.rmtree(output, ignore_errors=True)
        more: tuple[str, ...] = ()
        for _ in range(min(kills - found.kills, 5)):
            process = _launch(work, engine, output, *more)
            more = ("--resume",)
            if not _kill_one(process, output, draw):
                break
            found.kills += 1
            found.unusable += _unusable(output)
            print(f"{engine}: kill {found.kills}, checkpoints {len(checkpoints(output))}", flush=True)
        else:
            _finish(_launch(work, engine, output, "--resume"))
        ended = load_file(output / "adapters" / "adapters.safetensors")
        assert set(ended) == set(expected), "a resumed run has other adapters"
        found.largest = max(found.largest, *(float((ended[n] - t).abs().max()) for n, t in expected.items()))
    return found
