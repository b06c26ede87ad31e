"""`equipoise score` in this process: the scores, both forms of requests, resumption, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import equipoise.scoring.score_run
import equipoise.serving.request_scorer
from equipoise.launch.cli import main

COLUMNS = ["pctr", "pcvr", "relevance", "delta_diversity", "delta_fairness"]


def score(run: Path, requests: Path, out: Path, *options: str) -> pa.Table:
    """Run the command; all parts as one table."""
    with pytest.raises(SystemExit) as stop:
        main(["score", str(run), str(requests), str(out), *options])
    assert not stop.value.code
    return read(out)


def read(out: Path) -> pa.Table:
    """All parts as one table."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("scores-*.parquet"))])


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def assert_close(left: pa.Table, right: pa.Table, columns: list[str] = COLUMNS) -> None:
    """The scores of two tables agree to 1e-5."""
    for name in columns:
        np.testing.assert_allclose(left.column(name).to_numpy(), right.column(name).to_numpy(), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def reference(scoreable: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared slates scored in one go, 16 requests per part."""
    out = tmp_path_factory.mktemp("reference") / "out"
    score(scoreable.run, scoreable.slates, out, "--block", "16")
    return out


def test_scores_are_those_of_the_evaluation(scoreable: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(scoreable.run), "--split", "train"])
    assert not stop.value.code
    expected = pq.read_table(scoreable.run / "scores_train.parquet")  # ordered by request_id
    found = score(scoreable.run, scoreable.slates, tmp_path / "out")
    assert found.column_names == ["request_id", "user_id", "part", "position", "item_id", *COLUMNS]
    assert {str(found.schema.field(name).type) for name in COLUMNS} == {"float"}
    slates = pq.read_table(scoreable.slates)
    ids = pq.read_table(scoreable.config.data.folder / "items.parquet").column("item_id").to_pylist()
    items = slates.column("item").to_pylist()
    assert found.column("item_id").to_pylist() == [ids[item] for row in items for item in row]
    assert found.column("position").to_pylist() == [number for row in items for number in range(len(row))]
    requests = slates.column("request_id").to_pylist()
    assert found.column("request_id").to_pylist() == [name for name in requests for _ in range(8)]
    found = found.take(np.argsort(found.column("request_id").to_numpy(), kind="stable"))
    assert found.column("user_id").to_pylist() == expected.column("user").to_pylist()
    for name in ("pctr", "pcvr", "delta_diversity", "delta_fairness"):
        assert np.ptp(expected.column(name).to_numpy()) > 0.1
    assert_close(found, expected, ["pctr", "pcvr", "delta_diversity", "delta_fairness"])
    product = expected.column("pctr").to_numpy() * expected.column("pcvr").to_numpy()
    np.testing.assert_allclose(found.column("relevance").to_numpy(), np.log(product), atol=1e-5, rtol=0)


def test_raw_requests_give_the_same_scores(scoreable: Any, reference: Path, tmp_path: Path) -> None:
    found = score(scoreable.run, scoreable.write_raw(tmp_path / "raw.parquet"), tmp_path / "out")
    expected = read(reference)
    same = ["request_id", "user_id", "position", "item_id"]
    assert found.select(same).equals(expected.select(same))
    assert "part" not in found.column_names
    assert_close(found, expected)


def test_a_missing_field_vanishes_as_in_training(scoreable: Any, reference: Path, tmp_path: Path) -> None:
    def blank(row: dict[str, Any]) -> None:
        row |= {"age": None, "seen_before": None, "history": None}

    found = score(scoreable.run, scoreable.write_raw(tmp_path / "raw.parquet", blank), tmp_path / "out")
    bare = tmp_path / "bare.parquet"
    pq.write_table(pq.read_table(tmp_path / "raw.parquet").select(["request_id", "item_id"]), bare)
    without = score(scoreable.run, bare, tmp_path / "without")
    assert "user_id" not in without.column_names
    assert_close(found.slice(16, 8), without.slice(16, 8))
    assert np.abs(found.column("pctr").to_numpy() - read(reference).column("pctr").to_numpy())[16:24].max() > 1e-4


def test_batches_of_any_size_give_the_same(scoreable: Any, reference: Path, tmp_path: Path) -> None:
    for most in (30, 1000):  # two or three candidates at a time, several requests
        options = ["--max-tokens", str(most), "--block", "7"]
        assert_close(score(scoreable.run, scoreable.slates, tmp_path / str(most), *options), read(reference))
    packed = score(scoreable.run, scoreable.slates, tmp_path / "packed", "--set", "backbone.attention=sdpa")
    assert_close(packed, read(reference))


def test_an_operating_point_gives_utility_and_rank(scoreable: Any, reference: Path, tmp_path: Path) -> None:
    found = score(scoreable.run, scoreable.slates, tmp_path / "out", "--omega", "diversity=1.5, fairness=-0.5")
    np.testing.assert_allclose(found.column("utility").to_numpy(), found.column("relevance").to_numpy(), atol=1e-5)
    ranks = found.to_pandas().groupby(["request_id", "part"], sort=False)["rank"]
    assert all(sorted(each) == list(range(1, len(each) + 1)) for _, each in ranks)
    assert json.loads((tmp_path / "out" / "score.json").read_text())["omega"] == {"diversity": 1.5, "fairness": -0.5}


def test_items_from_a_table_of_their_own(scoreable: Any, reference: Path, tmp_path: Path) -> None:
    prepared = pq.read_table(scoreable.config.data.folder / "items.parquet").to_pylist()
    kept = [{name: item[name] for name in ("item_id", "title", "category")} for item in reversed(prepared)]
    new = {"item_id": "new", "title": "tea number 0", "category": "tea"}  # told like i0
    pq.write_table(pa.Table.from_pylist([new, *kept]), tmp_path / "items.parquet")

    def rename(row: dict[str, Any]) -> None:
        row["item_id"] = ["new" if name == "i0" else name for name in row["item_id"]]

    for row in scoreable.raw:
        rename(row)
    raw = scoreable.write_raw(tmp_path / "raw.parquet")
    for row in scoreable.raw:
        row["item_id"] = ["i0" if name == "new" else name for name in row["item_id"]]
    found = score(scoreable.run, raw, tmp_path / "out", "--items", str(tmp_path / "items.parquet"))
    assert "new" in found.column("item_id").to_pylist()
    assert_close(found, read(reference))


def test_only_items_that_occur_are_tokenised(scoreable: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = equipoise.scoring.score_run.Catalogue.texts

    def spy(self: Any, numbers: list[int]) -> list[str]:
        asked.extend(numbers)
        return original(self, numbers)

    monkeypatch.setattr("equipoise.data.requests.catalogue.Catalogue.texts", spy)
    few = pq.read_table(scoreable.slates).slice(0, 2)
    pq.write_table(few, tmp_path / "few.parquet")
    score(scoreable.run, tmp_path / "few.parquet", tmp_path / "out")
    assert sorted(asked) == sorted({item for items in few.column("item").to_pylist() for item in items})


def stop_after(portions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ctrl-C come when so many portions are scored."""
    original = equipoise.serving.request_scorer.RequestScorer.forward
    left = [portions]

    def scored(*arguments: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return original(*arguments)

    monkeypatch.setattr("equipoise.serving.request_scorer.RequestScorer.forward", scored)


def test_what_was_stopped_goes_on_and_ends_alike(
    scoreable: Any, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(SystemExit) as stop:
            main(["score", str(scoreable.run), str(scoreable.slates), str(out), "--block", "16"])
        assert stop.value.code
    assert sorted(path.name for path in out.iterdir()) == ["score.json", "scores-00000.parquet"]
    first = (out / "scores-00000.parquet").stat().st_mtime_ns
    (out / ".scores-00001.parquet.99.partial").write_text("left by a killed process")
    capsys.readouterr()
    score(scoreable.run, scoreable.slates, out, "--block", "16", "--max-tokens", "16384")
    printed = " ".join(capsys.readouterr().out.split())
    assert "scored 25 requests, 200 impressions" in printed
    assert "16 requests and 128 impressions were there already" in printed
    assert (out / "scores-00000.parquet").stat().st_mtime_ns == first
    assert contents(out) == contents(reference)
    score(scoreable.run, scoreable.slates, out, "--block", "16")
    assert "all 41 requests are scored already" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("damage", ["zeroed", "flipped", "truncated", "emptied", "exchanged", "foreign"])
def test_damaged_parts_are_scored_again(
    scoreable: Any, reference: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    out = Path(shutil.copytree(reference, tmp_path / "out"))
    first, second = out / "scores-00000.parquet", out / "scores-00001.parquet"
    content = first.read_bytes()
    if damage == "exchanged":
        second.rename(out / "between")
        first.rename(second)
        (out / "between").rename(first)
    elif damage == "foreign":
        pq.write_table(pa.table({"pctr": [0.5]}), first)
    else:
        start = content.index(b"\x28\xb5\x2f\xfd") + 9  # inside the first page, which zstd compressed
        flipped = b"".join((content[:start], bytes([content[start] ^ 1]), content[start + 1 :]))
        damaged = {"zeroed": bytes(len(content)), "flipped": flipped, "truncated": content[:-99], "emptied": b""}
        first.write_bytes(damaged[damage])
    assert score(scoreable.run, scoreable.slates, out, "--block", "16").num_rows
    assert f"{first} is not as it was written: its requests are scored again" in caplog.text
    assert contents(out) == contents(reference)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The sentence that a call ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["score", *map(str, arguments)])
    printed = capsys.readouterr().err
    assert stop.value.code == 2, printed
    sentences = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1 and "Traceback" not in printed
    return sentences[0]


def test_other_settings_or_inputs_are_not_mixed(
    scoreable: Any, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(reference)
    arguments = (scoreable.run, scoreable.slates, reference)
    sentence = refused(capsys, *arguments, "--block", 8)
    assert "block: 16 then, 8 now" in sentence and "--overwrite" in sentence
    assert "omega" in refused(capsys, *arguments, "--block", 16, "--omega", "diversity=1")
    assert "max_prefix: 48 then, 40 now" in refused(capsys, *arguments, "--block", 16, "--set", "tokens.max_prefix=40")
    other = scoreable.write_raw(tmp_path / "raw.parquet")
    assert "file: " in refused(capsys, scoreable.run, other, reference, "--block", 16)
    assert contents(reference) == before
    score(scoreable.run, scoreable.slates, tmp_path / "out", "--block", "8")
    found = score(scoreable.run, other, tmp_path / "out", "--overwrite", "--block", "30")
    assert found.num_rows == 328
    assert len(list((tmp_path / "out").glob("scores-*"))) == 2


def test_a_foreign_folder_is_left_alone(scoreable: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    sentence = refused(capsys, scoreable.run, scoreable.slates, tmp_path, "--overwrite")
    assert "holds other files" in sentence and "notes.txt" in sentence
    assert "is a file" in refused(capsys, scoreable.run, scoreable.slates, tmp_path / "notes.txt")


Change = Callable[[dict[str, Any]], object]
RAW_FAULTS: list[tuple[Change, list[str]]] = [
    (lambda row: row.update(item_id=["i1", "i99"], seen_before=[1, 1]), ["asks for item 'i99'", "--items"]),
    (lambda row: row.update(item_id=None), ["has no candidates"]),
    (lambda row: row.update(item_id=[]), ["has no candidates"]),
    (lambda row: row.update(item_id=["i1", None], seen_before=[1, 1]), ["candidate without item_id"]),
    (lambda row: row["seen_before"].pop(), ["has 8 item_id but 7 seen_before"]),
]


@pytest.mark.parametrize(("change", "words"), RAW_FAULTS)
def test_a_broken_request_is_named_and_nothing_of_its_block_written(
    scoreable: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, words: list[str]
) -> None:
    def apply(row: dict[str, Any]) -> None:
        row["seen_before"] = list(row["seen_before"])
        change(row)

    raw = scoreable.write_raw(tmp_path / "raw.parquet", apply)
    sentence = refused(capsys, scoreable.run, raw, tmp_path / "out", "--block", 2)
    for word in [str(raw), f"'{scoreable.raw[2]['request_id']}'", *words]:
        assert word in sentence
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["score.json", "scores-00000.parquet"]


def test_requests_of_no_known_form(scoreable: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def sentence(columns: dict[str, Any], *options: object) -> str:
        pq.write_table(pa.table(columns), tmp_path / "r.parquet")
        found = refused(capsys, scoreable.run, tmp_path / "r.parquet", tmp_path / "out", *options)
        assert "r.parquet" in found and not (tmp_path / "out").exists()
        return found

    assert "holds neither prepared slates" in sentence({"request_id": ["r"], "items": [["i1"]]})
    assert "make it a list" in sentence({"request_id": ["r"], "item_id": ["i1"]})
    assert "make it a list" in sentence({"request_id": ["r"], "item_id": [["i1"]], "seen_before": [1]})
    for name, columns in {  # of fractional ids the values tell, which are read block by block
        "request_id": {"request_id": [1.5], "item_id": [["i1"]]},
        "item_id": {"request_id": ["r"], "item_id": [[1.5]]},
    }.items():
        pq.write_table(pa.table(columns), tmp_path / "r.parquet")
        out = tmp_path / name
        assert f"{name} of type double" in refused(capsys, scoreable.run, tmp_path / "r.parquet", out)
        assert not list(out.rglob("*.parquet"))


def test_slates_that_do_not_fit_the_items(scoreable: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slate = {"request_id": ["r7"], "prefix": ["age 30"], "context": [["", ""]]}
    file, out = tmp_path / "r.parquet", tmp_path / "out"
    pq.write_table(pa.table({**slate, "item": [[0, 24]]}), file)
    sentence = refused(capsys, scoreable.run, file, out)
    assert "'r7' has item 24" in sentence and "items 0 to 23" in sentence
    pq.write_table(pa.table({"item_id": ["a"], "title": ["tea"]}), tmp_path / "items.parquet")
    assert "has no item_index" in refused(capsys, scoreable.run, file, out, "--items", tmp_path / "items.parquet")
    (tmp_path / "prepared" / "slates").mkdir(parents=True)
    other = tmp_path / "prepared" / "slates" / "test-00000.parquet"
    pq.write_table(pq.read_table(scoreable.slates), other)
    pq.write_table(pa.table({"item_id": ["a"]}), tmp_path / "prepared" / "items.parquet")
    assert "was prepared with" in refused(capsys, scoreable.run, other, tmp_path / "out2")


def test_options_that_mean_nothing(scoreable: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (scoreable.run, scoreable.slates, tmp_path / "out")
    assert "'variety'" in refused(capsys, *arguments, "--omega", "variety=1")
    assert "diversity=1.0" in refused(capsys, *arguments, "--omega", "diversity")
    assert "--block 0" in refused(capsys, *arguments, "--block", 0)
    assert "does not exist" in refused(capsys, scoreable.run, tmp_path / "none.parquet", tmp_path / "out")
    assert "holds no run" in refused(capsys, tmp_path, scoreable.slates, tmp_path / "out")
    items = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": ["i1", "i1"], "title": ["a", "b"]}), items)
    raw = scoreable.write_raw(tmp_path / "raw.parquet")
    assert "'i1' twice" in refused(capsys, scoreable.run, raw, tmp_path / "out", "--items", items)
    pq.write_table(pa.table({"item": ["i1"], "title": ["a"]}), items)
    assert "has no column item_id" in refused(capsys, *arguments, "--items", items)
    assert "cannot be read" in refused(capsys, *arguments, "--items", tmp_path / "none.parquet")


def test_two_kinds_of_files_in_one_folder(scoreable: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    scoreable.write_raw(tmp_path / "in" / "b.parquet")
    pq.write_table(pq.read_table(scoreable.slates), tmp_path / "in" / "a.parquet")
    assert "different" in refused(capsys, scoreable.run, tmp_path / "in", tmp_path / "out")


def test_a_score_that_is_no_number_is_refused(
    scoreable: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = equipoise.serving.request_scorer.RequestScorer.forward

    def broken(*arguments: Any) -> dict[str, np.ndarray]:
        scores = original(*arguments)
        scores["cvr"][8] = np.nan
        return scores

    monkeypatch.setattr("equipoise.serving.request_scorer.RequestScorer.forward", broken)
    sentence = refused(capsys, scoreable.run, scoreable.slates, tmp_path / "out")
    assert f"'{scoreable.raw[1]['request_id']}' got a score of cvr" in sentence
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["score.json"]
