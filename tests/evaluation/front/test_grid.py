"""The trade-offs that are measured: complete, distinct, within bounds, the same for the same seed."""

import numpy as np
import pytest

from equipoise.common.errors import UserError
from equipoise.common.lists import ListRule, ListTerm
from equipoise.evaluation.front.grid import OMEGAS, PRICE_OMEGAS, Grid, parse_levels, usual_omegas
from equipoise.evaluation.front.trade_off import TradeOff


def test_full_product_begins_with_pure_relevance_and_goes_outwards():
    grid = Grid({"diversity": [2, 0, 1], "fairness": [0.5, 0.5]}, {"cvr": [0.5, 1]})
    points = grid.points()
    assert points[0] == TradeOff({"diversity": 0.0, "fairness": 0.0}, {"cvr": 1.0})  # though 0 is not asked for
    rows = {(p.omega["diversity"], p.omega["fairness"], p.relevance["cvr"]) for p in points[1:]}
    assert rows == {(d, 0.5, c) for d in (0.0, 1.0, 2.0) for c in (0.5, 1.0)} and len(points) == 7
    sizes = [point.size for point in points]
    assert sizes == sorted(sizes)
    assert grid.bounds == {"diversity": [0.0, 2.0], "fairness": [0.0, 0.5]}
    assert not grid.sampled and grid.to_json()["way"] == "full product"


def test_default_values_are_geometric():
    ratios = np.array(OMEGAS[2:]) / np.array(OMEGAS[1:-1])
    assert OMEGAS[0] == 0 and ((ratios > 1.3) & (ratios <= 2)).all()


def test_a_large_product_is_sampled_evenly():
    levels = {name: list(OMEGAS) for name in ("diversity", "fairness", "coverage")}
    grid = Grid(levels, most=256, seed=3)
    points = grid.points()
    assert grid.sampled and grid.product == len(OMEGAS) ** 3
    assert 250 <= len(points) <= 257 and points[0].size == 0
    values = np.array([list(point.omega.values()) for point in points[1:]])
    assert values.min() >= 0 and values.max() <= max(OMEGAS)
    middle = OMEGAS[len(OMEGAS) // 2]  # half of a geometric list lies below its middle, not below half of its end
    assert (np.abs((values < middle).mean(axis=0) - 0.5) < 0.02).all()
    assert points == Grid(levels, most=256, seed=3).points()
    assert points != Grid(levels, most=256, seed=4).points()
    assert "Sobol" in grid.to_json()["way"]


def test_levels_are_read():
    assert parse_levels("diversity=0,0.5,1, fairness=2", "--omegas") == {"diversity": [0, 0.5, 1], "fairness": [2]}
    assert parse_levels(None, "--omegas") == {} == parse_levels("", "--omegas")


@pytest.mark.parametrize("text", ["1,2", "diversity", "diversity=", "diversity=a", "diversity=-1", "diversity=inf",
                                  "diversity=1,diversity=2", "=1", "diversity=nan"])  # fmt: skip
def test_other_levels_are_refused(text):
    with pytest.raises(UserError, match="--omegas"):
        parse_levels(text, "--omegas")


def test_prices_are_measured_in_small_steps() -> None:
    rule = ListRule(10, {"diversity": ListTerm("spread", ("category",)), "fairness": ListTerm("price", ("provider",))})
    assert usual_omegas(rule, "diversity") == usual_omegas(None, "fairness") == list(OMEGAS)
    assert usual_omegas(rule, "fairness") == list(PRICE_OMEGAS) and max(np.diff(PRICE_OMEGAS[:13])) == 1 / 16
    assert (np.diff(PRICE_OMEGAS) > 0).all() and PRICE_OMEGAS[0] == 0
