"""Requests of a simulated shop, a block at a time: who comes, what is shown where, clicked and bought."""

from dataclasses import dataclass

import numpy as np

from equipoise.data.simulator.demand import click_probability, examination, purchase_probability
from equipoise.data.simulator.draws import Draws
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.shop import Items, Shoppers

TRIES = 4
"""Draws of an item per candidate; what they leave open is filled with the items that are shown most."""

RANKING_TASTE = 0.5
"""How much the shop's own ranking knows of a shopper's taste."""

CENT = 0.01


@dataclass(frozen=True)
class RequestBlock:
    """Consecutive requests, one row each, with M candidates in the order in which they are shown.

    Attributes:
        number: int64 (R,), of the request.
        shopper: int64 (R,).
        moment: float64 (R,), share of the whole time that has passed.
        item: int64 (R, M).
        price: float64 (R, M), as shown, in whole cents.
        click, purchase: bool (R, M); a purchase has a click.
        p_click: float64 (R, M), P(click), being looked at included.
        p_purchase: float64 (R, M), P(purchase | click).
    """

    number: np.ndarray
    shopper: np.ndarray
    moment: np.ndarray
    item: np.ndarray
    price: np.ndarray
    click: np.ndarray
    purchase: np.ndarray
    p_click: np.ndarray
    p_purchase: np.ndarray


def draw_requests(settings: SimulatorSettings, shoppers: Shoppers, items: Items, start: int, stop: int) -> RequestBlock:
    """Requests `start` … `stop` − 1; the same whatever block they are drawn in."""
    shown = settings.candidates
    draws = Draws(settings.seed, "requests", 2 + (TRIES + 5) * shown, start, stop)
    number = np.arange(start, stop)
    shopper = (draws.one() * settings.shoppers).astype(np.int64)
    moment = (number + draws.one()) / settings.requests
    item = _distinct(np.searchsorted(items.shown, draws.uniform(TRIES * shown)), shown, items)
    taste = shoppers.taste[shopper[:, None], items.category[item]]
    chance = -np.log(-np.log(draws.uniform(shown)))  # Gumbel noise: the shop's ranking is a Plackett-Luce draw
    order = np.argsort(-(items.appeal[item] + RANKING_TASTE * taste + chance), axis=1, kind="stable")
    item, taste = np.take_along_axis(item, order, 1), np.take_along_axis(taste, order, 1)
    tested, size = draws.uniform(shown) < settings.price_tests, 2 * draws.uniform(shown) - 1
    price = items.price[item] * np.where(tested, settings.price_spread**size, 1.0)
    price = np.maximum(np.round(price, 2), CENT)
    sensitivity = np.broadcast_to(shoppers.sensitivity[shopper][:, None], item.shape)
    dearness = np.log(price / (items.worth[item] * shoppers.budget[shopper][:, None]))
    looked = examination(np.arange(shown), settings.position_bias)
    p_click = looked * click_probability(items.appeal[item], taste, sensitivity, dearness)
    p_purchase = purchase_probability(taste, sensitivity, dearness)
    click = draws.uniform(shown) < p_click
    purchase = click & (draws.uniform(shown) < p_purchase)
    return RequestBlock(number, shopper, moment, item, price, click, purchase, p_click, p_purchase)


def _distinct(drawn: np.ndarray, count: int, items: Items) -> np.ndarray:
    """The first `count` different items of every row of draws, int64 (R, count)."""
    rows, width = drawn.shape
    order = np.argsort(drawn, axis=1, kind="stable")
    in_order = np.take_along_axis(drawn, order, 1)
    again = np.zeros((rows, width), dtype=bool)
    again[:, 1:] = in_order[:, 1:] == in_order[:, :-1]
    first = np.empty((rows, width), dtype=bool)
    np.put_along_axis(first, order, ~again, 1)
    kept = first & (np.cumsum(first, axis=1) <= count)
    counts = kept.sum(axis=1)
    out = np.full((rows, count), -1, dtype=np.int64)
    row, column = np.nonzero(kept)
    out[row, (np.cumsum(kept, axis=1) - 1)[row, column]] = drawn[row, column]
    for short in np.flatnonzero(counts < count).tolist():
        rest = np.setdiff1d(np.arange(len(items.cost)), out[short, : counts[short]])
        liked = rest[np.argsort(-items.appeal[rest], kind="stable")]
        out[short, counts[short] :] = liked[: count - counts[short]]
    return out
