"""Fixed weights: the baseline that balancing has to beat."""

import numpy as np

from equipoise.train.balancing.problem import Problem


def weighted(problem: Problem) -> np.ndarray:
    """α = preference: linear scalarisation."""
    return problem.preference.copy()
