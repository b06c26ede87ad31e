"""A job that is asked to stop saves and says how to go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


def wait_for_steps(process: subprocess.Popen[Any], run: Path, seconds: float) -> None:
    """Wait until a job has logged steps; fails where it ends before, or takes longer."""
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + seconds
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)


@pytest.mark.parametrize("engine", [None, "cpu_ddp2"])
def test_sigterm_saves_and_resume_finishes(engine: str | None, launch: Any, tiny_config: Path, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    run = tmp_path / "run"
    settings = [f"output={run}", "train.max_steps=400", "train.batch_size=2", "train.log_every=5"]
    command = [sys.executable, "-m", "equipoise.launch.train", str(tiny_config), *settings]
    if engine:
        file = str(root / "configs" / "accelerate" / f"{engine}.yaml")
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file]
        command = [*launcher, "--main_process_port", "0", "-m", *command[2:]]
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    wait_for_steps(process, run, 120)
    os.killpg(process.pid, signal.SIGTERM)
    printed = process.communicate(timeout=120)[0].decode()
    assert list((run / "checkpoints").glob("step-*[0-9]")), printed
    assert "--resume" in printed
    again = launch(engine, run, *settings[1:], "train.max_steps=60", "--resume")
    # The stop came at an unknown step: whatever it was, the resumed job starts there and ends whole.
    assert again.code == 0, again.printed
    assert (run / "adapters" / "adapters.safetensors").exists()


def test_run_hands_a_signal_on_to_its_processes(tiny_config: Path, tmp_path: Path) -> None:
    root, run = Path(__file__).resolve().parents[2], tmp_path / "shop"
    config = tmp_path / "shop.yaml"  # beside the run folder, and named as it
    config.write_bytes(tiny_config.read_bytes())
    settings = [f"output={run}", f"data.folder={tmp_path / 'prepared'}", "train.max_steps=4000", "train.log_every=5"]
    command = [sys.executable, "-m", "equipoise.launch.cli", "run", str(config), *settings, "--accelerate", "cpu_ddp2"]
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for_steps(process, run, 180)
    process.terminate()  # to this process alone, as a scheduler's
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 75, printed
    assert "the same command goes on" in printed and list((run / "checkpoints").glob("step-*[0-9]"))
    assert config.read_bytes() == tiny_config.read_bytes()
