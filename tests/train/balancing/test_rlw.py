"""Random loss weighting: the distribution, and that the step alone decides."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.stats import kstest

from equipoise.train.balancing.gradient_stats import GradientStats
from equipoise.train.balancing.loss_weightings import rlw

Make = Callable[..., GradientStats]


def test_logits_are_standard_normal(make_problem: Make) -> None:
    stats = make_problem(np.eye(3), [1.0, 2.0, 0.5])
    draws = np.array([rlw(replace(stats, step=step)) for step in range(2000)]) / stats.preference
    np.testing.assert_allclose(draws.sum(1), 3, rtol=1e-12)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert kstest((np.log(draws[:, i]) - np.log(draws[:, j])) / 2**0.5, "norm").pvalue > 0.01
    np.testing.assert_allclose(draws.mean(0), 1, atol=0.06)  # so the expected weight is the preference


def test_the_step_alone_decides(make_problem: Make) -> None:
    one = rlw(make_problem(np.eye(4), step=7))
    np.random.seed(1)  # noqa: NPY002 (whatever the global generator holds)
    assert rlw(make_problem(3 * np.eye(4), losses=[1, 2, 3, 4], step=7)).tolist() == one.tolist()
    assert not np.allclose(rlw(make_problem(np.eye(4), step=8)), one)
