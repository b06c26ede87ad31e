"""What a list would have earned per request, from lists that were drawn with known propensities.

With w_rk the weight of place k of request r, y_rk what it earned, q a model of it:

    ips     mean_r Σ_k w_rk y_rk                                              (Horvitz & Thompson 1952)
    snips   Σ_k (Σ_r w_rk y_rk / Σ_r w_rk) · share of requests with place k   (Swaminathan & Joachims 2015)
    dr      mean_r Σ_k q(π(k), k) + w_rk (y_rk − q(a_rk, k))                  (Dudík et al. 2011)

The weight depends on what is assumed of how places earn; the judged list π(1), π(2) … is certain:

    item      1[a_rk = π(k)] / P(a_rk is at place k): what a place earns depends on its item and the place alone
              (item-position click model; Li et al. 2018, "Offline evaluation of ranking policies with click models")
    cascade   1[a_rj = π(j), all j ≤ k] / Π_j≤k π(a_rj | before): also on those above (McInerney et al. 2020, RIPS)
    slate     1[a_r = π] / Π_j π(a_rj | before): on the whole list

Each weight has mean 1 at every place where the log could have shown the judged list, which is checked. The model is
q = c_k · pCTR (· pCVR · value), c_k the rate of what happened over what was expected at place k, fitted on the other
half of the users: so q does not know what it is judged by, and dr is unbiased however wrong q is.

Intervals are by users (cluster-robust, Student's t; Liang & Zeger 1986), of snips by linearisation.

Shape suffixes: R requests, K places, U users.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from equipoise.evaluation.ope.shown import CLICKS, CONVERSIONS, VALUE, ShownLists

ESTIMATORS = ("dr", "snips", "ips")
ASSUMPTIONS = ("item", "cascade", "slate")
LEVEL = 0.95
LEAST_EFFECTIVE = 30.0
"""Requests' worth of weight at a place below which nothing is estimated."""
FEW_EFFECTIVE = 200.0
"""Below it, an estimate comes with a warning."""
FARTHEST = 4.0
"""Standard errors by which the mean weight of a place may miss 1."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """What one list would have earned per request.

    Attributes:
        value: the estimate.
        influence_R: float64 (R,), each request's part of the estimate's error; its mean is 0.
        standard_error: by users.
        users: how many there are.
    """

    value: float
    influence_R: np.ndarray
    standard_error: float
    users: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by Student's t."""
        wide = float(stats.t.ppf(0.5 + LEVEL / 2, max(self.users - 1, 1))) * self.standard_error
        return self.value - wide, self.value + wide

    def to_json(self) -> dict[str, Any]:
        """Value, interval and standard error."""
        return {"value": self.value, "interval": list(self.interval), "standard_error": self.standard_error}


@dataclass(frozen=True, eq=False)
class Support:
    """Whether a log tells of a list.

    Attributes:
        effective_K: (Σ w)² / Σ w² of each place: as many requests that showed the judged list would tell as much.
        mean_K: mean weight of each place, 1 but for chance.
        standard_error_K: of those means.
        requests_K: requests with each place.
    """

    effective_K: np.ndarray
    mean_K: np.ndarray
    standard_error_K: np.ndarray
    requests_K: np.ndarray

    @property
    def effective(self) -> float:
        """Of the place that is told least of."""
        return float(self.effective_K.min())

    @property
    def refusal(self) -> str | None:
        """Why nothing is estimated; None where something is."""
        place = int(self.effective_K.argmin())
        if self.effective < LEAST_EFFECTIVE:
            return (
                f"the log shows the judged item at place {place + 1} too rarely (worth {self.effective:.1f} requests): "
                "log more, draw at a higher temperature, or judge points nearer to the served one"
            )
        return None

    @property
    def warning(self) -> str | None:
        """What makes an estimate doubtful; None where nothing does."""
        away_K = np.abs(self.mean_K - 1) / np.maximum(self.standard_error_K, 1e-12)
        place = int(away_K.argmax())
        if away_K[place] > FARTHEST and abs(self.mean_K[place] - 1) > 0.01:
            return (
                f"weights at place {place + 1} have mean {self.mean_K[place]:.3f} instead of 1: the log misses lists "
                "that the judged one needs, or was not drawn as it says"
            )
        if self.effective < FEW_EFFECTIVE:
            return f"only worth {self.effective:.0f} requests that showed the judged list: intervals are rough"
        return None

    def to_json(self) -> dict[str, Any]:
        """The least place, and all of them."""
        return {
            "effective_requests": self.effective,
            "effective_by_place": self.effective_K.tolist(),
            "mean_weight_by_place": self.mean_K.tolist(),
        }


