"""The commands as a user runs them, one after another, on a tiny data set; and what bad input gets."""

import csv
import json
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from equipoise.configs.load import read_run_config
from equipoise.evaluation.compare.run_records import read_run
from equipoise.evaluation.compare.wandb_runs import key_of, read_wandb_runs, records
from tests.forked_job import run_forked
from tests.tiny_run import run_settings, write_config

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

Command = Callable[..., subprocess.CompletedProcess[str]]


def equipoise(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return run_forked(arguments, **{"COLUMNS": "200", **environment})


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """The command ended with exit code 2 and one sentence that holds these words."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    sentence = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    for word in words:
        assert word in sentence


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a tiny run, its data prepared."""
    folder = tmp_path_factory.mktemp("commands")
    settings: dict[str, Any] = run_settings(folder, eval_every=3, save_every=3)
    write_config(settings, folder / "config.yaml")
    done = equipoise("prepare", str(folder / "config.yaml"))
    assert done.returncode == 0, done.stderr
    return settings | {"config": str(folder / "config.yaml")}


@pytest.fixture(scope="module")
def run(settings: dict[str, Any]) -> Path:
    """A finished tiny run with offline W&B and TensorBoard."""
    done = equipoise("train", settings["config"], "wandb.mode=offline", "wandb.group=tests", "tensorboard=true")
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(settings["output"])


def test_run_folder_is_complete(run: Path) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = {name for record in records for name in record}
    objectives = ("ctr", "cvr", "diversity", "fairness")
    assert {f"train/loss/{name}" for name in objectives} <= names
    assert {f"balance/weight/{name}" for name in objectives} <= names
    assert {f"balance/norm/{name}" for name in objectives} <= names
    assert {"balance/cosine/ctr-cvr", "balance/conflict_rate", "valid/ctr/auc", "perf/padding"} <= names
    summary = json.loads((run / "summary.json").read_text())
    assert summary["finished"] and summary["steps"] == 6
    moved = summary["largest_change"]
    assert {f"adapter {name}" for name in ("shared", *objectives)} <= set(moved)
    assert all(change > 0 for change in moved.values())
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["balancing"]["normalize"] == "l2"  # resolved, not as written
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))
    assert list(run.rglob("events.out.tfevents.*"))
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == ["step-000003", "step-000006"]


def test_wandb_was_told_what_the_run_folder_holds(run: Path) -> None:
    (file,) = (run / "wandb").glob("offline-run-*/*.wandb")
    told: dict[str, list[Any]] = defaultdict(list)
    for record in records(file):
        told[record.WhichOneof("record_type")].append(record)
    begun = told["run"][0].run
    assert (begun.run_group, begun.job_type, begun.display_name) == ("tests", "train", "tiny")
    assert json.loads((run / "wandb.json").read_text())["id"] == begun.run_id
    config = {
        key_of(update): json.loads(update.value_json) for record in told["config"] for update in record.config.update
    }
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert {key: config[key] for key in saved} == saved  # nested, as resolved
    assert config["environment"] == json.loads((run / "environment.json").read_text())
    axes = {record.metric.name or record.metric.glob_name: record.metric.step_metric for record in told["metric"]}
    assert axes == {"optimizer_step": "", "*": "optimizer_step"}
    curve: dict[int, dict[str, float]] = defaultdict(dict)
    for record in told["history"]:
        values = {key_of(item): json.loads(item.value_json) for item in record.history.item}
        curve[values["optimizer_step"]] |= values
    kept: dict[int, dict[str, float]] = defaultdict(dict)
    for line in (run / "metrics.jsonl").read_text().splitlines():
        kept[json.loads(line)["step"]] |= json.loads(line)
    assert curve.keys() == kept.keys()
    for step, values in kept.items():
        for name in ("train/loss/ctr", "valid/ctr/auc"):
            assert curve[step].get(name) == pytest.approx(values.get(name))
    written = [record.artifact for record in told["artifact"] if record.artifact.type == "adapters"]
    assert {record.artifact.type for record in told["artifact"]} - {"adapters"} == {"dataset", "model"}  # its inputs
    artifact = written[-1]
    assert (artifact.name, artifact.type) == ("tiny-adapters", "adapters") and "latest" in artifact.aliases
    assert {entry.path for entry in artifact.manifest.contents} == {p.name for p in (run / "adapters").iterdir()}
    validated = {step: values["valid/ctr/gauc"] for step, values in kept.items() if "valid/ctr/gauc" in values}
    best = max(validated, key=lambda step: validated[step])  # the first of equal ones
    assert json.loads((run / "summary.json").read_text())["best"] == {
        "measure": "valid/ctr/gauc", "value": validated[best], "step": best
    }  # fmt: skip
    (first,) = (saved for saved in written if "best" in saved.aliases)
    assert len(written) == (1 if best == 6 else 2) and (first is artifact) == (best == 6)
    saved_best = load_file(run / "best" / "adapters.safetensors")
    step = load_file(run / "checkpoints" / f"step-{best:06d}" / "trainable.safetensors")
    learned = json.loads((run / "lists.json").read_text())["learned"]
    dropped = {f"heads.{name}.out.weight" for name, about in learned.items() if not about["kept"]}
    assert not any(saved_best[name].any() for name in dropped)  # what is not surely better is set to 0
    same = step.keys() - dropped
    assert saved_best.keys() == step.keys() and all(torch.equal(saved_best[name], step[name]) for name in same)
    last = {key_of(item): item.value_json for record in told["summary"] for item in record.summary.update}
    assert json.loads(last["peak_memory_bytes"]) == json.loads((run / "summary.json").read_text())["peak_memory_bytes"]


