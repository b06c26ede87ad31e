from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs.errors import UserError
from configs.load import build_config
from configs.schema import DataConfig
from data.features import FeatureScale, read_scales, standardised
from data.manifest import Manifest
from data.slates import prepare

WEIGHT = FeatureScale(mean=1.0, std=2.0, least=1.0, most=9.0)
COUNT = FeatureScale(scale="log1p", mean=1.0, std=2.0, least=0.0, most=9.0)


def test_a_value_is_standardised_by_its_logarithm_and_an_unknown_one_is_the_mean() -> None:
    found = standardised({"a": WEIGHT, "b": WEIGHT}, [[np.e, np.nan], [np.exp(5), 1.0]])
    np.testing.assert_allclose(found, [[0.0, 0.0], [2.0, -0.5]], atol=1e-7)
    assert found.dtype == np.float32
    assert standardised({}, [[], []]).shape == (2, 0)


def test_a_count_is_standardised_by_the_logarithm_of_one_more() -> None:
    found = standardised({"a": WEIGHT, "b": COUNT}, [[np.e, np.e - 1], [1.0, 0.0], [np.e**5, np.e**5 - 1], [1, np.nan]])
    np.testing.assert_allclose(found, [[0.0, 0.0], [-0.5, -0.5], [2.0, 2.0], [-0.5, 0.0]], atol=1e-6)


def test_a_cell_is_a_number_that_its_scale_takes_or_unknown() -> None:
    for scale in (WEIGHT, COUNT):
        assert [scale.read(value) for value in (3, "2.5", None, float("nan"), "cheap")] == [3.0, 2.5, None, None, None]
        for value in (-1, float("inf")):
            with pytest.raises(ValueError):
                scale.read(value)
    assert COUNT.read("0") == 0.0
    with pytest.raises(ValueError, match="0 is no number above 0"):
        WEIGHT.read(0)
    with pytest.raises(ValueError, match=r"-0\.5 is no number of 0 or more"):
        COUNT.read(-0.5)


def test_a_scale_of_before_is_logarithmic() -> None:
    told = {"mean": 1.0, "std": 2.0, "least": 1.0, "most": 9.0, "rule": "x = …"}
    assert read_scales({"price": told, "count": {**told, "scale": "log1p", "least": 0.0}}) == {
        "price": WEIGHT,
        "count": COUNT,
    }


def test_a_config_names_features_with_or_without_a_scale(tmp_path: Path) -> None:
    def features(value: str) -> list:
        settings = {
            "name": "run",
            "output": str(tmp_path),
            "data": {"folder": str(tmp_path), "source": "complete_journey"},
            "backbone": {"path": "x"},
            "objectives": {"ctr": {}},
        }
        return build_config(settings, [f"data.features={value}"], tmp_path / "run.yaml").data.features

    found = features("[price, {name: visits, scale: log1p}]")
    assert [(one.name, one.scale, str(one)) for one in found] == [
        ("price", "log", "price"),
        ("visits", "log1p", "visits (log1p)"),
    ]
    with pytest.raises(UserError, match="names 'price' twice"):
        features("[price, {name: price, scale: log1p}]")
    with pytest.raises(UserError, match=r"data\.features.*scale"):
        features("[{name: price, scale: square}]")


VISITS = {"name": "visits", "scale": "log1p"}


def tables(folder: Path, features: Sequence[object] = ("price",), **columns: list) -> DataConfig:
    folder.mkdir()
    size = 60
    impressions = pd.DataFrame(
        {
            "request_id": [f"r{n // 3:02d}" for n in range(size)],
            "timestamp": [f"2026-01-{1 + n // 3:02d} 10:00:00" for n in range(size)],
            "user_id": "u",
            "item_id": [f"i{n % 3}" for n in range(size)],
            "click": [int(n % 2 == 0) for n in range(size)],
            "conversion": [int(n % 4 == 0) for n in range(size)],
            "price": [float(2 + n % 5) for n in range(size)],
        }
    )
    items = pd.DataFrame({"item_id": ["i0", "i1", "i2"], "title": ["a", "b", "c"], "price": [7.0, 8.0, None]})
    for name, values in columns.items():
        table, column = name.split("__")
        {"impressions": impressions, "items": items}[table][column] = values
    impressions.to_parquet(folder / "impressions.parquet")
    items.to_parquet(folder / "items.parquet")
    paths = {"impressions": folder / "impressions.parquet", "items": folder / "items.parquet"}
    return DataConfig.model_validate({"folder": folder / "prepared", "tables": paths, "features": features})


