"""The axis of money: by logs whose truth is known."""

from pathlib import Path

import numpy as np
import pytest

from equipoise.common.errors import UserError
from equipoise.evaluation.front.axes import Measured
from equipoise.evaluation.front.money import Money
from equipoise.evaluation.front.points import Measurement
from equipoise.evaluation.front.trade_off import TradeOff
from tests.shown_log_file import write_log


def measured(*points: TradeOff) -> Measurement:
    return Measurement(points, ("ndcg",), np.full((len(points), 1), 0.5), np.full((len(points), 1, 300), 0.5))


def test_each_trade_off_has_its_money(tmp_path: Path) -> None:
    """Pure relevance shows i0 and i1, worth .3 + .2 · 2; with ω = 2 i2 and i0, worth .1 · 5 + .3; half convert."""
    log, labels = write_log(tmp_path, 3000)
    money = Money(log, labels, "run", None, seed=0)
    found = money.added(measured(TradeOff(), TradeOff({"wide": 2.0})))
    assert found.axes == ("ndcg", "money") and found.samples.shape == (2, 2, 300)
    for point, truth in enumerate((0.35, 0.4)):
        low, high = found.interval(point, "money")
        assert low < truth < high and high - low < 0.7 * truth
        assert low < found.of(["money"])[point, 0] < high
    # Paired: less than two intervals that know nothing of each other.
    low, high = found.interval(1, "money", against=0)
    assert low < 0.05 < high
    assert Measured(10).axes(True) == ("ndcg", "ndcg_click", "ndcg_conversion")
    assert Measured(10, money=True).axes(True)[-1] == "money"


def test_what_logs_do_not_tell_is_left_out_or_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, labels = write_log(tmp_path / "few", 100)
    money = Money(log, labels, "run", None, seed=0)
    found = money.added(measured(TradeOff(), TradeOff({"wide": 3.0})))
    assert found.points == (TradeOff(),) and "1 of 2 trade-offs are left out" in caplog.text
    with pytest.raises(UserError, match="moves more"):
        money.added(measured(TradeOff(relevance={"cvr": 2.0})))
    with pytest.raises(UserError, match="not of the run other"):
        Money(log, labels, "other", None, seed=0)
    with pytest.raises(UserError, match="too little of pure relevance"):
        Money(*write_log(tmp_path / "fewer", 30), "run", None, seed=0).added(measured(TradeOff()))
