"""`equipoise campaign` on a tiny export: the campaign's words in the prompts, values, boosts and caps."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from equipoise.launch.cli import main
from equipoise.serving.recommender import Recommender
from tests.export_record import write_record

CAMPAIGN = {
    "name": "spring",
    "starts": "2026-03-01",
    "ends": "2026-03-14",
    "fields": {"age": 40},
    "top": 2,
    "value": "margin",
    "boosts": [{"attribute": "provider", "group": "own", "add": 0.5}],
    "caps": [
        {"attribute": "provider", "group": "brand", "most": 4},
        {"attribute": "item_id", "most": 3},
        {"attribute": "provider", "group": "own", "least": 5},
    ],
}
MARGIN = {"i0": 1.0, "i1": 4.0, "i2": 2.0, "i3": 0.5, "i5": 3.0}
PROVIDER = {"i0": "own", "i3": "own", "i1": "brand", "i2": "brand", "i5": "brand"}


def call(*arguments: Any) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump({**CAMPAIGN, **changes}))
    return path


@pytest.fixture(scope="module")
def exported(tiny_export: Callable[..., Any]) -> Path:
    return tiny_export("bert").folder


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """Six shoppers, each with the same five candidates, one row per candidate."""
    rows = [
        {"user_id": f"u{user}", "item_id": item, "provider": PROVIDER[item], "margin": margin, "seen_before": user}
        for user in range(6)
        for item, margin in MARGIN.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "users.parquet")
    return tmp_path / "users.parquet"


def utility(recommender: Recommender, user: int) -> dict[str, float]:
    candidates = [
        {"item_id": item, "value": margin, "context": {"seen_before": user}, "boost": 0.5 * (PROVIDER[item] == "own")}
        for item, margin in MARGIN.items()
    ]
    ranking = recommender.rank({"age": 40}, candidates, value_weight=1.0)
    return {str(scored.item_id): scored.utility for scored in ranking.given}


def test_slates_keep_all_caps_and_carry_the_campaigns_words(
    exported: Path, users: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "slates.parquet"
    assert not call("campaign", exported, write(tmp_path), "--users", users, "--out", out)
    rows = pq.read_table(out).to_pylist()
    record = json.loads((tmp_path / "slates.parquet.report.json").read_text())
    recommender = Recommender.load(exported)
    expected = {f"u{user}": utility(recommender, user) for user in range(6)}
    for row in rows:
        assert row["utility"] == pytest.approx(expected[row["user_id"]][row["item_id"]], abs=1e-4)
        assert row["value"] == MARGIN[row["item_id"]] and row["boost"] == 0.5 * (PROVIDER[row["item_id"]] == "own")
    shown = [row["item_id"] for row in rows]
    assert sum(PROVIDER[item] == "brand" for item in shown) <= 4 and max(map(shown.count, shown)) <= 3
    assert sum(PROVIDER[item] == "own" for item in shown) >= 5
    for user in expected:
        mine = [row for row in rows if row["user_id"] == user]
        assert [row["rank"] for row in mine] == list(range(1, len(mine) + 1)) and len(mine) <= 2
        assert [row["utility"] for row in mine] == sorted((row["utility"] for row in mine), reverse=True)
    assert record["violations"] == 0 and record["gap"] < 1e-3 and record["shown"] == len(rows)
    assert record["objective"] == pytest.approx(np.exp([row["utility"] for row in rows]).sum(), rel=1e-4)
    value = sum(row["pctr"] * row["pcvr"] * row["value"] for row in rows)
    assert record["expected_value"] == pytest.approx(value, rel=1e-4)
    assert {cap["group"]: cap["shown"] for cap in record["caps"]}["item_id 'i1'"] == shown.count("i1")
    low, high = record["expected_value_interval"]
    assert low < value < high and not record["calibration_in_interval"]
    said = " ".join(capsys.readouterr().out.split())
    assert f"expected value {record['expected_value']:.6g} (95 % interval {low:.6g} to {high:.6g} for other" in said
    assert "how sure the probabilities are is not known: train with train.calibration" in said


def test_a_calibration_widens_the_interval(exported: Path, users: Path, tmp_path: Path) -> None:
    """Lines in serving.json, as exports of calibrated runs have them."""
    copy = tmp_path / "export"
    shutil.copytree(exported, copy)
    record = json.loads((copy / "serving.json").read_text())
    for name in ("ctr", "cvr"):
        record["objectives"][name]["calibration_lines"] = [[1.0, shift] for shift in np.linspace(-0.8, 0.8, 20)]
    write_record(copy, record)
    widths = {}
    for export in (exported, copy):
        out = tmp_path / f"slates{len(widths.get('realised_value_interval', ()))}.parquet"
        assert not call("campaign", export, write(tmp_path), "--users", users, "--out", out)
        told = json.loads(out.with_name(out.name + ".report.json").read_text())
        assert told["calibration_in_interval"] == (export == copy)
        for key in ("expected_value_interval", "realised_value_interval"):
            low, high = told[key]
            widths.setdefault(key, []).append(high - low)
    plain, sure = zip(*widths.values(), strict=True)
    assert sure[0] > 1.2 * plain[0] and sure[1] > plain[1]


def test_common_candidates_and_lists_give_the_same_slates(exported: Path, users: Path, tmp_path: Path) -> None:
    path, first = write(tmp_path), tmp_path / "rows.csv"
    table = pq.read_table(users).drop_columns(["seen_before"])
    pq.write_table(table, tmp_path / "plain.parquet")
    assert not call("campaign", exported, path, "--users", tmp_path / "plain.parquet", "--out", first)
    common = pa.Table.from_pylist(table.to_pylist()[: len(MARGIN)]).drop_columns(["user_id"])
    pq.write_table(common, tmp_path / "common.parquet")
    shoppers = pa.table({"user_id": [f"u{user}" for user in range(6)]})
    pq.write_table(shoppers, tmp_path / "shoppers.parquet")
    second = tmp_path / "common.csv"
    given = ("--users", tmp_path / "shoppers.parquet", "--candidates", tmp_path / "common.parquet")
    assert not call("campaign", exported, path, *given, "--out", second)
    lists = shoppers.to_pylist()
    columns = {name: common.column(name).to_pylist() for name in common.column_names}
    pq.write_table(pa.Table.from_pylist([{**row, **columns} for row in lists]), tmp_path / "lists.parquet")
    third = tmp_path / "lists.csv"
    assert not call("campaign", exported, path, "--users", tmp_path / "lists.parquet", "--out", third)
    assert first.read_text() == second.read_text() == third.read_text()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fields": {"discount": 5}}, "no prompt of this export reads discount"),
        ({"value": "price"}, "has no column price"),
        ({"caps": [{"attribute": "brand", "most": 1}]}, "has no column brand"),
        ({"caps": [{"attribute": "provider", "group": "none", "most": 1}]}, "which no candidate has"),
        ({"caps": [{"attribute": "provider"}]}, "give most, least or both"),
        ({"caps": [{"attribute": "item_id", "group": "i0", "least": 7}]}, "at least 7 times, but can be 6"),
        ({"ends": "2026-02-01"}, "before it starts"),
        ({"tops": 3}, "tops"),
        ({"boosts": [{"attribute": "provider", "group": "own", "add": 9}]}, "less than or equal to 5"),
    ],
)
def test_senseless_campaigns_are_refused(
    exported: Path, users: Path, tmp_path: Path, capsys: Any, changes: dict[str, Any], sentence: str
) -> None:
    out = tmp_path / "slates.parquet"
    assert call("campaign", exported, write(tmp_path, **changes), "--users", users, "--out", out) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_recommend_takes_a_value_weight(exported: Path, users: Path, tmp_path: Path) -> None:
    table = pq.read_table(users)
    named = ["value" if name == "margin" else name for name in table.column_names]
    pq.write_table(table.rename_columns(named), tmp_path / "valued.parquet")
    for weight in (0, 2):
        out = tmp_path / f"{weight}.parquet"
        given = ("--users", tmp_path / "valued.parquet", "--out", out, "--value-weight", weight)
        assert not call("recommend", exported, *given)
        for row in pq.read_table(out).to_pylist():
            added = weight * np.log(MARGIN[row["item_id"]])
            assert row["utility"] == pytest.approx(row["relevance"] + added, abs=1e-5)


def test_attributes_that_requests_lack_are_the_exports(exported: Path, users: Path, tmp_path: Path) -> None:
    known = Recommender.load(exported).reader.items.attributes["provider"]
    assert {item: known[item] for item in PROVIDER} == PROVIDER
    table = pq.read_table(users)
    bare = tmp_path / "bare.parquet"
    pq.write_table(table.drop_columns(["provider"]), bare)
    path = write(tmp_path)
    for name in (users, bare):
        assert not call("campaign", exported, path, "--users", name, "--out", tmp_path / f"{name.stem}.out.parquet")
    chosen = [pq.read_table(tmp_path / f"{name.stem}.out.parquet") for name in (users, bare)]
    assert chosen[0].equals(chosen[1])
    path = write(tmp_path, boosts=[{"attribute": "colour", "group": "red", "add": 0.5}])
    assert call("campaign", exported, path, "--users", bare, "--out", tmp_path / "none.parquet") == 2
