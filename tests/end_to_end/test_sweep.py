"""A real sweep: killed in the middle of a run and started again, it repeats no finished run and resumes the other."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny_run import run_settings, write_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def begin(file: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "equipoise.launch.cli", "sweep", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)


def test_killed_sweep_finishes_at_the_second_start(tmp_path: Path) -> None:
    base = write_config(run_settings(tmp_path, max_steps=3, eval_requests=4), tmp_path / "config.yaml")
    runs = [
        {"name": "mgda", "balancing.method": "mgda"},
        {"name": "famo", "balancing.method": "famo", "train.max_steps": 30, "train.batch_size": 2},
    ]
    sweep = {"name": "tiny", "base": str(base), "output": str(tmp_path / "sweep"), "runs": runs}
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({**sweep, "threads": 1, "evaluate": {"split": "test"}}))
    metrics, folder = tmp_path / "sweep" / "famo" / "metrics.jsonl", tmp_path / "sweep"
    process = begin(file)
    end = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in (folder / "mgda").rglob("*") if path.is_file()}

    again = begin(file)
    printed = again.communicate(timeout=300)[0]
    assert again.returncode == 0, printed
    assert "2 of 2 runs finished, 0 failed, 0 to do" in printed
    after = {path: path.stat().st_mtime_ns for path in (folder / "mgda").rglob("*") if path.is_file()}
    after.pop(folder / "mgda" / "job.lock", None), before.pop(folder / "mgda" / "job.lock", None)
    assert after == before, "a finished run was touched"
    log = (folder / "famo" / "train.log").read_text()
    assert log.count(" attempt ") == 2 and "resumed from" in log, log
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 31))
    for name in ("mgda", "famo"):
        assert json.loads((folder / name / "job.json").read_text())["data"], "the data it was begun with is not told"
        config = yaml.safe_load((folder / name / "config.yaml").read_text())
        assert config["wandb"]["group"] == "tiny" and config["balancing"]["method"] == name
        report = json.loads((folder / name / "evaluation_test.json").read_text())
        assert report and (folder / name / "scores_test.parquet").exists()
    assert (tmp_path / "prepared" / "manifest.json").exists()
