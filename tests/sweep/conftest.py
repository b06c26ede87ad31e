"""Sweeps of runs whose training is a stand-in: a launcher that does in a second what a run leaves in its folder."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny_run import run_settings, write_config

ROOT = Path(__file__).resolve().parents[2]

# Runs as `python -m accelerate.commands.launch`: steps of 20 ms, a checkpoint when asked to stop, notes of every call.
LAUNCHER = """
import json, os, signal, sys, time
from pathlib import Path
import yaml

def note(folder, text):
    with (folder / "calls.txt").open("a") as file:
        file.write(text + "\\n")

command, arguments = sys.argv[sys.argv.index("-m") + 1], sys.argv[sys.argv.index("-m") + 2 :]
if command == "equipoise.launch.evaluate":
    folder, split = Path(arguments[0]), arguments[2]
    note(folder, f"evaluate {split}")
    (folder / f"evaluation_{split}.json").write_text("{}")
    sys.exit()
config = yaml.safe_load(Path(arguments[0]).read_text())
folder = Path(config["output"])
resume = "--resume" in arguments
note(folder, f"train resume={resume} threads={os.environ['OMP_NUM_THREADS']}")
(folder / "pid").write_text(str(os.getpid()))
(folder / "config.yaml").write_text(yaml.safe_dump(config))
if config["lora"]["rank"] == 13:
    print("a line before"); print("RuntimeError: thirteen brings bad luck"); print("a line after"); sys.exit(1)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
place = folder / "place.json"
step = json.loads(place.read_text()) if resume and place.exists() else 0
while step < config["train"]["max_steps"] and not asked:
    time.sleep(0.02)
    step += 1
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step}) + "\\n")
place.write_text(json.dumps(step))
finished = step == config["train"]["max_steps"]
(folder / "summary.json").write_text(json.dumps({"finished": finished, "steps": step}))
"""

# Tables are not read by the stand-in, so nothing is prepared.
DRIVER = """
import sys
import equipoise.launch.sweep as command
from equipoise.launch.cli import main
command.make_data = lambda runs: None
main(["sweep", *sys.argv[1:]])
"""


@dataclass
class StandInSweep:
    """A sweep file, and how to start it."""

    folder: Path
    file: Path
    environment: dict[str, str]

    @property
    def output(self) -> Path:
        """Where the run folders lie."""
        return self.folder / "sweep"

    def write(self, **settings: Any) -> None:
        """Write the sweep with these settings beside its name, base and output."""
        common = {"name": "tiny", "base": str(self.folder / "config.yaml"), "output": str(self.output)}
        launcher = {"accelerate": str(ROOT / "configs" / "accelerate" / "cpu.yaml"), "evaluate": {"split": "test"}}
        self.file.write_text(yaml.safe_dump({**common, **launcher, **settings}, sort_keys=False))

    def begin(self, *options: str) -> subprocess.Popen[str]:
        """Start `equipoise sweep` on it."""
        command = [sys.executable, "-c", DRIVER, str(self.file), *options]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, start_new_session=True, **pipes)

    def run(self, *options: str) -> tuple[int, str]:
        """Start it and wait; returns exit code and output."""
        process = self.begin(*options)
        printed = process.communicate(timeout=120)[0]
        return process.returncode, printed

    def calls(self, name: str) -> list[str]:
        """What the launcher was called for in a run."""
        path = self.output / name / "calls.txt"
        return path.read_text().splitlines() if path.exists() else []

    def record(self, name: str) -> dict[str, Any]:
        """The run's job.json."""
        return json.loads((self.output / name / "job.json").read_text())


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def sweep(tmp_path: Path) -> StandInSweep:
    """An empty sweep over the tiny run."""
    write_config(run_settings(tmp_path, max_steps=3), tmp_path / "config.yaml")
    package = tmp_path / "stand_in" / "accelerate" / "commands"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "launch.py").write_text(LAUNCHER)
    path = f"{tmp_path / 'stand_in'}:{ROOT}"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "SLURM_", "WORLD_"))}
    return StandInSweep(tmp_path, tmp_path / "sweep.yaml", {**kept, "PYTHONPATH": path})
