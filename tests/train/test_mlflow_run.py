"""MLflow: what its tracker is told, with a stand-in; and the real client with its file store, where it is installed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.compare_runs import made, settings
from equipoise.configs.schema import RunConfig
from equipoise.train.trackers import mlflow_run

SCRIPT = """
import sys
from pathlib import Path
from equipoise.configs.load import read_run_config
from equipoise.train.accelerate_setup import make_accelerator
from equipoise.train.trackers.tracking import Tracking
run, resumed = Path(sys.argv[1]), sys.argv[2] == "again"
config = read_run_config(run)
tracking = Tracking(make_accelerator(config, run), config, run, resumed)
tracking.log(20 if resumed else 10, {"train/loss/ctr": 0.25 if resumed else 0.5})
tracking.finish({"finished": resumed, "steps": 20 if resumed else 10, "seconds": 1.5, "name": config.name}, run)
"""


def config_of(run: Path) -> RunConfig:
    return RunConfig.model_validate(settings({"name": "shop", "output": str(run), "mlflow": True, "wandb.group": "g"}))


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MLFLOW_… of this machine counts, and none is left behind."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE", *mlflow_run.QUICK):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def test_the_store_lies_beside_the_runs_unless_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs" / "shop"
    arguments = mlflow_run.init_arguments(config_of(run), run, resumed=True)
    assert arguments == {"run_name": "shop", "tags": {"group": "g", "folder": str(run)}}
    assert os.environ["MLFLOW_TRACKING_URI"] == (tmp_path / "runs" / "mlruns").as_uri()
    assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    mlflow_run.init_arguments(config_of(run), run, resumed=False)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://mlflow:5000" and "MLFLOW_ALLOW_FILE_STORE" not in os.environ


def test_identity_settings_and_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///store")
    calls: list[Any] = []
    tracker = SimpleNamespace(
        tracker=SimpleNamespace(info=SimpleNamespace(run_id="abc")),
        store_init_configuration=lambda values: calls.append(values),
        log=lambda values, step: calls.append((values, step)),
        log_artifacts=lambda folder, place: calls.append((folder, place)),
    )
    accelerator: Any = SimpleNamespace(get_tracker=lambda name: tracker)
    mlflow_run.begin(accelerator, {"train.lr": 0.1}, tmp_path)
    assert json.loads((tmp_path / "mlflow.json").read_text()) == {"id": "abc", "store": "file:///store"}
    mlflow_run.begin(accelerator, {"train.lr": 0.2}, tmp_path)  # resumed: settings cannot change there
    again = mlflow_run.init_arguments(config_of(tmp_path), tmp_path, resumed=True)
    assert calls == [{"train.lr": 0.1}] and again["run_id"] == "abc"
    (tmp_path / "adapters").mkdir()
    mlflow_run.end(accelerator, {"finished": False, "steps": 3}, tmp_path)
    mlflow_run.end(accelerator, {"finished": True, "steps": 6, "name": "shop", "largest_change": {}}, tmp_path)
    assert calls[1:] == [
        ({"summary/steps": 3}, 3), ({"summary/steps": 6}, 6), (str(tmp_path / "adapters"), "adapters")
    ]  # fmt: skip


class StandIn:
    """A client that keeps what it is told, or fails."""

    def __init__(self, store: str) -> None:
        if store == "file:///lost":
            raise ConnectionError("lost")
        self.told = TOLD.setdefault(store, {})

    def log_batch(self, run_id: str, metrics: Any) -> None:
        self.told |= {(run_id, metric[0]): metric[1] for metric in metrics}

    def log_artifact(self, run_id: str, file: str, place: str) -> None:
        self.told[run_id, f"{place}/{Path(file).name}"] = Path(file).read_text()


TOLD: dict[str, dict[Any, Any]] = {}


def test_evaluations_and_fronts_join_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    TOLD.clear()
    monkeypatch.setitem(sys.modules, "mlflow.tracking", SimpleNamespace(MlflowClient=StandIn))
    monkeypatch.setitem(sys.modules, "mlflow.entities", SimpleNamespace(Metric=lambda *parts: parts))
    config, report = config_of(tmp_path), made(0, requests=20, candidates=5).evaluation
    (tmp_path / "evaluation_test.json").write_text("{}")
    mlflow_run.tell_evaluation(config, tmp_path, "test", report)  # training has told nothing: no identity
    assert TOLD == {}
    (tmp_path / "mlflow.json").write_text(json.dumps({"id": "abc", "store": "file:///store"}))
    mlflow_run.tell_evaluation(config.model_copy(update={"mlflow": False}), tmp_path, "test", report)
    assert TOLD == {}
    mlflow_run.tell_evaluation(config, tmp_path, "test", report)
    told = TOLD["file:///store"]
    assert told["abc", "test/ctr/auc"] == report["pointwise"]["ctr"]["auc"]
    assert told["abc", "test/diversity_1_fairness_1/ndcg_at_10"] == report["ranking"][3]["ndcg@10"]
    assert told["abc", "evaluation/evaluation_test.json"] == "{}" and os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"
    for name in ("front.json", "front.png", "operating_point.json"):
        (tmp_path / name).write_text(name)
    hypervolume = {"normalised": 0.6, "reference": [0.1, 0.2], "from_zero": None}
    mlflow_run.tell_front(config, tmp_path, {"hypervolume": hypervolume})
    assert told["abc", "front/hypervolume_normalised"] == 0.6 and ("abc", "front/hypervolume_from_zero") not in told
    assert told["abc", "front/front.png"] == "front.png"
    (tmp_path / "mlflow.json").write_text(json.dumps({"id": "abc", "store": "file:///lost"}))
    mlflow_run.tell_evaluation(config, tmp_path, "test", report)
    assert "MLflow was not told of the evaluation (ConnectionError: lost)" in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs the extra mlflow")
def test_the_real_client_reads_back_what_it_was_told(tmp_path: Path) -> None:
    import yaml
    from mlflow.tracking import MlflowClient

    run = tmp_path / "runs" / "shop"
    (run / "adapters").mkdir(parents=True)
    (run / "adapters" / "adapters.json").write_text("{}")
    (run / "config.yaml").write_text(yaml.safe_dump(config_of(run).model_dump(mode="json")))
    for when in ("first", "again"):
        done = started(run, when)
        assert done.returncode == 0, done.stderr
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    client = MlflowClient((tmp_path / "runs" / "mlruns").as_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'equipoise'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == mlflow_run.read_identity(run) and found.info.status == "FINISHED"
    assert found.info.run_name == "shop" and found.data.tags["group"] == "g"
    assert found.data.params["balancing.method"] == "pcgrad" and len(found.data.params) > 100
    history = client.get_metric_history(found.info.run_id, "train/loss/ctr")
    assert [(each.step, each.value) for each in history] == [(10, 0.5), (20, 0.25)]
    assert found.data.metrics["summary/seconds"] == 1.5
    assert [each.path for each in client.list_artifacts(found.info.run_id, "adapters")] == ["adapters/adapters.json"]

    report = made(0, requests=20, candidates=5).evaluation
    (run / "evaluation_test.json").write_text("{}")
    mlflow_run.tell_evaluation(config_of(run), run, "test", report)
    told = client.get_run(found.info.run_id).data.metrics
    assert told["test/ctr/auc"] == report["pointwise"]["ctr"]["auc"] and len(told) > 30
    assert [each.path for each in client.list_artifacts(found.info.run_id, "evaluation")] == [
        "evaluation/evaluation_test.json"
    ]

    done = started(run, "first", MLFLOW_TRACKING_URI="nonsense://place")
    assert "UserError: mlflow: it did not start" in done.stderr and "MLFLOW_TRACKING_URI" in done.stderr


def started(run: Path, when: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that tracks a run, as training does."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, **environment}
    command = [sys.executable, "-c", SCRIPT, str(run), when]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
