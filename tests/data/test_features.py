from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs.errors import UserError
from configs.schema import DataConfig
from data.features import FeatureScale, as_feature, standardised
from data.manifest import Manifest
from data.slates import prepare

WEIGHT = FeatureScale(mean=1.0, std=2.0, least=1.0, most=9.0)


def test_a_value_is_standardised_by_its_logarithm_and_an_unknown_one_is_the_mean() -> None:
    found = standardised({"a": WEIGHT, "b": WEIGHT}, [[np.e, np.nan], [np.exp(5), 1.0]])
    np.testing.assert_allclose(found, [[0.0, 0.0], [2.0, -0.5]], atol=1e-7)
    assert found.dtype == np.float32
    assert standardised({}, [[], []]).shape == (2, 0)


def test_a_cell_is_a_positive_number_or_unknown() -> None:
    assert [as_feature(value) for value in (3, "2.5", None, float("nan"), "cheap")] == [3.0, 2.5, None, None, None]
    for value in (0, -1, float("inf")):
        with pytest.raises(ValueError):
            as_feature(value)


def tables(folder: Path, **columns: list) -> DataConfig:
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
    return DataConfig(folder=folder / "prepared", tables=paths, features=["price"])


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
        ({"impressions__price": [0.0] * 60}, "has price '0.0', but a feature is a number above 0"),
        ({"impressions__price": ["dear"] * 60}, "has price 'dear'"),
        ({"items__price": [-1.0, 2.0, 3.0]}, "items.parquet .* has price '-1.0'"),
        ({"impressions__price": [2.0] * 60}, "is 2 in every known impression"),
    ],
)
def test_values_that_teach_nothing_are_refused(tmp_path: Path, columns: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare(tables(tmp_path / "data", **columns))


def test_a_feature_that_no_table_has_is_refused(tmp_path: Path) -> None:
    config = tables(tmp_path / "data").model_copy(update={"features": ["prize"]})
    with pytest.raises(UserError, match=r"has a column 'prize', which data.features names \(did you mean 'price'\?\)"):
        prepare(config)
