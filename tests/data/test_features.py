import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.features import FeatureConfig
from equipoise.configs.load import build_config
from equipoise.configs.schema import DataConfig
from equipoise.data.features import (
    CategoryScale,
    IndexedLevels,
    NumberScale,
    bucket_of,
    columns_of,
    decorrelating,
    read_scales,
    rule_of,
    same_features,
    standardised,
)
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.slates import prepare

WEIGHT = NumberScale(mean=1.0, std=2.0, least=1.0, most=9.0)
COUNT = NumberScale(scale="log1p", mean=1.0, std=2.0, least=0.0, most=9.0)


def test_a_value_is_standardised_by_its_logarithm_and_an_unknown_one_is_the_mean() -> None:
    found = standardised({"a": WEIGHT, "b": WEIGHT}, [[np.e, np.nan], [np.exp(5), 1.0]])
    np.testing.assert_allclose(found, [[0.0, 0.0], [2.0, -0.5]], atol=1e-7)
    assert found.dtype == np.float32
    assert standardised({}, [[], []]).shape == (2, 0)


def test_a_count_is_standardised_by_the_logarithm_of_one_more() -> None:
    found = standardised({"a": WEIGHT, "b": COUNT}, [[np.e, np.e - 1], [1.0, 0.0], [np.e**5, np.e**5 - 1], [1, np.nan]])
    np.testing.assert_allclose(found, [[0.0, 0.0], [-0.5, -0.5], [2.0, 2.0], [-0.5, 0.0]], atol=1e-6)


def test_a_rate_is_standardised_by_its_log_odds() -> None:
    rate = NumberScale(scale="logit", mean=1.0, std=2.0, least=0.1, most=0.9)
    odds = np.array([np.e, 1.0, np.e**5])
    found = standardised({"a": rate}, [*(odds / (1 + odds))[:, None], [np.nan]])
    np.testing.assert_allclose(found, [[0.0], [-0.5], [2.0], [0.0]], atol=1e-6)
    for value in (0.0, 1.0, 1.5, np.inf):
        with pytest.raises(ValueError, match="is not a number above 0 and below 1"):
            rate.read(value)


def test_of_a_number_the_heads_read_what_those_before_it_do_not_tell() -> None:
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(2, 4000))
    z = np.stack([shared, 0.9 * shared + np.sqrt(1 - 0.81) * own, rng.normal(size=4000)])
    rows = decorrelating(np.corrcoef(z))
    scale = {"mean": 0.0, "std": 1.0, "least": 0.1, "most": 9.0}
    names = "abc"
    scales = {
        name: NumberScale(**scale, mix=dict(zip(names[: place + 1], rows[place], strict=False)))
        for place, name in enumerate(names)
    }
    found = standardised(scales, np.exp(z.T))
    np.testing.assert_allclose(np.corrcoef(found.T), np.eye(3), atol=0.05)
    np.testing.assert_allclose(found, (rows @ z).T, rtol=1e-5, atol=1e-5)
    unknown = np.exp(z.T[:1]).copy()
    unknown[0, 1] = np.nan
    np.testing.assert_allclose(standardised(scales, unknown)[0, 1], 0.0)
    twice = decorrelating(np.ones((2, 2)))
    assert np.abs(twice).max() < 10.1  # a repeated number does not explode


