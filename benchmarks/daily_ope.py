"""Learning from what was shown, on a shop whose truth is known.

    python -m benchmarks.daily --only ope [--quick] --json FILE

- `ope_coverage`: how often 95 % intervals of `equipoise ope` (doubly robust) hold what operating points truly earn.
  Each repetition draws requests of the simulated shop, a list of each by Plackett–Luce on the scores of an imperfect
  model, and clicks and purchases by the simulator's truth; the truth of a point is its expectation over many requests.
- `ope_rank_correlation`: Spearman's, of a grid of operating points, between their estimated and their true value.
- `position_eta_error`: relative error of the η that `data.position` finds in a shop of `equipoise simulate`.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit
from scipy.stats import spearmanr

from benchmarks.figures import figure
from equipoise.configs.load import load_config
from equipoise.data.prepare.slates import prepare
from equipoise.data.simulator.demand import click_probability, examination, purchase_probability
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.shop import Items, Shoppers, draw_items, draw_shoppers
from equipoise.data.simulator.write import simulate
from equipoise.evaluation.ope.estimators import Judge
from equipoise.evaluation.ope.policies import Lister, Policy
from equipoise.evaluation.ope.shown import CLICKS, CONVERSIONS, REWARDS, VALUE, ShownLists

SHOP = SimulatorSettings(shoppers=20_000, items=200, seed=11)
CANDIDATES, PLACES, TEMPERATURE, ETA = 10, 5, 0.7, 0.5
MODEL_NOISE = 0.5
"""Standard deviation of the model's error in the logits of clicks and of purchases."""
POINTS = [
    Policy(f"price {price:g}, weak {weak:g}", {"price": price, "weak": weak})
    for price in (-0.5, 0.0, 0.5, 1.0)
    for weak in (0.0, 1.0, 2.0)
]
COVERED = (0, 4, 9)
"""The points whose intervals are counted."""
LEVELS = [0.93, 0.97]
"""Between which coverage is as good as 95 %."""
CONFIG = Path(__file__).parent.parent / "configs" / "simulator.yaml"
TABLES = ("impressions", "items", "users", "events")
RATES = "[{of: click, by: [user_id, category]}, {of: click, by: item_id}]"


@dataclass(frozen=True)
class World:
    """The shop behind the requests."""

    shoppers: Shoppers
    items: Items

    def shown(self, requests: int, seed: int) -> tuple[ShownLists, dict[str, np.ndarray]]:
        """Requests with drawn lists and what happened, and the truth: expected rewards where looked at, (R, C)."""
        rng = np.random.default_rng([seed, 77])
        shopper = rng.integers(0, len(self.shoppers.budget), requests)
        item_RC = rng.random((requests, len(self.items.cost))).argpartition(CANDIDATES, axis=1)[:, :CANDIDATES]
        taste_RC = self.shoppers.taste[shopper[:, None], self.items.category[item_RC]]
        price_RC = self.items.price[item_RC]
        dear_RC = np.log(price_RC / (self.items.worth[item_RC] * self.shoppers.budget[shopper][:, None]))
        care_RC = self.shoppers.sensitivity[shopper][:, None]
        click_RC = click_probability(self.items.appeal[item_RC], taste_RC, care_RC, dear_RC)
        buy_RC = purchase_probability(taste_RC, care_RC, dear_RC)
        pctr_RC, pcvr_RC = (expit(logit(p) + rng.normal(0, MODEL_NOISE, p.shape)) for p in (click_RC, buy_RC))
        base_RC = np.log(pctr_RC) + np.log(pcvr_RC)
        noise_RC = rng.gumbel(size=base_RC.shape)
        order_RK = np.argsort(-(base_RC / TEMPERATURE + noise_RC), axis=1)[:, :PLACES]
        looked_K = examination(np.arange(PLACES), ETA)
        clicked = rng.random(order_RK.shape) < looked_K * np.take_along_axis(click_RC, order_RK, 1)
        bought = clicked & (rng.random(order_RK.shape) < np.take_along_axis(buy_RC, order_RK, 1))
        rewards = {CLICKS: clicked * 1.0, CONVERSIONS: bought * 1.0}
        rewards[VALUE] = bought * np.take_along_axis(price_RC, order_RK, 1)
        deltas = {"price": np.log(price_RC) - np.log(price_RC).mean(), "weak": (self.items.seller[item_RC] >= 5) * 1.0}
        made = ShownLists(
            filled_RC=np.ones(base_RC.shape, bool), base_RC=base_RC, list_utility_RC=base_RC, delta=deltas,
            attributes={}, probability={"ctr": pctr_RC, "cvr": pcvr_RC}, value_RC=price_RC, order_RK=order_RK,
            propensity_RK=np.ones(order_RK.shape), temperature_R=np.full(requests, TEMPERATURE), rewards=rewards,
            request=np.arange(requests).astype(object), items_RC=item_RC.astype(object),
            cluster_R=np.unique(shopper, return_inverse=True)[1], skipped={}, version="simulated",
        )  # fmt: skip
        expected = {CLICKS: click_RC, CONVERSIONS: click_RC * buy_RC, VALUE: click_RC * buy_RC * price_RC}
        return made, expected

    def truth(self, requests: int) -> dict[str, np.ndarray]:
        """What each of POINTS earns per request by reward, float64 (P,): its expectation over many requests."""
        shown, expected = self.shown(requests, seed=10_000)
        looked_K, lister = examination(np.arange(PLACES), ETA), Lister(shown, None)
        lists = [lister(point) for point in POINTS]
        return {
            reward: np.array([(looked_K * shown.at_places(values, order)).sum(axis=1).mean() for order in lists])
            for reward, values in expected.items()
        }


