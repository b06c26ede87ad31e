"""Rates count what happened strictly before a request, as brute force does, and never see the future."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.configs.features import FeatureConfig
from equipoise.configs.rates import RateConfig
from equipoise.configs.schema import DataConfig
from equipoise.data.manifest import Manifest
from equipoise.data.prepare.masked import mask_all_fields, mask_behaviour
from equipoise.data.prepare.rates import DAY, add_rate, write_state
from equipoise.data.prepare.slates import prepare
from equipoise.data.rates import FOLDER, RateLookup, read_state

Row = tuple[int, str | None, str | None, int, int]
"""Moment in days, two keys, click, conversion."""

CON = duckdb.connect(config={"threads": 1})

RATES = [
    RateConfig(of="click", by="a"),
    RateConfig(of="click", by=["a", "b"], parent="a", strength=3.0),
    RateConfig(of="conversion", by="a", given="click", half_life_days=2.0),
    RateConfig(of="click", by=["b", "a"], parent="b", half_life_days=0.01, delay_days=3),
    RateConfig(of="click", by="a", half_life_days=4, delay_days="wait"),
]

ROW = st.tuples(
    st.integers(0, 30),
    st.sampled_from(["x", "y", "z", None]),
    st.sampled_from(["p", "q", None]),
    st.integers(0, 1),
    st.integers(0, 1),
)


def rated(rows: list[Row], rate: RateConfig) -> list[tuple[float | None, float | None]]:
    """What add_rate gives each row."""
    write_rows(rows)
    add_rate(CON, rate)
    return CON.execute(f'SELECT "{rate.rate}", "{rate.shown}" FROM rate_rows ORDER BY row').fetchall()


def write_rows(rows: list[Row]) -> None:
    """The rows as rate_rows of CON."""
    names = ("moment", "key_a", "key_b", "label_click", "label_conversion")
    kinds = (pa.int64(), pa.string(), pa.string(), pa.float64(), pa.float64())
    columns = zip(*((day * DAY, *rest) for day, *rest in rows), strict=True) if rows else [[]] * 5
    table = pa.table({n: pa.array(list(c), k) for n, c, k in zip(names, columns, kinds, strict=True)})
    wait = [None if b == "q" else 1.0 + 2 * conversion for _, _, b, _, conversion in rows]
    table = table.append_column("delay_wait", pa.array(wait, pa.float64()))
    CON.register("given_rows", table.append_column("row", pa.array(range(len(rows)))))
    CON.execute("CREATE OR REPLACE TABLE rate_rows AS SELECT * FROM given_rows")


def brute_force(rows: list[Row], rate: RateConfig, at: float, a: str | None, b: str | None) -> tuple[Any, Any]:
    """The rate and count of a request at a moment (days), by the definition."""
    cells = {"a": a, "b": b}
    if any(cells[name] is None for name in rate.by):
        return None, None

    def counts(columns: list[str]) -> tuple[float, float, bool]:
        shown, positives, any_row = 0.0, 0.0, False
        for day, row_a, row_b, click, conversion in rows:
            known, own = known_at(rate, day, row_b, conversion), {"a": row_a, "b": row_b}
            if known < at and (rate.given is None or click) and all(own[name] == cells[name] for name in columns):
                weight = 2 ** -((at - known) / rate.half_life_days) if rate.half_life_days else 1.0
                shown += weight
                positives += weight * (click if rate.of == "click" else conversion)
                any_row = True
        return shown, positives, any_row

    shown, positives, any_row = counts([])
    q = (positives + 0.5) / (shown + 1)
    for columns in ([rate.parent] if rate.parent else []) + [rate.by]:
        shown, positives, _ = counts(columns)
        q = (positives + rate.strength * q) / (shown + rate.strength)
    return (q if any_row else None), shown


def known_at(rate: RateConfig, day: float, b: str | None, conversion: int) -> float:
    """When a row's label is known; never of some, where rows have delays of their own."""
    if rate.delay_column is None:
        return day + float(rate.delay_days)
    return np.inf if b == "q" else day + 1.0 + 2 * conversion


def same(found: Any, expected: Any, rel: float = 1e-9) -> bool:
    if found is None or expected is None:
        return found is expected
    return bool(found == pytest.approx(expected, rel=rel, abs=1e-12))


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: rate.rate)
@settings(deadline=None, max_examples=10)
@given(rows=st.lists(ROW, min_size=1, max_size=40))
def test_rates_are_those_of_brute_force(rate: RateConfig, rows: list[Row]) -> None:
    for (day, a, b, *_), (found, shown) in zip(rows, rated(rows, rate), strict=True):
        expected = brute_force(rows, rate, day, a, b)
        assert same(found, expected[0]) and same(shown, expected[1])


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: rate.rate)
@settings(deadline=None, max_examples=10)
@given(rows=st.lists(ROW, min_size=1, max_size=30), others=st.lists(ROW, min_size=30, max_size=30), data=st.data())
def test_the_future_is_not_seen(rate: RateConfig, rows: list[Row], others: list[Row], data: st.DataObject) -> None:
    """Rows at or after a request's moment may be any others, and more or fewer: its own rate stays, to the last bit."""
    index = data.draw(st.integers(0, len(rows) - 1))
    moment, a, b, *_ = rows[index]
    past = [row for row in rows if row[0] < moment]
    future = [(max(day, moment), *rest) for day, *rest in others[: data.draw(st.integers(0, 30))]]
    changed = [*past, (moment, a, b, 1, 0), *future]
    pairs = zip(rated(changed, rate)[len(past)], rated(rows, rate)[index], strict=True)
    assert all(same(found, before, 1e-12) for found, before in pairs)


