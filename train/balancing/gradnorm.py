"""GradNorm: weights that bring the gradients' norms where the training rates ask for (Chen et al. 2018, algorithm 1).

Equation 2: L(w) = Σ |w_k‖g_k‖ − Ḡ p_k r_k^α|, Ḡ the mean of w_k‖g_k‖, the target a constant; r_k = L_k/L_k(0) relative
to its mean, so what has learnt least gets the largest target. The preference p (relative to its mean) multiplies it,
and is what w starts from (1 in the paper).

Difference from the paper: it is log w that steps down the gradient of L/Ḡ, as in LibMTL, whose w is a softmax. So w
stays positive, and the step does not depend on the gradients' scale; linear steps oscillate as soon as norms differ by
more than 1/√lr. Σ w = A after every move, as in the paper.
"""

from typing import Any

import numpy as np

from equipoise.configs.balancing import GradnormOptions
from equipoise.train.balancing.problem import Method, Problem

SMALLEST = -40.0
"""log w stays above this, relative to the largest: where a target is 0, w would fall for ever."""


class Gradnorm(Method):
    """One move of w per solve."""

    def __init__(self, options: GradnormOptions) -> None:
        self._alpha, self._lr = options.alpha, options.lr
        self._log_w: dict[str, float] = {}
        self._first: dict[str, float] = {}

    def weights(self, problem: Problem) -> np.ndarray:
        """α = w before this solve's move, float64 (A,), Σ α = A."""
        for name, loss in zip(problem.names, problem.losses, strict=True):
            self._first.setdefault(name, float(loss))
        wish = problem.preference / problem.preference.mean()
        start = zip(problem.names, np.log(wish).tolist(), strict=True)
        alpha = _normalised(np.array([self._log_w.get(name, log_p) for name, log_p in start]))
        scaled = problem.norms / problem.norms.max() * alpha
        scaled /= scaled.mean()  # w‖g‖/Ḡ
        target = wish * self._rates(problem) ** self._alpha
        moved = np.log(alpha) - self._lr * np.sign(scaled - target) * scaled
        moved = np.log(_normalised(np.maximum(moved, moved.max() + SMALLEST)))
        self._log_w.update(zip(problem.names, moved.tolist(), strict=True))
        return alpha

    def _rates(self, problem: Problem) -> np.ndarray:
        """Relative inverse training rates r, (A,), mean 1."""
        first = np.array([self._first[name] for name in problem.names])
        # A first loss of 0 has nothing to compare with: its rate is 1.
        left = np.where(first > 0, problem.losses / np.where(first > 0, first, 1.0), 1.0)
        return left / left.mean() if left.mean() > 0 else np.ones(len(left))

    def state(self) -> dict[str, Any]:
        """log w and the first losses, by name."""
        return {"log_w": self._log_w, "first": self._first}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._log_w, self._first = dict(state["log_w"]), dict(state["first"])


def _normalised(log_w: np.ndarray) -> np.ndarray:
    """w > 0 with Σ w = A."""
    w = np.exp(log_w - log_w.max())
    return len(w) * w / w.sum()
