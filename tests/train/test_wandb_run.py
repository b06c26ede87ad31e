"""What W&B is told beside the curves: aliases of the adapters, and the front, read back from the offline files."""

import json
import math
import string
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.compare_runs import made, write_run
from equipoise.common.errors import DivergedError
from equipoise.configs.load import read_run_config
from equipoise.configs.schema import RunConfig, WandbConfig
from equipoise.data.prepare.slates import prepare
from equipoise.evaluation.compare.run_records import read_run
from equipoise.evaluation.compare.wandb_runs import key_of, read_wandb_runs
from equipoise.train.job import train
from equipoise.train.objectives.pointwise import Binary
from equipoise.train.trackers.wandb_run import (
    STEP,
    alert,
    artifact_name,
    begin,
    end,
    front_rows,
    init_arguments,
    inputs,
    tell_evaluation,
    tell_front,
)
from tests.evaluation.run_page.conftest import front
from tests.tiny_run import run_settings
from tests.wandb_files import whole_records


def begun(
    folder: Path, best_step: int | None, records: dict[str, Any] | None = None, diverged: str | None = None
) -> Any:
    """A finished run of 20 steps with adapters, and those of its best validation; told to W&B offline, and ended.

    `records`: JSON files of its folder. `diverged`: text of an alert.
    """
    import wandb

    run = write_run(folder / "run", {"wandb": {"mode": "offline", "project": "p"}}, made(0, 10, 4), records=2)
    (run / "adapters").mkdir()
    (run / "adapters" / "adapters.json").write_text("last")
    if best_step is not None:
        (run / "best").mkdir()
        (run / "best" / "adapters.json").write_text("best ones")
        (run / "best" / "best.json").write_text(json.dumps({"measure": "m", "value": 0.9, "step": best_step}))
    for name, content in (records or {}).items():
        (run / name).write_text(json.dumps(content))
    config = read_run_config(run)
    told = wandb.init(mode="offline", project="p", name=config.name, dir=str(run))
    accelerator: Any = SimpleNamespace(get_tracker=lambda name, unwrap: told)
    begin(accelerator, config, {}, run)
    told.log({"train/loss/ctr": 0.5, STEP: 20}, step=20)
    if diverged:
        alert(accelerator, f"Training diverged: {'long name ' * 9}", diverged)
    assert end(accelerator, config, json.loads((run / "summary.json").read_text()), run)
    told.finish()
    return run, config


def artifacts(run: Path) -> list[Any]:
    """All artifacts of a run's offline files, in the order of the files and of the records."""
    told = (record for file in whole_records(run) for record in file)
    return [record.artifact for record in told if record.WhichOneof("record_type") == "artifact"]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A client of its own, for it keeps settings and folder from its first run in a process."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    import wandb

    wandb.teardown()


@pytest.mark.parametrize(("best_step", "aliases"), [
    (None, [["latest"]]), (10, [["best", "latest"], ["latest"]]), (20, [["best", "latest"]]),
])  # fmt: skip
def test_the_best_adapters_get_their_alias(tmp_path: Path, best_step: int | None, aliases: list[list[str]]) -> None:
    run, config = begun(tmp_path, best_step)
    told = artifacts(run)
    # W&B's client adds `latest` to all; it stays with the newest version, which is the last adapters.
    assert [sorted(each.aliases) for each in told] == aliases
    assert {each.name for each in told} == {f"{config.name}-adapters"}
    sizes = [{entry.path: entry.size for entry in each.manifest.contents} for each in told]
    assert sizes[-1] == {"adapters.json": len("last")}
    if best_step == 10:
        assert sizes[0]["adapters.json"] == len("best ones") and json.loads(told[0].metadata)["step"] == 10