def test_noise_by_a_key_of_its_own_gives_the_rate_of_everything_so_far() -> None:
    rng = np.random.default_rng(0)
    rows = [(day, f"{day}-{n}", "p", int(rng.integers(2)), 0) for day in range(20) for n in range(5)]
    rate = RateConfig(of="click", by="a")
    for (day, *_), (found, shown) in zip(rows, rated(rows, rate), strict=True):
        earlier = [click for other, _, _, click, _ in rows if other < day]
        assert shown == 0
        assert found == (pytest.approx((sum(earlier) + 0.5) / (len(earlier) + 1)) if earlier else None)


@pytest.mark.parametrize("rate", RATES, ids=lambda rate: rate.rate)
@settings(deadline=None, max_examples=5)
@given(rows=st.lists(ROW, min_size=1, max_size=30))
def test_the_state_gives_what_a_later_request_would_get(
    rate: RateConfig, rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("state") / rate.file
    known = [known_at(rate, day, b, conversion) for day, _, b, _, conversion in rows]
    end = max([row[0] for row in rows] + [at for at in known if at < np.inf])
    write_rows(rows)
    write_state(CON, rate, path)
    state = read_state(path)
    assert state.rate == rate and state.moment == datetime.fromtimestamp(end * 86400, UTC)
    lookup = RateLookup([state])
    for a in ("x", "new", None):
        for b in ("p", None):
            cells = {"a": a, "b": b}
            found = [lookup.value(name, cells.__getitem__) for name in rate.names]
            expected = list(brute_force(rows, rate, end + 1e-9, a, b))
            assert all(same(f, e, 1e-5) for f, e in zip(found, expected, strict=True))
    assert lookup.value("price", cells.__getitem__) is None and lookup.keys == rate.by


def test_names_tell_rates_apart() -> None:
    rate = RateConfig(of="conversion", by=["user_id", "category"], given="click", half_life_days=7)
    assert rate.rate == "rate_conversion_given_click_by_user_id_category_7d"
    assert rate.shown == "shown_given_click_by_user_id_category_7d"
    assert RateConfig(of="a/b", by="c", delay_days=1.5).file == "rate_a_b_by_c_after_1.5d.parquet"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"of": "click", "by": []}, "at least 1"),
        ({"of": "click", "by": ["a", "a"]}, "twice"),
        ({"of": "click", "by": "a", "parent": "a"}, "parent"),
        ({"of": "click", "by": "a", "given": "click"}, "itself"),
        ({"of": "click", "by": "a", "strength": 0}, "greater than 0"),
    ],
)
def test_what_makes_no_rate_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RateConfig(**settings)


def feature(folder: Path, split: str, name: str) -> dict[tuple[str, int], Any]:
    """A feature of a prepared folder by request and item."""
    table = pq.read_table(sorted((folder / "slates").glob(f"{split}-*.parquet"))[0]).to_pylist()
    return {
        (row["request_id"], item): value
        for row in table
        for item, value in zip(row["item"], row[f"feature_{name}"], strict=True)
    }


def test_prepare_makes_features_of_rates(rows: dict, make_config: Callable[..., DataConfig]) -> None:
    rates = [{"of": "click", "by": "item_id"}, {"of": "conversion", "by": ["age", "brand"], "parent": "brand"}]
    listed = [{"name": "shown_by_item_id", "scale": "log1p", "included": True}]
    config = make_config(rows, rates=rates, features=listed)
    names = ["shown_by_item_id", "rate_click_by_item_id", "rate_conversion_by_age_brand", "shown_by_age_brand"]
    assert config.feature_names == names
    assert DataConfig(**config.model_dump()) == config
    manifest = prepare(config)
    assert list(manifest.features) == names and manifest.rates == config.rates
    assert Manifest.read(config.folder, verify=True).rates == config.rates
    shown = feature(config.folder, "test", "shown_by_item_id")
    assert shown == {("r5", 0): 3.0, ("r5", 2): 3.0}  # a in r1, r2, r3, and c in r2, r3, r4
    rate = feature(config.folder, "test", "rate_click_by_item_id")
    assert rate["r5", 0] == pytest.approx((1 + 20 * 4.5 / 10) / 23)
    by_age = feature(config.folder, "test", "rate_conversion_by_age_brand")
    assert np.isnan(by_age["r5", 2])  # cheese has no brand
    apples = (1 + 20 * 2.5 / 10) / 23  # national: one of three converted
    assert by_age["r5", 0] == pytest.approx((1 + 20 * apples) / 22)  # for 30-39: one of two
    assert np.isnan(feature(config.folder, "train", "rate_click_by_item_id")["r1", 0])  # nothing is known yet
    state = config.folder / FOLDER / "rate_click_by_item_id.parquet"
    assert manifest.hashes["rates/rate_click_by_item_id.parquet"] == file_hash(state)
    lookup = RateLookup.read(config.folder / FOLDER / rate.file for rate in config.rates)
    assert lookup.value("shown_by_item_id", {"item_id": "a"}.get) == 4
    assert lookup.value("shown_by_item_id", {"item_id": "new"}.get) == 0
    assert lookup.value("rate_click_by_item_id", {"item_id": "new"}.get) == pytest.approx(5.5 / 12)
    assert lookup.keys == ["item_id", "age", "brand"]


