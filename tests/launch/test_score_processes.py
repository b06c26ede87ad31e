"""`equipoise score` in processes of its own: killed without warning, and two at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.forked_job import launch_forked, run_forked

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "RANK", "WORLD_SIZE"))},
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
}

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


def run(command: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    if command is ALONE:
        return run_forked(["score", *map(str, arguments)], COLUMNS="200")
    if command is FORKED_TWO:
        return launch_forked([*command, *map(str, arguments)], COLUMNS="200")
    whole = [*command, *map(str, arguments)]
    return subprocess.run(whole, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


ALONE = [sys.executable, "-m", "equipoise.launch.cli", "score"]
FORKED_TWO = ["--main_process_port", "0", "--config_file", "configs/accelerate/cpu_ddp2.yaml",
              "-m", "equipoise.launch.score"]  # fmt: skip
TWO = [sys.executable, "-m", "accelerate.commands.launch", *FORKED_TWO]


@pytest.fixture(scope="module")
def alone(scoreable: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process writes, five requests per part."""
    out = tmp_path_factory.mktemp("alone") / "out"
    done = run(ALONE, scoreable.run, scoreable.slates, out, "--block", 5)
    assert done.returncode == 0, done.stderr
    assert "scored 41 requests, 328 impressions" in done.stdout
    return out


def test_killed_in_the_middle_and_called_again(scoreable: Any, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(value) for value in (scoreable.run, scoreable.slates, out, "--block", 5)]
    process = subprocess.Popen([*ALONE, *arguments], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 200
        while not (out / "scores-00001.parquet").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    left = {path.name for path in out.glob("scores-*")}
    assert {"scores-00000.parquet", "scores-00001.parquet"} <= left < {path.name for path in alone.glob("scores-*")}
    done = run(ALONE, *arguments)
    assert done.returncode == 0, done.stderr
    assert f"{5 * len(left)} requests and {40 * len(left)} impressions were there already" in done.stdout
    assert contents(out) == contents(alone)


def test_two_processes_write_what_one_writes(scoreable: Any, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(TWO, scoreable.run, scoreable.slates, out, "--block", 5)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("scored 41 requests, 328 impressions") == 1
    assert list(contents(out)) == list(contents(alone))
    assert (out / "score.json").read_bytes() == (alone / "score.json").read_bytes()
    for path in sorted(alone.glob("scores-*")):
        mine, theirs = pq.read_table(out / path.name), pq.read_table(path)
        assert mine.schema.equals(theirs.schema)
        for name in mine.column_names:
            left, right = mine.column(name), theirs.column(name)
            if str(left.type) == "float":
                np.testing.assert_allclose(left.to_numpy(), right.to_numpy(), atol=1e-5, rtol=0)
            else:
                assert left.equals(right)
    again = run(FORKED_TWO, scoreable.run, scoreable.slates, out, "--block", 5)
    assert again.returncode == 0 and "all 41 requests are scored already" in again.stdout


def test_two_processes_share_what_is_left(scoreable: Any, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, content in contents(alone).items():
        if name not in ("scores-00002.parquet", "scores-00004.parquet", "scores-00008.parquet"):
            (out / name).write_bytes(content)
    done = run(FORKED_TWO, scoreable.run, scoreable.slates, out, "--block", 5)
    assert done.returncode == 0, done.stderr
    assert "scored 11 requests" in done.stdout and "30 requests" in done.stdout
    assert list(contents(out)) == list(contents(alone))


def test_a_broken_request_ends_all_processes(scoreable: Any, tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> None:
        row |= {"item_id": ["i99"], "seen_before": [1]}

    raw = scoreable.write_raw(tmp_path / "raw.parquet", change)  # row 2: the block of the second process
    done = run(FORKED_TWO, scoreable.run, raw, tmp_path / "out", "--block", 2)
    assert done.returncode != 0
    assert "asks for item 'i99'" in done.stderr
    assert not (tmp_path / "out" / "scores-00001.parquet").exists()
