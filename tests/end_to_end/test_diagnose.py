"""`equipoise diagnose` on a tiny run: what it prints, what it draws, and what it refuses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked_job import run_forked
from tests.tiny_run import run_settings, write_config

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def equipoise(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, on a terminal of 80 columns."""
    return run_forked(arguments, COLUMNS="80")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished tiny run of four objectives with probes, and what training printed."""
    folder = tmp_path_factory.mktemp("diagnose")
    settings = run_settings(folder)
    settings["balancing"] = {"method": "pcgrad", "probe_every": 3}
    config = str(write_config(settings, folder / "config.yaml"))
    for command in ("prepare", "train"):
        done = equipoise(command, config)
        assert done.returncode == 0, done.stdout + done.stderr
    return Path(settings["output"]), done.stdout


def test_training_ends_with_a_picture(trained: tuple[Path, str]) -> None:
    run, printed = trained
    assert f"balancing: {run / 'balance.png'}" in printed and f"equipoise diagnose {run}" in printed
    assert (run / "balance.png").read_bytes().startswith(b"\x89PNG")


def test_diagnose_tells_pairs_objectives_and_a_conclusion(trained: tuple[Path, str]) -> None:
    run, _ = trained
    (run / "balance.png").unlink()
    done = equipoise("diagnose", str(run))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any("over 6 steps" in line for line in lines)
    names = ("ctr", "cvr", "diversity", "fairness")
    for j in range(4):
        for i in range(j):
            row = next(line for line in lines if line.strip().startswith(f"{names[i]} – {names[j]} "))
            assert "…" not in row and row.count("%") == 1 and "(" in row  # uncut; conflicts; the lowest layer
    for name in names:
        row = next(line for line in lines if line.split()[:1] == [name] and "–" not in line.split()[1:2])
        assert "…" not in row and row.count("%") == 4
    assert any(line.startswith("The step ") and line.endswith(".") for line in lines)
    assert f"picture: {run / 'balance.png'}" in lines
    assert (run / "balance.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_diagnosed_is_refused(trained: tuple[Path, str], tmp_path: Path) -> None:
    run, _ = trained
    shutil.copy(run / "config.yaml", tmp_path / "config.yaml")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/lr": 0.1}\n')
    for folder, words in ((tmp_path, "no balance records"), (tmp_path / "none", "holds no run")):
        done = equipoise("diagnose", str(folder))
        assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
        assert words in done.stderr
        assert not (folder / "balance.png").exists()


def test_a_picture_that_cannot_be_drawn_does_not_fail_the_run(trained: tuple[Path, str], tmp_path: Path) -> None:
    run, _ = trained
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no fonts here')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    output = tmp_path / "run"
    config = str(run.parent / "config.yaml")
    command = [sys.executable, "-m", "equipoise.launch.cli", "train", config, f"output={output}", "train.max_steps=2"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: balance.png is not drawn (ImportError: no fonts here)" in done.stdout
    assert f"equipoise diagnose {output}" in done.stdout
    assert (output / "summary.json").exists() and not (output / "balance.png").exists()
