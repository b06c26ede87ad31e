"""What chosen prices earn in a simulated shop, held against its true demand: regret of ours and of the shop's own.

    python -m benchmarks.uses_pricing [--quick] --json FILE

A shop is simulated, MiniLM trained on its impressions and exported; then prices are chosen for shoppers of the latest
days, among factors of the shop's own price. Regret: the share of the best possible profit on the same prices, which
only the truth knows, shopper by shopper and item by item, that is lost. `best single price` is the regret of the best
price per item for all shoppers alike, chosen with the truth: what no pricing without knowledge of shoppers could beat.
`best per segment` is the same for all shoppers of one attitude and income, the two columns that tell elasticities.
`logistic` prices by regressions on the shop's columns (benchmarks.uses_pricing_logistic).
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.figures import figure, report, show, write
from benchmarks.uses_pricing_logistic import LogisticDemand
from equipoise.configs.load import load_config
from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.slates import prepare
from equipoise.data.simulator.demand import TrueDemand
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.write import simulate
from equipoise.data.slate_set import SlateSet
from equipoise.export.write import export_run
from equipoise.serving.recommender import Recommender
from equipoise.train.job import train
from equipoise.train.validation import spread_rows

CONFIG = Path(__file__).parent.parent / "configs" / "simulator.yaml"
FACTORS = [round(float(f), 3) for f in np.geomspace(1 / 1.8, 1.8, 13)]
"""Allowed prices as factors of the shop's own, within the range of its price tests."""

WAYS = ("best", "ours", "current", "logistic", "best_single_price", "best_per_segment")

TOLD = ["attitude", "income"]

TABLES = ("impressions", "items", "users", "events")


def measure(quick: bool) -> list[dict[str, Any]]:
    """Simulate, train, export and price; returns figures.

    Args:
        quick: fewer requests and steps.
    """
    settings = SimulatorSettings(requests=6_000 if quick else 20_000)
    steps, asked = ("220", 60) if quick else ("null", 200)  # whole: every request of the train split once
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        simulate(folder / "shop", settings)
        paths = {f"data.tables.{name}": folder / "shop" / f"{name}.parquet" for name in TABLES}
        changes = {"output": folder / "run", "data.folder": folder / "prepared", "train.max_steps": steps, **paths}
        config = load_config(CONFIG, [f"{key}={value}" for key, value in changes.items()])
        prepare(config.data)
        start = time.perf_counter()
        train(config)
        seconds = time.perf_counter() - start
        export_run(folder / "run", folder / "export", golden=4)
        peer = LogisticDemand(folder / "shop", list(SlateSet(config.data.folder, "train").rows["request_id"]))
        regrets = regret(config, folder / "export", TrueDemand(folder / "shop"), peer, asked)
    about = {"items": settings.items, "requests": settings.requests, "steps": steps if quick else "one epoch"}
    figures = [figure(f"pricing_{name}", value, "share", **about) for name, value in regrets.items()]
    return [*figures, figure("pricing_training", seconds, "s", **about)]


def regret(config: RunConfig, folder: Path, truth: TrueDemand, peer: LogisticDemand, requests: int) -> dict[str, float]:
    """Shares of the best possible profit that are lost, over some requests of the test split.

    Args:
        config: of the run, its data prepared.
        folder: its export.
        truth: of the shop.
        peer: that prices the same candidates.
        requests: how many shoppers are asked for.
    """
    recommender = Recommender.load(folder)
    slates = SlateSet(config.data.folder, "test")
    ids = pq.read_table(slates.items.path, columns=["item_id"]).column(0).to_pylist()
    single, earned, changes = best_single_prices(truth), dict.fromkeys(WAYS, 0.0), [0.0]
    segment = peer.users[TOLD].agg(" ".join, axis=1).loc[list(truth.shopper_ids)].to_numpy()
    for row in (slates.rows[row] for row in spread_rows(len(slates), requests)):
        shopper, names = truth.shopper(row["user_id"]), [ids[item] for item in row["item"]]
        items = [truth.item(name) for name in names]
        kind = {name: row[f"feature_{name}"][0] for name in TOLD}
        candidates = [
            {
                "item_id": name,
                "context": {"price": float(truth.list_price[item])},
                "cost": float(truth.cost[item]),
                "features": kind,
            }
            for name, item in zip(names, items, strict=True)
        ]
        pricing = recommender.price(row["prefix"], candidates, prices={"factors": FACTORS}, goal="profit")
        grids = [np.array([point.price for point in priced.curve]) for priced in pricing.candidates]
        sizes = [len(grid) for grid in grids]
        asked = np.repeat(names, sizes).tolist()
        demand = peer.demand([row["user_id"]] * len(asked), asked, np.concatenate(grids))
        learnt = np.split(demand, np.cumsum(sizes)[:-1])
        alike = np.flatnonzero(segment == segment[shopper])[:, None]
        for item, priced, grid, curve in zip(items, pricing.candidates, grids, learnt, strict=True):
            profits = true_profit(truth, shopper, item, grid)
            earned["best_per_segment"] += profits[true_profit(truth, alike, item, grid).sum(0).argmax()]
            earned["best"] += profits.max()
            earned["logistic"] += profits[((grid - truth.cost[item]) * curve).argmax()]
            prices = {"ours": priced.price, "current": truth.list_price[item], "best_single_price": single[item]}
            for method, price in prices.items():
                earned[method] += float(true_profit(truth, shopper, item, price))
            changes.append(priced.largest_change)
    best = earned.pop("best")
    regrets = {f"regret_{method}": 1 - profit / best for method, profit in earned.items()}
    return regrets | {"largest_monotone_change": max(changes)}


def true_profit(truth: TrueDemand, shopper: Any, item: Any, price: Any) -> np.ndarray:
    """Expected profit of one look at an item, float64; arguments as those of `TrueDemand.demand`."""
    return (np.asarray(price) - truth.cost[item]) * truth.demand(shopper, item, price)


def best_single_prices(truth: TrueDemand) -> np.ndarray:
    """Per item the allowed price with the largest true profit over all shoppers, float64 (N,)."""
    shoppers = np.arange(len(truth.budget))
    prices = []
    for item, own in enumerate(truth.list_price.tolist()):
        grid = np.round(np.array(FACTORS) * own, 2)
        prices.append(grid[true_profit(truth, shoppers[:, None], item, grid).sum(0).argmax()])
    return np.array(prices)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(arguments)
    figures = measure(options.quick)
    write(options.json, report("uses_pricing", figures, quick=options.quick))
    show("dynamic pricing", figures)


if __name__ == "__main__":
    main()
