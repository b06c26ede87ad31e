"""Score tables and measurements that the tests of the front share."""

from collections.abc import Callable

import numpy as np
import pytest

from equipoise.evaluation.front.points import Measurement
from equipoise.evaluation.front.trade_off import TradeOff
from equipoise.evaluation.metrics.score_table import ScoreTable


@pytest.fixture(scope="session")
def random_table() -> Callable[..., ScoreTable]:
    """Requests of 1 to 12 candidates with two adjustments, a price, three item attributes, and many ties."""

    def build(seed: int, requests: int = 30) -> ScoreTable:
        rng = np.random.default_rng(seed)
        request = np.repeat(np.arange(requests), rng.integers(1, 13, requests))
        size = len(request)
        return ScoreTable(
            request,
            rng.integers(0, 40, size),
            [f"u{number}" for number in request],
            rng.integers(0, 2, size),
            rng.integers(0, 2, size),
            rng.integers(1, 5, size) / 8,
            rng.integers(1, 4, size) / 8,
            delta={name: rng.integers(-2, 3, size) / 4 for name in ("diversity", "fairness")},
            fields={"price": rng.integers(1, 9, size).astype(float), "age": rng.integers(-1, 2, size).astype(float)},
            items={
                "department": np.array([f"d{item % 3}" for item in range(40)]),
                "category": np.array([f"c{item % 7}" for item in range(40)]),
                "provider": np.array([None if item % 9 == 0 else f"p{item % 2}" for item in range(40)], object),
            },
        )

    return build


@pytest.fixture(scope="session")
def measured() -> Callable[..., Measurement]:
    """A measurement of given values (P, A), its points named by ω_diversity = 0, 1, 2, …, resampled with noise."""

    def build(values: np.ndarray, axes: tuple[str, ...], noise: float = 0.0, resamples: int = 0) -> Measurement:
        values = np.asarray(values, np.float64)
        points = tuple(TradeOff({"diversity": float(number)}) for number in range(len(values)))
        rng = np.random.default_rng(0)
        samples = values[:, :, None] + noise * rng.normal(size=(*values.shape, resamples))
        return Measurement(points, axes, values, samples)

    return build
