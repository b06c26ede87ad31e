"""Writes a simulated shop: the project's tables, and the truth beside them, block after block of requests."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.common.atomic import atomic_dir
from equipoise.common.errors import UserError
from equipoise.data.simulator.demand import FOLDER
from equipoise.data.simulator.draws import Draws
from equipoise.data.simulator.paid import PaidPrices
from equipoise.data.simulator.sessions import RequestBlock, draw_requests
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.shop import (
    AGES,
    ATTITUDES,
    BRANDS,
    CATEGORIES,
    INCOMES,
    SELLERS,
    TIERS,
    Items,
    Shoppers,
    draw_items,
    draw_shoppers,
)

START = datetime(2026, 1, 1)
EVENT_DAYS = 90
"""Over how many days before START the first events of shoppers lie."""

DELIVERY = timedelta(minutes=5)
"""How long after its request a purchase becomes an event."""

BLOCK = 2_000
SHOPPER_BLOCK = 20_000


def simulate(
    folder: Path,
    settings: SimulatorSettings,
    block: int = BLOCK,
    overwrite: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, int]:
    """Write `folder`, whole or not at all: impressions, items, users and events as Parquet, and truth/.

    Args:
        folder: that appears.
        settings: sizes and seed; the same ones give the same rows.
        block: requests in memory at a time; decides no row.
        overwrite: replace an earlier simulation.
        progress: told the share of requests that are written.

    Returns:
        numbers of impressions, clicks, purchases and events.

    Raises:
        UserError: `folder` exists.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not (folder / FOLDER / "settings.json").is_file():
            raise UserError(f"{folder} exists and is no simulation: name another folder")
        if not overwrite:
            raise UserError(f"{folder} holds an earlier simulation: name another folder or add --overwrite")
    if block < 1:
        raise UserError(f"--block is {block}: give at least 1")
    shoppers, items = draw_shoppers(settings), draw_items(settings)
    with atomic_dir(folder) as building:
        truth = building / FOLDER
        truth.mkdir()
        pq.write_table(_item_table(items), building / "items.parquet")
        pq.write_table(_item_truth(items), truth / "items.parquet")
        _write_blocks(building / "users.parquet", (_user_table(shoppers, r) for r in _ranges(settings.shoppers)))
        _write_blocks(truth / "shoppers.parquet", (_shopper_truth(shoppers, r) for r in _ranges(settings.shoppers)))
        counts = _write_requests(building, settings, shoppers, items, block, progress)
        (truth / "settings.json").write_text(json.dumps(settings.to_json(), indent=2) + "\n", "utf-8")
    return counts


def _write_requests(
    folder: Path,
    settings: SimulatorSettings,
    shoppers: Shoppers,
    items: Items,
    block: int,
    progress: Callable[[float], None],
) -> dict[str, int]:
    """impressions, their truth and events; events of the time before come first."""
    counts = dict.fromkeys(("impressions", "clicks", "purchases", "events"), 0)
    titles = np.array(items.titles(), dtype=object)
    memory = PaidPrices(len(items.cost)) if settings.price_memory else None
    with (
        pq.ParquetWriter(folder / "impressions.parquet", _told_schema(settings)) as impressions,
        pq.ParquetWriter(folder / FOLDER / "impressions.parquet", _truth_schema(settings)) as truth,
        pq.ParquetWriter(folder / "events.parquet", _EVENTS) as events,
    ):
        for rows in _ranges(settings.shoppers) if settings.events else ():
            table, item = _first_events(settings, shoppers, items, titles, rows)
            events.write_table(table)
            if memory is not None:
                memory.add(np.array(rows), item, items.price[item], np.ones(item.shape, bool))
            counts["events"] += table.num_rows
        for start in range(0, settings.requests, block):
            stop = min(start + block, settings.requests)
            drawn = draw_requests(settings, shoppers, items, start, stop, memory)
            impressions.write_table(_impression_table(settings, drawn))
            truth.write_table(_impression_truth(settings, drawn))
            bought = _purchase_events(settings, drawn, titles)
            events.write_table(bought)
            counts["impressions"] += drawn.item.size
            counts["clicks"] += int(drawn.click.sum())
            counts["purchases"] += int(drawn.purchase.sum())
            counts["events"] += bought.num_rows
            progress(stop / settings.requests)
    return counts


