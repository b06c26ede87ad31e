"""The report: its shape, what it says of winners and losers, and its JSON."""

import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from equipoise.common.errors import UserError
from equipoise.evaluation.baselines import TrainCounts
from equipoise.evaluation.metrics import ScoreTable
from equipoise.evaluation.report import default_omegas, evaluate_table, json_ready, omega_name, write_json
from equipoise.evaluation.report_tables import report_parts


def world(noise: float, seed: int = 0, requests: int = 120, candidates: int = 10) -> ScoreTable:
    """Requests whose clicks follow known log-odds; our pCTR knows them up to `noise`, the field "truth" exactly."""
    generator = np.random.default_rng(seed)
    request = np.repeat(np.arange(requests), candidates)
    size = len(request)
    log_odds = generator.normal(-1.5, 1.5, size)
    click = generator.random(size) < 1 / (1 + np.exp(-log_odds))
    pctr = 1 / (1 + np.exp(-(log_odds + noise * generator.normal(size=size))))
    return ScoreTable(
        request,
        generator.integers(0, 30, size),
        [f"u{number % 40}" for number in request],
        click,
        click & (generator.random(size) < 0.4),
        pctr,
        np.full(size, 0.4),
        delta={"diversity": generator.normal(size=size), "fairness": generator.normal(size=size)},
        fields={"truth": log_odds, "chance": generator.random(size)},
        user_groups={"age": np.array([["19-24", None][number % 2] for number in request], object)},
        items={
            "department": np.array([f"d{item % 3}" for item in range(30)]),
            "category": np.array([f"c{item % 9}" for item in range(30)]),
            "provider": np.array([["National", "Private"][item % 2] for item in range(30)]),
        },
    )


def train_counts() -> TrainCounts:
    past = world(0.0, seed=9)
    return TrainCounts.count(past.user, past.item, past.click, past.conversion)


def evaluated(table: ScoreTable, **options):
    options = {"resamples": 50, "field_baselines": ["chance"], "cutoffs": [3, 5]} | options
    return evaluate_table(
        table,
        train_counts(),
        diversity_attributes=["department", "category"],
        category_attribute="category",
        provider_attribute="provider",
        **options,
    )


