"""The `wandb sync` lines at the end of a sweep: for what is offline and not sent yet."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from equipoise.launch.sweep import run_sweep as sweep_run
from equipoise.sweep.after import MOST_LINES, sync_lines
from equipoise.sweep.claim import make_ready
from equipoise.sweep.options import SweepOptions
from tests.sweep.test_after import plan_of


def offline(run: Path, *folders: str) -> list[Path]:
    """Offline W&B folders in a run folder, as the client leaves them."""
    made = []
    for name in folders:
        folder = run / "wandb" / f"offline-run-{name}"
        folder.mkdir(parents=True)
        (folder / f"run-{name.rpartition('-')[2]}.wandb").touch()
        made.append(folder)
    return made


def plan(folder: Path, seeds: int, mode: str = "offline") -> Any:
    return plan_of(folder, seeds=list(range(1, seeds + 1)), settings={"wandb.mode": mode})


def test_one_line_per_run_without_what_is_sent(tmp_path: Path) -> None:
    sweep, runs = plan(tmp_path / "a folder", 3)
    evaluated, trained = offline(runs[0].folder, "20260102_000000-a", "20260101_000000-a")
    sent, later = offline(runs[1].folder, "20260101_000000-b", "20260102_000000-b")
    (sent / "run-b.wandb.synced").touch()
    (runs[2].folder / "wandb" / "offline-run-20260101_000000-c").mkdir(parents=True)  # killed before its first record
    lines = [shlex.split(line) for line in sync_lines(sweep.output, runs)]
    assert lines == [["wandb", "sync", str(trained), str(evaluated)], ["wandb", "sync", str(later)]]


def test_many_runs_get_one_line(tmp_path: Path) -> None:
    sweep, runs = plan(tmp_path, MOST_LINES + 1)
    for run in runs:
        offline(run.folder, "20260101_000000-a")
    assert sync_lines(sweep.output, runs) == [f"wandb sync --skip-synced {sweep.output}/*/wandb/offline-run-*"]


def test_runs_that_are_not_offline_are_not_told(tmp_path: Path) -> None:
    sweep, runs = plan(tmp_path, 1, mode="online")
    offline(runs[0].folder, "20260101_000000-a")  # of an earlier start
    assert sync_lines(sweep.output, runs) == []


def test_the_end_of_a_sweep_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep, runs = plan(tmp_path, 2)
    make_ready(sweep, runs[1])
    (folder,) = offline(runs[1].folder, "20260101_000000-a")
    sweep_run(tmp_path / "sweep.yaml", SweepOptions(collect=True))
    printed = capsys.readouterr().out
    assert printed.endswith(f"W&B was offline; send the runs with:\n  wandb sync {folder}\n")
