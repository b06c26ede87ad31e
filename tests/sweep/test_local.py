"""A sweep on this machine: nothing is repeated, nothing is lost, and what failed is told."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from equipoise.common.errors import UserError
from equipoise.sweep.children import end_stragglers, mark
from equipoise.sweep.pool import share_devices
from equipoise.sweep.record import is_locked
from tests.sweep.conftest import StandInSweep, wait_for

LONG = 100_000


@pytest.mark.slow
def test_second_start_repeats_nothing_and_failed_runs_are_told(sweep: StandInSweep) -> None:
    sweep.write(grid={"lora.rank": [4, 13]}, seeds=[1, 2], parallel=2, threads=3)
    code, printed = sweep.run()
    assert code == 1, printed
    assert "2 of 4 runs finished, 2 failed, 0 to do" in printed
    log = sweep.output / "rank-13_seed-1" / "train.log"
    assert "failed: rank-13_seed-1: RuntimeError: thirteen brings bad luck" in printed and f"log: {log}" in printed
    assert "a line after" in log.read_text()
    done = ["train resume=False threads=3", "evaluate test"]
    assert sweep.calls("rank-4_seed-1") == sweep.calls("rank-4_seed-2") == done
    assert sweep.record("rank-4_seed-1")["state"] == "finished"

    code, printed = sweep.run()
    assert code == 1 and "2 failed" in printed
    assert sweep.calls("rank-4_seed-1") == done and len(sweep.calls("rank-13_seed-1")) == 1

    sweep.run("--retry-failed")
    assert sweep.calls("rank-4_seed-1") == done and len(sweep.calls("rank-13_seed-1")) == 2


@pytest.mark.slow
def test_new_split_is_evaluated_without_training(sweep: StandInSweep) -> None:
    sweep.write(seeds=[1])
    assert sweep.run()[0] == 0
    sweep.write(seeds=[1], evaluate={"split": ["test", "valid"]})
    assert sweep.run()[0] == 0
    assert [call.split(" threads")[0] for call in sweep.calls("seed-1")] == [
        "train resume=False", "evaluate test", "evaluate valid"
    ]  # fmt: skip


@pytest.mark.slow
def test_changed_settings_of_a_finished_run_are_refused(sweep: StandInSweep) -> None:
    sweep.write(seeds=[1])
    assert sweep.run()[0] == 0
    sweep.write(seeds=[1], settings={"train.lr": 0.5})
    code, printed = sweep.run()
    assert code == 2 and "train.lr: 0.001 then, 0.5 now" in printed and str(sweep.output / "seed-1") in printed
    sweep.write(seeds=[1], settings={"wandb.tags": ["other"]})  # what is told of a run is not the run
    assert sweep.run()[0] == 0 and len(sweep.calls("seed-1")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ended_sweep_goes_on_where_it_was(sweep: StandInSweep, number: signal.Signals) -> None:
    runs = [{"name": "short"}, {"name": "long", "train.max_steps": LONG}]
    sweep.write(runs=runs)
    process = sweep.begin()
    metrics = sweep.output / "long" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.stat().st_size)
    trainer = psutil.Process(int((sweep.output / "long" / "pid").read_text()))
    process.send_signal(number)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), printed
    # A sweep that was killed could not ask its runs to save: that its end does so is what is tested here.
    wait_for(lambda: not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE)
    wait_for(lambda: not is_locked(sweep.output / "long"))  # its job has written job.json for the last time
    reached = int((sweep.output / "long" / "place.json").read_text())
    assert 0 < reached < LONG
    if number != signal.SIGKILL:
        assert "1 of 2 runs are left" in printed and sweep.record("long")["state"] == "stopped"

    # The same run with an end that is near; its folder must believe that it was always so.
    for path in (sweep.output / "long" / "job.json", sweep.output / "long" / "job.yaml"):
        path.write_text(path.read_text().replace(str(LONG), str(reached + 2)))
    runs[1]["train.max_steps"] = reached + 2
    sweep.write(runs=runs)
    code, printed = sweep.run()
    assert code == 0, printed
    assert [call.split(" threads")[0] for call in sweep.calls("short")] == ["train resume=False", "evaluate test"]
    assert [call.split(" threads")[0] for call in sweep.calls("long")] == [
        "train resume=False", "train resume=True", "evaluate test"
    ]  # fmt: skip
    assert metrics.read_text().count("\n") == reached + 2  # it went on from its checkpoint, not from the beginning


@pytest.mark.slow
def test_two_sweeps_at_once_share_the_runs(sweep: StandInSweep) -> None:
    sweep.write(seeds=[1, 2, 3, 4], settings={"train.max_steps": 25})
    processes = [sweep.begin(), sweep.begin()]
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    for seed in (1, 2, 3, 4):
        assert len([call for call in sweep.calls(f"seed-{seed}") if call.startswith("train")]) == 1


def test_what_a_killed_job_left_running_is_ended_first(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
    environment = {**os.environ, **mark(tmp_path)}
    left = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    other = subprocess.Popen(command, env={**environment, **mark(tmp_path / "other")}, stdout=subprocess.PIPE)
    try:
        for process in (left, other):
            assert process.stdout is not None and process.stdout.readline()
        assert end_stragglers(tmp_path) == 1
        assert left.poll() is not None and other.poll() is None
    finally:
        left.kill()
        other.kill()


@pytest.mark.slow
def test_fault_of_the_job_itself_is_a_failed_run(sweep: StandInSweep) -> None:
    sweep.write(grid={"lora.rank": [4, 8]})
    assert sweep.run("--slurm")[0] == 0  # makes the folders
    (sweep.output / "rank-4" / "train.log").mkdir()
    code, printed = sweep.run()
    assert code == 1 and "1 of 2 runs finished, 1 failed" in printed
    assert "failed: rank-4: the job itself ended with exit code 1" in printed
    assert "IsADirectoryError" in (sweep.output / "rank-4" / "job.log").read_text()


def test_dry_run_and_collect_run_nothing(sweep: StandInSweep) -> None:
    sweep.write(grid={"lora.rank": [4, 8]})
    code, printed = sweep.run("--dry-run")
    assert code == 0 and "1  todo  rank-8  lora.rank=8" in printed and not sweep.output.exists()
    code, printed = sweep.run("--collect")
    assert code == 0 and "0 of 2 runs finished, 0 failed, 2 to do" in printed and not sweep.output.exists()


def test_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7,9")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in share_devices(2, 2)] == ["3,5", "6,7"]
    assert share_devices(None, 2) == [{}, {}]
    with pytest.raises(UserError, match="need 6 GPUs, and 5 are visible"):
        share_devices(2, 3)
