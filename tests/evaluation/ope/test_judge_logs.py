"""`equipoise ope` on files: what it reads, judges and refuses."""

import json
from pathlib import Path

import pandas as pd
import pytest

from equipoise.common.errors import UserError
from equipoise.common.lists import ListRule, ListTerm
from equipoise.evaluation.ope.judge_logs import judge_logs
from equipoise.evaluation.ope.policies import Lister, Policy, read_policies
from equipoise.evaluation.ope.shown import read_shown
from equipoise.evaluation.options import OpeOptions
from tests.shown_log_file import write_log


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_log(tmp_path_factory.mktemp("log"))


def test_points_and_rankings_are_judged(logged: tuple[Path, Path], tmp_path: Path) -> None:
    """Pure relevance shows i0, i1: .3 + .2 clicks. With ω = 2, i2 is above both: .1 + .3."""
    log, labels = logged
    (tmp_path / "points.yaml").write_text("- {name: plain}\n- {omega: {wide: 2}}\n")
    ranking = [(f"r{n}", item, rank) for n in range(3000) for rank, item in enumerate(("i1", "i2"), 1)]
    pd.DataFrame(ranking, columns=["request_id", "item_id", "rank"]).to_parquet(tmp_path / "ranking.parquet")
    options = OpeOptions(
        labels=labels, policy=tmp_path / "points.yaml", ranking=tmp_path / "ranking.parquet", out=tmp_path / "ope.json"
    )
    judge_logs(log, options)
    found = json.loads((tmp_path / "ope.json").read_text())
    assert found["requests"] == 3000 and found["users"] == 700
    for judged, (clicks, value) in zip(
        found["judged"], [(0.5, 0.3 + 0.2 * 2), (0.4, 0.1 * 5 + 0.3), (0.3, 0.2 * 2 + 0.1 * 5)], strict=True
    ):
        assert judged["refused"] is None and judged["warning"] is None
        for estimator in ("dr", "snips", "ips"):
            for reward, truth in {"clicks": clicks, "conversions": clicks / 2, "value": value / 2}.items():
                estimate = judged["estimates"][reward][estimator]
                assert abs(estimate["value"] - truth) < 4 * estimate["standard_error"] < 0.6 * truth
    difference = found["judged"][1]["difference"]["clicks"]
    assert difference["interval"][0] < -0.1 < difference["interval"][1]
    assert found["judged"][0]["difference"] == {}
    assert found["judged"][1]["name"] == "wide 2"


def test_lists_by_a_rule_are_those_of_serving(tmp_path: Path) -> None:
    """Alike items are kept apart: i0 and i1 are both of a, i2 of b."""
    log, labels = write_log(tmp_path, 60, attribute_kind=None)
    frame = pd.concat([pd.read_parquet(part) for part in sorted((log / "candidates").iterdir())])
    frame["attribute_kind"] = frame["item_id"].map({"i0": "a", "i1": "a", "i2": "b"})
    for part in (log / "candidates").iterdir():
        part.unlink()
    frame.to_parquet(log / "candidates" / "all.parquet")
    shown = read_shown(log, labels)
    with pytest.raises(UserError, match="made by kind: name the export"):
        Lister(shown, None)
    lister = Lister(shown, ListRule(2, {"wide": ListTerm("spread", ("kind",))}))
    assert set(map(tuple, lister(Policy("plain")).tolist())) == {(0, 1)}
    # δ of i2 is 2, so that this shopper's wish for something else is e² times as strong.
    assert set(map(tuple, lister(Policy("apart", {"wide": 5.0})).tolist())) == {(0, 2)}


def test_what_tells_nothing_is_refused(logged: tuple[Path, Path], tmp_path: Path) -> None:
    log, labels = logged
    certain, certain_labels = write_log(tmp_path / "certain", 40, temperature=0.0)
    twice, twice_labels = write_log(tmp_path / "twice", 40, request_id="r1")
    several, several_labels = write_log(tmp_path / "several", 40)
    frame = pd.read_parquet(several / "candidates" / "a.parquet")
    frame["version"] = "run@2"
    frame.to_parquet(several / "candidates" / "a.parquet")
    (tmp_path / "other.csv").write_text("request_id,item_id,click\nx,y,1\n")
    cases = {
        "holds no drawn list": lambda: read_shown(certain, certain_labels),
        "has request 'r1' twice": lambda: read_shown(twice, twice_labels),
        "lists of several exports": lambda: read_shown(several, several_labels),
        "and none of run@9": lambda: read_shown(log, labels, "run@9"),
        "not what was clicked": lambda: read_shown(log),
        "no click on what": lambda: read_shown(log, tmp_path / "other.csv"),
        "holds no candidates": lambda: read_shown(tmp_path, labels),
        "nothing is named": lambda: judge_logs(log, OpeOptions(labels=labels)),
        "estimator best is none": lambda: judge_logs(log, OpeOptions(labels=labels, estimator="best")),
    }
    for words, call in cases.items():
        with pytest.raises(UserError, match=words):
            call()


def test_a_point_that_the_log_never_shows_is_not_estimated(tmp_path: Path) -> None:
    log, labels = write_log(tmp_path, 40)
    (tmp_path / "points.json").write_text('[{"name": "far", "omega": {"wide": 3}}]')
    found = judge_logs(log, OpeOptions(labels=labels, policy=tmp_path / "points.json"))
    assert found["judged"][0]["estimates"] == {} and "too rarely" in found["judged"][0]["refused"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "holds no list of points"),
        ("- {omega: {wide: much}}", "no finite number"),
        ("- {weight: 3}", "is not a point"),
        ("points: [{on_front: true, omega: {}, relevance_weights: {cvr: 2}}]", "other weights than ω"),
    ],
)
def test_points_are_checked(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "points.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_policies(tmp_path / "points.yaml")
