"""What the studio answers, refuses and remembers, without a browser."""

import json
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from equipoise.common.errors import UserError
from equipoise.launch.studio.commands import Start, arguments
from equipoise.launch.studio.draft import proposed
from equipoise.launch.studio.jobs import Jobs
from equipoise.launch.studio.workspace import OWN, Workspace
from tests.evaluation.run_page.conftest import front


def wait_for(jobs: Jobs, name: str, *states: str) -> None:
    """Until a job is in one of these states."""
    end = time.monotonic() + 60
    while jobs.read(name).state not in states:
        assert time.monotonic() < end, jobs.read(name)
        time.sleep(0.05)


@pytest.fixture
def slow_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """Jobs whose command is a script that prints, and ends with 75 where it is asked to."""
    script = tmp_path / "command.py"
    script.write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "print('\\x1b[1mbar 1\\rbar 2\\x1b[0m', flush=True)\n"
        "time.sleep(float(sys.argv[-1]))\n"
    )
    monkeypatch.setattr("equipoise.launch.studio.jobs.COMMAND_LINE", [sys.executable, str(script)])
    return Jobs(tmp_path / "jobs", tmp_path)


def test_a_job_outlives_the_studio_and_tells_how_it_ended(slow_jobs: Jobs, tmp_path: Path) -> None:
    job = slow_jobs.start("train", ["1"], "runs/a")
    assert job.words == "equipoise train 1"
    wait_for(slow_jobs, job.name, "running")
    with pytest.raises(UserError, match="still running"):
        slow_jobs.start("train", ["1"], "runs/a")
    later = Jobs(tmp_path / "jobs", tmp_path)  # a studio that was started again
    assert later.read(job.name).state == "running"
    wait_for(later, job.name, "done")
    assert later.read(job.name).code == 0 and later.output(job.name) == "bar 2\n"


def test_a_job_is_stopped_as_by_a_signal(slow_jobs: Jobs) -> None:
    job = slow_jobs.start("train", ["100"], "runs/a")
    end = time.monotonic() + 60
    while "bar" not in slow_jobs.output(job.name):
        assert time.monotonic() < end
        time.sleep(0.05)
    slow_jobs.stop(job.name)
    wait_for(slow_jobs, job.name, "stopped")
    assert slow_jobs.read(job.name).code == 75
    with pytest.raises(UserError, match="not running"):
        slow_jobs.stop(job.name)


def test_a_job_that_was_killed_is_lost_and_not_running_for_ever(slow_jobs: Jobs, tmp_path: Path) -> None:
    job = slow_jobs.start("train", ["100"], "runs/a")
    end = time.monotonic() + 60
    while "bar" not in slow_jobs.output(job.name):
        assert time.monotonic() < end
        time.sleep(0.05)
    process = json.loads((tmp_path / "jobs" / job.name / "process.json").read_text())
    os.killpg(process["group"], 9)
    wait_for(slow_jobs, job.name, "lost")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"command": "validate", "config": "../x.yaml"}, "no name of a config"),
        ({"command": "validate", "config": "--help.yaml"}, "no name of a config"),
        ({"command": "validate", "config": "absent.yaml"}, "save it first"),
        ({"command": "evaluate", "run": "../outside"}, "there is no run"),
        ({"command": "evaluate", "config": "a.yaml"}, "needs a run"),
        ({"command": "prepare", "run": "runs/a"}, "needs a config"),
        ({"command": "compare", "runs": ["runs/a"]}, "two runs"),
        ({"command": "front", "run": "runs/a", "at_least": {"ild": 0.5}}, "no front yet"),
    ],
)
def test_names_lead_nowhere_else(tmp_path: Path, asked: dict[str, Any], sentence: str) -> None:
    run = tmp_path / "shop" / "runs" / "a"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("name: a\n")
    with pytest.raises(UserError, match=sentence):
        arguments(Start(**asked), Workspace(tmp_path / "shop"))


