"""The peer of the priced model learns the simulated demand from the log alone."""

from pathlib import Path

import numpy as np

from benchmarks.uses_pricing_logistic import LogisticDemand
from equipoise.data.simulator.demand import TrueDemand
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.write import simulate


def test_logistic_demand_is_near_the_truth_and_falls(tmp_path: Path) -> None:
    settings = SimulatorSettings(shoppers=400, items=40, requests=3_000, position_bias=0.0)
    simulate(tmp_path / "shop", settings)
    learnt = [f"r{number}" for number in range(2_500)]
    peer, truth = LogisticDemand(tmp_path / "shop", learnt), TrueDemand(tmp_path / "shop")
    rng = np.random.default_rng(0)
    shopper, item = np.repeat(rng.integers(0, 400, 200), 3), np.repeat(rng.integers(0, 40, 200), 3)
    prices = truth.list_price[item] * np.tile([0.6, 1.0, 1.6], 200)
    found = peer.demand([f"u{number}" for number in shopper], [f"i{number}" for number in item], prices)
    assert (np.diff(found.reshape(200, 3)) < 0).all()
    wanted = truth.demand(shopper, item, prices)
    assert np.corrcoef(np.log(found), np.log(wanted))[0, 1] > 0.85
    assert abs(found.mean() / wanted.mean() - 1) < 0.1
