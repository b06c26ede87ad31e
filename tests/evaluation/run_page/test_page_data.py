"""The numbers of the report are those of the files of its run folder, and missing parts name their command."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare_runs import made, write_run
from equipoise.common.errors import UserError
from equipoise.evaluation.metrics.calibration import calibration_bins
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.run_page.run_page import page_data, write_report

PARTS = ("data", "curves", "balance", "evaluation", "front", "slates")


@pytest.fixture(scope="module")
def data(whole: Path) -> dict[str, Any]:
    return page_data(whole)


def read(whole: Path, name: str) -> Any:
    return json.loads((whole / name).read_text())


def test_evaluation_and_calibration_are_the_files(data: dict[str, Any], whole: Path) -> None:
    found, shown = read(whole, "evaluation_test.json"), data["evaluation"]
    assert shown["split"] == "test" and shown["cutoff"] == 10 and shown["counts"]["clicks"] == found["clicks"]
    assert [target["name"] for target in shown["targets"]] == ["ctr", "ctcvr", "cvr"]
    for target in shown["targets"]:
        assert target["ours"] == found["pointwise"][target["name"]]
        assert target["baselines"] == found["baselines"].get(target["name"], {})
    table = ScoreTable.load(whole / "scores_test.parquet")
    assert shown["targets"][0]["calibration"]["bins"] == calibration_bins(table.click, table.pctr)
    for point, entry in zip(shown["points"], found["ranking"], strict=False):
        assert (point["ndcg"], point["ild"], point["exposure"]) == (
            entry["ndcg@10"],
            entry["ild@10"],
            entry["exposure@10"],
        )
    assert [point["name"] for point in shown["points"]][:2] == ["relevance", "diversity 1"]
    assert shown["user_groups"] == found["user_groups"]


def test_curves_and_balancing_are_the_history(data: dict[str, Any], whole: Path) -> None:
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    steps, values = data["curves"]["groups"]["share in conflict"]["ctr-cvr"]
    assert len(steps) == 150 and steps[-1] == 3000  # 300 records, thinned to pairs
    logged = [record["balance/conflict/ctr-cvr"] for record in records if "balance/conflict/ctr-cvr" in record]
    assert values[0] == pytest.approx(sum(logged[:2]) / 2)
    assert {"losses", "weights", "cosines", "validation", "learning"} <= set(data["curves"]["groups"])
    pair = next(each for each in data["balance"]["pairs"] if (each["first"], each["second"]) == ("ctr", "cvr"))
    assert pair["conflicts"] == pytest.approx(sum(logged) / len(logged))
    assert [each["name"] for each in data["balance"]["objectives"]] == ["ctr", "cvr", "diversity", "fairness"]


def test_the_front_and_its_choices(data: dict[str, Any], whole: Path) -> None:
    found, shown = read(whole, "front.json"), data["front"]
    assert [point["metrics"] for point in shown["points"]] == [point["metrics"] for point in found["points"]]
    assert [point["words"] for point in shown["points"]] == ["pure relevance", "diversity 0.5", "fairness 2"]
    chosen = shown["choices"][1]
    assert chosen["counts"] and chosen["test"]["ndcg"]["value"] == 0.69 and chosen["words"] == "diversity 0.5"


def test_slates_before_and_after(data: dict[str, Any], whole: Path) -> None:
    shown, kept = data["slates"], read(whole, "examples_test.json")["examples"]
    all_points = ["relevance", "diversity 1", "fairness 1", "diversity 1, fairness 1", "diversity 0.5"]
    assert shown["points"] == all_points and shown["chosen"] == "diversity 0.5" and len(shown["examples"]) == 4
    for example, record in zip(shown["examples"], kept, strict=True):
        candidates = record["candidates"]
        order = sorted(range(12), key=lambda n: -candidates[n]["relevance"])
        before = example["slates"]["relevance"]
        assert [row["candidate"] for row in before["rows"]] == order[:10] and before["out"] == []
        utility = [each["relevance"] + 0.5 * each["delta"]["diversity"] for each in candidates]
        after = example["slates"]["diversity 0.5"]
        best = sorted(range(12), key=lambda n: -utility[n])
        assert [row["candidate"] for row in after["rows"]] == best[:10]
        assert [row["utility"] for row in after["rows"]] == pytest.approx([utility[n] for n in best[:10]])
        assert {row["candidate"] for row in after["out"]} == set(order[:10]) - set(best[:10])
        assert all(order[row["before"] - 1] == row["candidate"] for row in after["rows"])


def test_recall_beside_its_baselines(recalling: Path, data: dict[str, Any]) -> None:
    found, shown = read(recalling, "evaluation_test.json")["recall"], page_data(recalling)["recall"]
    assert [row["name"] for row in shown["rows"]] == ["ours", "bought before", "BM25"]
    assert [each["words"] for each in shown["columns"]][2:] == ["never bought @50", "never bought @200"]
    cell = shown["rows"][1]["cells"]["new/recall200"]
    assert cell["value"] == found["new"]["bought before"]["recall200"] and cell["interval"] == pytest.approx(
        [0.18, 0.22]
    )
    assert [said.rpartition(": ")[2] for said in shown["verdict"]] == ["ours wins", "no clear winner"]
    assert "is not measured on the valid split" in page_data(recalling, "valid")["recall"]["missing"]
    assert data["recall"] is None  # that run trains none


def test_facts_and_data(data: dict[str, Any], whole: Path) -> None:
    facts = dict(data["facts"])
    assert facts["state"] == "finished, 3000 steps" and facts["peak memory"] == "3.0 GiB per process"
    assert facts["code"] == "ababababab, with changes that are not committed" and "machine" not in facts
    assert data["data"]["splits"] == read(whole, "data.json")["splits"]
    assert data["config"] == (whole / "config.yaml").read_text()


def test_absent_parts_name_the_command_that_makes_them(bare: Path) -> None:
    data = page_data(bare)
    commands = {name: data[name]["command"] for name in PARTS}
    evaluate = f"equipoise evaluate {bare} --split test"
    assert commands["evaluation"] == commands["slates"] == evaluate and evaluate.startswith(commands["data"])
    assert commands["front"] == f"equipoise front {bare}" and commands["curves"] == commands["balance"]
    assert "--resume" in commands["curves"] and dict(data["facts"])["state"].startswith("unfinished")
    assert all(data[name]["missing"].endswith(".") for name in PARTS)


def test_an_older_evaluation_lacks_its_bins_alone(tmp_path: Path) -> None:
    scored = made(0, requests=20, candidates=5)
    del scored.evaluation["calibration"]
    folder = write_run(tmp_path / "run", {}, scored, split="valid")
    shown = page_data(folder)["evaluation"]  # valid, for it is all there is
    assert shown["targets"][0]["calibration"]["command"] == f"equipoise evaluate {folder} --split valid"
    assert page_data(folder, "test")["evaluation"]["missing"]


def test_what_the_user_can_mend(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--split train"):
        page_data(whole, "train")
    with pytest.raises(UserError, match="holds no run"):
        page_data(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        write_report(whole, tmp_path / "absent" / "page.html")
