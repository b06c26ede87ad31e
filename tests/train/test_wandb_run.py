"""What W&B is told beside the curves: aliases of the adapters, and the front, read back from the offline files."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.compare_runs import made, write_run
from equipoise.configs.load import read_run_config
from equipoise.evaluation.compare.run_records import read_run
from equipoise.evaluation.compare.wandb_runs import key_of, read_wandb_runs
from equipoise.train.trackers.wandb_run import STEP, begin, end, front_rows, init_arguments, tell_evaluation, tell_front
from tests.evaluation.run_page.conftest import front
from tests.wandb_files import whole_records


def begun(folder: Path, best_step: int | None) -> Any:
    """A finished run of 20 steps with adapters, and those of its best validation; told to W&B offline, and ended."""
    import wandb

    run = write_run(folder / "run", {"wandb": {"mode": "offline", "project": "p"}}, made(0, 10, 4), records=2)
    (run / "adapters").mkdir()
    (run / "adapters" / "adapters.json").write_text("last")
    if best_step is not None:
        (run / "best").mkdir()
        (run / "best" / "adapters.json").write_text("best ones")
        (run / "best" / "best.json").write_text(json.dumps({"measure": "m", "value": 0.9, "step": best_step}))
    config = read_run_config(run)
    told = wandb.init(mode="offline", project="p", name=config.name, dir=str(run))
    accelerator: Any = SimpleNamespace(get_tracker=lambda name, unwrap: told)
    begin(accelerator, config, {}, run)
    told.log({"train/loss/ctr": 0.5, STEP: 20}, step=20)
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
