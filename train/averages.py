"""Means of what happens between two log lines."""

import math


class Averages:
    """Running means by metric name."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, key: str, value: float) -> None:
        """Take in one value; non-finite ones are left out of the mean (they are counted elsewhere)."""
        if math.isfinite(value):
            self._sums[key] = self._sums.get(key, 0.0) + value
            self._counts[key] = self._counts.get(key, 0) + 1

    def drain(self) -> dict[str, float]:
        """The means, and start anew."""
        means = {key: total / self._counts[key] for key, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means
