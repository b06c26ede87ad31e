"""Prices that begin as a linear prior, in shops whose items compete, and in a shop where no price matters.

`measure_pricing` is a part of `benchmarks.uses_value`. Each seed is a shop of its own, in which a shopper holds a price
against those of items of the same kind in the slate; only titles tell the kinds. Regret: the share of the best possible
profit on the same prices, which only the truth knows shopper by shopper, that is lost. `linear` are the regressions of
`benchmarks.uses_pricing_logistic`; `told` is the best price for all shoppers of one attitude and income alike, chosen
with the truth: what is hidden of shoppers costs that much at least. Coverage: how often the interval of the best price
holds that of `told`. On the flat shop, where demand does not answer to prices, every advised change is wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.figures import figure
from benchmarks.uses_pricing import CONFIG, FACTORS, TABLES, TOLD
from benchmarks.uses_pricing_logistic import LogisticDemand
from equipoise.common.errors import UserError
from equipoise.configs.load import load_config, read_run_config
from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.slates import prepare
from equipoise.data.simulator.demand import OtherPrices, TrueDemand, rival_prices
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.write import simulate
from equipoise.data.slate_set import SlateSet
from equipoise.export.beside_text import PreparedThings
from equipoise.export.write import export_run
from equipoise.modeling.precision import settle_precision
from equipoise.serving.pricing import PricedCandidate
from equipoise.serving.recommender import Recommender
from equipoise.train.job import train
from equipoise.train.validation import spread_rows

SUBSTITUTES = 0.8
RESAMPLES = 2_000
"""Of priced requests, for the interval of a difference of regrets."""
WAYS = ("best", "ours", "linear", "told", "current")


@dataclass(frozen=True)
class Size:
    """How much is simulated, trained and asked: requests of the competing and of the flat shop, steps, priced ones."""

    requests: int
    flat_requests: int
    steps: str
    asked: int


QUICK, WHOLE = Size(6_000, 2_000, "20", 60), Size(20_000, 6_000, "300", 200)


def measure_pricing(work: Path, seeds: int, quick: bool) -> list[dict[str, Any]]:
    """Simulate, train, export and price, seed after seed.

    Args:
        work: an empty folder, which holds shops, runs and exports afterwards.
        seeds: of shops and trainings, 0, 1 …
        quick: fewer requests and steps.

    Returns:
        figures: regrets in shares, `price_regret_diff` (ours − linear) with `low` and `high` of its 95 % interval over
        requests, `flat_changes` in advised changes, `price_interval_coverage` in shares.
    """
    size = QUICK if quick else WHOLE
    earned, covered, changes, priced = [], [], 0, 0
    for seed in range(seeds):
        folder = work / f"seed{seed}"
        competing = SimulatorSettings(requests=size.requests, substitutes=SUBSTITUTES, seed=seed)
        for each, inside in _priced(folder / "competing", competing, size, size.steps):
            earned.append(each)
            covered += inside
        flat = SimulatorSettings(requests=size.flat_requests, price_response=0.0, seed=seed)
        config = _trained(folder / "flat", flat, "2")
        for answers in _answers(config, folder / "flat", size.asked):
            changes += sum(one.price != one.current.price for _, one in answers.candidates if one.current is not None)
            priced += len(answers.candidates)
    about = {"seeds": seeds, "requests": size.requests, "steps": size.steps, "substitutes": SUBSTITUTES}
    return [
        *_regrets(np.array(earned), about),
        figure("price_interval_coverage", float(np.mean(covered)), "share", candidates=len(covered), **about),
        figure("flat_changes", changes, "changes", candidates=priced, seeds=seeds, requests=size.flat_requests),
    ]


def _regrets(earned: np.ndarray, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Of profits, float64 (requests, WAYS)."""
    best, ours, linear = (WAYS.index(name) for name in ("best", "ours", "linear"))
    total = earned.sum(0)
    regrets = [figure(f"price_regret_{way}", 1 - total[n] / total[best], "share", **about)
               for n, way in enumerate(WAYS) if n != best]  # fmt: skip
    rows = np.random.default_rng(0).integers(0, len(earned), (RESAMPLES, len(earned)))
    drawn = earned[rows].sum(1)
    low, high = np.quantile((drawn[:, linear] - drawn[:, ours]) / drawn[:, best], [0.025, 0.975])
    difference = (total[linear] - total[ours]) / total[best]
    interval = {"low": float(low), "high": float(high)}
    return [*regrets, figure("price_regret_diff", difference, "share", **interval, **about)]