def test_a_point_of_the_front_is_chosen_by_its_own_bounds(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("name: a\n")
    (run / "front.json").write_text(json.dumps(front() | {"grid": {"omega": {"diversity": [0, 0.5]}}}))
    given, subject = arguments(Start(command="front", run="runs/a", at_least={"ild": 0.72}), Workspace(tmp_path))
    assert subject == "runs/a"
    assert given[:3] == ["runs/a", "--where", "ild>=0.719999999000"] and given[3:5] == ["--maximize", "ndcg"]
    assert given[given.index("--omegas") + 1] == "diversity=0,0.5"
    for bounds in ({}, {"ild": float("nan")}, {"other": 1.0}):
        with pytest.raises(UserError, match="bounds of ild"):
            arguments(Start(command="front", run="runs/a", at_least=bounds), Workspace(tmp_path))


def test_settings_are_proposed_by_init_in_its_words(tmp_path: Path) -> None:
    rows = [f"r{n},2025-01-{n + 1:02d} 10:00:00,u{n % 3},i{m},{m % 2},{n}.{m}0" for n in range(20) for m in range(3)]
    (tmp_path / "shown.csv").write_text("\n".join(["request_id,timestamp,user_id,item_id,click,preis", *rows]) + "\n")
    items = [f"i{m},Tee {m},Getränk" for m in range(3)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title,category", *items]) + "\n")
    options = [("--name", "a"), ("--backbone", "base"), ("--steps", "7")]
    text, said = proposed(["items.csv", "shown.csv"], options, tmp_path)
    settings = yaml.safe_load(text)
    assert settings["data"]["tables"]["impressions"]["path"] == "shown.csv"
    assert settings["backbone"] == {"path": "base"} and settings["train"]["max_steps"] == 7
    assert "impressions: shown.csv" in said and "run.yaml" not in said
    with pytest.raises(UserError, match="no table has both moments"):
        proposed(["items.csv"], options, tmp_path)
    assert not list(tmp_path.glob("*.yaml"))


def test_only_this_machine_with_the_token_is_answered(tmp_path: Path, start_studio: Callable[..., Any]) -> None:
    studio = start_studio(tmp_path)
    client = studio.client
    assert client.get("/api/state").status_code == 200
    assert client.get("/api/state", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/api/state", headers={"host": f"shop.example:{studio.port}"}).status_code == 400
    assert client.get("/", headers={"authorization": ""}).status_code == 200
    assert studio.token not in client.get("/").text
    assert stat.S_IMODE((tmp_path / OWN / "token").stat().st_mode) == 0o600
    for body in ({"command": "rm"}, {"command": "serve", "run": "x"}, {"command": "validate", "argv": ["x"]}):
        assert client.post("/api/jobs", json=body).status_code == 422
    refused = client.post("/api/jobs", json={"command": "preview", "config": "a.yaml"})
    assert refused.status_code == 422 and refused.json()["error"]
    assert client.put("/api/configs/..%2Fx.yaml", json={"text": "a"}).status_code in (404, 422)
    assert client.get("/api/jobs/..%2F..").status_code in (404, 422)
    assert list((tmp_path / OWN / "jobs").iterdir()) == []


def test_a_run_of_a_terminal_is_seen(tmp_path: Path, start_studio: Callable[..., Any], made_run: Path) -> None:
    (tmp_path / "runs").mkdir()
    made_run.rename(tmp_path / "runs" / "mine")
    client = start_studio(tmp_path).client
    rows = client.get("/api/state").json()["runs"]
    assert [(row["run"], row["state"]) for row in rows] == [("runs/mine", "evaluated")]
    found = client.get("/api/run", params={"run": "runs/mine"}).json()
    assert found["groups"]["losses"]["ctr"][1] and found["verdict"] and found["export"] is None
    assert client.get("/api/run", params={"run": "runs"}).json()["error"].startswith("there is no run 'runs'")


@pytest.fixture
def made_run(tmp_path: Path) -> Path:
    """A finished run that was evaluated."""
    from benchmarks.compare_runs import made, write_run

    return write_run(tmp_path / "made", {"name": "mine"}, made(1, requests=20, candidates=5), records=30)