_TIME = pa.timestamp("us")
_IMPRESSIONS = pa.schema(
    [
        ("request_id", pa.string()),
        ("timestamp", _TIME),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("position", pa.int32()),
        ("price", pa.float64()),
        ("click", pa.int8()),
        ("conversion", pa.int8()),
    ]
)
_TRUTH = pa.schema(
    [
        ("request_id", pa.string()),
        ("item_id", pa.string()),
        ("p_click", pa.float64()),
        ("p_conversion", pa.float64()),
        ("p_click_and_conversion", pa.float64()),
    ]
)
_COMPETITOR, _MEMORY, _RIVALS = ("competitor_price",), ("paid_before", "others_paid"), ("rival_price",)
_EVENTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("timestamp", _TIME),
        ("item_id", pa.string()),
        ("kind", pa.string()),
        ("title", pa.string()),
        ("price", pa.float64()),
    ]
)


def _told_schema(settings: SimulatorSettings) -> pa.Schema:
    """Of impressions: other prices that shoppers hold a price against, as far as the shop can know them."""
    names = [*(_COMPETITOR if settings.competitor else ()), *(_MEMORY if settings.price_memory else ())]
    return pa.schema([*_IMPRESSIONS, *((name, pa.float64()) for name in names)])


def _truth_schema(settings: SimulatorSettings) -> pa.Schema:
    return pa.schema([*_TRUTH, *((name, pa.float64()) for name in (_RIVALS if settings.substitutes else ()))])


def _with_others(columns: dict[str, Any], drawn: RequestBlock, schema: pa.Schema) -> pa.Table:
    """The table of a schema, from its columns and the other prices; NaN becomes null."""
    others = dict(zip(_MEMORY, (drawn.paid, drawn.others_paid), strict=True))
    others |= {_COMPETITOR[0]: drawn.competitor, _RIVALS[0]: drawn.rivals}
    prices = {name: pa.array(values.ravel(), from_pandas=True) for name, values in others.items()}
    return pa.table({name: (columns | prices)[name] for name in schema.names}, schema=schema)


def _impression_table(settings: SimulatorSettings, drawn: RequestBlock) -> pa.Table:
    shown = drawn.item.shape[1]
    columns: dict[str, Any] = {
        "request_id": np.repeat(_names("r", drawn.number), shown),
        "timestamp": np.repeat(_moments(settings, drawn), shown),
        "user_id": np.repeat(_names("u", drawn.shopper), shown),
        "item_id": _names("i", drawn.item.ravel()),
        "position": np.tile(np.arange(shown), len(drawn.number)),
        "price": drawn.price.ravel(),
        "click": drawn.click.ravel().astype(np.int8),
        "conversion": drawn.purchase.ravel().astype(np.int8),
    }
    return _with_others(columns, drawn, _told_schema(settings))


def _impression_truth(settings: SimulatorSettings, drawn: RequestBlock) -> pa.Table:
    columns = {
        "request_id": np.repeat(_names("r", drawn.number), drawn.item.shape[1]),
        "item_id": _names("i", drawn.item.ravel()),
        "p_click": drawn.p_click.ravel(),
        "p_conversion": drawn.p_purchase.ravel(),
        "p_click_and_conversion": (drawn.p_click * drawn.p_purchase).ravel(),
    }
    return _with_others(columns, drawn, _truth_schema(settings))


def _purchase_events(settings: SimulatorSettings, drawn: RequestBlock, titles: np.ndarray) -> pa.Table:
    row, position = np.nonzero(drawn.purchase)
    item = drawn.item[row, position]
    columns = {
        "user_id": _names("u", drawn.shopper[row]),
        "timestamp": _moments(settings, drawn)[row] + np.timedelta64(DELIVERY),
        "item_id": _names("i", item),
        "kind": np.full(len(row), "purchase", dtype=object),
        "title": titles[item],
        "price": drawn.price[row, position],
    }
    return pa.table(columns, schema=_EVENTS)


