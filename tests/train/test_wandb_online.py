"""W&B online, against a stand-in server on this machine: numbers arrive; and when it dies, the run goes on and ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.compare_runs import settings
from equipoise.evaluation.compare.wandb_runs import key_of, records
from tests.wandb_server import WandbServer, wandb_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, time
from pathlib import Path
from equipoise.configs.load import read_run_config
from equipoise.train.accelerate_setup import make_accelerator
from equipoise.train.trackers.tracking import Tracking
run = Path(sys.argv[1])
config = read_run_config(run)
tracking = Tracking(make_accelerator(config, run), config, run, False)
for step in range(1, 4):
    tracking.log(step, {"train/loss/ctr": 1 / step})
print("three", flush=True)
sys.stdin.readline()
for step in range(4, 31):
    tracking.log(step, {"train/loss/ctr": 1 / step})
tracking.finish({"finished": True, "steps": 30, "seconds": 1.0}, run)
print("ended", flush=True)
"""


def begin(server: WandbServer, run: Path, **environment: str) -> subprocess.Popen[str]:
    """A process that tracks a run as training does, and waits for a line after its third step."""
    run.mkdir()
    wandb = {"mode": "online", "project": "shop", "group": "g"}
    (run / "config.yaml").write_text(yaml.safe_dump(settings({"name": "shop", "output": str(run), "wandb": wandb})))
    record = {"source": "tables", "counts": {}, "splits": {}, "hashes": {}}
    (run / "data.json").write_text(json.dumps(record))  # an artifact that the stand-in refuses: no run minds
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    places = {"WANDB_CONFIG_DIR": str(run / "home"), "WANDB_CACHE_DIR": str(run / "home"), "PYTHONPATH": str(ROOT)}
    environment = {**kept, **places, **server.environment, **environment}
    command, pipe = [sys.executable, "-c", SCRIPT, str(run)], subprocess.PIPE
    return subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT)


def losses(rows: list[dict[str, float]]) -> dict[int, float]:
    return {int(row["optimizer_step"]): row["train/loss/ctr"] for row in rows}


def test_history_and_settings_arrive(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with wandb_server() as server:
        process = begin(server, run)
        printed = process.communicate("go\n", timeout=120)[0]
    assert process.returncode == 0 and "ended" in printed, printed
    number = json.loads((run / "wandb.json").read_text())["id"]
    assert losses(server.history[number]) == pytest.approx({step: 1 / step for step in range(1, 31)})
    begun = {key: server.begun[key] for key in ("name", "project", "groupName", "displayName")}
    assert begun == {"name": number, "project": "shop", "groupName": "g", "displayName": "shop"}
    assert json.loads(server.begun["config"])["train"]["value"]["lr"] == 0.001


def test_a_server_that_dies_holds_no_run_up(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with wandb_server() as server:
        process = begin(server, run, WANDB_FINISH_TIMEOUT="3", WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL="1")
        assert server.arrived.wait(60)
        server.die()
        printed = process.communicate("go\n", timeout=120)[0]
    assert process.returncode == 0 and "ended" in printed, printed
    (rows,) = server.history.values()
    assert 1 <= len(rows) <= 3
    kept = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert kept == list(range(1, 31)) and json.loads((run / "summary.json").read_text())["finished"]
    # W&B's own file has all of them, for `wandb sync`.
    (file,) = (run / "wandb").glob("run-*/*.wandb")
    told = [record.history for record in records(file) if record.WhichOneof("record_type") == "history"]
    steps = [json.loads(item.value_json) for each in told for item in each.item if key_of(item) == "optimizer_step"]
    assert steps == kept
