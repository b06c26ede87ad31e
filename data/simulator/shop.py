"""The shoppers and items of a simulated shop: what is hidden and drives demand, and what the tables tell of it."""

from dataclasses import dataclass

import numpy as np

from equipoise.data.simulator.draws import Draws
from equipoise.data.simulator.settings import SimulatorSettings

# Category: what a shopper of average means pays for the middle tier, and what it is called.
CATEGORIES = {
    "tea": (4.0, ("green tea", "black tea", "herbal tea")),
    "coffee": (8.0, ("espresso beans", "ground coffee", "coffee capsules")),
    "cheese": (6.0, ("hard cheese", "goat cheese", "soft cheese")),
    "bread": (3.0, ("rye bread", "sourdough bread", "wheat rolls")),
    "soap": (5.0, ("hand soap", "shower gel", "shampoo")),
    "candles": (10.0, ("scented candle", "tealights", "beeswax candle")),
    "toys": (16.0, ("wooden puzzle", "toy train", "board game")),
    "wine": (12.0, ("red wine", "white wine", "sparkling wine")),
}
KINDS = 3
"""Of each category."""
TIERS = {"basic": 0.7, "classic": 1.0, "premium": 1.5}
BRANDS = ("Alpina", "Borealis", "Calla", "Dorado", "Estrel", "Fjord", "Granada", "Halden")
SELLERS = (
    "own brand", "Nordhandel", "Quaimarkt", "Stadtladen", "Wagner & Sons", "Corner Shop", "Good & Fair",
    "Harbour Trading", "Miller", "Old Town Traders",
)  # fmt: skip
AGES = ("under 25", "25 to 34", "35 to 44", "45 to 54", "55 to 64", "65 and over")
INCOMES = ("very low", "low", "middle", "high", "very high")
ATTITUDES = ("luxury lover", "quality first", "sensible buyer", "careful spender", "bargain hunter")

TASTE = 0.8
APPEAL = 0.45
LOG_BUDGET = 0.25
SENSITIVITY, LOG_SENSITIVITY = 3.2, 0.25
BRACKETS = (-0.84, -0.25, 0.25, 0.84)
"""Bounds of the five brackets of a normal value, each as large as the others, in standard deviations."""

NOISE = 0.25
"""How far a told bracket may stray: standard deviations of what is added to the true value, itself of deviation 1."""


@dataclass(frozen=True)
class Shoppers:
    """Arrays with one row per shopper.

    Attributes:
        taste: float64 (U, C), for each category.
        budget: float64 (U,), factor of what an item is worth to the shopper.
        sensitivity: float64 (U,), s of equipoise.data.simulator.demand.
        age, income, attitude: int64 (U,), what the users table tells: places in AGES, INCOMES, ATTITUDES.
    """

    taste: np.ndarray
    budget: np.ndarray
    sensitivity: np.ndarray
    age: np.ndarray
    income: np.ndarray
    attitude: np.ndarray


@dataclass(frozen=True)
class Items:
    """Arrays with one row per item.

    Attributes:
        category, tier, kind, brand, seller: int64 (N,), places in the lists above.
        worth: float64 (N,), what it is worth to a shopper of average means.
        appeal: float64 (N,), how gladly it is clicked.
        cost, price: float64 (N,), what the shop pays, and its own price.
        shown: float64 (N,), cumulative probabilities of being chosen for a request.
    """

    category: np.ndarray
    tier: np.ndarray
    kind: np.ndarray
    brand: np.ndarray
    seller: np.ndarray
    worth: np.ndarray
    appeal: np.ndarray
    cost: np.ndarray
    price: np.ndarray
    shown: np.ndarray

    @property
    def same(self) -> np.ndarray:
        """int64 (N,), equal for substitutes: items of one category and kind, which the title alone tells."""
        return self.category * KINDS + self.kind

    def titles(self) -> list[str]:
        """The words of every item: brand, tier and kind, such as "Fjord premium green tea"; two may be called alike."""
        words = [kinds for _, kinds in CATEGORIES.values()]
        tiers = list(TIERS)
        return [
            f"{BRANDS[b]} {tiers[t]} {words[c][k]}"
            for b, t, c, k in zip(self.brand, self.tier, self.category, self.kind, strict=True)
        ]


def draw_shoppers(settings: SimulatorSettings) -> Shoppers:
    """All shoppers of a shop."""
    count = len(CATEGORIES)
    draws = Draws(settings.seed, "shoppers", count + 5, 0, settings.shoppers)
    taste, (means, care) = TASTE * draws.normal(count), draws.normal(2).T
    told_means, told_care = (_bracket(true + NOISE * draws.normal(1)[:, 0]) for true in (means, care))
    return Shoppers(
        taste=taste,
        budget=np.exp(LOG_BUDGET * means),
        sensitivity=settings.price_response * SENSITIVITY * np.exp(LOG_SENSITIVITY * care),
        age=_choice(draws.one(), len(AGES)),
        income=told_means,
        attitude=told_care,
    )


def draw_items(settings: SimulatorSettings) -> Items:
    """All items of a shop. Sellers price by habit, a multiple of the cost of their own, whatever an item is worth."""
    habits = Draws(settings.seed, "world", len(SELLERS) + len(BRANDS), 0, 1)
    markup, liked = 1.2 + 2.4 * habits.uniform(len(SELLERS))[0], 0.3 * habits.normal(len(BRANDS))[0]
    draws = Draws(settings.seed, "items", 9, 0, settings.items)
    category, tier = _choice(draws.one(), len(CATEGORIES)), _choice(draws.one(), len(TIERS))
    kind, brand = _choice(draws.one(), KINDS), _choice(draws.one(), len(BRANDS))
    seller = _choice(draws.one(), len(SELLERS))
    middle = np.array([price for price, _ in CATEGORIES.values()])[category]
    worth = middle * np.array(list(TIERS.values()))[tier] * np.exp(0.1 * draws.normal(1)[:, 0])
    appeal = APPEAL * draws.normal(1)[:, 0] + liked[brand]
    cost = np.round(worth * (0.35 + 0.25 * draws.one()), 2)
    price = np.round(cost * markup[seller] * np.exp(0.1 * draws.normal(1)[:, 0]), 2)
    shown = np.cumsum(np.exp(appeal))
    return Items(category, tier, kind, brand, seller, worth, appeal, cost, price, shown / shown[-1])


def _choice(uniform: np.ndarray, count: int) -> np.ndarray:
    """Uniform numbers as places in a list of `count`."""
    return (uniform * count).astype(np.int64)


def _bracket(value: np.ndarray) -> np.ndarray:
    """0 to 4: in which of the five brackets normal values of about deviation 1 lie."""
    return np.searchsorted(BRACKETS, value)
