"""Fixed weights."""

import numpy as np

from train.balancing.weighted import weighted


def test_every_gradient_counts_once_whatever_the_matrix() -> None:
    cosines = np.array([[1.0, -0.9, 0.0], [-0.9, 1.0, 0.3], [0.0, 0.3, 1.0]])
    assert weighted(cosines, np.array([1e-4, 1.0, 1e4])).tolist() == [1.0, 1.0, 1.0]
