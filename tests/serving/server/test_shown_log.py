"""A server that draws lists and logs them: what it answers and writes, and that it goes on when it cannot write."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from equipoise.common.errors import UserError
from equipoise.common.plackett_luce import place_log_propensities
from equipoise.common.shown_tables import CANDIDATES, IMPRESSIONS
from equipoise.serving.shown_log import LogRows, ShownLog, ShownRequest


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    return [row for part in sorted((folder / table).glob("*.parquet")) for row in pq.read_table(part).to_pylist()]


def test_what_is_shown_is_answered_and_logged(
    start_server: Callable[..., Any], request_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    live = start_server(explore=0.5, explore_seed=3, log=tmp_path / "log")
    body = request_of(6, request_id="r7", user={"age": 40, "user_id": "u1", "baskets": 3}, top=4)
    body["candidates"][0] |= {"context": {"seen": "often"}, "value": 2.5}
    answers = [live.client.post("/rank", json=body).json()]
    answers += [live.client.post("/rank", json=request_of(3)).json() for _ in range(2)]
    assert "exploration" not in live.client.post("/score", json=request_of(3)).json()
    live.stop()
    until = time.monotonic() + 20
    while not list((tmp_path / "log" / IMPRESSIONS).glob("*.parquet")) and time.monotonic() < until:
        time.sleep(0.05)
    shown, candidates = rows(tmp_path / "log", IMPRESSIONS), rows(tmp_path / "log", CANDIDATES)
    assert len(shown) == 4 + 3 + 3 and len(candidates) == 6 + 3 + 3
    first = [row for row in shown if row["request_id"] == "r7"]
    first.sort(key=lambda row: row["position"])
    assert [row["item_id"] for row in first] == [each["item_id"] for each in answers[0]["candidates"]]
    assert [row["position"] for row in first] == [0, 1, 2, 3]
    assert {row["user_id"] for row in first} == {"u1"} and {row["age"] for row in first} == {"40"}
    assert {row["baskets"] for row in first} == {3.0}
    assert [row["seen"] for row in first if row["item_id"] == "i0"] in ([], ["often"])
    assert {row["version"] for row in shown} == {"stand-in@1"}
    assert all(isinstance(row["timestamp"], datetime) for row in shown)
    for answer in answers:
        own = sorted(
            (row for row in candidates if row["request_id"] == answer["request_id"]), key=lambda row: row["index"]
        )
        listed = sorted((row for row in own if row["position"] is not None), key=lambda row: row["position"])
        utilities = np.array([row["list_utility"] for row in own])
        logs = place_log_propensities(utilities, np.array([row["index"] for row in listed]), 0.5)
        assert [row["propensity"] for row in listed] == pytest.approx(np.exp(logs))
        assert [each["propensity"] for each in answer["candidates"]] == pytest.approx(np.exp(logs))
        assert answer["exploration"] == {"temperature": 0.5, "log_propensity": pytest.approx(logs.sum())}
        assert [row["slate_log_propensity"] for row in own] == pytest.approx([logs.sum()] * len(own))
    anonymous = [row["user_id"] for row in shown if row["request_id"] != "r7"]
    assert len(set(anonymous)) == 2 and None not in anonymous


def test_temperature_0_answers_as_ever(
    start_server: Callable[..., Any], request_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    plain, logged = start_server(), start_server(log=tmp_path / "log")
    one, other = (live.client.post("/rank", json=request_of(request_id="r1")).json() for live in (plain, logged))
    assert {**one, "served": None} == {**other, "served": None}
    assert logged.counted("equipoise_log_dropped_requests_total") == 0


def shown_request(stand_in: Any, name: str, count: int = 3) -> ShownRequest:
    given = {"request_id": name, "user": {"age": 3}, "candidates": [{"item_id": f"i{each}"} for each in range(count)]}
    return ShownRequest(given, stand_in.score_prepared([stand_in.prepare(given)])[0], datetime(2026, 1, 1))


def test_parts_rotate_and_nothing_waits_without_bound(stand_in: Any, tmp_path: Path) -> None:
    made = LogRows(stand_in.reader, stand_in.pointwise, stand_in.listwise, "v1")
    log = ShownLog(tmp_path, made, part_candidates=6, part_seconds=30, most_waiting=15)
    for number in range(7):  # the thread does not run yet: five of three candidates fit
        log.put(shown_request(stand_in, f"r{number}"))
    assert log.counts.dropped == 2
    log.start()
    log.close()
    assert log.counts.logged == 5
    parts = sorted((tmp_path / CANDIDATES).glob("*.parquet"))
    assert [pq.read_metadata(part).num_rows for part in parts] == [6, 6, 3]
    assert [part.name for part in parts] == sorted(part.name for part in (tmp_path / IMPRESSIONS).iterdir())
    assert {row["temperature"] for row in rows(tmp_path, IMPRESSIONS)} == {0.0}
    assert {row["propensity"] for row in rows(tmp_path, IMPRESSIONS)} == {1.0}


def test_a_full_disk_drops_a_part_and_no_request(
    stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = LogRows(stand_in.reader, stand_in.pointwise, stand_in.listwise, "v1")
    log = ShownLog(tmp_path, made, part_candidates=3)
    failing = iter([True])
    write = pq.write_table

    def full(*given: Any, **named: Any) -> None:
        if next(failing, False):
            raise OSError(28, "No space left on device")
        write(*given, **named)

    monkeypatch.setattr("equipoise.serving.shown_log.pq.write_table", full)
    log.start()
    for number in range(2):
        log.put(shown_request(stand_in, f"r{number}"))
    log.close()
    assert (log.counts.dropped, log.counts.logged) == (1, 1) and "No space left" in caplog.text
    assert {row["request_id"] for row in rows(tmp_path, IMPRESSIONS)} == {"r1"}
    assert not list(tmp_path.rglob("*.partial"))


def test_a_folder_that_cannot_be_made_is_refused(stand_in: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--log .* cannot be written to"):
        ShownLog(tmp_path / "file", LogRows(stand_in.reader, stand_in.pointwise, stand_in.listwise, "v1"))
