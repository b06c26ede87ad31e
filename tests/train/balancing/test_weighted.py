"""Fixed weights."""

from collections.abc import Callable

import numpy as np

from equipoise.train.balancing.problem import Problem
from equipoise.train.balancing.weighted import weighted


def test_the_weights_are_the_preference(make_problem: Callable[..., Problem]) -> None:
    assert weighted(make_problem(np.diag([3.0, 1e-4]), [1.0, 0.25])).tolist() == [1.0, 0.25]