def test_the_front_joins_the_run_of_its_training(tmp_path: Path) -> None:
    run, config = begun(tmp_path, None)
    report = json.loads((run / "evaluation_test.json").read_text())
    tell_evaluation(config, run, "test", report)
    found = front()
    for name in ("front.json", "front.png", "operating_point.json"):
        (run / name).write_text(json.dumps(found))
    hint = tell_front(config, run, found)
    assert hint and hint.startswith("wandb sync ")
    (artifact,) = (each for each in artifacts(run) if each.type == "front")
    files = {entry.path: entry for entry in artifact.manifest.contents}
    assert {"front.json", "front.png", "operating_point.json", "trade-offs.table.json"} == set(files)
    table = json.loads(Path(files["trade-offs.table.json"].local_path).read_text())
    columns, rows = front_rows(found)
    assert (table["columns"], table["data"]) == (columns, rows)
    told = [record for file in whole_records(run) for record in file]
    ids = {record.run.run_id for record in told if record.WhichOneof("record_type") == "run"}
    assert ids == {json.loads((run / "wandb.json").read_text())["id"]}
    updates = [item for r in told if r.WhichOneof("record_type") == "summary" for item in r.summary.update]
    chosen = [json.loads(item.value_json) for item in updates if key_of(item) == "front"]
    assert chosen[-1]["chosen"] == "constraint" and chosen[-1]["choices"]["constraint"]["test"]["ndcg"]["value"] == 0.69
    (record,) = read_wandb_runs([run / "wandb"])  # comparisons find what they found before
    assert record.evaluations == {"test": report} and record.summary == read_run(run).summary


def test_rows_by_hand() -> None:
    columns, rows = front_rows(front())
    assert columns == ["diversity", "fairness", "ndcg", "ild", "on_front", "chosen_by"]
    assert rows[0] == [0.0, 0.0, 0.75, 0.61, True, "knee"] and rows[2] == [0.0, 2.0, 0.60, 0.60, False, ""]


def test_a_run_that_w_and_b_does_not_know_is_not_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"wandb": {"mode": "offline"}}, None)
    assert tell_front(read_run_config(run), run, front()) is None and not (run / "wandb").exists()


def test_a_failure_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, config = begun(tmp_path, None)
    assert tell_front(config, run, front()) is None  # its files are not there
    assert "W&B was not told of the front" in caplog.text


def test_the_end_of_a_run_waits_for_w_and_b_as_long_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_run_config(write_run(tmp_path / "run", {"wandb": {"mode": "online"}}, None))
    monkeypatch.delenv("WANDB_FINISH_TIMEOUT", raising=False)
    assert init_arguments(config, tmp_path, resumed=False)["settings"] == {"finish_timeout": 300.0}
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "7")
    assert init_arguments(config, tmp_path, resumed=False)["settings"] == {}


DATA = {
    "source": "tables",
    "created": "today",
    "folder": "/srv/shop",
    "counts": {"items": 2},
    "splits": {},
    "hashes": {"items.parquet": "ab"},
}
BASE = {"base_weights": {"model.safetensors": "cd"}, "tokenizer": "ef", "settings": {}}


def test_a_run_uses_its_data_and_its_base(tmp_path: Path) -> None:
    """Lineage: `wandb sync` sends both as inputs; the same data elsewhere are the same version."""
    digests = []
    for number, made_on in enumerate(("today", "tomorrow")):
        run, _ = begun(tmp_path / str(number), None, {"data.json": {**DATA, "created": made_on}, "inputs.json": BASE})
        told = [each for each in artifacts(run) if each.type in ("dataset", "model")]
        assert [(each.type, each.use_after_commit) for each in told] == [("dataset", True), ("model", True)]
        assert all(set(name) <= set(string.ascii_letters + string.digits + "-_.") for name in (e.name for e in told))
        digests.append([each.digest for each in told])
        (adapters,) = (each for each in artifacts(run) if each.type == "adapters")
        assert not adapters.use_after_commit
    assert digests[0] == digests[1]
    (path, base) = (next(iter(each.manifest.contents)).path for each in told)
    assert path == base == "record.json"


