"""Online Retail, the orders of a British gift shop, as requests: which of the shown items does a customer order?

The file is what you downloaded (Chen, D. (2015), Online Retail, UCI Machine Learning Repository, doi 10.24432/C5BW33,
CC BY 4.0): xlsx, csv or parquet with Description, Quantity, InvoiceDate, UnitPrice, CustomerID and Country.

A request is an order of a known customer at least 60 days after the first order of all. Its candidates are at most 8
of the ordered items (click), none of which is sold for the first time, and 24 others, drawn in proportion to how often
all customers ordered them (half-life 30 days), so that popularity alone ranks by chance. Every field is computed from
strictly earlier orders. What an item is, only its title says: there are no categories and no brands.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

from equipoise.common.errors import UserError
from equipoise.data.prepare.tables import Tables

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")
OTHER_NAMES = {"Customer ID": "CustomerID", "Price": "UnitPrice"}
"""What a later edition of the file calls them."""
SEED, POSITIVES, NEGATIVES, HALF_LIFE, WARM_UP = 7, 8, 24, 30.0, 60.0
TRAIN_DAYS, VALID_DAYS = 303, 334
"""Days since the first order before which requests train and validate; the others test."""
NO_PRODUCT = ("postage", "manual", "carriage", "dotcom postage", "discount", "bank charges")
USUAL_DECAY = 0.7


def load(con: duckdb.DuckDBPyConnection, path: Path) -> Tables:
    """Create raw_impressions, raw_items, raw_users and raw_events from the downloaded file.

    Raises:
        UserError: the file is missing, cannot be read, or has other columns.
    """
    for name, frame in tables_of(read_lines(path)).items():
        con.register("online_retail_frame", frame)
        con.execute(f"CREATE TABLE online_retail_{name} AS SELECT * FROM online_retail_frame")
        con.execute(f"CREATE VIEW raw_{name} AS SELECT * FROM online_retail_{name}")
        con.unregister("online_retail_frame")
    labels = dict.fromkeys(("impressions", "items", "users", "events"), str(path))
    return Tables(con, source="online_retail", labels=labels, split_column="split")


def read_lines(path: Path) -> "pd.DataFrame":
    """The invoice lines of the file; raises UserError where it is missing, unreadable, or has other columns."""
    import pandas as pd

    readers = {".parquet": pd.read_parquet, ".csv": _read_csv, ".xlsx": pd.read_excel}
    if path.suffix.lower() not in readers:
        raise UserError(f"data.file is {path}: name the downloaded Online Retail as .xlsx, .csv or .parquet")
    if not path.is_file():
        raise UserError(
            f"data.file is set to {path}, which does not exist: download Online Retail, or correct the path"
        )
    try:
        lines = readers[path.suffix.lower()](path).rename(columns=OTHER_NAMES)
    except ImportError as error:
        raise UserError(f"{path} needs a package that reads xlsx: pip install openpyxl, or save it as csv") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split())}): download it again") from error
    missing = [name for name in COLUMNS if name not in lines.columns]
    if missing:
        raise UserError(f"{path} has no column '{missing[0]}', so it is not Online Retail: name the right file")
    return lines[list(COLUMNS)]


def _read_csv(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.read_csv(path)
    except UnicodeDecodeError:  # copies of the file that a spreadsheet saved
        return pd.read_csv(path, encoding="latin-1")


@dataclass
class _Customer:
    """What is known of a customer from earlier orders."""

    times: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    last: dict[int, float] = field(default_factory=dict)
    orders: int = 0
    usual: float = float("nan")


@dataclass(frozen=True)
class _Orders:
    """The orders by time: day since the first (O,), customer and time of each, its items, and of each item the day of
    its first order and its median price, (I,)."""

    day: np.ndarray
    customer: list[str]
    time: np.ndarray
    items: list[np.ndarray]
    first: np.ndarray
    price: np.ndarray


def tables_of(lines: "pd.DataFrame") -> "dict[str, pd.DataFrame]":
    """impressions, items, users and events of invoice lines; equal lines give equal tables."""
    import pandas as pd

    lines = _clean(lines)
    titles = lines["title"].cat.categories
    bought = lines.groupby(["user", "time", "item"], as_index=False).agg(price=("UnitPrice", "mean"))
    bought = bought.sort_values("time", kind="stable")
    orders = _orders(bought, len(titles))
    names = ["order", "user_id", "item", "click", "times_bought", "days_since_bought", "popularity", "item_age"]
    impressions = pd.DataFrame(_impressions(orders), columns=[*names, "price", "orders", "usual_price"])
    order = impressions.pop("order").to_numpy(int)
    day = orders.day[order]
    impressions.insert(0, "request_id", [f"o{number}" for number in order])
    impressions["timestamp"] = orders.time[order]
    impressions["item_id"] = [f"i{number}" for number in impressions.pop("item")]
    impressions["price_over_usual"] = impressions["price"] / impressions["usual_price"]
    impressions["split"] = np.select([day < TRAIN_DAYS, day < VALID_DAYS], ["train", "valid"], "test")
    users = pd.DataFrame({"user_id": sorted(set(impressions["user_id"]))})
    users["country"] = users["user_id"].map(lines.groupby("user")["Country"].first().str.lower())
    items = pd.DataFrame({"item_id": [f"i{number}" for number in range(len(titles))], "title": list(titles)})
    events = pd.DataFrame({"user_id": bought["user"], "timestamp": bought["time"], "kind": "purchase"})
    events["item_id"] = [f"i{number}" for number in bought["item"]]
    events["title"] = [titles[number] for number in bought["item"]]
    return {"impressions": impressions, "items": items, "users": users, "events": events}


def _clean(lines: "pd.DataFrame") -> "pd.DataFrame":
    """Sales of products to known customers, with user, time, title (a category) and item, its number."""
    import pandas as pd

    lines = lines.dropna(subset=["CustomerID", "Description"])
    lines = lines[(lines["Quantity"] > 0) & (lines["UnitPrice"] > 0)].copy()
    title = lines["Description"].astype(str).str.strip().str.lower().str.replace(r"\s+", " ", regex=True)
    lines = lines[~title.isin(NO_PRODUCT)].copy()
    lines["title"] = title[lines.index].astype("category")
    lines["item"] = lines["title"].cat.codes.to_numpy(np.int64)
    lines["user"] = lines["CustomerID"].astype(float).astype(int).astype(str)
    lines["time"] = pd.to_datetime(lines["InvoiceDate"])
    if lines.empty:
        raise UserError("data.file holds no sale to a known customer: name the downloaded Online Retail")
    return lines


def _orders(bought: "pd.DataFrame", items: int) -> _Orders:
    grouped = bought.groupby(["time", "user"], sort=True)["item"].apply(np.array).reset_index()
    day = (grouped["time"] - grouped["time"].min()).dt.total_seconds().to_numpy() / 86400
    first = np.full(items, np.inf)
    for when, ordered in zip(day, grouped["item"], strict=True):
        first[ordered] = np.minimum(first[ordered], when)
    price = bought.groupby("item")["price"].median().reindex(range(items)).to_numpy()
    return _Orders(day, grouped["user"].tolist(), grouped["time"].to_numpy(), grouped["item"].tolist(), first, price)


def _impressions(orders: _Orders) -> Iterator[tuple[Any, ...]]:
    """The rows of impressions, order after order, from what earlier orders say."""
    rng = np.random.default_rng(SEED)
    popularity, last = np.zeros(len(orders.first)), 0.0
    customers: dict[str, _Customer] = defaultdict(_Customer)
    for number, (day, user, items) in enumerate(zip(orders.day, orders.customer, orders.items, strict=True)):
        popularity *= 0.5 ** ((day - last) / HALF_LIFE)
        last = day
        known = customers[user]
        if day >= WARM_UP:
            candidates, click = _candidates(rng, items, popularity, orders.first < day)
            for position in rng.permutation(len(candidates)):
                item = candidates[position]
                since = day - known.last[item] if item in known.last else np.nan
                yield (
                    number, user, item, int(click[position]), known.times.get(item, 0), since, popularity[item],
                    day - orders.first[item], orders.price[item], known.orders, known.usual,
                )  # fmt: skip
        for item in items:
            known.times[item] += 1
            known.last[item] = day
        known.orders += 1
        mean = orders.price[items].mean()
        known.usual = mean if np.isnan(known.usual) else USUAL_DECAY * known.usual + (1 - USUAL_DECAY) * mean
        popularity[items] += 1


def _candidates(
    rng: np.random.Generator, items: np.ndarray, popularity: np.ndarray, sold: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Items shown with an order, the ordered ones first, and their labels; none where all were never sold before."""
    positives = rng.choice(items, min(len(items), POSITIVES), replace=False)
    positives = positives[sold[positives]]
    if not len(positives):
        return np.empty(0, np.int64), np.empty(0)
    weight = np.where(sold, popularity, 0.0)
    weight[items] = 0
    size = min(NEGATIVES, int((weight > 0).sum()))
    negatives = rng.choice(len(weight), size, replace=False, p=weight / weight.sum()) if size else np.empty(0, np.int64)
    return np.r_[positives, negatives], np.r_[np.ones(len(positives)), np.zeros(size)]