def _trained(folder: Path, settings: SimulatorSettings, steps: str) -> RunConfig:
    """Simulate a shop, train on it and export the run, unless all of that is there."""
    simulate(folder / "shop", settings, overwrite=True)
    paths = {f"data.tables.{name}": folder / "shop" / f"{name}.parquet" for name in TABLES}
    changes: dict[str, Any] = {"output": folder / "run", "data.folder": folder / "prepared", "seed": settings.seed}
    changes |= {"train.max_steps": steps} | paths
    changes |= {} if settings.price_response else {"train.eval_requests": 32}  # a flat shop is of its priors alone
    config = load_config(CONFIG.with_name("pricing.yaml"), [f"{key}={value}" for key, value in changes.items()])
    if (folder / "export" / "serving.json").is_file() and read_run_config(config.output) == settle_precision(config):
        return config
    prepare(config.data)
    if train(config, overwrite=True) is None:
        raise UserError(f"training {config.output} was stopped: start the command again")
    export_run(folder / "run", folder / "export", golden=2)
    return config


@dataclass(frozen=True)
class _Answers:
    """One priced request: its user, and its candidates by item_id, at the shop's own prices now."""

    user_id: str
    candidates: list[tuple[str, PricedCandidate]]


def _answers(config: RunConfig, folder: Path, requests: int) -> Iterator[_Answers]:
    """Some requests of the test split, priced without force."""
    recommender, slates = Recommender.load(folder / "export"), SlateSet(config.data.folder, "test")
    known, things = pq.read_table(folder / "shop" / "items.parquet").to_pylist(), PreparedThings(config.data.folder)
    own = {item["item_id"]: item for item in known}
    ids = pq.read_table(slates.items.path, columns=["item_id"]).column(0).to_pylist()
    for row in (slates.rows[row] for row in spread_rows(len(slates), requests)):
        names = [ids[item] for item in row["item"]]
        kind = {name: row[f"feature_{name}"][0] for name in TOLD}
        candidates = [
            {"item_id": name, "context": {"price": own[name]["price"]}, "cost": own[name]["cost"], "features": kind}
            for name in names
        ]
        recent = [things.texts[number] for number in row["things"]]
        pricing = recommender.price(
            row["prefix"], candidates, prices={"factors": FACTORS}, goal="profit", recent=recent
        )
        yield _Answers(row["user_id"], list(zip(names, pricing.candidates, strict=True)))


def _priced(
    folder: Path, settings: SimulatorSettings, size: Size, steps: str
) -> Iterator[tuple[list[float], list[bool]]]:
    """Of each priced request what the WAYS earn, and whether the interval of each price holds the best told one."""
    config, truth = _trained(folder, settings, steps), TrueDemand(folder / "shop")
    peer = LogisticDemand(folder / "shop", list(SlateSet(config.data.folder, "train").rows["request_id"]))
    kinds = peer.users[TOLD].agg(" ".join, axis=1).loc[list(truth.shopper_ids)].to_numpy()
    for answers in _answers(config, folder, size.asked):
        shopper, names = truth.shopper(answers.user_id), [name for name, _ in answers.candidates]
        items = np.array([truth.item(name) for name in names])
        rivals = rival_prices(truth.same[items][None], truth.list_price[items][None])[0]
        alike, earned, covered = np.flatnonzero(kinds == kinds[shopper])[:, None], np.zeros(len(WAYS)), []
        for item, rival, (name, one) in zip(items.tolist(), rivals, answers.candidates, strict=True):
            grid, others = np.array([point.price for point in one.curve]), OtherPrices(rivals=rival)
            margin, current = grid - truth.cost[item], truth.list_price[item]
            told = grid[(margin * truth.demand(alike, item, grid, others)).sum(0).argmax()]
            learnt = peer.demand([answers.user_id] * len(grid), [name] * len(grid), grid)
            best = grid[(margin * truth.demand(shopper, item, grid, others)).argmax()]
            prices = np.array([best, one.price, grid[(margin * learnt).argmax()], told, current])
            earned += (prices - truth.cost[item]) * truth.demand(shopper, item, prices, others)
            assert one.evidence is not None and one.evidence.price is not None, "the priors are resampled"
            covered.append(one.evidence.price.low <= told <= one.evidence.price.high)
        yield earned.tolist(), covered