def test_inputs_are_named_as_w_and_b_takes_names(tmp_path: Path) -> None:
    run, config = tmp_path, read_run_config(write_run(tmp_path / "run", {}, None))
    (run / "data.json").write_text(json.dumps(DATA))
    (run / "inputs.json").write_text(json.dumps(BASE))
    (data, base) = inputs(config, run)
    assert data[1:] == ("dataset", {key: DATA[key] for key in ("source", "counts", "splits", "hashes")})
    assert base[1] == "model" and base[2]["base_weights"] == BASE["base_weights"]
    assert artifact_name("pkg://gt_all/model: ä#1") == "pkg-gt_all-model-1" and len(artifact_name("x" * 300)) == 128


def test_inputs_that_cannot_be_told_stop_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, _ = begun(tmp_path, None, {"data.json": {"source": "tables"}})
    assert "W&B was not told of the run's inputs" in caplog.text and artifacts(run)


def test_a_divergence_is_an_alert(tmp_path: Path) -> None:
    run, _ = begun(tmp_path, None, diverged="the loss of objective 'ctr' was not finite in 3 micro-batches")
    (told,) = alerts(run)
    assert told.level == "ERROR" and told.text.startswith("the loss of objective 'ctr'") and len(told.title) < 64


def alerts(run: Path) -> list[Any]:
    told = [record for file in whole_records(run) for record in file]
    return [record.alert for record in told if record.WhichOneof("record_type") == "alert"]


@pytest.mark.slow
def test_a_training_that_diverges_sends_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    given = run_settings(tmp_path, max_nonfinite=2)
    config = RunConfig.model_validate({**given, "objectives": {"ctr": {}, "cvr": {}}, "wandb": {"mode": "offline"}})
    prepare(config.data)
    monkeypatch.setattr(Binary, "loss", lambda self, step: step.outputs["ctr"].sum() * math.nan)
    with pytest.raises(DivergedError, match="was not finite in 2 micro-batches in a row") as stop:
        train(config)
    wandb.finish(exit_code=1)
    (told,) = alerts(config.output)
    assert (told.title, told.text) == ("Training diverged: tiny", str(stop.value))
    # And it was made from these very data and this base.
    data, base = artifacts(config.output)
    assert (data.name, base.type) == ("prepared-data", "model")


@pytest.mark.parametrize(("best_step", "linked"), [(None, "latest"), (10, "best"), (20, "latest")])
def test_adapters_are_linked_to_the_registry(
    tmp_path: Path, best_step: int | None, linked: str, caplog: pytest.LogCaptureFixture
) -> None:
    """W&B's client links online alone, so that a stand-in takes the calls."""
    run = write_run(tmp_path / "run", {"wandb": {"mode": "online", "registry": "model/shop"}}, made(0, 10, 4))
    for name, step in (("adapters", 20), ("best", best_step)):
        if step is not None:
            (run / name).mkdir()
            (run / name / "adapters.json").write_text(name)
    if best_step is not None:
        (run / "best" / "best.json").write_text(json.dumps({"measure": "m", "value": 0.9, "step": best_step}))
    calls: list[Any] = []

    def log_artifact(artifact: Any, aliases: list[str]) -> Any:
        return SimpleNamespace(aliases=aliases, wait=lambda timeout: calls.append(("wait", aliases)))

    def link_artifact(artifact: Any, target_path: str) -> None:
        calls.append(("link", artifact.aliases, target_path))
        if best_step == 20:
            raise ConnectionError("the network is gone")

    told = SimpleNamespace(
        summary={}, log_artifact=log_artifact, link_artifact=link_artifact, dir=str(run / "wandb" / "files")
    )
    accelerator: Any = SimpleNamespace(get_tracker=lambda name, unwrap: told)
    assert end(accelerator, read_run_config(run), {"finished": True, "steps": 20}, run) is None
    assert calls[-2][0] == "wait" and calls[-1][0] == "link"
    assert calls[-1][2] == "wandb-registry-model/shop" and linked in calls[-1][1]
    assert ("was not told of the link to model/shop" in caplog.text) == (best_step == 20)


def test_a_registry_needs_the_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"wandb\.mode=online or wandb\.registry=null"):
        WandbConfig(mode="offline", registry="model/shop")
    with pytest.raises(ValueError, match="registry"):
        WandbConfig(mode="online", registry="shop")