def measure_ope(quick: bool) -> list[dict[str, Any]]:
    """Coverage of intervals over repetitions, and rank correlation of a grid of points."""
    world = World(draw_shoppers(SHOP), draw_items(SHOP))
    truth = world.truth(20_000 if quick else 200_000)
    repetitions, requests = (40, 1500) if quick else (200, 2000)
    held: dict[str, dict[str, list[bool]]] = {
        estimator: {reward: [] for reward in REWARDS} for estimator in ("dr", "snips", "ips")
    }
    width: dict[str, list[float]] = {estimator: [] for estimator in held}
    for repetition in range(repetitions):
        shown, _ = world.shown(requests, repetition)
        judge, lister = Judge(shown), Lister(shown, None)
        for point in COVERED:
            order_RK = lister(POINTS[point])
            weight_RK = judge.weights(order_RK)
            for estimator, rewards in held.items():
                for reward, inside in rewards.items():
                    found = judge.estimate(order_RK, weight_RK, reward, estimator)
                    low, high = found.interval
                    inside.append(low <= truth[reward][point] <= high)
                    width[estimator].append((high - low) / truth[reward][point])
    coverage = {name: {reward: float(np.mean(inside)) for reward, inside in held[name].items()} for name in held}
    shown, _ = world.shown(requests if quick else 10_000, 20_000)
    judge, lister = Judge(shown), Lister(shown, None)
    lists = [lister(point) for point in POINTS]
    estimated = [judge.estimate(order, judge.weights(order), VALUE).value for order in lists]
    covered = float(np.mean([coverage["dr"][reward] for reward in REWARDS]))
    about = {"repetitions": repetitions, "requests": requests, "bounds": LEVELS}
    figures = [
        figure("ope_coverage", covered, "share", **about),
        figure("ope_rank_correlation", spearmanr(estimated, truth[VALUE])[0], "Spearman", points=len(POINTS)),
    ]
    for name, by_reward in coverage.items():
        figures += [figure(f"ope_coverage_{name}_{r}", value, "share", **about) for r, value in by_reward.items()]
        figures.append(figure(f"ope_relative_width_{name}", float(np.mean(width[name])), "of the truth", **about))
    return figures


def measure_position(quick: bool) -> list[dict[str, Any]]:
    """The η that `prepare` finds in a shop whose ranking goes by tastes, and by tastes that its columns do not tell."""
    figures = []
    with tempfile.TemporaryDirectory() as room:
        for name, shoppers in (("position_eta_error", 150), ("position_eta_error_unknown_tastes", 3_000)):
            if quick and shoppers > 1_000:
                continue
            settings = SimulatorSettings(shoppers=shoppers, requests=6_000 if quick else 15_000, seed=5)
            shop = Path(room) / name
            simulate(shop, settings)
            tables = {f"data.tables.{table}": shop / f"{table}.parquet" for table in TABLES}
            changes = {"data.folder": shop / "prepared", "data.position": "position", "data.rates": RATES} | tables
            stats = prepare(load_config(CONFIG, [f"{key}={value}" for key, value in changes.items()]).data).position
            assert stats is not None
            error = abs(stats.eta - settings.position_bias) / settings.position_bias
            figures.append(figure(name, error, "of η", eta=stats.eta, shoppers=shoppers, requests=settings.requests))
    return figures


def measure(work: Path, quick: bool) -> list[dict[str, Any]]:
    """All figures of this file; nothing is kept in `work`."""
    return [*measure_ope(quick), *measure_position(quick)]
