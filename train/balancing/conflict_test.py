"""Whether objectives conflict, or noise around no conflict only looks so: a test per pair that may be read at any step.

The cosine of two objectives' gradients in one batch is a noisy number: at the boundary of a wide trunk most lie within
±0.05 around their mean, half of them below 0, and a method that acts on each of them acts on noise. Here a pair
conflicts where its mean cosine over the last steps is surely below 0: where an asymptotic confidence sequence of the
mean (Waudby-Smith et al. 2021, Robbins' normal mixture), which holds at all steps at once, lies below 0. Older steps
are forgotten with a factor of 1 − 1 / WINDOW, so that a conflict that ends is forgotten too.
"""

import math
from typing import Any

import numpy as np

WINDOW = 400
"""Steps that count."""
LEAST_STEPS = 20
"""Steps below which nothing is sure."""
TIGHTEST = 100
"""Steps at which the confidence sequence is tightest."""
LONGEST = 2.0
"""A normalisation makes a gradient at most so many times longer than it would make its usual length."""


class ConflictTest:
    """Means and variances of the cosines of all pairs, and the usual lengths of gradients.

    Args:
        count: objectives K.
        significance: chance, over all pairs and steps, that a conflict is taken for sure which is none.
    """

    def __init__(self, count: int, significance: float) -> None:
        self.significance = significance / max(count * (count - 1) / 2, 1)
        self._mass, self._mass2 = np.zeros((count, count)), np.zeros((count, count))
        self._mean, self._spread = np.zeros((count, count)), np.zeros((count, count))
        self._square, self._seen = np.zeros(count), np.zeros(count)

    def update(self, cosines: np.ndarray, norms: np.ndarray) -> None:
        """Take in one step.

        Args:
            cosines: (K, K), NaN of pairs of which nothing is known.
            norms: (K,) of the raw gradients, NaN where not finite.
        """
        keep, known = 1 - 1 / WINDOW, np.isfinite(cosines)
        values = np.where(known, cosines, 0.0)
        mass = np.where(known, keep * self._mass + 1, self._mass)
        self._mass2 = np.where(known, keep**2 * self._mass2 + 1, self._mass2)
        before = values - self._mean
        mean = np.where(known, self._mean + before / np.maximum(mass, 1), self._mean)
        self._spread = np.where(known, keep * self._spread + before * (values - mean), self._spread)
        self._mass, self._mean = mass, mean
        finite = np.isfinite(norms)
        self._square = np.where(finite, keep * self._square + np.where(finite, norms, 0.0) ** 2, self._square)
        self._seen = np.where(finite, keep * self._seen + 1, self._seen)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of the mean cosines, (K, K) each; −1 and 1 where nothing is sure."""
        steps = self._mass**2 / np.maximum(self._mass2, 1e-12)
        variance = self._spread / np.maximum(self._mass, 1e-12) * steps / np.maximum(steps - 1, 1)
        log = math.log(1 / self.significance)
        width2 = (2 * log + math.log(2 * log + 1)) / TIGHTEST
        inside = steps * width2 + 1
        factor = np.sqrt(
            2 * inside / np.maximum(steps**2 * width2, 1e-12) * np.log(np.sqrt(inside) / self.significance)
        )
        half = np.where(steps >= LEAST_STEPS, np.sqrt(np.maximum(variance, 0.0)) * factor, np.inf)
        return np.maximum(self._mean - half, -1.0), np.minimum(self._mean + half, 1.0)

    def conflicts(self) -> np.ndarray:
        """Pairs that surely conflict, bool (K, K)."""
        return self.bounds()[1] < 0

    def longest_scales(self) -> np.ndarray:
        """The largest factor that a normalisation to the mean length may put on each gradient, (K,)."""
        usual = np.sqrt(self._square / np.maximum(self._seen, 1e-12))
        mean = usual[usual > 0].mean() if (usual > 0).any() else 1.0
        return np.where(usual > 0, LONGEST * mean / np.maximum(usual, 1e-300), np.inf)

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {name: getattr(self, f"_{name}").tolist() for name in _PARTS}

    def restore(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        for name in _PARTS:
            setattr(self, f"_{name}", np.array(state[name]))


_PARTS = ("mass", "mass2", "mean", "spread", "square", "seen")
