"""Random loss weighting: the baseline that a method has to beat (Lin et al. 2022, "Reasonable Effectiveness of Random
Weighting: A Litmus Test for Multi-Task Learning", the normal distribution of section 3).

The paper's weights sum to 1; here to A, so that the expected weight is the preference.
"""

import numpy as np

from equipoise.train.balancing.problem import Problem


def rlw(problem: Problem) -> np.ndarray:
    """α_k = p_k · A softmax_k(ξ), ξ ~ N(0, 1) drawn from the step alone: the same on every process and after a resume.

    Returns:
        α > 0, float64 (A,).
    """
    draws = np.random.default_rng(problem.step).standard_normal(len(problem.names))
    shares = np.exp(draws - draws.max())
    return problem.preference * len(shares) * shares / shares.sum()
