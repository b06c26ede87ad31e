"""`equipoise recommend` in this process: the scores of `equipoise score`, every kind of file, and what is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.json as pj
import pyarrow.parquet as pq
import pytest

from equipoise.export.write import export_run
from equipoise.launch.cli import main
from equipoise.serving.recommender import Recommender

SCORES = ["pctr", "pcvr", "relevance", "delta_diversity", "delta_fairness", "utility"]


def call(*arguments: Any) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture(scope="module")
def exported(scoreable: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recommend") / "export"
    with pytest.MonkeyPatch.context() as patch:  # the check in a fresh process has tests of its own
        names = scoreable.config.objectives.active()
        patch.setattr("equipoise.export.write.run_check", lambda folder: dict.fromkeys(names, 0.0))
        export_run(scoreable.run, out, golden=4)
    return out


@pytest.fixture(scope="module")
def users(scoreable: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scoreable.write_raw(tmp_path_factory.mktemp("users") / "users.parquet")


@pytest.fixture(scope="module")
def scored(scoreable: Any, users: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """What `equipoise score` says of the same requests."""
    out = tmp_path_factory.mktemp("scored") / "out"
    assert not call("score", scoreable.run, users, out, "--omega", "diversity=2.0,fairness=0.5")
    return pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("scores-*.parquet"))])


def by_place(table: pa.Table) -> pa.Table:
    return table.sort_by([("request_id", "ascending"), ("position", "ascending")])


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    """Two tables hold the same candidates with the same scores to 1e-5."""
    found, expected = by_place(found), by_place(expected)
    for name in ("request_id", "position", "item_id"):
        assert found.column(name).to_pylist() == expected.column(name).to_pylist()
    for name in SCORES:
        numbers = (table.column(name).to_numpy().astype(np.float64) for table in (found, expected))
        np.testing.assert_allclose(*numbers, atol=1e-5, rtol=1e-5)


OMEGA = ("--omega", "diversity=2.0,fairness=0.5")


def test_the_scores_are_those_of_score(exported: Path, users: Path, scored: pa.Table, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.parquet"
    assert not call("recommend", exported, "--users", users, "--out", out, *OMEGA)
    found = pq.read_table(out)
    assert found.column_names == [
        "request_id", "user_id", "rank", "position", "item_id", "utility", "pctr", "pcvr", "relevance",
        "delta_diversity", "delta_fairness",
    ]  # fmt: skip
    assert np.ptp(found.column("delta_diversity").to_numpy()) > 0.1
    assert_same(found, scored)
    rows = found.to_pylist()
    assert [row["request_id"] for row in rows][::8] == pq.read_table(users).column("request_id").to_pylist()
    for start in range(0, len(rows), 8):
        assert [row["rank"] for row in rows[start : start + 8]] == list(range(1, 9))
    assert by_place(found).column("rank") == by_place(scored).column("rank")
    assert [path.name for path in out.parent.iterdir()] == ["out.parquet"]


def long_form(users: Path) -> list[dict[str, Any]]:
    """One row per candidate, the requests interleaved, without histories, which CSV cannot hold."""
    rows = []
    for row in pq.read_table(users).to_pylist():
        for item, seen in zip(row["item_id"], row["seen_before"], strict=True):
            named = {name: row[name] for name in ("request_id", "user_id", "age")}
            rows.append({**named, "item_id": item, "seen_before": seen})
    return sorted(rows, key=lambda row: row["item_id"])


def write(rows: list[dict[str, Any]], path: Path) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        pc.write_csv(pa.Table.from_pylist(rows), path)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": pq.read_table,
    ".csv": lambda path: pc.read_csv(path, convert_options=pc.ConvertOptions(column_types={"request_id": pa.string()})),
    ".jsonl": pj.read_json,
}


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_every_kind_of_file_in_both_forms(ending: str, exported: Path, users: Path, tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "history"} for row in pq.read_table(users).to_pylist()]
    lists = write(rows, tmp_path / "lists.parquet")
    assert not call("recommend", exported, "--users", lists, "--out", tmp_path / "a.parquet", *OMEGA)
    long = write(long_form(users), tmp_path / f"long{ending}")
    out = tmp_path / f"b{ending}"
    assert not call("recommend", exported, "--users", long, "--out", out, *OMEGA)
    found = READERS[ending](out)
    expected = pq.read_table(tmp_path / "a.parquet")
    # The candidates stand in another order, so their places do too.
    names = ["request_id", "rank", "item_id"]
    assert sorted(zip(*(found.column(n).to_pylist() for n in names), strict=True)) == sorted(
        zip(*(expected.column(n).to_pylist() for n in names), strict=True)
    )
    order = [("request_id", "ascending"), ("rank", "ascending")]
    for name in SCORES:
        numbers = (t.sort_by(order).column(name).to_numpy().astype(np.float64) for t in (found, expected))
        np.testing.assert_allclose(*numbers, atol=1e-5, rtol=1e-5)


def test_json_lists_with_histories(exported: Path, users: Path, scored: pa.Table, tmp_path: Path) -> None:
    path = write(pq.read_table(users).to_pylist(), tmp_path / "users.jsonl")
    assert not call("recommend", exported, "--users", path, "--out", tmp_path / "out.parquet", *OMEGA)
    assert_same(pq.read_table(tmp_path / "out.parquet"), scored)


def test_a_request_in_json_gives_the_same_scores(exported: Path, users: Path, scored: pa.Table) -> None:
    recommender = Recommender.load(exported)
    rows = by_place(scored).to_pylist()
    for request in pq.read_table(users).to_pylist()[:10]:
        mine = [row for row in rows if row["request_id"] == request["request_id"]]
        pairs = zip(request["item_id"], request["seen_before"], strict=True)
        candidates = [{"item_id": item, "context": {"seen_before": seen}} for item, seen in pairs]
        omega = {"diversity": 2.0, "fairness": 0.5}
        ranking = recommender.rank({"age": request["age"]}, candidates, history=request["history"], omega=omega)
        for row, found in zip(mine, ranking.given, strict=True):
            assert found.utility == pytest.approx(row["utility"], abs=1e-5, rel=1e-5)
            assert found.probabilities["cvr"] == pytest.approx(row["pcvr"], abs=1e-5)


def test_one_list_of_candidates_for_all(exported: Path, users: Path, tmp_path: Path) -> None:
    shoppers = [{k: row[k] for k in ("user_id", "age", "history")} for row in pq.read_table(users).to_pylist()[:70]]
    items = write([{"item_id": f"i{n}", "seen_before": n % 3} for n in range(9)], tmp_path / "items.csv")
    path = write(shoppers, tmp_path / "users.parquet")
    out = tmp_path / "out.parquet"
    assert not call("recommend", exported, "--users", path, "--out", out, "--candidates", items, "--top", 3)
    found = pq.read_table(out).to_pylist()
    assert [row["user_id"] for row in found] == [row["user_id"] for row in shoppers for _ in range(3)]
    recommender = Recommender.load(exported)
    candidates = [{"item_id": f"i{n}", "context": {"seen_before": n % 3}} for n in range(9)]
    for place in (0, 5, len(shoppers) - 1):
        row = shoppers[place]
        best = recommender.rank({"age": row["age"]}, candidates, history=row["history"], top=3).candidates
        assert [one["item_id"] for one in found[3 * place : 3 * place + 3]] == [one.item_id for one in best]


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert call("recommend", *arguments) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_what_is_refused(exported: Path, users: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.parquet"
    rows = pq.read_table(users).to_pylist()[:3]
    name = rows[1]["request_id"]
    common = write([{"item_id": "i1"}], tmp_path / "items.jsonl")
    bad = write([rows[0], {**rows[1], "item_id": ["i1", "i99"], "seen_before": [1, 2]}], tmp_path / "bad.parquet")
    nobody = write([{"item_id": "i1"}], tmp_path / "nobody.parquet")
    alone = write([{"user_id": "u1"}], tmp_path / "alone.jsonl")
    stray = write([{"item_id": "i99"}], tmp_path / "stray.csv")
    many = write([{"item_id": "i1"}] * 600, tmp_path / "many.csv")
    (tmp_path / "users.txt").write_text("x")
    (tmp_path / "broken.parquet").write_text("x")
    (tmp_path / "empty.csv").write_text("user_id,item_id\n")
    hole = write([{"user_id": "u1", "item_id": "i1"}, {"user_id": None, "item_id": "i2"}], tmp_path / "hole.jsonl")
    asked: list[tuple[list[Any], str]] = [
        ([tmp_path, "--users", users, "--out", out], r"is not an export"),
        ([exported, "--users", tmp_path / "none.csv", "--out", out], r"none\.csv does not exist"),
        ([exported, "--users", tmp_path / "users.txt", "--out", out], r"users\.txt has an unknown ending"),
        ([exported, "--users", tmp_path / "broken.parquet", "--out", out], r"broken\.parquet cannot be read"),
        ([exported, "--users", tmp_path / "empty.csv", "--out", out], r"empty\.csv has no rows"),
        ([exported, "--users", nobody, "--out", out], r"has neither request_id nor user_id"),
        ([exported, "--users", hole, "--out", out], r"has a row without user_id"),
        (
            [exported, "--users", bad, "--out", out],
            rf"bad\.parquet: request '{name}': candidates\[1\]",
        ),
        ([exported, "--users", alone, "--out", out], r"no column item_id: add the candidates"),
        ([exported, "--users", users, "--out", out, "--candidates", common], r"candidates of its own"),
        ([exported, "--users", alone, "--out", out, "--candidates", stray], r"stray\.csv: candidates\[0\].* 'i99'"),
        ([exported, "--users", alone, "--out", out, "--candidates", many], r"more than 512 candidates"),
        ([exported, "--users", alone, "--out", out, "--candidates", alone], r"alone\.jsonl has no column item_id"),
        ([exported, "--users", users, "--out", tmp_path / "out.xml"], r"out\.xml has an unknown ending"),
        ([exported, "--users", users, "--out", out, "--top", 0], r"--top 0 leaves nothing"),
        ([exported, "--users", users, "--out", out, "--omega", "novelty=1"], r"--omega names 'novelty'"),
        ([exported, "--users", users, "--out", out, "--omega", "diversity=9"], r"omega\.diversity is 9"),
    ]
    for arguments, sentence in asked:
        assert re.search(sentence, refused(capsys, *arguments)), sentence
        assert not out.exists()
    assert not list(tmp_path.glob(".out*"))
    out.write_text("mine")
    assert "exists: name another file or add --overwrite" in refused(capsys, exported, "--users", users, "--out", out)
    assert out.read_text() == "mine"
    assert not call("recommend", exported, "--users", users, "--out", out, "--overwrite")
    assert pq.read_table(out).num_rows
    arguments = [exported, "--users", alone, "--candidates", many, "--max-candidates", 600, "--overwrite"]
    assert not call("recommend", *arguments, "--out", out)
    assert pq.read_table(out).num_rows == 600


@pytest.mark.parametrize(("name", "given"), [("age", "Age"), ("seen_before", "seen_befor")])
def test_misspelt_columns_are_refused(
    exported: Path, scoreable: Any, users: Path, tmp_path: Path, capsys: Any, name: str, given: str
) -> None:
    table = pq.read_table(users)
    path = tmp_path / "users.parquet"
    pq.write_table(table.rename_columns([given if column == name else column for column in table.column_names]), path)
    recommend = ("recommend", exported, "--users", path, "--out", tmp_path / "o.parquet")
    for command in (recommend, ("score", scoreable.run, path, tmp_path / "o")):
        assert call(*command) == 2
        printed = " ".join(capsys.readouterr().err.split())
        assert f"has the column '{given}', which nothing reads, and lacks '{name}'" in printed
    pq.write_table(table.drop_columns([name]), path)  # what is not there at all is told
    assert not call(*recommend)
    assert f"lacks {name}: scored as unknown" in " ".join(capsys.readouterr().out.split())
