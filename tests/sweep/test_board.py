"""The live table of a running sweep."""

import json
import time
from pathlib import Path

import yaml
from rich.console import Console

from equipoise.sweep.board import Board
from equipoise.sweep.claim import make_ready
from equipoise.sweep.config import load_sweep
from equipoise.sweep.plan import make_plan
from equipoise.sweep.record import locked, read_record
from tests.tiny_run import run_settings, write_config


def test_terminal_shows_how_far_runs_are_and_what_failed(tmp_path: Path) -> None:
    base = write_config(run_settings(tmp_path), tmp_path / "config.yaml")
    settings = {"name": "tiny", "base": str(base), "output": str(tmp_path / "sweep"), "seeds": [1, 2, 3]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(settings))
    sweep = load_sweep(tmp_path / "sweep.yaml")
    plan = make_plan(sweep)
    states = [
        {"state": "running", "step": "train", "started": time.time() - 5},
        {"state": "failed", "error": "bad luck"},
        {},
    ]
    for run, changes in zip(plan, states, strict=True):
        make_ready(sweep, run)
        record = read_record(run.folder)
        assert record is not None
        vars(record).update(changes)
        record.write(run.folder)
    (plan[0].folder / "metrics.jsonl").write_text(json.dumps({"step": 4}) + "\n")
    console = Console(force_terminal=True, width=100, record=True)
    with locked(plan[0].folder), Board(console, "sweep tiny", plan) as board:
        board.refresh(force=True)
        console.print(board._picture())
    shown = console.export_text()
    assert "sweep tiny: 1 waiting, 1 running, 1 failed" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["seed-1", "running", "train", "step", "4", "of", "6", "5", "s"] in lines
    assert ["seed-2", "failed", "bad", "luck"] in lines
