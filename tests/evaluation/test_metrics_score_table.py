"""The score table: what it refuses, and that a saved one comes back."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from equipoise.common.errors import UserError
from equipoise.evaluation.metrics import ScoreTable
from equipoise.evaluation.metrics.score_table import METADATA_KEY, read_origin


def columns(**changes):
    """The arguments of a good table of three rows in two requests."""
    good = {
        "request": [4, 4, 1],
        "item": [0, 2, 0],
        "user": ["a", "a", "b"],
        "click": [1, 0, 1],
        "conversion": [1, 0, 0],
        "pctr": [0.5, 0.25, 0.125],
        "pcvr": [0.1, 0.2, 0.3],
        "delta": {"diversity": [0.0, -1.5, 2.0]},
        "fields": {"times_bought": [1.0, np.nan, 3.0]},
        "user_groups": {"age": np.array(["19-24", "19-24", None], object)},
        "items": {
            "category": np.array(["milk", "rice", None], object),
            "provider": np.array(["National", "Private", "Private"]),
        },
    }
    return good | changes


@pytest.mark.parametrize("pcvr", [[0.1, 0.2, 0.3], None])
def test_a_saved_table_comes_back(tmp_path, pcvr):
    table = ScoreTable(**columns(pcvr=pcvr))
    table.save(tmp_path / "scores.parquet")
    loaded = ScoreTable.load(tmp_path / "scores.parquet")
    for name in ("request", "item", "user", "click", "conversion", "pctr"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(table, name))
        assert getattr(loaded, name).dtype == getattr(table, name).dtype
    assert (loaded.pcvr is None) == (pcvr is None)
    np.testing.assert_array_equal(loaded.delta["diversity"], [0.0, -1.5, 2.0])
    np.testing.assert_array_equal(loaded.fields["times_bought"], [1.0, np.nan, 3.0])
    assert loaded.user_groups["age"].tolist() == ["19-24", "19-24", None]
    assert loaded.items["category"].tolist() == ["milk", None, None]  # item 1 is shown in no row
    assert loaded.items["provider"].tolist() == ["National", None, "Private"]
    assert [file.name for file in tmp_path.iterdir()] == ["scores.parquet"]


def test_an_empty_table_comes_back(tmp_path):
    empty = ScoreTable([], [], [], [], [], [])
    empty.save(tmp_path / "scores.parquet")
    assert len(ScoreTable.load(tmp_path / "scores.parquet")) == 0


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "scores.parquet"
    table = ScoreTable(**columns())
    table.save(path)
    before = path.read_bytes()

    def fail(_, partial):
        partial.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        table.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["scores.parquet"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pctr": [0.5, 0.5]}, "pctr has shape"),
        ({"delta": {"fairness": [1.0]}}, "delta_fairness has shape"),
        ({"request": [4, 1, 4]}, "not contiguous"),
        ({"click": [1, 0, 2]}, "click holds values other than 0 and 1"),
        ({"pctr": [0.5, np.nan, 0.5]}, r"1 values of pctr are no probabilities \(the first is nan in row 1\)"),
        ({"pcvr": [0.5, 0.5, 1.5]}, "pcvr are no probabilities"),
        ({"delta": {"fairness": [1.0, np.inf, 0.0]}}, "delta of fairness is not finite"),
        ({"item": [0, 3, 0]}, "item 3 is none of the 3 items"),
        ({"item": [0, -1, 0]}, "negative item_index"),
        ({"items": {"a": np.array(["x"] * 3), "b": np.array(["x"] * 4)}}, "different lengths"),
    ],
)
def test_a_wrong_table_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        ScoreTable(**columns(**changes))


def test_a_file_that_is_no_score_table_is_refused(tmp_path):
    path = tmp_path / "scores.parquet"
    with pytest.raises(UserError, match="cannot be read"):
        ScoreTable.load(path)
    path.write_bytes(b"not parquet")
    with pytest.raises(UserError, match="cannot be read"):
        ScoreTable.load(path)
    pq.write_table(pa.table({"request": [1]}), path)
    with pytest.raises(UserError, match="no score table"):
        ScoreTable.load(path)
    pq.write_table(pa.table({"request": [1]}).replace_schema_metadata({METADATA_KEY: b'{"version": 0}'}), path)
    with pytest.raises(UserError, match="version 1"):
        ScoreTable.load(path)


def test_labels_of_the_two_targets():
    table = ScoreTable(**columns(click=[1, 0, 1], conversion=[1, 1, 0]))
    assert table.clicked_conversion.tolist() == [1, 0, 0]


def test_origin_is_kept_beside_the_scores(tmp_path):
    path = tmp_path / "scores.parquet"
    origin = {"split": "valid", "rows": "ab12"}
    ScoreTable(**columns()).save(path, origin)
    assert read_origin(path) == origin and len(ScoreTable.load(path)) == 3
    ScoreTable(**columns()).save(path)
    assert read_origin(path) is None
    assert read_origin(tmp_path / "none.parquet") is None
    path.write_bytes(b"no parquet")
    assert read_origin(path) is None
    pq.write_table(pa.table({"pctr": [0.5]}), path)
    assert read_origin(path) is None
