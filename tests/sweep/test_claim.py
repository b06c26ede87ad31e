"""What the folders of runs say, and the settings that data is prepared with."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from equipoise.common.errors import UserError
from equipoise.sweep.claim import Claim, claim, make_ready
from equipoise.sweep.config import SweepConfig, load_sweep
from equipoise.sweep.data_once import check_folders, make_data
from equipoise.sweep.job import last_error
from equipoise.sweep.plan import PlannedRun, make_plan
from equipoise.sweep.record import JobRecord, data_mark, last_step, locked, read_record
from tests.tiny_run import run_settings, write_config


def plan_of(folder: Path, **settings: Any) -> tuple[SweepConfig, list[PlannedRun]]:
    base = write_config(run_settings(folder), folder / "config.yaml")
    common = {"name": "tiny", "base": str(base), "output": str(folder / "sweep"), "seeds": [1]}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**common, **settings}, sort_keys=False))
    sweep = load_sweep(folder / "sweep.yaml")
    return sweep, make_plan(sweep)


def leave(run: PlannedRun, **changes: Any) -> JobRecord:
    """Let the folder say that the run is in another state."""
    record = read_record(run.folder)
    assert record is not None
    vars(record).update(changes)
    record.write(run.folder)
    return record


def names(claimed: Claim) -> dict[str, int]:
    return {state: len(runs) for state, runs in vars(claimed).items() if runs}


def test_states_decide_what_is_done(tmp_path: Path) -> None:
    sweep, plan = plan_of(tmp_path)
    run = plan[0]
    assert names(claim(sweep, plan)) == {"todo": 1}
    make_ready(sweep, run)
    leave(run, state="failed", error="x", attempts=2, seconds=3.0)
    assert names(claim(sweep, plan)) == {"failed": 1}
    assert names(claim(sweep, plan, retry_failed=True)) == {"todo": 1}
    (run.folder / "summary.json").write_text(json.dumps({"finished": True}))
    leave(run, state="finished", error=None)
    assert names(claim(sweep, plan)) == {"finished": 1}
    (run.folder / "summary.json").write_text(json.dumps({"finished": False}))
    leave(run, state="running")  # and no process holds it: it was killed
    record = read_record(run.folder)
    assert record is not None and record.state == "stopped"
    assert names(claim(sweep, plan)) == {"todo": 1}
    with locked(run.folder):
        record = read_record(run.folder)
        assert record is not None and record.state == "running"
        before = (run.folder / "job.json").read_bytes()
        make_ready(sweep, run)
        assert (run.folder / "job.json").read_bytes() == before, "a run that is executed elsewhere was touched"
    make_ready(sweep, run)
    record = read_record(run.folder)
    assert record is not None and (record.attempts, record.seconds, record.state) == (2, 3.0, "stopped")


def test_changed_settings_need_a_failed_run_or_another_name(tmp_path: Path) -> None:
    sweep, plan = plan_of(tmp_path)
    make_ready(sweep, plan[0])
    (plan[0].folder / "config.yaml").touch()
    (plan[0].folder / "checkpoints").mkdir()
    leave(plan[0], state="stopped")
    other, changed = plan_of(tmp_path, settings={"balancing.method": "pcgrad"})
    with pytest.raises(UserError, match=r"stopped run of other settings \(balancing\.method: mgda then, pcgrad now\)"):
        claim(other, changed)
    launched, same = plan_of(tmp_path, accelerate="configs/accelerate/cpu_ddp2.yaml")
    with pytest.raises(UserError, match=r"accelerate\.\w+: absent then"):
        claim(launched, same)
    leave(plan[0], state="failed")
    assert names(claim(other, changed, retry_failed=True)) == {"todo": 1}
    make_ready(other, changed[0])
    left = {path.name for path in changed[0].folder.iterdir()}
    assert left == {"job.json", "job.yaml", "job.lock"}  # nothing of the other settings is resumed
    record = read_record(changed[0].folder)
    assert record is not None and record.state == "waiting" and record.config["balancing"]["method"] == "pcgrad"


def test_prepared_data_that_has_changed_since_is_another_run(tmp_path: Path) -> None:
    sweep, plan = plan_of(tmp_path)
    folder = plan[0].config.data.folder
    make_ready(sweep, plan[0])
    leave(plan[0], state="stopped", data=data_mark(folder))  # nothing is prepared yet
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"hashes": {"a": "1"}, "created": "today"}))
    assert names(claim(sweep, plan)) == {"todo": 1}
    leave(plan[0], data=data_mark(folder))
    (folder / "manifest.json").write_text(json.dumps({"hashes": {"a": "1"}, "created": "tomorrow"}))
    assert names(claim(sweep, plan)) == {"todo": 1}
    (folder / "manifest.json").write_text(json.dumps({"hashes": {"a": "2"}, "created": "today"}))
    with pytest.raises(UserError, match=r"the files in data\.folder \S+ have changed since"):
        claim(sweep, plan)


def test_settings_that_came_later_change_nothing_at_their_defaults(tmp_path: Path) -> None:
    sweep, plan = plan_of(tmp_path)
    make_ready(sweep, plan[0])
    record = leave(plan[0], state="stopped")
    del record.config["train"]["head_lr"]
    record.write(plan[0].folder)
    assert names(claim(sweep, plan)) == {"todo": 1}
    record.config["train"]["lr"] = 0.25
    record.write(plan[0].folder)
    with pytest.raises(UserError, match=r"train\.lr: 0\.25 then"):
        claim(sweep, plan)


def test_folder_of_a_sweep_killed_at_its_start_is_taken(tmp_path: Path) -> None:
    sweep, plan = plan_of(tmp_path)
    plan[0].folder.mkdir(parents=True)
    for name in ("job.lock", "job.yaml", ".job.json.12.partial"):
        (plan[0].folder / name).touch()
    assert names(claim(sweep, plan)) == {"todo": 1}


def test_run_that_another_sweep_makes_ready_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, plan = plan_of(tmp_path)

    def then_another_sweep_comes(folder: Path) -> JobRecord | None:
        found = read_record(folder)
        make_ready(sweep, plan[0])
        (folder / "train.log").touch()
        return found

    monkeypatch.setattr("equipoise.sweep.claim.read_record", then_another_sweep_comes)
    assert names(claim(sweep, plan)) == {"todo": 1}


def test_a_failed_run_of_other_settings_is_emptied_and_its_record_goes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, plan = plan_of(tmp_path)
    make_ready(sweep, plan[0])
    record = leave(plan[0], state="failed")
    record.config["train"]["lr"] = 0.25
    record.write(plan[0].folder)
    (plan[0].folder / "train.log").touch()
    removed: list[str] = []
    unlink = Path.unlink
    monkeypatch.setattr(
        Path, "unlink", lambda path, *rest, **more: (removed.append(path.name), unlink(path, *rest, **more))
    )
    make_ready(sweep, plan[0])
    assert set(removed) >= {"train.log", "job.yaml"} and removed.index("job.json") == 2
    found = read_record(plan[0].folder)
    assert found is not None and found.state == "waiting" and found.config["train"]["lr"] != 0.25


def test_foreign_and_damaged_folders_are_refused(tmp_path: Path) -> None:
    sweep, plan = plan_of(tmp_path)
    plan[0].folder.mkdir(parents=True)
    (plan[0].folder / "thesis.txt").touch()
    with pytest.raises(UserError, match="is there already, but no run of a sweep"):
        claim(sweep, plan)
    (plan[0].folder / "job.json").write_text("{")
    with pytest.raises(UserError, match=r"job\.json cannot be read"):
        claim(sweep, plan)
    sweep, plan = plan_of(tmp_path, accelerate="missing.yaml", seeds=[2])
    with pytest.raises(UserError, match=r"accelerate: missing\.yaml cannot be read"):
        claim(sweep, plan)


def test_cores_are_shared_among_runs_and_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    sweep, plan = plan_of(tmp_path, accelerate="configs/accelerate/cpu_ddp2.yaml")
    make_ready(sweep, plan[0], parallel=3)
    record = read_record(plan[0].folder)
    assert record is not None and record.threads == 2  # 12 cores, 3 runs, 2 processes


def test_runs_that_share_a_folder_must_share_its_settings(tmp_path: Path) -> None:
    _, plan = plan_of(tmp_path, grid={"data.history.max_events": [2, 4]})
    with pytest.raises(UserError, match=r"differ in data\.\* but share data\.folder"):
        check_folders(plan)
    sets = {n: {"data.history.max_events": n, "data.folder": str(tmp_path / f"prepared-{n}")} for n in (2, 4)}
    _, plan = plan_of(tmp_path, grid={"history": {f"h{n}": values for n, values in sets.items()}})
    check_folders(plan)
    folder = tmp_path / "prepared-4"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"history": {"max_events": 12, "order": "recent"}}))
    with pytest.raises(UserError, match=r"prepared with another data\.history\.max_events"):
        check_folders(plan)
    (folder / "manifest.json").write_text(
        json.dumps({"features": {"price": {"scale": "log", "mean": 0.0, "std": 1.0, "least": 1.0, "most": 2.0}}})
    )
    with pytest.raises(UserError, match=r"prepared with another data\.features"):
        check_folders(plan)


def test_data_is_made_once_for_each_way_to_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    class Done:
        returncode = 0

    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command) or Done)
    _, plan = plan_of(tmp_path, grid={"tokens.max_prefix": [32, 48], "train.lr": [0.1, 0.2, 0.3]})
    make_data(plan)
    assert [arguments[3:] for arguments in commands] == [[str(plan[n].folder / "job.yaml") for n in (0, 3)]]


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("x\nerror: lr is odd: lower it\ntorch.distributed.ChildFailedError: \n====\n", "lr is odd: lower it"),
        ("Traceback …\n  File x\n[rank1]: torch.OutOfMemoryError: none\nbye", "torch.OutOfMemoryError: none"),
        ("W12 x\n  exitcode : -9\n  traceback : Signal 9 (SIGKILL) by PID 2\n=", "Signal 9 (SIGKILL) by PID 2"),
        ("the last word\n\n", "the last word"),
        ("", "exit code 3, without a word"),
    ],
)  # fmt: skip
def test_last_error_tells_why(printed: str, reason: str, tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    before = "# first attempt\nValueError: of an earlier attempt\n"
    log.write_text(f"{before}# second attempt\n{printed}")
    assert last_error(log, len(before.encode()), 3) == reason
    assert last_error(log, 0, -9) == "killed by SIGKILL, perhaps for want of memory"


def test_last_step_passes_over_a_line_that_is_being_written(tmp_path: Path) -> None:
    assert last_step(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text('{"step": 3}\n{"step": 4}\n{"st')
    assert last_step(tmp_path) == 4
