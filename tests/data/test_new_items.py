"""Items held out of training, and what is unknown of new ones, in held-out items and in item dropout."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.load import build_config
from equipoise.configs.schema import DataConfig
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.masked import is_prepared, mask_all_fields
from equipoise.data.prepare.slates import prepare
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.slices import NEW_PRODUCTS, slice_metrics, slices_of
from tests.tiny_run import run_settings


def settings(folder: Path, **data: Any) -> dict[str, Any]:
    """The tiny run whose impressions have a popularity, and whose items have a rating."""
    made = run_settings(folder)
    tables = {name: Path(path) for name, path in made["data"]["tables"].items()}
    impressions, items = pd.read_csv(tables["impressions"]), pd.read_csv(tables["items"])
    impressions.assign(popularity=np.arange(len(impressions)) % 9).to_csv(tables["impressions"], index=False)
    items.assign(rating=np.arange(len(items)) % 4 + 1).to_csv(tables["items"], index=False)
    made["data"]["prompt"] |= {
        "context": ["seen {seen_before|count}", "popular {popularity}"],
        "item": ["{title}", "rated {rating}"],
    }
    made["data"] |= {
        "features": [{"name": "popularity", "scale": "log1p"}, "rating", {"name": "seen_before", "scale": "log1p"}],
        "item_behaviour": ["popularity", "rating"],
        **data,
    }
    return made


def prepared(folder: Path, **data: Any) -> DataConfig:
    config = build_config(settings(folder, **data), [], folder / "run.yaml").data
    prepare(config)
    return config


def rows_of(config: DataConfig) -> pd.DataFrame:
    """The impressions of the shards, one a row."""
    shards = sorted((config.folder / "slates").glob("*.parquet"))
    slates = pd.concat([pd.read_parquet(path).assign(split=path.name.split("-")[0]) for path in shards])
    lists = ["item", "context", "click", *(name for name in slates if name.startswith("feature_"))]
    return slates[["request_id", "split", *lists]].explode(lists).reset_index(drop=True)


def test_held_out_items_are_in_test_alone_and_without_behaviour(tmp_path: Path) -> None:
    config = prepared(tmp_path, split={"holdout_items": {"fraction": 0.5, "by": "category"}, "test_fraction": 0.4})
    items, rows = pd.read_parquet(config.folder / "items.parquet"), rows_of(config)
    held_out = items.held_out.to_numpy()
    kinds = items.groupby("category").held_out.agg(["min", "max"])
    assert (kinds["min"] == kinds["max"]).all() and 0 < held_out.sum() < len(held_out)
    new = held_out[rows["item"].astype(int)]
    assert set(rows.split[new]) == {"test"} and set(rows.split[~new]) == {"train", "valid", "test"}
    for name in ("popularity", "rating"):
        unknown = rows[f"feature_{name}"].astype(float).isna()
        np.testing.assert_array_equal(unknown, new)
    assert not rows.feature_seen_before.astype(float).isna().any()
    assert rows.context[new].str.startswith("seen").all() and not rows.context[new].str.contains("popular").any()
    assert rows.context[~new].str.contains("popular").all()
    assert (items.text.str.contains("rated") == ~items.held_out).all() and items.rating[items.held_out].isna().all()
    manifest = Manifest.read(config.folder)
    assert manifest.item_behaviour == ["popularity", "rating"]
    assert manifest.dropped["train and valid impressions of held-out items"] > 0
    assert any("items are held out" in note for note in manifest.notes)
    masked = mask_all_fields(config)
    prepare(masked)
    assert is_prepared(masked, config)


def test_a_fraction_of_training_rows_is_shown_as_of_new_items(tmp_path: Path) -> None:
    rows = rows_of(prepared(tmp_path, item_dropout=0.3))
    unknown = rows.feature_popularity.astype(float).isna()
    np.testing.assert_array_equal(unknown, rows.feature_rating.astype(float).isna())
    np.testing.assert_array_equal(unknown, ~rows.context.str.contains("popular"))
    assert not unknown[rows.split != "train"].any() and 0.2 < unknown[rows.split == "train"].mean() < 0.4
    again = rows_of(prepared(tmp_path / "again", item_dropout=0.3))
    pd.testing.assert_series_equal(rows.feature_popularity, again.feature_popularity)


def test_rates_of_an_item_are_unknown_of_a_new_one(tmp_path: Path) -> None:
    rates = [{"of": "click", "by": "item_id"}, {"of": "click", "by": "category"}]
    config = prepared(tmp_path, item_behaviour=[], item_dropout=0.3, rates=rates)
    rows, by_item, by_category = rows_of(config), *(f"feature_shown_by_{name}" for name in ("item_id", "category"))
    unknown = rows[by_item].astype(float).isna()
    assert 0.2 < unknown[rows.split == "train"].mean() < 0.4 and not rows[by_category].astype(float).isna().any()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"item_behaviour": ["popularty"]}, r"item_behaviour names 'popularty'.*did you mean 'popularity'"),
        ({"item_behaviour": ["title"]}, r"names 'title', which every item needs"),
        ({"split": {"holdout_items": {"fraction": 0.3, "by": "kind"}}}, r"no column 'kind'.*holdout_items\.by"),
        ({"split": {"holdout_items": 0.0001}}, "draws no value of 'item_id': raise its fraction"),
        ({"item_behaviour": [], "item_dropout": 0.2}, "item_dropout leaves out nothing"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, data: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        prepared(tmp_path, **data)


def test_new_products_are_measured_on_their_own(tmp_path: Path) -> None:
    config = prepared(tmp_path, split={"holdout_items": 0.4, "test_fraction": 0.4})
    rows = rows_of(config)
    test = rows[rows.split == "test"]
    request = pd.factorize(test.request_id)[0]
    pctr = np.linspace(0.1, 0.9, len(test))
    table = ScoreTable(
        request=request, item=test["item"].to_numpy(np.int64), user=test.request_id.to_numpy(object),
        click=test.click.to_numpy(np.int8), conversion=np.zeros(len(test), np.int8), pctr=pctr,
    )  # fmt: skip
    slices = slices_of(config.folder, table)
    inside = slices[NEW_PRODUCTS]
    found = slice_metrics(table, slices)[NEW_PRODUCTS]
    assert found["rows"] == inside.sum() > 0 and list(found["pointwise"]) == ["ctr"]
    positives, negatives = pctr[inside & (table.click == 1)], pctr[inside & (table.click == 0)]
    assert found["pointwise"]["ctr"]["auc"] == pytest.approx((positives[:, None] > negatives[None]).mean())
    assert slice_metrics(table, {"none": np.zeros(len(test), bool)}) == {}
