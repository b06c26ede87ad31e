"""The audit names what is wrong with prepared data, and says nothing of good data."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equipoise.configs.features import FeatureConfig
from equipoise.configs.schema import DataConfig, HistoryConfig, PromptConfig, TablesConfig
from equipoise.data.audit import Finding, audit
from equipoise.data.prepare.slates import prepare
from equipoise.launch.cli import main
from tests.tiny_run import run_settings, write_config

Rows = list[dict[str, Any]]
REQUESTS, CANDIDATES, ITEMS = 200, 8, 24


def _impressions() -> Rows:
    """Requests of good data: clicks at random, a field that tells something."""
    rng = np.random.default_rng(0)
    rows: Rows = []
    for request in range(REQUESTS):
        day = f"2025-{1 + request // 40:02d}-{1 + request % 28:02d} {request % 24:02d}:00:00"
        for item in rng.choice(ITEMS, CANDIDATES, replace=False):
            click = int(rng.random() < 0.3)
            rows.append({
                "request_id": f"r{request}", "timestamp": day, "user_id": f"u{request % 30}", "item_id": f"i{item}",
                "click": click, "conversion": int(click and rng.random() < 0.5),
                "seen": round(float(rng.random() + 0.2 * click), 3), "place": ["a", "b", "c"][int(rng.integers(3))],
            })  # fmt: skip
    return rows


def _findings(tmp_path: Path, spoil: Callable[[Rows, Rows], None] = lambda rows, items: None) -> list[Finding]:
    rows, items = _impressions(), [{"item_id": f"i{n}", "title": f"item number {n}"} for n in range(ITEMS)]
    spoil(rows, items)
    paths = {}
    for name, table in {"impressions": rows, "items": items}.items():
        paths[name] = tmp_path / f"{name}.csv"
        with paths[name].open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    config = DataConfig(
        folder=tmp_path / "prepared",
        tables=TablesConfig(**paths),
        history=HistoryConfig(max_events=0),
        prompt=PromptConfig(context=["seen {seen}"]),
        fields=["seen"],
        features=[FeatureConfig(name="place", scale="category")],
    )
    prepare(config)
    return audit(config.folder)


def test_good_data_have_no_findings(tmp_path: Path) -> None:
    assert _findings(tmp_path) == []


def _after_the_click(rows: Rows, items: Rows) -> None:
    for row in rows:
        row["seen"] = row["click"] * 5 + row["seen"] / 10


def _known_after_the_click(rows: Rows, items: Rows) -> None:
    for row in rows:
        row["seen"] = row["seen"] if row["click"] else ""


def _category_of_the_click(rows: Rows, items: Rows) -> None:
    for row in rows:
        row["place"] = "cart" if row["click"] else row["place"]


def _twice(rows: Rows, items: Rows) -> None:
    rows += [{**row, "request_id": "again"} for row in rows if row["request_id"] == "r3"]


def _one_text(rows: Rows, items: Rows) -> None:
    items[0]["title"] = items[1]["title"]


def _labels_end(rows: Rows, items: Rows) -> None:
    for row in rows:
        if "2025-03" <= row["timestamp"] < "2025-04":
            row["click"] = row["conversion"] = 0


def _no_test_clicks(rows: Rows, items: Rows) -> None:
    last = sorted({row["timestamp"] for row in rows})[-60:]
    for row in rows:
        if row["timestamp"] in last:
            row["click"] = row["conversion"] = 0


def _drifts(rows: Rows, items: Rows) -> None:
    for row in rows:
        if row["timestamp"] >= "2025-05":
            row["seen"] += 3


def _goes_missing(rows: Rows, items: Rows) -> None:
    for row in rows:
        if row["timestamp"] >= "2025-05":
            row["seen"] = ""


def _new_users(rows: Rows, items: Rows) -> None:
    for row in rows:
        row["user_id"] += row["request_id"] if row["timestamp"] >= "2025-05" else ""


@pytest.mark.parametrize(
    ("spoil", "level", "check", "words"),
    [
        (_after_the_click, "error", "leak", "seen decides the click of the test split by its value"),
        (_known_after_the_click, "error", "leak", "by whether it is known"),
        (_category_of_the_click, "error", "leak", "place decides"),
        (_twice, "warning", "duplicate requests", "1 requests repeat another"),
        (_one_text, "warning", "items of one text", "2 items share their text"),
        (_labels_end, "warning", "label rate over time", "the rate of click goes from"),
        (_no_test_clicks, "error", "constant label", "click is 0 in every impression of the test split"),
        (_drifts, "warning", "drift", "seen is distributed otherwise"),
        (_goes_missing, "warning", "missing", "seen is unknown in"),
        (_new_users, "warning", "unseen users", "of a user that train does not hold"),
    ],
)
def test_each_fault_is_named(
    tmp_path: Path, spoil: Callable[[Rows, Rows], None], level: str, check: str, words: str
) -> None:
    found = [finding for finding in _findings(tmp_path, spoil) if finding.check == check]
    assert [finding.level for finding in found if words in finding.sentence] == [level], found


def test_the_command_writes_a_page_and_fails_on_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = run_settings(tmp_path)
    config = write_config(settings, tmp_path / "run.yaml")
    with pytest.raises(SystemExit) as unprepared:
        main(["audit", str(config)])
    assert unprepared.value.code == 2
    _findings(tmp_path, _after_the_click)
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(config), "--out", str(tmp_path / "page")])
    assert ended.value.code == 1
    assert "leak" in (tmp_path / "page" / "audit.html").read_text()
    assert "errors" in capsys.readouterr().out
