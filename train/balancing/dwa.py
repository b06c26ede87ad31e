"""Dynamic weight average: what has fallen least weighs most (Liu, Johns & Davison 2019, equation 7).

α_k = p_k · A softmax_k(r/T), r_k = L̄_k(last window) / L̄_k(the one before). The paper's window is an epoch; here it is
`window` optimizer steps, whose solves (several per step under accumulation) are averaged. As in the paper, the weights
are equal until two windows are full.
"""

from typing import Any

import numpy as np

from equipoise.configs.balancing import DwaOptions
from equipoise.train.balancing.problem import Method, Problem

FASTEST_RISE = 1e6
"""r is at most this: the window before may have had a loss of 0."""


class Dwa(Method):
    """Windows are counted from step 0; an objective that a window never saw keeps the means it had."""

    def __init__(self, options: DwaOptions) -> None:
        self._temperature, self._steps = options.temperature, options.window
        self._window = 0
        self._sums: dict[str, list[float]] = {}  # name → sum of this window's losses, and their number
        self._last: dict[str, float] = {}
        self._before: dict[str, float] = {}

    def weights(self, problem: Problem) -> np.ndarray:
        """α, float64 (A,), Σ α/p = A."""
        if problem.step // self._steps != self._window:
            self._window = problem.step // self._steps
            self._close_window()
        for name, loss in zip(problem.names, problem.losses, strict=True):
            total, count = self._sums.get(name, [0.0, 0.0])
            self._sums[name] = [total + float(loss), count + 1]
        logits = np.array([self._rate(name) for name in problem.names]) / self._temperature
        shares = np.exp(logits - logits.max())
        return problem.preference * len(shares) * shares / shares.sum()

    def _close_window(self) -> None:
        for name, (total, count) in self._sums.items():
            if name in self._last:
                self._before[name] = self._last[name]
            self._last[name] = total / count
        self._sums = {}

    def _rate(self, name: str) -> float:
        if name not in self._before:
            return 1.0
        last, before = self._last[name], self._before[name]
        if last == before:  # 0/0 among them
            return 1.0
        return min(last / before, FASTEST_RISE) if before > 0 else FASTEST_RISE

    def state(self) -> dict[str, Any]:
        """The present window's sums and the two means before it, by name."""
        return {"window": self._window, "sums": self._sums, "last": self._last, "before": self._before}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._window = state["window"]
        self._sums = {name: list(sums) for name, sums in state["sums"].items()}
        self._last, self._before = dict(state["last"]), dict(state["before"])
