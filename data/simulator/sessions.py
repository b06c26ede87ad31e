"""Requests of a simulated shop, a block at a time: who comes, what is shown where, clicked and bought."""

from dataclasses import dataclass

import numpy as np

from equipoise.data.simulator.demand import (
    OtherPrices,
    click_probability,
    examination,
    held_against,
    purchase_probability,
    rival_prices,
)
from equipoise.data.simulator.draws import Draws
from equipoise.data.simulator.paid import PaidPrices
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.shop import Items, Shoppers

TRIES = 4
"""Draws of an item per candidate; what they leave open is filled with the items that are shown most."""

RANKING_TASTE = 0.5
"""How much the shop's own ranking knows of a shopper's taste."""

CENT = 0.01
WANTED = 0.5
"""Share of a slate's draws of the one category that a shopper has come for, where substitutes count."""
COMPETITOR_SPREAD = 0.25
"""Standard deviation of the log of another shop's price over the shop's own."""


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
        rivals, competitor, paid, others_paid: float64 (R, M), other prices, NaN where there is none: of substitutes in
            the slate, of another shop, what the shopper last paid for the item, and the mean of what others paid.
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
    rivals: np.ndarray
    competitor: np.ndarray
    paid: np.ndarray
    others_paid: np.ndarray


def draw_requests(
    settings: SimulatorSettings,
    shoppers: Shoppers,
    items: Items,
    start: int,
    stop: int,
    memory: PaidPrices | None = None,
) -> RequestBlock:
    """Requests `start` … `stop` − 1; the same whatever block they are drawn in.

    `memory`: what was paid before them, which learns what is paid in them; None where no shopper remembers prices.
    """
    shown = settings.candidates
    draws = Draws(settings.seed, "requests", 2 + (TRIES + 5) * shown, start, stop)
    number = np.arange(start, stop)
    shopper = (draws.one() * settings.shoppers).astype(np.int64)
    moment = (number + draws.one()) / settings.requests
    chosen = draws.uniform(TRIES * shown)
    drawn = (
        _with_wanted(settings, items, chosen, start, stop)
        if settings.substitutes
        else np.searchsorted(items.shown, chosen)
    )
    item = _distinct(drawn, shown, items)
    taste = shoppers.taste[shopper[:, None], items.category[item]]
    chance = -np.log(-np.log(draws.uniform(shown)))  # Gumbel noise: the shop's ranking is a Plackett-Luce draw
    order = np.argsort(-(items.appeal[item] + RANKING_TASTE * taste + chance), axis=1, kind="stable")
    item, taste = np.take_along_axis(item, order, 1), np.take_along_axis(taste, order, 1)
    tested, size = draws.uniform(shown) < settings.price_tests, 2 * draws.uniform(shown) - 1
    price = items.price[item] * np.where(tested, settings.price_spread**size, 1.0)
    price = np.maximum(np.round(price, 2), CENT)
    sensitivity = np.broadcast_to(shoppers.sensitivity[shopper][:, None], item.shape)
    plain = np.log(price / (items.worth[item] * shoppers.budget[shopper][:, None]))
    looked = examination(np.arange(shown), settings.position_bias)
    rivals, competitor = (
        rival_prices(items.same[item], price),
        _competitor_prices(settings, items.price[item], start, stop),
    )
    paid, others_paid = np.full(price.shape, np.nan), np.full(price.shape, np.nan)
    strengths, u_click, u_purchase = settings.to_json(), draws.uniform(shown), draws.uniform(shown)
    probabilities, labels = np.empty((2, *price.shape)), np.empty((2, *price.shape), bool)
    # Who remembers what he paid depends on the requests before: these are drawn one after another.
    rows = [slice(None)] if memory is None else [slice(row, row + 1) for row in range(len(number))]
    for row in rows:
        if memory is not None:
            paid[row], others_paid[row] = memory.of(shopper[row], item[row])
        others = OtherPrices(rivals[row], competitor[row], paid[row])
        dearness = plain[row] + held_against(price[row], others, strengths)
        chance = looked * click_probability(items.appeal[item[row]], taste[row], sensitivity[row], dearness)
        probabilities[:, row] = chance, purchase_probability(taste[row], sensitivity[row], dearness)
        labels[0, row] = u_click[row] < chance
        labels[1, row] = labels[0, row] & (u_purchase[row] < probabilities[1, row])
        if memory is not None:
            memory.add(shopper[row], item[row], price[row], labels[1, row])
    (click, purchase), (p_click, p_purchase) = labels, probabilities
    told = (rivals, competitor, paid, others_paid)
    return RequestBlock(number, shopper, moment, item, price, click, purchase, p_click, p_purchase, *told)


def _with_wanted(settings: SimulatorSettings, items: Items, uniform: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Drawn items, int64 (R, W): every second draw is of the category that the shopper has come for."""
    wanted = items.category[np.searchsorted(items.shown, Draws(settings.seed, "wanted", 1, start, stop).one())]
    weights = np.diff(items.shown, prepend=0.0)
    of_all = np.searchsorted(items.shown, uniform)
    every = np.arange(uniform.shape[1]) % round(1 / WANTED) == 0
    for category in np.unique(wanted):
        rows = np.ix_(wanted == category, every)
        own = np.flatnonzero(items.category == category)
        cumulative = np.cumsum(weights[own])
        place = np.searchsorted(cumulative, uniform[rows] * cumulative[-1])
        of_all[rows] = own[np.minimum(place, len(own) - 1)]
    return of_all


def _competitor_prices(settings: SimulatorSettings, own: np.ndarray, start: int, stop: int) -> np.ndarray:
    """What another shop asks for the items of requests, float64 (R, M) in whole cents; NaN where there is no other."""
    if not settings.competitor:
        return np.full(own.shape, np.nan)
    draws = Draws(settings.seed, "competitor", own.shape[1], start, stop)
    return np.maximum(np.round(own * np.exp(COMPETITOR_SPREAD * draws.normal(own.shape[1])), 2), CENT)


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
