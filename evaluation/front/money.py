"""The axis of money: what each trade-off would have earned per request, by logs of drawn lists."""

import logging
from pathlib import Path

import numpy as np

from equipoise.common.errors import UserError
from equipoise.common.lists import ListRule
from equipoise.evaluation.front.points import Measurement
from equipoise.evaluation.front.trade_off import TradeOff
from equipoise.evaluation.ope.estimators import Estimate, Judge
from equipoise.evaluation.ope.policies import Lister, Policy
from equipoise.evaluation.ope.shown import CLICKS, VALUE, read_shown

log = logging.getLogger(__name__)

MONEY = "money"


class Money:
    """Adds the axis to measurements of a run.

    Args:
        logs: folder of `serve --log`.
        labels: what happened.
        run: name of the run whose export logged them.
        rule: how the run makes lists.
        seed: of the resamples of users.

    Raises:
        UserError: the log cannot be read, or is of another run.
    """

    def __init__(self, logs: Path, labels: Path | None, run: str, rule: ListRule | None, seed: int) -> None:
        shown = read_shown(logs, labels)
        if shown.version.partition("@")[0] != run:
            raise UserError(f"--logs {logs} holds lists of {shown.version}, not of the run {run}: name its own logs")
        self.judge, self.lister, self.seed = Judge(shown), Lister(shown, rule), seed
        self.reward = VALUE if VALUE in shown.rewards else CLICKS

    def added(self, measurement: Measurement) -> Measurement:
        """The measurement of the trade-offs that the log tells enough of, with one axis more.

        Raises:
            UserError: a trade-off moves other weights than ω, or the log does not tell of pure relevance.
        """
        found = [self._estimate(point) for point in measurement.points]
        kept = [number for number, estimate in enumerate(found) if estimate is not None]
        if 0 not in kept:
            raise UserError("--logs tell too little of pure relevance: log more, or draw at a higher temperature")
        if len(kept) < len(found):
            left_out = f"{len(found) - len(kept):,} of {len(found):,} trade-offs are left out"
            log.warning(f"{left_out}: the logs tell too little of them")
        estimates = [each for each in found if each is not None]
        draws_BU = self._draws(measurement.samples.shape[2])
        samples = np.stack([self.judge.resampled(each, draws_BU) for each in estimates])
        values = np.array([each.value for each in estimates])
        return Measurement(
            tuple(measurement.points[number] for number in kept),
            (*measurement.axes, MONEY),
            np.concatenate([measurement.values[kept], values[:, None]], axis=1),
            np.concatenate([measurement.samples[kept], samples[:, None]], axis=1),
        )

    def _estimate(self, point: TradeOff) -> Estimate | None:
        if not point.servable:
            raise UserError(
                f"--logs judge ω alone, and '{point.words()}' moves more: leave --relevance and --value out"
            )
        order_RK = self.lister(Policy(point.words(), point.omega))
        weight_RK = self.judge.weights(order_RK)
        if self.judge.support(weight_RK).refusal is not None:
            return None
        return self.judge.estimate(order_RK, weight_RK, self.reward)

    def _draws(self, resamples: int) -> np.ndarray:
        """How often each user is drawn, float64 (B, U)."""
        users = self.judge.users
        drawn = np.random.default_rng([self.seed, users]).multinomial(users, np.full(users, 1 / users), resamples)
        return drawn.astype(np.float64)
