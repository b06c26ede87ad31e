"""A tiny shop whose configuration reads nearly all that `prepare` can, from columns of many types."""

from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2024, 1, 1)
USERS, ITEMS, REQUESTS, EVENTS = 14, 30, 150, 260


def _item(number: int) -> str:
    return f"i{number}" if number % 3 else str(number)


def write_shop(folder: Path) -> None:
    """impressions.csv, items.parquet, users.csv and the folder events/ of two files."""
    draw = np.random.default_rng(7)

    def gaps(values: list[Any], share: float = 0.15) -> list[Any]:
        return [None if draw.random() < share else value for value in values]

    hours = [timedelta(hours=int(h), milliseconds=int(h)) for h in draw.integers(0, 999, ITEMS)]
    ranks = [float(v) / 7 if n % 2 else float(v) * 1e15 for n, v in enumerate(draw.integers(1, 30, ITEMS))]
    prices = [Decimal(int(v)) / 100 for v in draw.integers(100, 99999, ITEMS)]
    items = {
        "item_id": [_item(n) for n in range(ITEMS)],
        "title": gaps([f"tïtle {n % 12} é" for n in range(ITEMS)], 0.05),
        "brand": gaps([f"b{n % 4}" for n in range(ITEMS)]),
        "price": pa.array(gaps(prices), pa.decimal128(9, 2)),
        "weight_kg": pa.array(gaps(list(draw.random(ITEMS) * 9)), pa.float32()),
        "stock": pa.array(gaps([int(v) for v in draw.integers(0, 9, ITEMS)]), pa.int16()),
        "since": pa.array(gaps([START + h for h in hours]), pa.timestamp("us")),
        "tags": pa.array([[f"t{n % 3}", "x"][: n % 3] for n in range(ITEMS)], pa.list_(pa.string())),
        "rank": pa.array(gaps(ranks), pa.float64()),
    }
    pq.write_table(pa.table(items), folder / "items.parquet")
    users = [f'{n},{"" if n % 5 == 0 else 20 + n},"City, {n % 3}"' for n in range(USERS)]
    (folder / "users.csv").write_text("\n".join(["user_id,age,city", *users, ""]), encoding="utf-8")
    (folder / "impressions.csv").write_text("\n".join(_impressions(draw)), encoding="utf-8")
    (folder / "events").mkdir()
    for part in range(2):
        minutes = draw.integers(-9000, 60 * 24 * 60, EVENTS)
        events = {
            "user_id": pa.array(draw.integers(0, USERS, EVENTS), pa.int64()),
            "timestamp": pa.array([START + timedelta(minutes=int(m)) for m in minutes], pa.timestamp("us", "UTC")),
            "item_id": [_item(n) for n in draw.integers(0, ITEMS + 3, EVENTS)],
            "kind": [["view", "buy", None][v] for v in draw.integers(0, 3, EVENTS)],
        }
        pq.write_table(pa.table(events), folder / "events" / f"{part}.parquet")


def _impressions(draw: np.random.Generator) -> list[str]:
    """The lines of impressions.csv."""
    names = "request_id,timestamp,user_id,item_id,click,conversion,position,bid,channel,device,delay,dwell,worth,part"
    lines = [names]
    minutes = sorted(int(m) for m in draw.integers(0, 60 * 24 * 60, REQUESTS))
    for number, minute in enumerate(minutes):
        request = f"r{number:03d}" if number % 2 else str(number)
        moment = START + timedelta(minutes=minute, seconds=minute % 7)
        user, part = int(draw.integers(0, USERS)), ["train", "valid", "test"][(number >= 90) + (number >= 115)]
        for place, item in enumerate(draw.permutation(ITEMS)[: int(draw.integers(4, 9))]):
            click = int(draw.random() < 0.4)
            bought = "1" if click and draw.random() < 0.5 else "" if draw.random() < 0.02 else "0"
            cells = [
                *(request, f"{moment:%Y-%m-%dT%H:%M:%S}Z", str(user), _item(int(item))),
                ["0", "1", "true", "False"][click if place % 2 else 3 - click],
                *(bought, str(place), "" if draw.random() < 0.1 else f"{draw.random() * 3:.3f}"),
                *(["app", "web", "", "nan"][int(draw.integers(0, 4))], f"d{number % 3}"),
                "" if draw.random() < 0.1 else f"{draw.random() * 3:.2f}",
                f"{draw.random() * 9:.4f}" if click else "",
                ["1", "2.5", "0"][int(draw.integers(0, 3)) if place else 0],
                part,
            ]
            lines.append(",".join(cells))
    return [*lines, ""]


def tables(folder: Path) -> dict[str, str]:
    """`data.tables` of the shop."""
    files = {"impressions": "impressions.csv", "items": "items.parquet", "users": "users.csv", "events": "events"}
    return {name: str(folder / file) for name, file in files.items()}


def all_settings(folder: Path, out: Path) -> dict[str, Any]:
    """`data` of a configuration that splits by fractions and reads all but positions."""
    seen = {"kinds": ["view", "buy"], "label": "seen", "order": "frequent", "max_events": 3, "latest": 6}
    features = [("price", "log"), ("stock", "log1p"), ("rank", "none"), ("age", "log"), ("channel", "category")]
    return {
        "folder": str(out),
        "tables": tables(folder),
        "split": {"valid_fraction": 0.15, "test_fraction": 0.25, "holdout_users": 0.2}
        | {"holdout_items": {"fraction": 0.2, "by": "rank"}},
        "history": [{"kinds": ["buy"], "label": "bought", "max_events": 4, "items": True}, seen],
        "prompt": {
            "prefix": ["age {age}", "{city}", "on {device}"],
            "item": ["{title}", "{brand}", "{price}", "{weight_kg}", "{since}", "{tags}", "{rank}"],
            "context": ["bid {bid}", "{channel}"],
        },
        "fields": ["bid"],
        "features": [{"name": name, "scale": scale} for name, scale in features],
        "rates": [
            {"of": "click", "by": ["item_id", "brand"], "half_life_days": 3.0, "parent": ["brand"]},
            {"of": "conversion", "by": ["user_id"], "delay_days": "delay", "given": "click"},
        ],
        "comparison": {"item": "title", "co_purchase": True, "half_life_days": 5.0},
        "weights": {"column": "worth"},
        "user_groups": ["age", "city"],
        "item_behaviour": ["stock"],
        "item_dropout": 0.1,
        "max_candidates": 5,
        "shard_requests": 60,
    }


def place_settings(folder: Path, out: Path) -> dict[str, Any]:
    """`data` of a configuration that splits by a column and reads positions, formats and other names of columns."""
    given = tables(folder)
    mapped = {
        "path": given["impressions"],
        "columns": {"request_id": ["device", "request_id"]},
        "formats": {"click": "yes_no", "bid": "english"},
        "timezone": "Europe/Berlin",
    }
    return {
        "folder": str(out),
        "tables": {"impressions": mapped, "items": given["items"], "users": given["users"]},
        "user_groups": ["city"],
        "split": {"column": "part"},
        "prompt": {"item": ["{title}"], "context": ["bid {bid}"]},
        "features": [{"name": "brand", "scale": "category"}],
        "weights": {"reweigh": "brand"},
        "position": "position",
    }
