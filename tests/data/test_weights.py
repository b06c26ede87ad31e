"""Weights of impressions: by hand, in the prepared folder and its tokens, and what is refused in one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig, RunConfig
from equipoise.configs.weights import WeightsConfig
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.slates import prepare
from equipoise.data.weights import check_weights
from equipoise.train.token_caches import find_tokens
from tests.tiny_run import run_settings

GROUP_COUNTS = {("m", 1): 6, ("m", 0): 2, ("f", 1): 3, ("f", 0): 9}
"""Training impressions by group and click: P(click | m) = 3/4, P(click | f) = 1/4."""


def grouped_rows(counts: dict[tuple[str, int], int], where: str) -> dict[str, list[dict[str, Any]]]:
    """Tables of one request an impression whose train split has these counts; valid and test have one of each."""
    rows: dict[str, list[dict[str, Any]]] = {"impressions": [], "items": [], "users": []}
    splits = [("train", key, number) for key, number in counts.items()]
    splits += [(split, key, 1) for split in ("valid", "test") for key in (("m", 1), ("m", 0), ("f", 1), ("x", 0))]
    for split, (group, click), number in splits:
        for _ in range(number):
            index = len(rows["impressions"])
            day = {"train": 1, "valid": 2, "test": 3}[split]
            rows["impressions"].append({
                "request_id": f"r{index}", "timestamp": f"2024-0{day}-01 00:00:00", "user_id": f"u{group}",
                "item_id": f"i{group}", "click": click, "conversion": 0, "group_own": group, "half": index % 2,
                "bought": 1,
            })  # fmt: skip
    for group in ("m", "f", "x"):
        rows["items"].append({"item_id": f"i{group}", "title": group, "brand": group})
        rows["users"].append({"user_id": f"u{group}", "age": group})
    assert where in ("group_own", "brand", "age")
    return rows


def written(folder: Path, split: str) -> dict[str, np.ndarray]:
    """Lists of a split's slates, flat."""
    table = pq.read_table(folder / "slates" / f"{split}-00000.parquet")
    names = ("item", "click", "weight")
    return {name: np.concatenate(table.column(name).to_pylist()) for name in names}


@pytest.mark.parametrize("where", ["group_own", "brand", "age"])
def test_reweighing_by_hand(make_config: Callable[..., DataConfig], where: str) -> None:
    """Columns of impressions, items and users: weight = P(group) P(label) / P(group, label) of the train split."""
    config = make_config(grouped_rows(GROUP_COUNTS, where), weights=WeightsConfig(reweigh=where))
    manifest = prepare(config, read=("click",))
    assert manifest.weights is not None
    cells = {(cell.group, cell.label): cell for cell in manifest.weights.cells}
    group, label = {"m": 8 / 20, "f": 12 / 20}, {0: 11 / 20, 1: 9 / 20}
    for (name, click), count in GROUP_COUNTS.items():
        assert cells[name, click].rows == count
        assert cells[name, click].weight == pytest.approx(group[name] * label[click] / (count / 20), rel=1e-12)
    rate = {
        name: sum(c.rows * c.weight for c in cells.values() if c.group == name and c.label)
        / sum(c.rows * c.weight for c in cells.values() if c.group == name)
        for name in ("m", "f")
    }
    assert abs(rate["m"] - rate["f"]) < 1e-9 and rate["m"] == pytest.approx(label[1], abs=1e-9)
    assert manifest.weights.impressions == pytest.approx(20) and manifest.weights.clicks == pytest.approx(9)
    items = pq.read_table(config.folder / "items.parquet", columns=["title"]).column(0).to_pylist()
    for split in ("train", "test"):
        rows = written(config.folder, split)
        expected = [
            cells[key].weight if (key := (items[item], click)) in cells else 1.0
            for item, click in zip(rows["item"], rows["click"], strict=True)
        ]
        np.testing.assert_allclose(rows["weight"], expected, rtol=1e-6)  # a group that training lacks counts 1


def test_columns_and_propensities_have_a_mean_of_1_and_0_leaves_out(
    rows: dict[str, list[dict[str, Any]]], make_config: Callable[..., DataConfig]
) -> None:
    for index, row in enumerate(rows["impressions"]):
        row |= {"trust": float(index % 3), "shown_p": [0.001, 0.5, 1.0][index % 3]}
    manifest = prepare(make_config(rows, weights=WeightsConfig.model_validate("trust")))
    assert manifest.weights is not None and manifest.weights.settings == {"column": "trust"}
    assert manifest.dropped["impressions of weight 0"] == 4 and manifest.counts["impressions"] == 7
    train = [index % 3 for index in range(7) if index % 3]
    found = written(make_config(rows).folder, "train")["weight"]
    assert sorted(found) == pytest.approx(sorted(np.array(train) / np.mean(train)), rel=1e-6)
    assert manifest.weights.divided_by == pytest.approx(np.mean(train))
    kish = sum(train) ** 2 / sum(weight**2 for weight in train)
    assert manifest.weights.effective_rows == pytest.approx(kish)
    prepare(make_config(rows, weights=WeightsConfig(propensity="shown_p", min_propensity=0.1)))
    inverse = np.array([[10.0, 2.0, 1.0][index % 3] for index in range(7)])
    found = written(make_config(rows).folder, "train")["weight"]
    assert sorted(found) == pytest.approx(sorted(inverse / inverse.mean()), rel=1e-6)