def test_an_impression_without_a_value_takes_its_items(tmp_path: Path) -> None:
    prices: list = [None, None, None, *[float(2 + n % 5) for n in range(3, 60)]]
    config = tables(tmp_path / "data", impressions__price=prices)
    scale = prepare(config).features["price"]
    slate = pd.read_parquet(config.folder / "slates" / "train-00000.parquet").iloc[0]
    np.testing.assert_array_equal(slate.feature_price, [7.0, 8.0, np.nan])
    train = Manifest.read(config.folder).splits["train"].impressions
    known = np.array([7.0, 8.0, *prices[3:train]])
    assert scale.mean == pytest.approx(np.log(known).mean()) and scale.std == pytest.approx(np.log(known).std())
    assert (scale.least, scale.most) == (2.0, 8.0)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (
            {"impressions__price": [0.0] * 60},
            "is a number above 0: mend .* give it `scale: log1p`",
        ),
        ({"impressions__price": ["dear"] * 60}, "has price 'dear'"),
        ({"items__price": [-1.0, 2.0, 3.0]}, "items.parquet .* has price '-1.0'"),
        ({"impressions__price": [2.0] * 60}, "is 2 in every known impression"),
    ],
)
def test_values_that_teach_nothing_are_refused(tmp_path: Path, columns: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(tables(tmp_path / "data", **columns))


def test_counts_with_zeros_are_kept_and_their_scale_is_of_log1p(tmp_path: Path) -> None:
    visits: list = [None, 0, 3, *[n % 4 for n in range(3, 60)]]
    config = tables(tmp_path / "data", ["price", VISITS], impressions__visits=visits)
    manifest = prepare(config)
    scale, train = manifest.features["visits"], manifest.splits["train"].impressions
    known = np.array([0.0, 3.0, *visits[3:train]])
    assert (scale.scale, scale.least, scale.most) == ("log1p", 0.0, 3.0)
    assert scale.mean == pytest.approx(np.log1p(known).mean()) and scale.std == pytest.approx(np.log1p(known).std())
    slate = pd.read_parquet(config.folder / "slates" / "train-00000.parquet").iloc[0]
    np.testing.assert_array_equal(slate.feature_visits, [np.nan, 0.0, 3.0])
    assert Manifest.read(config.folder).features == manifest.features


def test_a_feature_that_is_not_told_keeps_its_scale_and_is_unknown_everywhere(tmp_path: Path) -> None:
    visits = [n % 4 for n in range(60)]
    told = tables(tmp_path / "told", [VISITS], impressions__visits=visits)
    untold = tables(tmp_path / "untold", [{**VISITS, "told": False}], impressions__visits=visits)
    scales = [prepare(config).features["visits"] for config in (told, untold)]
    assert scales[0].model_dump() == pytest.approx(scales[1].model_dump())
    assert Manifest.read(untold.folder).untold == ["visits"] and Manifest.read(told.folder).untold == []
    shard = pd.read_parquet(untold.folder / "slates" / "train-00000.parquet")
    assert np.isnan(np.concatenate(shard.feature_visits.to_list())).all()


def test_a_negative_count_is_refused(tmp_path: Path) -> None:
    visits = [-1, *range(59)]
    with pytest.raises(UserError, match=r"has visits '-1', but this feature is a number of 0 or more: mend the column"):
        prepare(tables(tmp_path / "data", [VISITS], impressions__visits=visits))


def test_a_feature_that_no_table_has_is_refused(tmp_path: Path) -> None:
    config = tables(tmp_path / "data", ["prize"])
    with pytest.raises(UserError, match=r"has a column 'prize', which data.features names \(did you mean 'price'\?\)"):
        prepare(config)
