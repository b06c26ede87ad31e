"""`data.history.items`: which catalogue items a shopper's earlier events were of, from tables to the token cache."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig, HistoryConfig, TokensConfig
from equipoise.data.manifest import Manifest
from equipoise.data.prepare import history
from equipoise.data.prepare.masked import mask_all_fields
from equipoise.data.prepare.slates import prepare
from equipoise.data.token_cache import TokenCache, cache_key
from equipoise.data.token_writer import write_token_cache
from equipoise.data.tokens import SlateTokenizer

Make = Callable[..., DataConfig]


def told(config: DataConfig) -> dict[str, tuple[list[int], list[int]]]:
    """What was bought before, per request (and part), items a, b, c being 0, 1, 2."""
    files = sorted((config.folder / "slates").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return {f"{row['request_id']}/{row['part']}": (row["bought"], row["times"]) for row in rows}


@pytest.mark.parametrize("pairs", [20_000_000, 1], ids=["at once", "in parts"])
def test_by_hand(pairs: int, rows: dict, make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_PAIRS", pairs)
    rows["events"].append({"user_id": "u1", "timestamp": "2024-01-05", "item_id": "d", "kind": "purchase"})
    config = make_config(rows, history=HistoryConfig(max_events=0, items=True))
    prepare(config)
    assert told(config) == {
        "r1/0": ([2], [1]),  # the purchase of b falls on the very moment of r1
        "r2/0": ([], []),
        "r3/0": ([0, 1, 2], [1, 1, 2]),
        "r4/0": ([0], [1]),
        "r5/0": ([0, 1, 2], [1, 1, 2]),  # d is never shown, so no item of the catalogue
    }


def test_the_latest_events_alone(rows: dict, make_config: Make) -> None:
    config = make_config(rows, history=HistoryConfig(max_events=0, items=True, latest=1))
    prepare(config)
    assert all(len(items) <= 1 for items, _ in told(config).values())
    assert told(config)["r1/0"] == ([2], [1])


def test_kinds_and_parts(rows: dict, make_config: Make) -> None:
    only = HistoryConfig(max_events=0, items=True, kinds=["purchase"])
    config = make_config(rows, history=only, max_candidates=2)
    prepare(config)
    found = told(config)
    assert found["r3/0"] == found["r3/1"] == ([1, 2], [1, 2])  # the view of a does not count


def test_tokens_keep_them_and_the_key_knows(rows: dict, make_config: Make, wordpiece: Any) -> None:
    config = make_config(rows, history=HistoryConfig(items=True))
    manifest = prepare(config)
    limits = TokensConfig(max_prefix=40, max_candidate=24)
    place = config.folder / "tokens" / "key"
    write_token_cache(place, config.folder, SlateTokenizer(wordpiece, limits, True, []), lambda stage, share: None)
    train = TokenCache(place).split("train")
    assert train.bought is not None and train.times is not None
    assert [train.bought[row].tolist() for row in range(3)] == [[2], [], [0, 1, 2]]
    assert train.times[2].tolist() == [1, 1, 2] and train.times.values.dtype == np.int32
    plain = manifest.model_copy(update={"history": {**manifest.history, "items": False}})
    assert cache_key(wordpiece, limits, True, manifest) != cache_key(wordpiece, limits, True, plain)


def test_without_it_nothing_is_kept(rows: dict, make_config: Make, wordpiece: Any) -> None:
    config = make_config(rows)
    prepare(config)
    assert "bought" not in pq.read_schema(config.folder / "slates/train-00000.parquet").names
    assert not Manifest.read(config.folder).history["items"]


def test_it_needs_events(rows: dict, make_config: Make) -> None:
    del rows["events"]
    with pytest.raises(UserError, match=r"data\.history\.items needs events"):
        prepare(make_config(rows, history=HistoryConfig(items=True)))


def test_an_anonymous_user_has_bought_nothing(rows: dict, make_config: Make) -> None:
    config = make_config(rows, history=HistoryConfig(items=True), profile=["age"])
    assert not mask_all_fields(config).history.items
