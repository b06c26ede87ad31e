"""Plackett–Luce: lists drawn place after place, each candidate in proportion to exp(u / temperature).

What a list needs to be judged by another policy's lights is how likely it was:

    at a place, given those before    π(i at k | a_1 … a_k−1) = w_i / Σ_{j not placed} w_j,   w = exp(u / temperature)
    of the whole list                 the product of these (Plackett 1975; Luce 1959)
    at a place, whatever came before  P(i at k) = ∫ w_i e^(−w_i t) · P(k − 1 of the others arrive before t) dt

The last follows from exponential races: i arrives at a time of rate w_i, and its place is one more than how many of the
others came earlier, which are independent given t. On the scale of log t the integrand is smooth and falls off on
both sides, so that equal steps (the trapezoid rule) give it to many digits.

Draws are the Gumbel-max trick: sorting u / temperature + Gumbel noise is such a draw (Yellott 1977).

Shape suffixes: R requests, C candidates, K places, Q nodes of the quadrature.
"""

import numpy as np
from scipy.special import logsumexp

STEP = 0.3
"""Of log time: next to all lists of seven candidates, errors are below 1e-6 of a propensity."""
EARLY, LATE = 18.0, 3.5
"""Log time that is covered before the strongest candidate's own scale, and after the weakest one's."""
FARTHEST = 300.0
"""Log weight below the strongest at which candidates are taken to be: none of them is ever drawn."""
MOST_CELLS = 4_000_000
"""Of an array of one call: requests are taken some at a time."""


def draw_order(utility_C: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
    """All candidates in the order of one draw, int64 (C,); at temperature 0 sorted by u, equal ones as given."""
    if temperature == 0:
        return np.argsort(-utility_C, kind="stable")
    noise_C = rng.gumbel(size=len(utility_C))
    return np.argsort(-(utility_C / temperature + noise_C), kind="stable")


def place_log_propensities(utility_C: np.ndarray, order_K: np.ndarray, temperature: float) -> np.ndarray:
    """log π of each placed candidate given those placed before it, float64 (K,); their sum is that of the list.

    Args:
        utility_C: u of all candidates.
        order_K: the candidates at the first places.
        temperature: above 0; at 0 the sorted list is certain, and no other has a propensity.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: lists have propensities where it is above 0")
    log_weight_C = np.asarray(utility_C, np.float64) / temperature
    left = np.ones(len(log_weight_C), bool)
    left[order_K] = False
    rest = logsumexp(log_weight_C[left]) if left.any() else -np.inf
    placed_K = log_weight_C[order_K]
    # What is left at a place: the unplaced, and those placed from here on.
    total_K = np.logaddexp.accumulate(np.concatenate([[rest], placed_K[::-1]]))[1:][::-1]
    return placed_K - total_K


def position_propensities(utility_RC: np.ndarray, order_RK: np.ndarray, temperature: np.ndarray | float) -> np.ndarray:
    """P(the candidate at place k is there), whatever is before it, float64 (R, K); 0 where no candidate is given.

    Args:
        utility_RC: u of all candidates, −inf where a request has fewer.
        order_RK: the candidate at each place, −1 for none.
        temperature: of each request (R,), or of all, above 0.

    Raises:
        ValueError: a temperature is not above 0.
    """
    temperature_R = np.broadcast_to(np.asarray(temperature, np.float64), len(utility_RC))
    if not (temperature_R > 0).all():
        raise ValueError(f"temperature is {temperature_R.min()}: places have propensities where it is above 0")
    count = utility_RC.shape[1]
    log_weight_RC = utility_RC / temperature_R[:, None]
    log_weight_RC = log_weight_RC - log_weight_RC.max(axis=1, keepdims=True, initial=-np.inf)
    log_weight_RC = np.where(np.isneginf(log_weight_RC), -np.inf, np.maximum(log_weight_RC, -FARTHEST))
    span = -np.min(log_weight_RC, where=np.isfinite(log_weight_RC), initial=0.0)
    together = max(1, int(MOST_CELLS * STEP / max(1.0, count * order_RK.shape[1] * (span + EARLY + LATE))))
    found = [
        _propensities(log_weight_RC[low : low + together], order_RK[low : low + together])
        for low in range(0, len(utility_RC), together)
    ]
    return np.concatenate(found) if found else np.zeros(order_RK.shape)


def _propensities(log_weight_RC: np.ndarray, order_RK: np.ndarray) -> np.ndarray:
    least = np.min(log_weight_RC, where=np.isfinite(log_weight_RC), initial=0.0)
    log_time_Q = np.arange(-EARLY - np.log(log_weight_RC.shape[1]), LATE - least, STEP)
    rate_RCQ = np.exp(log_weight_RC[:, :, None] + log_time_Q)
    arrived_RCQ = -np.expm1(-rate_RCQ)
    rows, places = np.arange(len(order_RK)), order_RK.shape[1]
    chosen_RK, found_RK = order_RK.clip(min=0), np.zeros(order_RK.shape)
    before, after = _counts(arrived_RCQ, places), _counts(arrived_RCQ[:, ::-1], places)
    for place in range(places):
        chosen_R = chosen_RK[:, place]
        early_RQK, late_RQK = before[chosen_R, rows], after[arrived_RCQ.shape[1] - 1 - chosen_R, rows]
        others_RQ = (early_RQK[:, :, : place + 1] * late_RQK[:, :, place::-1]).sum(axis=2)
        own_RQ = log_weight_RC[rows, chosen_R][:, None] + log_time_Q
        # The density of an arrival on the scale of log time is w t e^(−w t).
        found_RK[:, place] = STEP * (np.exp(own_RQ - rate_RCQ[rows, chosen_R]) * others_RQ).sum(axis=1)
    return np.where(order_RK >= 0, np.minimum(found_RK, 1.0), 0.0)


def _counts(arrived_RCQ: np.ndarray, places: int) -> np.ndarray:
    """P(k of the candidates before each one have arrived), k = 0 … K − 1, float64 (C, R, Q, K).

    Those before and those after a candidate are counted apart, so that nothing has to be divided out.
    """
    requests, count, nodes = arrived_RCQ.shape
    counts = np.zeros((count, requests, nodes, places))
    counts[:, :, :, 0] = 1.0
    for i in range(count - 1):
        arrived_RQ1 = arrived_RCQ[:, i, :, None]
        counts[i + 1] = counts[i] * (1 - arrived_RQ1)
        counts[i + 1, :, :, 1:] += counts[i, :, :, :-1] * arrived_RQ1
    return counts
