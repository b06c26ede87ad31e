"""A preview shows what the model will read, and says what looks wrong with it."""

from collections.abc import Callable

import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig, SplitConfig
from equipoise.data.prepare.slates import prepare
from equipoise.data.preview import preview

Make = Callable[..., DataConfig]


def test_prompts_histories_columns_and_rates(rows: dict, make_config: Make) -> None:
    rows["items"].append({"item_id": "b2", "title": None, "brand": None})
    rows["impressions"].append({**rows["impressions"][0], "item_id": "b2"})
    config = make_config(rows)
    prepare(config)
    found = preview(config.folder, examples=2, candidates=1)
    assert [(e.request_id, e.shown, len(e.candidates)) for e in found.examples] == [("r1", 2, 1), ("r3", 3, 1)]
    assert found.examples[1].prefix == "age 30-39, bought before: apples, cheese, bread"
    assert found.examples[1].candidates == [("apples, national brand", "bought 5 to 6 times", 0, 1)]
    assert found.histories == {"train": 2 / 3, "valid": 1.0, "test": 1.0}
    bought = next(column for column in found.columns if column.name == "bought")
    assert (bought.table, bought.low, bought.median, bought.high) == ("impressions", 0, 1, 12)
    assert bought.missing == pytest.approx(1 / 11) and bought.frequent == "1" and bought.share == pytest.approx(0.5)
    brand = next(column for column in found.columns if column.name == "brand")
    assert (brand.table, brand.distinct, brand.low) == ("items", 2, None) and brand.missing == pytest.approx(1 / 3)
    age = next(column for column in found.columns if column.name == "age")
    assert (age.table, age.frequent, age.missing) == ("users", "30-39", 0.5)
    assert sum(found.manifest.dropped.values()) == 1
    assert any("valid split has no conversions" in warning for warning in found.warnings)


def test_what_looks_wrong_is_said(rows: dict, make_config: Make) -> None:
    for row in rows["events"]:
        row["user_id"] = row["user_id"].upper()
    for row in rows["impressions"]:
        row["page"] = 7
        row["nothing"] = ""
    config = make_config(
        rows, fields=["page", "nothing"], split=SplitConfig(valid_from="2024-02-01", test_from="2024-03-01")
    )
    prepare(config)
    warnings = preview(config.folder).warnings
    assert any(warning.startswith("no request has a history") for warning in warnings)
    assert "page of impressions is '7' everywhere and tells nothing: drop it" in [
        w.replace("7.0", "7") for w in warnings
    ]
    assert any(warning.startswith("nothing of impressions is empty") for warning in warnings)


def test_a_folder_that_is_not_prepared_is_refused(make_config: Make, rows: dict) -> None:
    with pytest.raises(UserError, match="run equipoise prepare first"):
        preview(make_config(rows).folder)
