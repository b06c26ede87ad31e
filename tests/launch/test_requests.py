"""`equipoise requests`: what it makes scores as evaluate does, in every form of file, and says what is missing."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from equipoise.data.requests.table import open_requests, request_connection
from equipoise.launch.cli import main
from tests.launch.test_score import score


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _make(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    try:
        code = main(["requests", *map(str, arguments)])
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    return int(code or 0), captured.out + captured.err


@pytest.fixture
def config(scoreable: Any) -> Path:
    return scoreable.config.output / "config.yaml"


@pytest.fixture
def given(scoreable: Any, tmp_path: Path) -> list[str]:
    """Users and candidates of the prepared requests, as two files."""
    stamps = dict(
        zip(*(pq.read_table(scoreable.slates)[name].to_pylist() for name in ("request_id", "timestamp")), strict=True)
    )
    users = [
        {"user_id": r["user_id"], "request_id": r["request_id"], "timestamp": stamps[r["request_id"]]}
        for r in scoreable.raw
    ]
    offers = [
        {"request_id": row["request_id"], "item_id": item, "seen_before": seen}
        for row in scoreable.raw
        for item, seen in zip(row["item_id"], row["seen_before"], strict=True)
    ]
    paths = {"--users": _write(tmp_path / "users.csv", users), "--candidates": _write(tmp_path / "offers.csv", offers)}
    return [str(part) for pair in paths.items() for part in pair]


def test_scores_are_those_of_evaluate(
    scoreable: Any, config: Path, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "requests.parquet"
    code, said = _make(capsys, config, *given, "--out", out)
    with_history = sum(bool(row["history"]) for row in scoreable.raw)
    assert code == 0 and f"{with_history} have a history" in said and "note" not in said, said
    assert with_history > 10
    made = pq.read_table(out).to_pylist()
    assert [row["history"] for row in made] == [row["history"] for row in scoreable.raw]
    with pytest.raises(SystemExit):
        main(["evaluate", str(scoreable.run), "--split", "train"])
    expected = pq.read_table(scoreable.run / "scores_train.parquet")
    found = score(scoreable.run, out, tmp_path / "scores")
    found = found.take(np.argsort(found.column("request_id").to_numpy(), kind="stable"))
    for name in ("pctr", "pcvr", "delta_diversity", "delta_fairness"):
        np.testing.assert_allclose(found[name].to_numpy(), expected[name].to_numpy(), atol=1e-5, rtol=1e-5)
    code, said = _make(capsys, config, *given, "--out", out)
    assert code == 2 and "exists" in said


def test_every_form_of_file_holds_the_same(
    config: Path, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = {}
    for ending in ("parquet", "jsonl", "csv"):
        out = tmp_path / f"requests.{ending}"
        assert _make(capsys, config, *given, "--out", out)[0] == 0
        with request_connection() as con:
            table = open_requests(con, out)
            groups = list(table.requests(["request_id", "history", "item_id", "age"]))
        read[ending] = [
            (str(g[0]["request_id"]), list(g[0]["history"] or []), int(g[0]["age"]),
             [row["item_id"] for row in g] if table.per_candidate else list(g[0]["item_id"]))
            for g in groups
        ]  # fmt: skip
    assert read["csv"] == read["parquet"] == read["jsonl"] and any(history for _, history, _, _ in read["csv"])


def test_a_history_in_a_cell(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text('user_id,item_id,history\nu,i,tea | soap\nv,i,"[""tea, green"", ""soap""]"\nw,i,\n')
    with request_connection() as con:
        rows = [group[0]["history"] for group in open_requests(con, path).requests(["user_id", "history"])]
    assert rows == [["tea", "soap"], ["tea, green", "soap"], None]


def test_all_users_have_all_candidates_at_a_moment(
    scoreable: Any, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users = _write(tmp_path / "u.csv", [{"user_id": "u1"}, {"user_id": "new"}])
    offers = _write(tmp_path / "c.csv", [{"item_id": "i3"}, {"item_id": "i1"}])
    files = (config, "--users", users, "--candidates", offers)
    out = tmp_path / "r.parquet"
    code, said = _make(capsys, *files, "--at", "2026-01-15T00:00", "--out", out)
    assert code == 0 and "neither users nor candidates have seen_before" in said, said
    rows = pq.read_table(out).to_pylist()
    assert [row["item_id"] for row in rows] == [["i3", "i1"]] * 2 and rows[1]["age"] is None and not rows[1]["history"]
    code, said = _make(capsys, *files, "--at", "2020-01-01", "--out", tmp_path / "early.jsonl")
    assert code == 0 and "no user has an event before the moment" in said
    assert [json.loads(line)["history"] for line in (tmp_path / "early.jsonl").open()] == [[], []]


FAULTS = {
    "users": ([{"user": "u1"}], None, "has no column 'user_id'"),
    "twice": ([{"user_id": "u1"}, {"user_id": "u1"}], None, "has request 'u1' twice"),
    "nobody": ([{"user_id": ""}], None, "no user_id in row 1"),
    "item": (None, [{"item_id": "i1"}, {"item_id": "gone"}], "item 'gone', which the items table lacks, in row 2"),
    "offers": (None, [{"user_id": "u2", "item_id": "i1"}], "no candidates for user 'u1'"),
    "both": ([{"user_id": "u1", "seen_before": "1"}], [{"item_id": "i1", "seen_before": "2"}], "both have a column"),
    "history": ([{"user_id": "u1", "history": "tea"}], None, "which is made from the events"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_named(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    users, offers, words = FAULTS[fault]
    files = (
        *("--users", _write(tmp_path / "u.csv", users or [{"user_id": "u1"}])),
        *("--candidates", _write(tmp_path / "c.csv", offers or [{"item_id": "i1"}])),
    )
    code, said = _make(capsys, config, *files, "--out", tmp_path / "r.parquet")
    assert code == 2 and words in said and not (tmp_path / "r.parquet").exists(), said
    code, said = _make(capsys, config, *files, "--out", tmp_path / "r.xlsx")
    assert code == 2 and "unknown ending" in said
    code, said = _make(capsys, config, *files, "--out", tmp_path / "r.parquet", "--at", "noon")
    assert code == 2 and "--at noon is no moment" in said
