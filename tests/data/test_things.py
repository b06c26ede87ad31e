"""Things of requests and co-purchase columns, from tables to the token cache, against their definitions."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.common.errors import UserError
from equipoise.configs.priors import ComparisonConfig
from equipoise.configs.schema import DataConfig, HistoryConfig, TokensConfig
from equipoise.data.manifest import Manifest
from equipoise.data.prepare import co_purchase
from equipoise.data.prepare.co_purchase import co_purchase_columns
from equipoise.data.prepare.masked import is_prepared, mask_all_fields
from equipoise.data.prepare.slates import prepare
from equipoise.data.prepare.tables import Tables
from equipoise.data.prepare.things import write_slate_things
from equipoise.data.thing_columns import TOGETHER, CoPurchase
from equipoise.data.token_cache import TokenCache, cache_key
from equipoise.data.token_writer import write_token_cache
from equipoise.data.tokens import SlateTokenizer

Make = Callable[..., DataConfig]
START = datetime(2024, 1, 1)
THINGS = 4
MOMENTS = st.integers(0, 8)
EVENTS = st.lists(st.tuples(st.sampled_from("xyz"), MOMENTS, st.integers(0, THINGS - 1)), max_size=30)
REQUESTS = st.lists(st.tuples(st.sampled_from("xyz"), MOMENTS), min_size=1, max_size=6)


def days(moment: int) -> datetime:
    return START + timedelta(days=moment)


def columns_of(events: list, requests: list, config: ComparisonConfig) -> tuple[np.ndarray, list, CoPurchase]:
    """Columns of the candidates 0 … THINGS−1 and of one without a thing, per request; histories; the final counts."""
    candidates = THINGS + 1
    with duckdb.connect() as con:
        users, moments, things = zip(*events, strict=True) if events else ((), (), ())
        stamp = pa.timestamp("us")
        tables = {
            "thing_events": {
                "user_id": pa.array(users, pa.string()), "timestamp": pa.array(map(days, moments), stamp),
                "thing": pa.array(things, pa.int32()),
            },
            "requests": {
                "ordinal": range(len(requests)), "user_id": [user for user, _ in requests],
                "timestamp": pa.array([days(moment) for _, moment in requests], stamp),
            },
            "things": {
                "thing_index": pa.array(range(THINGS), pa.int32()), "text": [f"thing {n:03d}" for n in range(THINGS)],
            },
            "item_numbers": {"item_id": [str(n) for n in range(candidates)], "item_index": range(candidates)},
            "item_things": {"item_id": [str(n) for n in range(THINGS)], "thing_index": pa.array(range(THINGS))},
            "sorted_impressions": {
                "ordinal": np.repeat(range(len(requests)), candidates),
                "sort_index": np.arange(len(requests) * candidates) + 1,
                "item": np.tile(range(candidates), len(requests)),
            },
        }  # fmt: skip
        for name, columns in tables.items():
            con.register("given", pa.table(columns))
            con.execute(f"CREATE TABLE {name} AS FROM given")
            con.unregister("given")
        write_slate_things(Tables(con, "tables", {"events": "events.csv"}), config)
        found = dict(con.execute("SELECT ordinal, things FROM slate_things").fetchall())
        columns_I3 = np.full((len(requests) * candidates, 3), np.nan, np.float32)
        counts = co_purchase_columns(con, config, columns_I3, lambda stage, fraction: None)
    return columns_I3.reshape(len(requests), candidates, 3), [found.get(n, []) for n in range(len(requests))], counts


def count(events: list, moment: float, things: set[int], half_life: float | None) -> float:
    """Shoppers who took all of these things strictly before a moment, decayed since they had the last of them."""
    total = 0.0
    for user in {user for user, *_ in events}:
        first = [min([m for u, m, t in events if (u, t) == (user, thing)], default=np.inf) for thing in things]
        if max(first) < moment:
            total += 1.0 if half_life is None else 0.5 ** ((moment - max(first)) / half_life)
    return total


def reference(events: list, user: str, moment: int, candidate: int, config: ComparisonConfig) -> list[float]:
    latest = {t: max(m for u, m, t2 in events if (u, t2) == (user, t) and m < moment)
              for t in {t for u, m, t in events if u == user and m < moment}}  # fmt: skip
    history = sorted(latest, key=lambda t: (-latest[t], t))[: config.max_events]
    shown = [t for t in history if t != candidate]
    if candidate == THINGS or not shown:
        return [np.nan] * 3
    half = config.half_life_days
    alone = {t: count(events, moment, {t}, half) for t in {*shown, candidate}}
    lifts = [
        count(events, moment, {t, candidate}, half) / np.sqrt((alone[t] + 5) * (alone[candidate] + 5)) for t in shown
    ]
    return [float(np.mean(lifts)), float(np.mean(sorted(lifts)[-5:])), max(lifts)]


@settings(max_examples=25, deadline=None)
@given(EVENTS, REQUESTS, st.sampled_from([None, 0.5, 3.0]), st.integers(1, 5), st.sampled_from([1, 7, 4_000_000]))
def test_co_purchase_is_counted_strictly_before_each_request(
    events: list, requests: list, half_life: float | None, longest: int, block: int
) -> None:
    config = ComparisonConfig(max_events=longest, half_life_days=half_life)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(co_purchase, "BLOCK", block)
        columns, _, counts = columns_of(events, requests, config)
    for (user, moment), rows in zip(requests, columns, strict=True):
        expected = [reference(events, user, moment, thing, config) for thing in range(THINGS + 1)]
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)
    end = max((m for _, m, _ in events), default=0)
    after = [(u, m - 1e-9, t) for u, m, t in events]  # the final counts take the last moment in
    for i in range(THINGS):
        assert counts.alone_T[i] == pytest.approx(count(after, end, {i}, half_life), rel=1e-5)
        for j in range(i):
            assert counts.both(np.array(i), np.array(j)) == pytest.approx(
                count(after, end, {i, j}, half_life), rel=1e-5
            )


@settings(max_examples=10, deadline=None)
@given(EVENTS, REQUESTS, EVENTS)
def test_what_happens_at_or_after_a_request_changes_nothing(events: list, requests: list, later: list) -> None:
    end = max(moment for _, moment in requests)
    config = ComparisonConfig()
    columns, things, _ = columns_of(events, requests, config)
    more, same, _ = columns_of(events + [(user, end + moment, t) for user, moment, t in later], requests, config)
    np.testing.assert_array_equal(columns, more)
    assert things == same


COMPARED = ComparisonConfig(max_events=2)


def slates_of(config: DataConfig) -> dict[str, dict[str, Any]]:
    files = sorted((config.folder / "slates").glob("*.parquet"))
    return {f"{row['request_id']}/{row['part']}": row for file in files for row in pq.read_table(file).to_pylist()}


def test_by_hand(rows: dict, make_config: Make) -> None:
    rows["events"][0]["title"] = " Goat's cheese "
    for event in rows["events"][1:]:
        event["title"] = {"a": "apples", "b": "bread", "c": "cheese"}[event["item_id"]]
    rows["events"].append(
        {"user_id": "u3", "timestamp": "2024-01-05", "item_id": "d", "kind": "view", "title": "bread"}
    )
    rows["items"][1]["title"] = " "
    config = make_config(rows, comparison=COMPARED, max_candidates=2, prompt={"item": ["{item_id}"]})
    manifest = prepare(config)
    assert manifest.comparison == {"item": "title", "max_events": 2, "co_purchase": True, "half_life_days": None}
    things = pq.read_table(config.folder / "things.parquet").to_pydict()
    assert things == {"thing_index": [0, 1, 2, 3], "text": ["Goat's cheese", "apples", "bread", "cheese"]}
    items = pq.read_table(config.folder / "items.parquet").to_pydict()
    assert items["thing_index"] == [1, None, 3]
    slates = slates_of(config)
    assert {key: slates[key]["things"] for key in slates} == {
        "r1/0": [0], "r2/0": [], "r3/0": [1, 3], "r3/1": [1, 3], "r4/0": [1], "r5/0": [1, 3],
    }  # fmt: skip
    last = slates["r5/0"]  # of u1, apples and cheese; u1 alone took pairs, u2 apples, u3 bread
    assert last["item"] == [0, 2]
    for name in TOGETHER:
        assert last[f"computed_{name}"] == pytest.approx([1 / np.sqrt(7 * 6)] * 2)
    counts = CoPurchase.read(config.folder / "co_purchase.npz")
    assert counts.alone_T.tolist() == [1, 2, 2, 1] and counts.until.startswith("2024-01-15T00:00:00")
    assert set(manifest.hashes) >= {"things.parquet", "co_purchase.npz"}


def test_events_of_other_kinds_are_not_compared(rows: dict, make_config: Make) -> None:
    config = make_config(rows, comparison=COMPARED, history=HistoryConfig(kinds=["purchase"]))
    prepare(config)
    assert slates_of(config)["r3/0"]["things"] == [2, 1]  # titles of the items: cheese, bread, and no viewed apples


def test_tokens_keep_things_and_the_key_knows(rows: dict, make_config: Make, wordpiece: Any) -> None:
    config = make_config(rows, comparison=COMPARED)
    manifest = prepare(config)
    limits = TokensConfig(max_prefix=40, max_candidate=24)
    folder = config.folder / "tokens" / "key"
    write_token_cache(folder, config.folder, SlateTokenizer(wordpiece, limits, True, []), lambda stage, share: None)
    cache = TokenCache(folder)
    train = cache.split("train")
    assert cache.item_things is not None and cache.item_things.tolist() == [0, 1, 2] and train.things is not None
    slates = [slate for request, slate in slates_of(config).items() if request in ("r1/0", "r2/0", "r3/0")]
    assert [train.things[row].tolist() for row in range(3)] == [slate["things"] for slate in slates]
    for name in TOGETHER:
        flat = [value for slate in slates for value in slate[f"computed_{name}"]]
        np.testing.assert_array_equal(train.computed[name], np.array(flat, np.float32))
    assert manifest.comparison is not None
    plain = manifest.model_copy(update={"comparison": None})
    without = manifest.model_copy(update={"comparison": {**manifest.comparison, "co_purchase": False}})
    assert len({cache_key(wordpiece, limits, True, m) for m in (manifest, plain, without)}) == 3


def test_anonymous_users_have_no_things(rows: dict, make_config: Make) -> None:
    config = make_config(rows, comparison=COMPARED)
    masked = mask_all_fields(config)
    prepare(config)
    assert not is_prepared(masked, config)
    prepare(masked)
    assert is_prepared(masked, config)
    for row in slates_of(masked).values():
        assert row["things"] == [] and np.isnan(row["computed_together_mean"]).all()
    own, theirs = (pq.read_table(folder / "things.parquet") for folder in (config.folder, masked.folder))
    assert own == theirs and not (masked.folder / "co_purchase.npz").exists()


def test_nobody_has_taken_a_new_item(rows: dict, make_config: Make) -> None:
    tables = []
    for dropout in (0.0, 0.9):
        config = make_config(rows, comparison=COMPARED, item_behaviour=["bought"], item_dropout=dropout)
        prepare(config)
        tables.append({key: np.array(row["computed_together_max"]) for key, row in slates_of(config).items()})
    plain, shown = tables
    train = np.concatenate([shown[key] for key in ("r1/0", "r2/0", "r3/0")])
    before = np.concatenate([plain[key] for key in ("r1/0", "r2/0", "r3/0")])
    np.testing.assert_array_equal(np.isnan(train), np.isnan(before))
    assert ((train == before) | (train == 0) | np.isnan(train)).all() and (train < before).any()
    np.testing.assert_array_equal(plain["r5/0"], shown["r5/0"])


def test_without_it_nothing_is_kept(rows: dict, make_config: Make) -> None:
    config = make_config(rows)
    prepare(config)
    assert Manifest.read(config.folder).comparison is None
    assert not (config.folder / "things.parquet").exists()
    assert "things" not in pq.read_schema(config.folder / "slates/train-00000.parquet").names


def test_what_it_needs_is_said(rows: dict, make_config: Make) -> None:
    with pytest.raises(UserError, match=r"has no column 'kind', which data\.comparison\.item names"):
        prepare(make_config(rows, comparison=ComparisonConfig(item="kind")))
    del rows["events"]
    with pytest.raises(UserError, match=r"data\.comparison needs events: set data\.tables\.events"):
        prepare(make_config(rows, comparison=COMPARED))