def test_a_label_of_ones_own_counts_where_it_is_known(rows: dict, make_config: Callable[..., DataConfig]) -> None:
    for number, row in enumerate(rows["impressions"]):
        row["liked"] = number % 2 if row["click"] else None
    rate = {"of": "liked", "given": "click", "by": "user_id", "strength": 1}
    config = make_config(rows, rates=[rate])
    prepare(config)
    shown = feature(config.folder, "test", "shown_given_click_by_user_id")
    assert set(shown.values()) == {2.0}  # u1 clicked on b in r1, and in r3
    everything = (0 + 0 + 0 + 1 + 0.5) / 5  # rows 0, 2, 6 and 7
    found = feature(config.folder, "test", "rate_liked_given_click_by_user_id")
    assert found["r5", 0] == pytest.approx((0 + everything) / 3)
    with pytest.raises(UserError, match=r"has liked '', which data\.rates counts"):
        prepare(make_config(rows, rates=[{"of": "liked", "by": "user_id"}]))


def test_held_out_users_count_where_they_are_kept(rows: dict, make_config: Callable[..., DataConfig]) -> None:
    config = make_config(rows, rates=[{"of": "click", "by": "user_id"}])
    config.split.holdout_users = 0.4
    rows_of = {row["user_id"] for row in rows["impressions"]}
    try:
        prepare(config)
    except UserError as error:  # both are held out, or none
        assert "split" in str(error) and rows_of
    else:
        shown = feature(config.folder, "test", "shown_by_user_id")
        assert set(shown.values()) <= {0.0, 5.0}


def test_anonymous_shoppers_have_no_rates_of_their_own(rows: dict, make_config: Callable[..., DataConfig]) -> None:
    rates = [{"of": "click", "by": by} for by in ("user_id", "age", "item_id")]
    config = make_config(rows, rates=rates, profile=["age"])
    hidden = {"rate_click_by_user_id", "shown_by_user_id"}
    masked = [{f.name for f in mask(config).features if not f.included} for mask in (mask_behaviour, mask_all_fields)]
    assert masked == [hidden, hidden | {"rate_click_by_age", "shown_by_age"}]


@pytest.mark.parametrize(
    ("rates", "spoil", "words"),
    [
        ([{"of": "clicks", "by": "item_id"}], {}, "has no column 'clicks', which data.rates reads"),
        ([{"of": "click", "by": "brnd"}], {}, "did you mean 'brand'"),
        ([{"of": "click", "by": "item_id"}], {"shown_by_item_id": 1}, "which data.rates computes: rename it"),
        ([{"of": "liked", "by": "item_id"}], {"liked": 2}, "has liked '2'"),
        ([{"of": "click", "by": "item_id", "delay_days": "bought"}], {"bought": -1}, "has bought '-1', after which"),
        ([{"of": "click", "by": "item_id", "delay_days": "days"}], {}, "has no column 'days'"),
        ([{"of": "click", "by": "request_id"}], {}, "earlier one with the same request_id"),
    ],
)
def test_rates_that_cannot_be_are_refused(
    rates: list, spoil: dict, words: str, rows: dict, make_config: Callable[..., DataConfig]
) -> None:
    rows["impressions"] = [{**row, **spoil} for row in rows["impressions"]]
    with pytest.raises(UserError, match=words):
        prepare(make_config(rows, rates=rates))


def test_rates_may_be_of_priors_alone(rows: dict, make_config: Callable[..., DataConfig]) -> None:
    own, read = {"of": "click", "by": "item_id", "heads": False}, {"of": "conversion", "by": "item_id"}
    features = {feature.name: feature.heads for feature in make_config(rows, rates=[read, own]).features}
    assert features == {
        "rate_click_by_item_id": False, "rate_conversion_by_item_id": True, "shown_by_item_id": True,
    }  # fmt: skip
    assert not any(feature.heads for feature in make_config(rows, rates=[own]).features)


def test_a_listed_feature_keeps_its_settings(rows: dict, make_config: Callable[..., DataConfig]) -> None:
    own = FeatureConfig(name="rate_click_by_item_id", scale="log1p")
    config = make_config(rows, rates=[{"of": "click", "by": "item_id"}], features=[own])
    assert config.features[0] == own and len(config.features) == 2
    with pytest.raises(ValidationError, match="twice"):
        make_config(rows, rates=[{"of": "click", "by": "item_id"}, {"of": "click", "by": "item_id", "strength": 5}])