def test_tokens_are_made_by_prepare_or_by_tokenize_and_never_by_a_group(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    tokens = Path(settings["data"]["folder"]) / "tokens"
    (made,) = tokens.iterdir()  # by prepare
    done = equipoise("tokenize", settings["config"])
    assert done.returncode == 0 and f"nothing to do: {made} is complete" in done.stdout
    assert list(tokens.iterdir()) == [made]

    other = "tokens.max_prefix=40"
    alone = {"WORLD_SIZE": "2", "RANK": "0"}
    for command, words in (("train", "`equipoise tokenize CONFIG`"), ("prepare", "run it once, without a launcher")):
        refused(equipoise(command, settings["config"], other, f"output={tmp_path / 'run'}", **alone), words)
    assert list(tokens.iterdir()) == [made] and not (tmp_path / "run").exists()
    done = equipoise("tokenize", settings["config"], other, "--processes", "2")
    assert done.returncode == 0 and "328 candidates (0 cut at tokens.max_candidate)" in done.stdout
    assert len(list(tokens.iterdir())) == 2


def test_a_machine_without_the_folder_fetches_it(settings: dict[str, Any], tmp_path: Path) -> None:
    remote, there = f"data.remote=file://{tmp_path}/bucket", tmp_path / "other machine" / "prepared"
    refused(equipoise("upload", settings["config"]), "data.remote says where")
    refused(equipoise("download", settings["config"], remote, f"data.folder={there}"), "holds no prepared data")
    done = equipoise("tokenize", settings["config"], remote)
    assert done.returncode == 0 and f"to file://{tmp_path}/bucket: " in done.stdout, done.stdout + done.stderr
    done = equipoise("upload", settings["config"], remote, "--prune")
    assert done.returncode == 0 and ": 0 files, 0.0 MB" in done.stdout
    steps = ("train.max_steps=1", "train.eval_every=null", f"output={tmp_path / 'run'}")
    done = equipoise("train", settings["config"], remote, f"data.folder={there}", *steps)
    assert done.returncode == 0 and f"downloaded {there} from file://{tmp_path}/bucket" in done.stdout, done.stderr
    shutil.rmtree(there)
    done = equipoise("evaluate", str(tmp_path / "run"))  # the run tells where its data are
    assert done.returncode == 0 and "downloaded" in done.stdout, done.stdout + done.stderr
    done = equipoise("download", settings["config"], remote, f"data.folder={there}")
    assert done.returncode == 0 and ": 0 files" in done.stdout


def test_batches_by_tokens(settings: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "run"
    by_tokens = ("train.batch_size=null", "train.max_tokens=auto", "train.max_steps=null", "train.eval_every=null")
    done = equipoise("train", settings["config"], f"output={run}", *by_tokens)
    assert done.returncode == 0, done.stdout + done.stderr
    budget = read_run_config(run).train.max_tokens
    assert f"train.max_tokens: auto is {budget} for" in done.stdout
    assert f"batches of at most {budget} tokens each" in done.stdout
    assert "an epoch has" in done.stdout and "are 1.0 passes over the train slates" in done.stdout
    assert f"next: equipoise evaluate {run}" in done.stdout
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["train/epoch"] == 1.0
    assert all(record["perf/tokens_per_second"] > 0 for record in records)


def test_evaluate_writes_scores_and_report(run: Path) -> None:
    done = equipoise("evaluate", str(run))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((run / "evaluation_test.json").read_text())
    prepared = json.loads((run.parent / "prepared" / "manifest.json").read_text())["splits"]["test"]
    scores = pq.read_table(run / "scores_test.parquet")
    assert report["rows"] == scores.num_rows == prepared["impressions"]
    assert report["requests"] == prepared["requests"]
    assert {"ctr", "ctcvr", "cvr"} <= set(report["pointwise"])
    assert "seen_before" in report["baselines"]["ctr"]
    assert len(report["ranking"]) == 4  # relevance, diversity, fairness, both
    assert "pCTR" in done.stdout and "global rate" in done.stdout
    again = equipoise("evaluate", str(run))
    assert json.loads((run / "evaluation_test.json").read_text()) == report, again.stderr


def test_report_shows_what_training_and_evaluation_wrote(run: Path) -> None:
    if not (run / "evaluation_test.json").exists():
        assert equipoise("evaluate", str(run)).returncode == 0
    done = equipoise("report", str(run))
    assert done.returncode == 0, done.stderr
    assert f"Run: equipoise front {run}" in done.stdout  # and nothing else is missing
    assert done.stdout.count("Run: ") == 1 and f"report: {run / 'report.html'}" in done.stdout
    block = (run / "report.html").read_text().split('id="page-data">')[1].split("</script>")[0]
    shown = json.loads(block)
    prepared = json.loads((run.parent / "prepared" / "manifest.json").read_text())
    assert shown["data"]["splits"] == prepared["splits"]
    report = json.loads((run / "evaluation_test.json").read_text())
    assert shown["evaluation"]["targets"][0]["ours"] == report["pointwise"]["ctr"]
    titles = {candidate["title"] for each in shown["slates"]["examples"] for candidate in each["candidates"]}
    assert titles and all(" number " in title for title in titles)


def test_compare_reads_what_training_and_evaluation_wrote(run: Path, tmp_path: Path) -> None:
    if not (run / "evaluation_test.json").exists():
        assert equipoise("evaluate", str(run)).returncode == 0
    twin = shutil.copytree(run, tmp_path / "twin")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= {"name": "twin", "balancing": {**config["balancing"], "method": "upgrad"}}
    (twin / "config.yaml").write_text(yaml.safe_dump(config))
    done = equipoise("compare", str(run), str(tmp_path), "--baseline", "tiny", "--csv", str(tmp_path / "table.csv"))
    assert done.returncode == 0, done.stderr
    assert "no intervals" not in done.stdout and "ILD@10" in done.stdout
    with (tmp_path / "table.csv").open(newline="") as file:
        ours, other = csv.DictReader(file)
    report = json.loads((run / "evaluation_test.json").read_text())
    assert float(ours["ctr/auc"]) == report["pointwise"]["ctr"]["auc"]
    assert ours["config.balancing.method"] == "mgda" and float(ours["seconds"]) > 0
    for metric in ("ctr/auc", "ctcvr/auc", "diversity=1/ild@10", "fairness=1/exposure_ratio@10", "relevance/ndcg@10"):
        assert [float(other[f"{metric} change{end}"]) for end in ("", " low", " high")] == [0.0, 0.0, 0.0]


def test_wandb_files_alone_give_the_same_table(run: Path, tmp_path: Path) -> None:
    assert equipoise("evaluate", str(run)).returncode == 0
    offline = tmp_path / "offline"  # far from the run folder
    shutil.copytree(run / "wandb", offline, symlinks=True)
    tables = []
    for name, arguments in {"folders": [str(run)], "wandb": ["--from-wandb", str(offline)]}.items():
        done = equipoise("compare", *arguments, "--csv", str(tmp_path / f"{name}.csv"))
        assert done.returncode == 0, done.stderr
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            tables.append([{key: row[key] for key in row if key != "folders"} for row in csv.DictReader(file)])
    assert tables[0] == tables[1] and tables[0][0]["evaluated"] == "1"
    folder, told = read_run(run), read_wandb_runs([offline])[0]
    assert (told.name, told.group, told.config, told.summary) == (
        folder.name,
        folder.group,
        folder.config,
        folder.summary,
    )
    assert told.evaluations == folder.evaluations
    kept: dict[int, dict[str, Any]] = defaultdict(dict)
    for record in folder.history:
        kept[record["step"]] |= record
    assert [record["step"] for record in told.history] == sorted(kept)
    for record in told.history:
        expected = {key: value for key, value in kept[record["step"]].items() if key != "seconds"}
        assert {key: value for key, value in record.items() if key != "seconds"} == pytest.approx(expected)


def test_second_run_in_the_same_folder_is_refused(run: Path, settings: dict[str, Any]) -> None:
    refused(equipoise("train", settings["config"]), "already holds a run", "--overwrite")


def test_prefix_longer_than_the_model_allows(settings: dict[str, Any], tmp_path: Path) -> None:
    done = equipoise(
        "train", settings["config"], f"output={tmp_path / 'run'}", "tokens.max_prefix=300", "tokens.max_row=400"
    )
    refused(done, "tokens.max_prefix", "256 positions", "at most 232")
    assert not (tmp_path / "run").exists()


def test_unknown_split_layer(settings: dict[str, Any], tmp_path: Path) -> None:
    refused(
        equipoise("train", settings["config"], f"output={tmp_path / 'run'}", "backbone.split=4"),
        "backbone.split",
        "between 1 and 3",
    )


def test_missing_attribute_column(settings: dict[str, Any], tmp_path: Path) -> None:
    done = equipoise(
        "train", settings["config"], f"output={tmp_path / 'run'}", "objectives.diversity={attributes: [colour]}"
    )
    refused(done, "items.parquet", "'colour'", "category")


def test_unprepared_and_broken_data(settings: dict[str, Any], tmp_path: Path) -> None:
    config = settings["config"]
    refused(equipoise("train", config, f"output={tmp_path / 'r1'}", f"data.folder={tmp_path / 'none'}"), "prepare")

    old = tmp_path / "old"
    shutil.copytree(settings["data"]["folder"], old)
    manifest = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    refused(
        equipoise("train", config, f"output={tmp_path / 'r2'}", f"data.folder={old}"), "schema version 99", "prepare"
    )

    broken = tmp_path / "broken"
    shutil.copytree(settings["data"]["folder"], broken, ignore=shutil.ignore_patterns(".cache"))
    shard = next((broken / "slates").glob("train-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-200])
    refused(equipoise("train", config, f"output={tmp_path / 'r3'}", f"data.folder={broken}"), "train-00000", "prepare")


def test_evaluating_an_unfinished_run(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "unfinished"
    copy.mkdir()
    shutil.copy(run / "config.yaml", copy / "config.yaml")
    refused(equipoise("evaluate", str(copy)), "holds no trained adapters", "train")
    refused(equipoise("evaluate", str(tmp_path / "nothing")), "holds no run")


def test_other_base_model_is_refused(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "base"
    other.mkdir()
    shape = json.loads((run.parent / "base" / "config.json").read_text()) | {"rope_theta": 777.0, "hidden_size": 64}
    (other / "config.json").write_text(json.dumps(shape))
    done = equipoise("evaluate", str(run), "--set", f"backbone.path={other}")
    refused(done, "another base model", "backbone.path")