def test_a_category_has_a_centred_column_per_text_and_stands_after_the_numbers() -> None:
    kind = CategoryScale(values=["few", "many"], shares=[0.7, 0.3])
    scales = {"kind": kind, "a": WEIGHT}
    assert columns_of(scales).numbers == ("a",) and columns_of(scales).categories == ("kind=few", "kind=many")
    assert columns_of(scales).features == ["a", "kind"] and len(columns_of(scales)) == 3
    raw = [[kind.read("few"), np.e], [kind.read(" many "), np.e**3], [np.nan, np.e]]
    expected = [[0.0, 0.3, -0.3], [1.0, -0.7, 0.7], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(standardised(scales, raw), expected, atol=1e-6)
    assert kind.read("none of these") is None and kind.read(None) is None and kind.to_cell(np.nan) is None
    assert kind.to_cell(1.0) == "many"
    numbered = CategoryScale(values=["3", "true"], shares=[0.5, 0.5])
    assert [numbered.read(value) for value in (3, 3.0, "3", True, False, 3.5)] == [0, 0, 0, 1, None, None]
    assert read_scales({"kind": {**kind.model_dump(), "rule": "…"}}) == {"kind": kind}


def test_a_category_without_slopes_stands_last_and_a_manifest_tells_its_features() -> None:
    kind = CategoryScale(values=["few", "many"], shares=[0.7, 0.3])
    own = CategoryScale(values=["i1", "i2", "i3"], shares=[0.5, 0.3, 0.2], slopes=False, max_categories=3)
    scales = {"item_id": own, "kind": kind, "a": WEIGHT}
    columns = columns_of(scales)
    assert columns.categories == ("kind=few", "kind=many")
    assert columns.levels == ("item_id=i1", "item_id=i2", "item_id=i3") and len(columns) == 6
    assert columns.features == ["a", "kind", "item_id"]
    found = standardised(scales, [[1.0, 0.0, np.e**3], [np.nan, 1.0, np.e]])
    np.testing.assert_allclose(found, [[1, 0.3, -0.3, -0.5, 0.7, -0.2], [0, -0.7, 0.7, 0, 0, 0]], atol=1e-6)
    category = {"scale": "category"}
    features = [
        FeatureConfig(name="item_id", interactions=False, max_categories=3, **category),
        FeatureConfig(name="kind", included=False, **category),
        FeatureConfig(name="a"),
    ]
    assert same_features(scales, features)
    for change in ({"interactions": True}, {"max_categories": 4}, {"name": "id"}):
        assert not same_features(scales, [features[0].model_copy(update=change), *features[1:]])


def test_a_cell_is_a_number_that_its_scale_takes_or_unknown() -> None:
    for scale in (WEIGHT, COUNT):
        assert [scale.read(value) for value in (3, "2.5", None, float("nan"), "cheap")] == [3.0, 2.5, None, None, None]
        for value in (-1, float("inf")):
            with pytest.raises(ValueError):
                scale.read(value)
    assert COUNT.read("0") == 0.0
    with pytest.raises(ValueError, match="0 is not a number above 0"):
        WEIGHT.read(0)
    with pytest.raises(ValueError, match=r"-0\.5 is not a number of 0 or more"):
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
    kind = features("[{name: kind, scale: category, interactions: false, max_categories: 300}]")[0]
    assert str(kind) == "kind (category, interactions: false, max_categories: 300)"
    assert (
        features("[{name: price, interactions: true, max_categories: 64, included: true}]")[0] == features("[price]")[0]
    )
    for wrong in ("interactions: false", "max_categories: 3"):
        with pytest.raises(UserError, match=rf"{wrong[:6]}\w* is of categories, not of numbers like price"):
            features(f"[{{name: price, {wrong}}}]")
    with pytest.raises(UserError, match="max_categories"):
        features("[{name: kind, scale: category, max_categories: 5000}]")


VISITS = {"name": "visits", "scale": "log1p"}


def tables(
    folder: Path, features: Sequence[object] = ("price",), users: pd.DataFrame | None = None, **columns: list
) -> DataConfig:
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
    if users is not None:
        users.to_parquet(folder / "users.parquet")
        paths["users"] = folder / "users.parquet"
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
            "is a number above 0: correct .* give it `scale: log1p`",
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
    untold = tables(tmp_path / "untold", [{**VISITS, "included": False}], impressions__visits=visits)
    scales = [prepare(config).features["visits"] for config in (told, untold)]
    assert scales[0] == scales[1]
    assert Manifest.read(untold.folder).untold == ["visits"] and Manifest.read(told.folder).untold == []
    shard = pd.read_parquet(untold.folder / "slates" / "train-00000.parquet")
    assert np.isnan(np.concatenate(shard.feature_visits.to_list())).all()


def test_any_number_is_taken_as_it_is(tmp_path: Path) -> None:
    odds: list = [None, -3.5, 0.0, *[(n % 7) - 3.5 for n in range(3, 60)]]
    config = tables(tmp_path / "data", [{"name": "odds", "scale": "none"}], impressions__odds=odds)
    manifest = prepare(config)
    scale, known = manifest.features["odds"], np.array([-3.5, 0.0, *odds[3 : manifest.splits["train"].impressions]])
    assert isinstance(scale, NumberScale) and (scale.least, scale.most) == (-3.5, 2.5)
    assert (scale.mean, scale.std) == (pytest.approx(known.mean()), pytest.approx(known.std()))
    np.testing.assert_allclose(scale.standardise(np.array([-3.5, np.nan])), [(-3.5 - known.mean()) / known.std(), 0.0])
    assert scale.read("-2") == -2.0 and scale.read(None) is None
    with pytest.raises(ValueError, match="inf is not a finite number"):
        scale.read(np.inf)
    with pytest.raises(UserError, match=r"has odds 'much', but this feature is a finite number: correct the column"):
        prepare(tables(tmp_path / "bad", [{"name": "odds", "scale": "none"}], impressions__odds=["much"] * 60))


def test_a_feature_that_no_head_reads_is_kept_without_columns(tmp_path: Path) -> None:
    hidden = [{**VISITS, "heads": False}, {"name": "kind", "scale": "category", "heads": False}]
    config = tables(
        tmp_path / "data", ["price", *hidden], impressions__visits=[n % 4 for n in range(60)], items__kind=["a"] * 3
    )
    manifest = prepare(config)  # one kind alone teaches heads nothing, but is no fault where none reads it
    assert manifest.features["price"].mix == {} and same_features(manifest.features, config.features)
    assert columns_of(manifest.features).features == ["price"]
    assert standardised(manifest.features, [[2.0, 1.0, 0.0], [3.0, 2.0, np.nan]]).shape == (2, 1)
    assert [str(feature) for feature in config.features[1:]] == [
        "visits (log1p, heads: false)", "kind (category, heads: false)",
    ]  # fmt: skip
    slate = pd.read_parquet(config.folder / "slates" / "train-00000.parquet").iloc[0]
    np.testing.assert_array_equal(slate.feature_visits, [0, 1, 2])


KIND = {"name": "kind", "scale": "category"}


def test_a_category_is_that_of_the_impression_the_item_or_the_shopper(tmp_path: Path) -> None:
    users = pd.DataFrame({"user_id": ["u"], "kind": ["thrifty"]})
    shown: list = ["new", " new ", None, *[None] * 57]
    config = tables(tmp_path / "data", ["price", KIND], users, impressions__kind=shown, items__kind=["old", "old", ""])
    manifest = prepare(config)
    slate = pd.read_parquet(config.folder / "slates" / "train-00000.parquet").iloc[0]
    assert list(slate.feature_kind) == ["new", "new", "thrifty"]
    scale, train = manifest.features["kind"], manifest.splits["train"].impressions
    told = ["new", "new", "thrifty", *[("old", "old", "thrifty")[n % 3] for n in range(3, train)]]
    shares = {text: told.count(text) / train for text in set(told)}
    assert isinstance(scale, CategoryScale) and scale.values[-1] == "new"
    assert dict(zip(scale.values, scale.shares, strict=True)) == pytest.approx(shares)
    assert manifest.features["price"].mix == {}
    assert Manifest.read(config.folder).features == manifest.features


def test_a_category_of_whole_numbers_is_read_as_such_and_only_frequent_texts_become_columns(tmp_path: Path) -> None:
    whole = [float(n % 3) for n in range(60)]
    scale = prepare(tables(tmp_path / "whole", [KIND], impressions__kind=whole)).features["kind"]
    assert sorted(scale.values) == ["0", "1", "2"] and scale.read(2) == scale.read(2.0) == scale.values.index("2")
    config = tables(tmp_path / "many", [KIND], impressions__kind=[f"k{n // 2}" for n in range(60)])
    assert len(prepare(config).features["kind"].values) < 30
    with pytest.raises(UserError, match="kind is 'same' in every known impression"):
        prepare(tables(tmp_path / "same", [KIND], impressions__kind=["same"] * 60))
    with pytest.raises(UserError, match="kind is unknown in every impression"):
        prepare(tables(tmp_path / "none", [KIND], impressions__kind=[None] * 59 + [""]))


def test_rarer_texts_of_a_category_count_as_unknown(tmp_path: Path) -> None:
    kinds = [("often", "often", "less", "rare")[n % 4] for n in range(60)]
    few = {**KIND, "max_categories": 2, "interactions": False}
    manifest = prepare(tables(tmp_path / "data", [few], impressions__kind=kinds))
    scale = manifest.features["kind"]
    assert isinstance(scale, CategoryScale) and (scale.slopes, scale.max_categories) == (False, 2)
    assert scale.values[0] == "often" and len(scale.values) == 2 and sum(scale.shares) < 0.9
    assert any("kind has more than 2 texts" in note for note in manifest.notes)


def test_numbers_of_a_table_are_decorrelated_over_its_train_split(tmp_path: Path) -> None:
    weights = [float((2 + n % 5) ** 2 * (1 + n % 2)) for n in range(60)]
    config = tables(tmp_path / "data", ["price", "weight"], impressions__weight=weights)
    manifest = prepare(config)
    shard = pd.read_parquet(config.folder / "slates" / "train-00000.parquet")
    raw = np.stack([np.concatenate(shard[f"feature_{name}"].to_list()) for name in ("price", "weight")], axis=1)
    found = standardised(manifest.features, raw)
    assert abs(np.corrcoef(np.log(raw).T)[0, 1]) > 0.9 and abs(np.corrcoef(found.T)[0, 1]) < 0.06
    assert found.std(axis=0) == pytest.approx([1, 1], abs=0.06)


def test_a_negative_count_is_refused(tmp_path: Path) -> None:
    visits = [-1, *range(59)]
    with pytest.raises(
        UserError, match=r"has visits '-1', but this feature is a number of 0 or more: correct the column"
    ):
        prepare(tables(tmp_path / "data", [VISITS], impressions__visits=visits))


def test_a_feature_that_no_table_has_is_refused(tmp_path: Path) -> None:
    config = tables(tmp_path / "data", ["prize"])
    with pytest.raises(UserError, match=r"has a column 'prize', which data.features names \(did you mean 'price'\?\)"):
        prepare(config)


IDS = {"name": "seller", "scale": "category", "interactions": False}


def test_levels_are_looked_up_by_number_without_a_limit_of_columns(tmp_path: Path) -> None:
    sellers: list = [None, *[f"s{n // 2}" for n in range(1, 60)]]
    features = ["price", {**IDS, "levels": 5000}]
    manifest = prepare(tables(tmp_path / "data", features, impressions__seller=sellers))
    scale, columns = manifest.features["seller"], columns_of(manifest.features)
    assert isinstance(scale, CategoryScale) and scale.shares == [] and scale.indexed == len(scale.values) > 10
    assert columns.indexed == (IndexedLevels("seller", scale.indexed, 10.0),) and len(columns) == 2
    assert columns.features == ["price", "seller"] and not columns.levels
    raw = [[2.0, scale.read("s1")], [2.0, np.nan]]
    np.testing.assert_array_equal(standardised(manifest.features, raw)[:, 1], [scale.values.index("s1"), -1])
    assert scale.read("new") is None
    few = prepare(tables(tmp_path / "few", [{**IDS, "levels": 2, "rate": 3}], impressions__seller=sellers))
    assert len(few.features["seller"].values) == 2 and any("more than 2 texts (levels)" in note for note in few.notes)
    assert same_features(few.features, [FeatureConfig(**IDS, levels=2, rate=3)])
    assert not same_features(few.features, [FeatureConfig(**IDS, levels=2)])


def test_hashed_levels_have_a_place_for_every_text(tmp_path: Path) -> None:
    sellers = [n // 2 for n in range(60)]
    config = tables(tmp_path / "data", [{**IDS, "hashed": 7}], impressions__seller=sellers)
    scale = prepare(config).features["seller"]
    assert isinstance(scale, CategoryScale) and scale.values == [] and scale.indexed == 7
    assert scale.read(3) == scale.read("3") == scale.read(3.0) == bucket_of("3", 7)
    digest = hashlib.md5(b"never seen").digest()
    assert scale.read("never seen") == int.from_bytes(digest[:8], "big") % 7 and scale.read("") is None
    assert read_scales({"seller": {**scale.model_dump(), "rule": rule_of(scale)}}) == {"seller": scale}
    with pytest.raises(UserError, match="seller is '1' in every known impression"):
        prepare(tables(tmp_path / "same", [{**IDS, "hashed": 7}], impressions__seller=[1] * 60))


@pytest.mark.parametrize(
    ("feature", "sentence"),
    [
        ({**IDS, "levels": 9, "hashed": 9}, "levels and hashed of seller exclude each other"),
        ({"name": "seller", "scale": "category", "levels": 9}, "give seller interactions: false"),
        ({"name": "seller", "levels": 9}, "levels is of categories, not of numbers like seller"),
    ],
)
def test_levels_are_of_categories_without_interactions(feature: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        FeatureConfig.model_validate(feature)
