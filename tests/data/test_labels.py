"""Label columns: what prepare checks, measures and keeps."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.data.labels import check_labels, labels_of
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.slates import prepare
from tests.tiny_run import run_settings


def prepared(folder: Path, column: Callable[[int, int, int], object], **section: Any) -> Manifest:
    """The tiny data with a label column: a function of a row's click, conversion and number."""
    settings = run_settings(folder)
    path = Path(settings["data"]["tables"]["impressions"])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["extra"] = str(column(int(row["click"]), int(row["conversion"]), number))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    settings["objectives"] = {"ctr": {}, "cvr": {}, "more": {"label": "extra", **section}}
    config = RunConfig.model_validate(settings)
    return prepare(config.data, labels=labels_of(config.objectives))


def test_a_label_is_kept_and_measured_where_it_was_observed(tmp_path: Path) -> None:
    def column(click: int, conversion: int, number: int) -> str:
        return f"{number % 5 + 1}.5" if conversion else ""

    manifest = prepared(tmp_path, column, kind="value", given="conversion")
    shards = sorted((tmp_path / "prepared" / "slates").glob("train-*.parquet"))
    table = pq.read_table(shards[0])
    kept = np.concatenate(table.column("label_extra").to_pylist()).astype(np.float64)
    both = np.concatenate(table.column("conversion").to_pylist()) == 1
    stats = manifest.labels["more"]
    assert np.isnan(kept[~both]).all() and stats.rows == both.sum()
    assert stats.mean == pytest.approx(kept[both].mean()) and stats.std == pytest.approx(kept[both].std(), rel=1e-6)
    assert stats.chain == ["click", "conversion"]
    assert stats.link.value(np.array(stats.offset)) == pytest.approx(stats.mean)
    read = Manifest.read(tmp_path / "prepared", verify=True)
    assert read.labels == manifest.labels
    other = {"more": stats.model_copy(update={"chain": []})}
    with pytest.raises(UserError, match=r"was not prepared for objectives\.more"):
        check_labels(other, read.labels, "x")


@pytest.mark.parametrize(
    ("column", "section", "words"),
    [
        (lambda click, conversion, n: 2 if n == 3 else 0, {"kind": "binary"}, "extra '2' in row 4"),
        (lambda click, conversion, n: "yes" if n == 3 else 0, {"kind": "value"}, "'yes' in row 4"),
        (lambda click, conversion, n: -1 if n == 3 else n, {"kind": "count"}, "whole numbers of 0 or more"),
        (lambda click, conversion, n: 0.5 if n == 3 else n, {"kind": "count"}, "whole numbers of 0 or more"),
        (lambda click, conversion, n: -1 if n == 3 else n, {"kind": "value", "positive": True}, "drop positive"),
        (lambda click, conversion, n: 1, {"kind": "binary"}, "1 in all"),
        (lambda click, conversion, n: 1 - click, {"kind": "binary", "given": "click"}, "where click happened"),
        (lambda click, conversion, n: "" if click else n % 2, {"kind": "value", "given": "click"}, "nothing"),
        (lambda click, conversion, n: "" if n % 3 == 0 else n % 2, {"kind": "binary"}, "are empty"),
    ],
)
def test_labels_of_another_kind_are_refused(tmp_path: Path, column: Any, section: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        prepared(tmp_path, column, **section)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no column 'extr', which objectives.more.label names.*'extra'"):
        prepared(tmp_path, lambda click, conversion, n: click, kind="binary", label="extr")
