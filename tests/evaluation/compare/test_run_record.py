"""Run folders as records."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from equipoise.common.errors import UserError
from equipoise.evaluation.compare.run_records import find_runs, in_group, read_run, read_runs


def test_a_folder_gives_its_run(runs: Path) -> None:
    run = read_run(runs / "mgda-seed1")
    assert (run.name, run.group, run.finished, run.steps) == ("mgda-seed1", "both", True, 600)
    assert run.objectives == ("ctr", "cvr", "diversity", "fairness")
    assert set(run.evaluations) == {"test"}
    assert [row["step"] for row in run.history] == sorted(row["step"] for row in run.history)
    assert len(run.history) == 61  # 60 records of training and one validation


def test_few_records_keep_the_last_and_every_validation(runs: Path) -> None:
    history = read_run(runs / "mgda-seed1", most_records=10).history
    assert history[-1]["step"] == 600 and len(history) <= 11
    assert [row["step"] for row in history if "valid/ctr/auc" in row] == [500]


def test_a_cut_last_line_is_passed_over_and_a_torn_one_before_it_is_not(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "stopped", tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(lines + '{"step": 210, "trai')
    assert read_run(run).steps == 200
    (run / "metrics.jsonl").write_text("{torn\n" + lines)
    with pytest.raises(UserError, match="no record"):
        read_run(run)


@pytest.mark.parametrize(("name", "text"), [("evaluation_test.json", "{"), ("summary.json", "[1]")])
def test_a_file_that_cannot_be_read_names_itself(runs: Path, tmp_path: Path, name: str, text: str) -> None:
    run = shutil.copytree(runs / "mgda-seed1", tmp_path / "run")
    (run / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}.*: (run|train)"):
        read_run(run)


def test_runs_are_found_below_a_folder_and_broken_ones_are_told(runs: Path, tmp_path: Path) -> None:
    found = find_runs([runs, runs / "mgda-seed1", tmp_path])
    assert len(found) == 8 and found[-1] == tmp_path  # an empty folder is no run, and is told as such
    records, broken = read_runs(found)
    assert len(records) == 6
    assert [one.folder for one in broken] == [runs / "torn", tmp_path]
    assert "cannot be read as YAML" in broken[0].reason and "holds no run" in broken[1].reason
    assert {run.name for run in in_group(records, "both")} == {
        "mgda-seed1",
        "mgda-seed2",
        "pcgrad-seed1",
        "pcgrad-seed2",
    }
    with pytest.raises(UserError, match=r"--group none: .*\(both\)"):
        in_group(records, "none")
    with pytest.raises(UserError, match="is no folder"):
        find_runs([tmp_path / "absent"])


def test_a_run_that_was_killed_has_the_steps_of_its_history(runs: Path) -> None:
    run = read_run(runs / "stopped")
    assert not run.finished and run.steps == 200 and run.summary == {}
    assert json.dumps(run.evaluations) == "{}"


def test_an_older_config_gets_the_defaults_of_today_and_a_strange_one_stays(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "mgda-seed1", tmp_path / "run")
    whole = read_run(run).config
    older = yaml.safe_load((run / "config.yaml").read_text())
    del older["balancing"]["gram_ema"], older["train"]["workers"]
    (run / "config.yaml").write_text(yaml.safe_dump(older))
    assert read_run(run).config == whole
    (run / "config.yaml").write_text(yaml.safe_dump(older | {"invented": 1}))
    assert read_run(run).config == older | {"invented": 1}