class Judge:
    """Estimates what lists would have earned.

    Args:
        shown: the log with what happened.
        assumption: one of ASSUMPTIONS.
    """

    def __init__(self, shown: ShownLists, assumption: str = "item") -> None:
        self.shown, self.assumption = shown, assumption
        self.there_RK = shown.shown_RK
        self.users = int(shown.cluster_R.max()) + 1
        self.model = {name: self._model(name) for name in shown.rewards}

    def weights(self, order_RK: np.ndarray) -> np.ndarray:
        """w of every place, float64 (R, K), 0 where none was shown."""
        same_RK = (order_RK == self.shown.order_RK) & self.there_RK
        if self.assumption == "item":
            return np.where(same_RK, 1 / np.where(same_RK, self.shown.position_propensity_RK, 1.0), 0.0)
        so_far_RK = np.logical_and.accumulate(same_RK | ~self.there_RK, axis=1)
        log_RK = np.cumsum(np.log(self.shown.propensity_RK), axis=1)
        if self.assumption == "slate":
            so_far_RK, log_RK = so_far_RK[:, -1:], log_RK[:, -1:]
        return np.where(so_far_RK & self.there_RK, np.exp(-log_RK), 0.0)

    def support(self, weight_RK: np.ndarray) -> Support:
        """How much the log tells under some weights."""
        requests_K = self.there_RK.sum(axis=0)
        mean_K = weight_RK.sum(axis=0) / requests_K
        square_K = (weight_RK**2).sum(axis=0)
        effective_K = np.divide(weight_RK.sum(axis=0) ** 2, square_K, out=np.zeros(len(mean_K)), where=square_K > 0)
        variance_K = np.maximum(square_K / requests_K - mean_K**2, 0.0)
        return Support(effective_K, mean_K, np.sqrt(variance_K / requests_K), requests_K)

    def estimate(self, order_RK: np.ndarray, weight_RK: np.ndarray, reward: str, estimator: str = "dr") -> Estimate:
        """What the lists would have earned per request.

        Args:
            order_RK: the judged lists.
            weight_RK: `weights` of them.
            reward: one of the log's rewards.
            estimator: one of ESTIMATORS.
        """
        reward_RK = self.shown.rewards[reward]
        if estimator == "snips":
            total_K = weight_RK.sum(axis=0)
            rate_K = np.divide((weight_RK * reward_RK).sum(0), total_K, out=np.zeros(len(total_K)), where=total_K > 0)
            share_K = self.there_RK.mean(axis=0)
            scale_K = np.divide(len(self.shown), total_K, out=np.zeros(len(total_K)), where=total_K > 0)
            error_RK = weight_RK * (reward_RK - rate_K) * scale_K * share_K + rate_K * (self.there_RK - share_K)
            return self._estimate(float((rate_K * share_K).sum()), error_RK.sum(axis=1))
        each_R = (weight_RK * reward_RK).sum(axis=1)
        if estimator == "dr":
            model_RC = self.model[reward]
            scale_RK = self._place_rates(reward)
            judged_RK = scale_RK * self.shown.at_places(model_RC, order_RK)
            own_RK = scale_RK * self.shown.at_places(model_RC, self.shown.order_RK)
            each_R = (judged_RK + weight_RK * (reward_RK - own_RK)).sum(axis=1)
        value = float(each_R.mean())
        return self._estimate(value, each_R - value)

    def as_shown(self, reward: str) -> Estimate:
        """What the drawn lists earned themselves."""
        each_R = self.shown.rewards[reward].sum(axis=1)
        return self._estimate(float(each_R.mean()), each_R - each_R.mean())

    def difference(self, one: Estimate, other: Estimate) -> Estimate:
        """Of two estimates on the same requests: paired."""
        return self._estimate(one.value - other.value, one.influence_R - other.influence_R)

    def resampled(self, estimate: Estimate, draws_BU: np.ndarray) -> np.ndarray:
        """The estimate in resamples of the users, float64 (B,); `draws_BU`: how often each user is drawn."""
        sums_U = np.bincount(self.shown.cluster_R, estimate.influence_R, self.users)
        return estimate.value + draws_BU @ sums_U / len(self.shown)

    def _estimate(self, value: float, influence_R: np.ndarray) -> Estimate:
        sums_U = np.bincount(self.shown.cluster_R, influence_R, self.users)
        variance = (sums_U**2).sum() / len(self.shown) ** 2 * self.users / max(self.users - 1, 1)
        return Estimate(value, influence_R, float(np.sqrt(variance)), self.users)

    def _model(self, reward: str) -> np.ndarray:
        """What the model expects of each candidate where it is looked at, float64 (R, C)."""
        chance: Mapping[str, np.ndarray] = self.shown.probability
        expected_RC = chance["ctr"]
        if reward != CLICKS:
            expected_RC = expected_RC * chance.get("cvr", np.ones(1))
        if reward == VALUE:
            expected_RC = expected_RC * np.nan_to_num(self.shown.value_RC)
        assert reward in (CLICKS, CONVERSIONS, VALUE)
        return expected_RC

    def _place_rates(self, reward: str) -> np.ndarray:
        """c_k of every request, by the other half of the users, float64 (R, K)."""
        half_R = self.shown.cluster_R % 2
        expected_RK = self.shown.at_places(self.model[reward], self.shown.order_RK)
        reward_RK, rates = self.shown.rewards[reward], np.zeros((2, expected_RK.shape[1]))
        for half in (0, 1):
            others_R = half_R != half
            total_K = expected_RK[others_R].sum(axis=0)
            happened_K = reward_RK[others_R].sum(axis=0)
            rates[half] = np.divide(happened_K, total_K, out=np.zeros(len(total_K)), where=total_K > 0)
        return rates[half_R]
