"""What chosen prices earn in a simulated shop, held against its true demand: regret of ours and of the shop's own.

    python -m benchmarks.uses_pricing [--quick] --json FILE

A shop is simulated, MiniLM trained on its impressions and exported; then prices are chosen for shoppers of the latest
days, among factors of the shop's own price. Regret: the share of the best possible profit on the same prices, which
only the truth knows, shopper by shopper and item by item, that is lost. `best single price` is the regret of the best
price per item for all shoppers alike, chosen with the truth: what no pricing without knowledge of shoppers could beat.
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
from configs.load import load_config
from configs.schema import RunConfig
from data.simulator.demand import TrueDemand
from data.simulator.settings import SimulatorSettings
from data.simulator.write import simulate
from data.slate_set import SlateSet
from data.slates import prepare
from launch.export import run as export
from serving.recommender import Recommender
from train.job import train
from train.validation import spread_rows

CONFIG = Path(__file__).parent.parent / "configs" / "simulator.yaml"
FACTORS = [round(float(f), 3) for f in np.geomspace(1 / 1.8, 1.8, 13)]
"""Allowed prices as factors of the shop's own, within the range of its price tests."""

TABLES = ("impressions", "items", "users", "events")


def measure(quick: bool) -> list[dict[str, Any]]:
    """Simulate, train, export and price; returns figures.

    Args:
        quick: fewer requests and steps.
    """
    settings = SimulatorSettings(requests=6_000 if quick else 20_000)
    steps, asked = (220, 60) if quick else (900, 200)
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
        export(folder / "run", folder / "export", golden=4)
        regrets = regret(config, folder / "export", TrueDemand(folder / "shop"), asked)
    about = {"items": settings.items, "requests": settings.requests, "steps": steps}
    figures = [figure(f"pricing_{name}", value, "share", **about) for name, value in regrets.items()]
    return [*figures, figure("pricing_training", seconds, "s", **about)]


def regret(config: RunConfig, folder: Path, truth: TrueDemand, requests: int) -> dict[str, float]:
    """Shares of the best possible profit that are lost, over some requests of the test split.

    Args:
        config: of the run, its data prepared.
        folder: its export.
        truth: of the shop.
        requests: how many shoppers are asked for.
    """
    recommender = Recommender.load(folder)
    slates = SlateSet(config.data.folder, "test")
    ids = pq.read_table(slates.items.path, columns=["item_id"]).column(0).to_pylist()
    best = ours = current = 0.0
    changes: list[float] = []
    rows = [slates.rows[row] for row in spread_rows(len(slates), requests)]
    for row in rows:
        shopper, items = truth.shopper(row["user_id"]), [truth.item(ids[item]) for item in row["item"]]
        own = [float(truth.list_price[item]) for item in items]
        candidates = [
            {"item_id": ids[number], "context": {"price": price}, "cost": float(truth.cost[item])}
            for number, item, price in zip(row["item"], items, own, strict=True)
        ]
        pricing = recommender.price(row["prefix"], candidates, prices={"factors": FACTORS}, goal="profit")
        for item, price, priced in zip(items, own, pricing.candidates, strict=True):
            grid = np.array([point.price for point in priced.curve])
            best += true_profit(truth, shopper, item, grid).max()
            ours += float(true_profit(truth, shopper, item, priced.price))
            current += float(true_profit(truth, shopper, item, price))
            changes.append(priced.largest_change)
    single = best_single_prices(truth)
    uniform = sum(
        float(true_profit(truth, truth.shopper(row["user_id"]), item, single[item]))
        for row in rows
        for item in (truth.item(ids[number]) for number in row["item"])
    )
    return {
        "regret_ours": 1 - ours / best,
        "regret_current": 1 - current / best,
        "regret_best_single_price": 1 - uniform / best,
        "largest_monotone_change": max(changes),
    }


def true_profit(truth: TrueDemand, shopper: Any, item: Any, price: Any) -> np.ndarray:
    """Expected profit of one look at an item, float64; arguments as those of `TrueDemand.demand`."""
    return (np.asarray(price) - truth.cost[item]) * truth.demand(shopper, item, price)


def best_single_prices(truth: TrueDemand) -> np.ndarray:
    """Per item the allowed price with the largest true profit over all shoppers, float64 (N,)."""
    shoppers = np.arange(len(truth.budget))
    found = []
    for item, own in enumerate(truth.list_price.tolist()):
        grid = np.round(np.array(FACTORS) * own, 2)
        found.append(grid[true_profit(truth, shoppers[:, None], item, grid).sum(0).argmax()])
    return np.array(found)


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
