"""Fixed weights."""

from collections.abc import Callable

import numpy as np

from equipoise.train.balancing.gradient_stats import GradientStats
from equipoise.train.balancing.loss_weightings import weighted


def test_the_weights_are_the_preference(make_problem: Callable[..., GradientStats]) -> None:
    assert weighted(make_problem(np.diag([3.0, 1e-4]), [1.0, 0.25])).tolist() == [1.0, 0.25]