@pytest.mark.parametrize(
    ("weights", "values", "words"),
    [
        ({"column": "trust"}, [1, -1], r"has trust '-1' in row 2.*write a number of 0 or more; 0 leaves the row out"),
        ({"column": "trust"}, [1, float("nan")], r"has trust 'nan' in row 2.*write a number of 0 or more"),
        ({"column": "trust"}, [1, None], r"has trust '' in row 2.*write a number of 0 or more"),
        ({"column": "trust"}, [0, 0], r"has trust 0 in every row, which leaves nothing to learn from"),
        ({"column": "trusty"}, [1, 1], r"has no column 'trusty', which data\.weights names \(did you mean 'trust'"),
        ({"propensity": "trust"}, [1, 0], r"has trust '0' in row 2.*the probability that it was shown, above 0"),
        ({"propensity": "trust"}, [1, 2], r"has trust '2' in row 2.*above 0 and at most 1"),
        ({"reweigh": "agee"}, [1, 1], r"has a column 'agee', which data\.weights\.reweigh names \(did you mean 'age'"),
        ({"reweigh": "age", "label": "bougt"}, [1, 1], r"no column 'bougt', which data\.weights\.label names"),
        ({"reweigh": "age", "label": "bought"}, [1, 1], r"has bought '2' in row 2, which data\.weights reads: write 0"),
        ({"reweigh": "item_id"}, [1, 1], r"reweigh: item_id 'b' has click 1 in all of its 2 rows of the train split"),
        ({"reweigh": "trust"}, [1, 1], r"reweigh: trust has a single value in the train split"),
    ],
)
def test_what_cannot_weigh_is_told_in_one_sentence(
    rows: dict[str, list[dict[str, Any]]],
    make_config: Callable[..., DataConfig],
    weights: dict[str, Any],
    values: list[float | None],
    words: str,
) -> None:
    for index, row in enumerate(rows["impressions"]):
        row["trust"] = values[index % 2]
    config = make_config(rows, "parquet", weights=WeightsConfig(**weights))
    with pytest.raises(UserError, match=words) as raised:
        prepare(config)
    assert "\n" not in str(raised.value) and not config.folder.exists()


@pytest.mark.parametrize(
    ("weights", "words"),
    [({}, "names no way to weigh"), ({"column": "a", "reweigh": "b"}, "names column and reweigh: name one of")],
)
def test_one_way_to_weigh(weights: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        WeightsConfig(**weights)


def test_a_folder_of_other_weights_is_refused(
    rows: dict[str, list[dict[str, Any]]], make_config: Callable[..., DataConfig]
) -> None:
    for row in rows["impressions"]:
        row["trust"] = 1 + row["click"]
    column = WeightsConfig(column="trust")
    manifest = prepare(make_config(rows, weights=column))
    check_weights(manifest.weights, column, "x")
    check_weights(None, None, "x")
    # How a batch is divided is no matter of the folder.
    propensity = WeightsConfig(propensity="p")
    assert propensity.prepared() == propensity.model_copy(update={"self_normalize": False}).prepared()
    for other, words in (
        (None, r"was prepared with data\.weights \{column: trust\}, the config has null: run `equipoise prepare`"),
        (WeightsConfig(reweigh="age"), r"the config has \{reweigh: age, label: click\}"),
    ):
        with pytest.raises(UserError, match=words):
            check_weights(manifest.weights, other, "x")
    with pytest.raises(UserError, match=r"with data\.weights null, the config has \{column: trust\}"):
        check_weights(None, column, "x")


def test_tokens_hold_them_and_folders_without_weights_hold_none(tmp_path: Path) -> None:
    settings = run_settings(tmp_path)
    settings["data"]["weights"] = {"reweigh": "age"}
    config = RunConfig.model_validate(settings)
    prepare(config.data)
    train = find_tokens(config).split("train")
    assert train.weight is not None and train.weight.dtype == np.float32
    np.testing.assert_array_equal(train.weight, written(config.data.folder, "train")["weight"])
    assert float(np.mean(train.weight)) == pytest.approx(1, abs=1e-6)
    plain = config.model_copy(update={"data": config.data.model_copy(update={"weights": None})})
    prepare(plain.data)
    tokens = find_tokens(plain)
    assert tokens.split("train").weight is None and not list(tokens.folder.glob("*weight*"))
    manifest = config.data.folder / "manifest.json"
    text = manifest.read_text()
    assert '"weights": null,' in text
    manifest.write_text(text.replace('  "weights": null,\n', ""))  # as older versions wrote it
    assert Manifest.read(config.data.folder).weights is None


def test_metrics_of_reweighed_data_are_plain_unless_asked_for(tmp_path: Path) -> None:
    settings = run_settings(tmp_path)
    for weights, asked, expected in (
        ({"reweigh": "age"}, None, False),
        ({"reweigh": "age"}, True, True),
        ({"column": "w"}, None, True),
        ({"column": "w"}, False, False),
        (None, None, False),
    ):
        settings["data"]["weights"], settings["evaluate"]["weights"] = weights, asked
        assert RunConfig.model_validate(settings).evaluates_by_weights is expected
    settings["data"]["weights"], settings["evaluate"]["weights"] = None, True
    with pytest.raises(ValidationError, match=r"evaluate\.weights: true needs weights: set data\.weights"):
        RunConfig.model_validate(settings)
