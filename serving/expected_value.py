"""What the slates of a campaign are expected to bring, and how far that may be off.

Two things are uncertain of the expected value: whether the probabilities are true, told by lines through their logits
that were fitted on resamples of the users of the valid split; and which shoppers come, told by resampling those of the
campaign. What the campaign will bring to these very shoppers hangs on the first, and on the luck of every single draw.

Shape suffixes: N shown candidates, S shoppers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
SMALLEST = 1e-9
"""Probabilities are kept so far from 0 and 1, so that their logits are finite."""


@dataclass(frozen=True)
class ExpectedValue:
    """The expected value of slates.

    Attributes:
        value: Σ P · value over what is shown.
        interval: of it at 95 %, for other shoppers like these: resampled shoppers, and resampled calibrations.
        realised: interval at 95 % of what these shoppers will bring: resampled calibrations, and chance.
        calibrated: whether the export tells how sure its calibration is; else both intervals take it for granted.
    """

    value: float
    interval: tuple[float, float]
    realised: tuple[float, float]
    calibrated: bool


def expected_value(
    shopper: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    value: np.ndarray,
    shoppers: int,
    lines: Mapping[str, Sequence[Sequence[float]]],
    seed: int = 0,
) -> ExpectedValue:
    """The expected value of what is shown, with its intervals.

    Args:
        shopper: number of the shopper of each shown candidate, from 0, int64 (N,).
        probabilities: by objective, of a chain whose product is what pays, (N,) each.
        value: what it pays, (N,).
        shoppers: S, also those who are shown nothing.
        lines: by objective, [slope, intercept] of lines through its logits; objectives without any are taken as true.
        seed: of the resamples.
    """
    known = {name: np.asarray(lines[name]) for name in probabilities if name in lines}
    count = min(map(len, known.values()), default=1)
    rng = np.random.default_rng(seed)
    resampled: list[np.ndarray] = []
    realised: list[np.ndarray] = []
    each = -(-RESAMPLES // count)
    for number in range(count):
        chance_N = np.ones(len(value))
        for name, own_N in probabilities.items():
            chance_N = chance_N * (_moved(own_N, *known[name][number]) if name in known else own_N)
        total_S = np.bincount(shopper, chance_N * value, shoppers)
        spread = float(np.sqrt((value**2 * chance_N * (1 - chance_N)).sum()))
        resampled.append(rng.multinomial(shoppers, np.full(shoppers, 1 / shoppers), size=each) @ total_S)
        realised.append(rng.normal(total_S.sum(), spread, each))
    plain = float((np.prod([*probabilities.values()], axis=0) * value).sum())
    return ExpectedValue(plain, _interval(resampled), _interval(realised), set(known) >= set(probabilities))


def _moved(probability_N: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    clipped = np.clip(probability_N, SMALLEST, 1 - SMALLEST)
    return 1 / (1 + np.exp(-(slope * (np.log(clipped) - np.log1p(-clipped)) + intercept)))


def _interval(samples: Sequence[np.ndarray]) -> tuple[float, float]:
    low, high = np.quantile(np.concatenate(samples), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