def _first_events(
    settings: SimulatorSettings, shoppers: Shoppers, items: Items, titles: np.ndarray, rows: range
) -> tuple[pa.Table, np.ndarray]:
    """What shoppers bought before the first request: of categories by taste, at the shop's own prices.

    Also the items, int64 (R, events).
    """
    count = settings.events
    draws = Draws(settings.seed, "events", 3 * count, rows.start, rows.stop)
    likes = np.cumsum(np.exp(shoppers.taste[rows.start : rows.stop]), axis=1)
    wanted = draws.uniform(count) * likes[:, -1:]
    category = (wanted[:, :, None] > likes[:, None, :]).sum(axis=2)
    item = _item_of(items, category, draws.uniform(count))
    days = np.sort(-EVENT_DAYS * draws.uniform(count), axis=1)
    when = np.datetime64(START, "us") + (days * 86_400e6).astype("timedelta64[us]")
    columns = {
        "user_id": np.repeat(_names("u", np.arange(rows.start, rows.stop)), count),
        "timestamp": when.ravel(),
        "item_id": _names("i", item.ravel()),
        "kind": np.full(item.size, "purchase", dtype=object),
        "title": titles[item.ravel()],
        "price": items.price[item.ravel()],
    }
    return pa.table(columns, schema=_EVENTS), item


def _item_of(items: Items, category: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """An item of each category, all alike; where a category has none, of the whole shop."""
    by_category = np.argsort(items.category, kind="stable")
    sizes = np.bincount(items.category, minlength=len(CATEGORIES))
    first = np.cumsum(sizes) - sizes
    size, start = sizes[category], first[category]
    index = np.where(size > 0, start + uniform * size, uniform * len(by_category))
    return by_category[index.astype(np.int64)]


def _item_table(items: Items) -> pa.Table:
    """What the shop knows of its items, cost included."""
    categories, tiers = list(CATEGORIES), list(TIERS)
    return pa.table(
        {
            "item_id": _names("i", np.arange(len(items.cost))),
            "title": items.titles(),
            "category": [categories[c] for c in items.category],
            "tier": [tiers[t] for t in items.tier],
            "brand": [BRANDS[b] for b in items.brand],
            "provider": [SELLERS[s] for s in items.seller],
            "price": items.price,
            "cost": items.cost,
        }
    )


def _item_truth(items: Items) -> pa.Table:
    return pa.table(
        {
            "item_id": _names("i", np.arange(len(items.cost))),
            "category": items.category,
            "same": items.same,
            "worth": items.worth,
            "appeal": items.appeal,
            "cost": items.cost,
            "price": items.price,
        }
    )


def _user_table(shoppers: Shoppers, rows: range) -> pa.Table:
    of_rows = slice(rows.start, rows.stop)
    return pa.table(
        {
            "user_id": _names("u", np.arange(rows.start, rows.stop)),
            "age": [AGES[n] for n in shoppers.age[of_rows]],
            "income": [INCOMES[n] for n in shoppers.income[of_rows]],
            "attitude": [ATTITUDES[n] for n in shoppers.attitude[of_rows]],
        }
    )


def _shopper_truth(shoppers: Shoppers, rows: range) -> pa.Table:
    of_rows = slice(rows.start, rows.stop)
    taste = shoppers.taste[of_rows]
    return pa.table(
        {
            "user_id": _names("u", np.arange(rows.start, rows.stop)),
            "taste": pa.FixedSizeListArray.from_arrays(taste.ravel(), taste.shape[1]),
            "budget": shoppers.budget[of_rows],
            "sensitivity": shoppers.sensitivity[of_rows],
        }
    )


def _write_blocks(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _ranges(count: int) -> Iterator[range]:
    return (range(low, min(low + SHOPPER_BLOCK, count)) for low in range(0, count, SHOPPER_BLOCK))


def _names(letter: str, numbers: np.ndarray) -> np.ndarray:
    """Ids such as u12, as an array of str."""
    return np.char.add(letter, numbers.astype(str)).astype(object)


def _moments(settings: SimulatorSettings, drawn: RequestBlock) -> np.ndarray:
    """The timestamps of requests, datetime64[us] (R,)."""
    return np.datetime64(START, "us") + (drawn.moment * settings.days * 86_400e6).astype("timedelta64[us]")
