"""The true model of a simulated shop, and a reader that gives the true demand at any price.

    looked at    e(k) = (k + 1)^−η, k the place from 0
    clicked      P(click | looked at) = σ(appeal_i + taste_u,c − 0.35 s_u · x)
    bought       P(purchase | click)  = σ(0.4 · taste_u,c − 0.2 − s_u · x)
    x = log(price / (worth_i · budget_u)) + Σ_k γ_k log(price / other_k): how dear the item is to this shopper

σ is the logistic function, s_u the shopper's sensitivity to prices, c the item's category. Prices are in one currency.
The other prices, each of a strength γ of its own (0 by default) and left out where there is none: of `rivals`, the
geometric mean of the items of the same kind in the slate; of a `competitor` for the same item; and what the shopper
`paid` for it the last time.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit

from equipoise.common.errors import UserError

FOLDER = "truth"
CLICK_SENSITIVITY = 0.35
PURCHASE_TASTE = 0.4
PURCHASE_BASE = -0.2


def examination(places: np.ndarray | int, bias: float) -> np.ndarray:
    """The probability that a place (from 0) is looked at, float64."""
    return (np.asarray(places, np.float64) + 1.0) ** -bias


def click_probability(
    appeal: np.ndarray, taste: np.ndarray, sensitivity: np.ndarray, dearness: np.ndarray
) -> np.ndarray:
    """P(click | looked at); arrays of one shape, float64."""
    return expit(appeal + taste - CLICK_SENSITIVITY * sensitivity * dearness)


def purchase_probability(taste: np.ndarray, sensitivity: np.ndarray, dearness: np.ndarray) -> np.ndarray:
    """P(purchase | click); arrays of one shape, float64."""
    return expit(PURCHASE_TASTE * taste + PURCHASE_BASE - sensitivity * dearness)


@dataclass(frozen=True)
class OtherPrices:
    """What a price is held against: float64 arrays that broadcast with it, NaN where there is no such price."""

    rivals: Any = np.nan
    competitor: Any = np.nan
    paid: Any = np.nan


NO_OTHERS = OtherPrices()


def held_against(price: Any, others: OtherPrices, strengths: Mapping[str, float]) -> np.ndarray:
    """Σ γ log(price / other), float64; `strengths`: γ by `substitutes`, `competitor` and `price_memory`."""
    added = np.zeros(np.shape(price))
    pairs = {"substitutes": others.rivals, "competitor": others.competitor, "price_memory": others.paid}
    for name, other in pairs.items():
        if strengths.get(name, 0.0):
            gap = np.log(np.asarray(price, np.float64) / np.asarray(other, np.float64))
            added = added + strengths[name] * np.nan_to_num(gap, nan=0.0)
    return added


def rival_prices(same: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """The geometric mean price of the other items of the same kind in each slate, float64 (R, M); NaN without any.

    Args:
        same: int (R, M), equal for substitutes.
        prices: float (R, M).
    """
    rivals = (same[:, :, None] == same[:, None, :]) & ~np.eye(same.shape[1], dtype=bool)
    count = rivals.sum(2)
    total = (rivals * np.log(prices)[:, None, :]).sum(2)
    return np.exp(np.where(count > 0, total / np.maximum(count, 1), np.nan))


class TrueDemand:
    """The truth beside a simulated data set.

    Args:
        folder: what `equipoise simulate` wrote, or its truth folder.

    Raises:
        UserError: it holds no truth.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        folder = folder if folder.name == FOLDER else folder / FOLDER
        try:
            self.settings: dict[str, Any] = json.loads((folder / "settings.json").read_text("utf-8"))
            shoppers, items = (pq.read_table(folder / f"{name}.parquet") for name in ("shoppers", "items"))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(f"{folder} holds no whole truth of a simulation: run `equipoise simulate` again") from error
        self._shopper = {name: row for row, name in enumerate(shoppers.column("user_id").to_pylist())}
        self._item = {name: row for row, name in enumerate(items.column("item_id").to_pylist())}
        self.budget = shoppers.column("budget").to_numpy()
        self.sensitivity = shoppers.column("sensitivity").to_numpy()
        taste = shoppers.column("taste").combine_chunks().flatten().to_numpy()
        self.taste = taste.reshape(len(self.budget), -1)
        self.worth, self.appeal = items.column("worth").to_numpy(), items.column("appeal").to_numpy()
        self.category, self.cost = items.column("category").to_numpy(), items.column("cost").to_numpy()
        self.list_price = items.column("price").to_numpy()
        # Shops of earlier versions know no substitutes.
        self.same = items.column("same").to_numpy() if "same" in items.column_names else np.arange(len(self.cost))

    @property
    def shopper_ids(self) -> tuple[str, ...]:
        """The user_id of every row of shoppers."""
        return tuple(self._shopper)

    def shopper(self, user_id: str) -> int:
        """The row of a shopper.

        Raises:
            UserError: there is none of this id.
        """
        return _row(self._shopper, user_id, "shopper")

    def item(self, item_id: str) -> int:
        """The row of an item.

        Raises:
            UserError: there is none of this id.
        """
        return _row(self._item, item_id, "item")

    def click(self, shopper: Any, item: Any, price: Any, others: OtherPrices = NO_OTHERS) -> np.ndarray:
        """P(click | looked at), float64; arguments as those of `demand`."""
        u, i = np.asarray(shopper), np.asarray(item)
        taste, x = self.taste[u, self.category[i]], self._dearness(u, i, price, others)
        return click_probability(self.appeal[i], taste, self.sensitivity[u], x)

    def purchase(self, shopper: Any, item: Any, price: Any, others: OtherPrices = NO_OTHERS) -> np.ndarray:
        """P(purchase | click), float64; arguments as those of `demand`."""
        u, i = np.asarray(shopper), np.asarray(item)
        taste, x = self.taste[u, self.category[i]], self._dearness(u, i, price, others)
        return purchase_probability(taste, self.sensitivity[u], x)

    def demand(self, shopper: Any, item: Any, price: Any, others: OtherPrices = NO_OTHERS) -> np.ndarray:
        """P(click and purchase | looked at): the demand curve of a shopper for an item.

        Args:
            shopper, item: rows (see `shopper`, `item`), ints or arrays of them that broadcast.
            price: above 0, a number or an array that broadcasts with them.
            others: what the price is held against.

        Returns:
            float64 of the common shape. Times `examination(place, position_bias)`: the same for an impression.
        """
        return self.click(shopper, item, price, others) * self.purchase(shopper, item, price, others)

    def _dearness(self, shopper: np.ndarray, item: np.ndarray, price: Any, others: OtherPrices) -> np.ndarray:
        own = np.log(np.asarray(price, np.float64) / (self.worth[item] * self.budget[shopper]))
        return own + held_against(price, others, self.settings)


def _row(rows: dict[str, int], name: str, kind: str) -> int:
    if name not in rows:
        raise UserError(f"the simulation has no {kind} '{name}': name one of its tables")
    return rows[name]
