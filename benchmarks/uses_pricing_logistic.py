"""A peer of the priced model: two logistic regressions on the shop's own columns, as a shop would write them itself.

log-odds of a click, and of a purchase after a click: income, attitude, item, category with tier, brand, log cost, and
the log of price over cost with a slope for each attitude and income.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

WORDS = ["income", "attitude", "item_id", "kind", "brand"]
SLOPES = ["attitude", "income"]
RIDGE = 3.0
"""Penalty on every coefficient, in units of one impression."""


class LogisticDemand:
    """Demand by logistic regression.

    Args:
        shop: what `equipoise simulate` wrote; its truth is not read.
        requests: ids of the requests that it may learn from.
    """

    def __init__(self, shop: Path, requests: Sequence[str]) -> None:
        users, items, shown = (pd.read_parquet(shop / f"{name}.parquet") for name in ("users", "items", "impressions"))
        self.users, self.items = users.set_index("user_id"), items.set_index("item_id")
        shown = shown[shown.request_id.isin(set(requests))]
        table = self._table(shown.user_id, shown.item_id, shown.price.to_numpy())
        clicked = shown.click.to_numpy() == 1
        self.click = _model().fit(table, clicked)
        self.purchase = _model().fit(table[clicked], shown.conversion.to_numpy()[clicked])

    def demand(self, users: Sequence[str], items: Sequence[str], prices: np.ndarray) -> np.ndarray:
        """P(click and purchase) of shoppers for items at prices, three of equal length; float64."""
        table = self._table(users, items, prices)
        return self.click.predict_proba(table)[:, 1] * self.purchase.predict_proba(table)[:, 1]

    def _table(self, users: Any, items: Any, prices: np.ndarray) -> pd.DataFrame:
        shoppers, products = self.users.loc[users], self.items.loc[items]
        columns = {"income": shoppers.income, "attitude": shoppers.attitude, "brand": products.brand}
        table = pd.DataFrame({name: column.to_numpy() for name, column in columns.items()})
        table["item_id"], table["kind"] = np.asarray(items), (products.category + " " + products.tier).to_numpy()
        table["log_cost"] = np.log(products.cost.to_numpy())
        table["dearness"] = np.log(np.asarray(prices) / products.cost.to_numpy())
        for name in SLOPES:
            for value in sorted(self.users[name].unique()):
                table[f"dearness of {value}"] = table.dearness * (table[name] == value)
        return table


def _model() -> Pipeline:
    words = ColumnTransformer([("words", OneHotEncoder(handle_unknown="ignore"), WORDS)], remainder="passthrough")
    return make_pipeline(words, LogisticRegression(C=1 / RIDGE, solver="newton-cholesky"))
