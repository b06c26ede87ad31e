"""The true model of a simulated shop, and a reader that gives the true demand at any price.

    looked at    e(k) = (k + 1)^−η, k the place from 0
    clicked      P(click | looked at) = σ(appeal_i + taste_u,c − 0.35 s_u · x)
    bought       P(purchase | click)  = σ(0.4 · taste_u,c − 0.2 − s_u · x)
    x = log(price / (worth_i · budget_u)): how dear the item is to this shopper

σ is the logistic function, s_u the shopper's sensitivity to prices, c the item's category. Prices are in one currency.
"""

import json
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

    def click(self, shopper: Any, item: Any, price: Any) -> np.ndarray:
        """P(click | looked at), float64; arguments as those of `demand`."""
        u, i = np.asarray(shopper), np.asarray(item)
        taste, x = self.taste[u, self.category[i]], self._dearness(u, i, price)
        return click_probability(self.appeal[i], taste, self.sensitivity[u], x)

    def purchase(self, shopper: Any, item: Any, price: Any) -> np.ndarray:
        """P(purchase | click), float64; arguments as those of `demand`."""
        u, i = np.asarray(shopper), np.asarray(item)
        taste, x = self.taste[u, self.category[i]], self._dearness(u, i, price)
        return purchase_probability(taste, self.sensitivity[u], x)

    def demand(self, shopper: Any, item: Any, price: Any) -> np.ndarray:
        """P(click and purchase | looked at): the demand curve of a shopper for an item.

        Args:
            shopper, item: rows (see `shopper`, `item`), ints or arrays of them that broadcast.
            price: above 0, a number or an array that broadcasts with them.

        Returns:
            float64 of the common shape. Times `examination(place, position_bias)`: the same for an impression.
        """
        return self.click(shopper, item, price) * self.purchase(shopper, item, price)

    def _dearness(self, shopper: np.ndarray, item: np.ndarray, price: Any) -> np.ndarray:
        return np.log(np.asarray(price, np.float64) / (self.worth[item] * self.budget[shopper]))


def _row(rows: dict[str, int], name: str, kind: str) -> int:
    if name not in rows:
        raise UserError(f"the simulation has no {kind} '{name}': name one of its tables")
    return rows[name]