def printed(report, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    for part in report_parts(report):
        console.print(part, markup=not isinstance(part, str), highlight=False)
    return console.file.getvalue()


def test_the_report_holds_everything_that_is_promised():
    report = evaluated(world(0.3))
    assert report["rows"] == 1200 and report["requests"] == 120 and report["train_rows"] == 1200
    assert set(report["pointwise"]) == {"ctr", "ctcvr", "cvr"}
    expected = {"global rate", "item rate", "user rate", "item x user", "item popularity", "chance"}
    assert set(report["baselines"]["ctr"]) == set(report["baselines"]["ctcvr"]) == expected
    assert [point["omega"] for point in report["ranking"]] == default_omegas(["diversity", "fairness"])
    assert {"ndcg@3", "ild@5", "coverage@5", "exposure@5"} <= set(report["ranking"][0])
    assert set(report["ranking_baselines"]["item popularity"]) == set(report["ranking"][0]) - {"omega"}
    assert {"catalogue@5", "item_gini@5", "novelty@5", "serendipity@5"} <= set(report["ranking"][0])
    assert not report["notes"]
    reranked = {"MMR 1", "MMR 3", "boost 0.5", "boost 1", "MMR 3, boost 1"}
    assert set(report["ranking_baselines"]) == {"item popularity", *reranked}
    plain, alike = report["ranking"][0], report["ranking_baselines"]["MMR 3"]
    assert alike["ild@5"] > plain["ild@5"] and alike["ndcg@5"] != plain["ndcg@5"]
    assert set(report["user_groups"]["age"]["groups"]) == {"19-24", "unknown"}


def test_what_says_little_is_said():
    table = world(0.3)
    longest = int(np.unique(table.request, return_counts=True)[1].max())
    table.user_groups["height"] = np.array([str(number % 400) for number in range(len(table))])
    report = evaluated(table, cutoffs=[3, longest])
    first, second = report["notes"]
    assert first.startswith(f"measures @{longest} are of whole lists: no request has more than {longest} candidates")
    assert second.startswith("height: 400 of 400 groups have fewer than 50 rows")
    assert "• height: 400 of 400" in printed(report)


def test_the_verdict_says_that_we_win():
    report = evaluated(world(0.1))
    row = report["against_baseline"]["ctr"]["auc"]
    assert row["difference"] == pytest.approx(row["ours"] - row["theirs"])
    low, high = row["difference_interval"]
    assert 0 < low < row["difference"] < high
    sentence = report["verdict"][0]
    assert sentence.startswith(f"pCTR AUC {row['ours']:.3f} against {row['theirs']:.3f} of {row['baseline']}: +")
    assert sentence.endswith("ours wins")


def test_the_verdict_says_that_the_baseline_wins():
    report = evaluated(world(6.0), field_baselines=["truth", "chance"])
    row = report["against_baseline"]["ctr"]["auc"]
    assert row["baseline"] == "truth" and row["difference_interval"][1] < 0
    assert report["verdict"][0].endswith("the baseline wins")
    assert any(s.startswith("NDCG@5 of pure relevance") and s.endswith("wins") for s in report["verdict"])
    assert any("no better than always saying the observed rate" in sentence for sentence in report["verdict"])


def test_a_tie_has_no_winner():
    table = world(0.0)
    report = evaluated(table, field_baselines=["truth"])
    assert report["against_baseline"]["ctr"]["auc"]["difference"] == pytest.approx(0.0, abs=1e-12)
    assert report["verdict"][0].endswith("no clear winner")


def test_equal_seeds_give_equal_reports():
    assert json_ready(evaluated(world(0.3))) == json_ready(evaluated(world(0.3)))


def test_operating_points_are_those_asked_for():
    report = evaluated(world(0.3), omegas=[{}, {"diversity": 2.5}])
    assert [point["omega"] for point in report["ranking"]] == [{}, {"diversity": 2.5}]
    assert report["ranking"][0]["ndcg@5"] > report["ranking"][1]["ndcg@5"]
    assert any(sentence.startswith("diversity 2.5 against pure relevance: NDCG@5 -") for sentence in report["verdict"])
    with pytest.raises(UserError, match="'margin'"):
        evaluated(world(0.3), omegas=[{"margin": 1.0}])


def test_printing_marks_the_best_of_a_column():
    table = world(0.1)
    text = printed(evaluated(table, field_baselines=["chance"]))
    ours = next(line for line in text.splitlines() if line.strip().startswith("ours"))
    assert ours.split()[1].endswith("*")
    for word in ("item x user", "chance", "Operating points", "diversity 1, fairness 1", "gap of 2", "ours wins"):
        assert word in text
    assert max(map(len, printed(evaluated(table), width=80).splitlines())) <= 80


def test_names_are_no_markup():
    table = world(0.3)
    table.fields = {"a[/bold]": table.fields["chance"]}
    assert "a[/bold]" in printed(evaluated(table, field_baselines=["a[/bold]"]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("click", [0, 1])
def test_one_class_is_reported_as_null(tmp_path, click):
    table = ScoreTable([0, 0, 1], [0, 1, 0], ["a", "a", "b"], [click] * 3, [0] * 3, [0.5] * 3, [0.5] * 3)
    report = evaluate_table(table, train_counts(), [2])
    assert math.isnan(report["pointwise"]["ctr"]["auc"])
    assert report["against_baseline"]["ctr"]["auc"] is None
    assert "not defined here" in printed(report)
    write_json(report, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["pointwise"]["ctr"]["auc"] is None


@pytest.mark.filterwarnings("error")
def test_an_empty_table_and_a_bare_one():
    empty = ScoreTable([], [], [], [], [], [])
    printed(evaluate_table(empty, train_counts()))
    one = ScoreTable([0], [0], ["a"], [1], [0], [0.5])
    report = evaluate_table(one, None, cutoffs=[], resamples=0)
    assert set(report["pointwise"]) == {"ctr"} and report["ranking_baselines"] == {}
    printed(report)


def test_json_is_plain_and_whole(tmp_path):
    path = tmp_path / "report.json"
    write_json({"a": np.float64("nan"), "b": np.int64(3), "c": [math.inf, np.array([1.5])], 4: {"d": "ω"}}, path)
    assert json.loads(path.read_text()) == {"a": None, "b": 3, "c": [None, [1.5]], "4": {"d": "ω"}}
    with pytest.raises(TypeError):
        write_json({"a": object()}, path)
    assert json.loads(path.read_text())["b"] == 3
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_names_of_operating_points():
    assert omega_name({}) == omega_name({"diversity": 0.0}) == "relevance"
    assert omega_name({"diversity": 1.0, "fairness": 0.5}) == "diversity 1, fairness 0.5"
    assert default_omegas([]) == [{}] and default_omegas(["fairness"]) == [{}, {"fairness": 1.0}]


def test_no_torch_is_imported():
    program = "import sys, equipoise.evaluation.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
