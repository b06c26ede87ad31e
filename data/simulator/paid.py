"""What shoppers of a simulated shop paid for its items so far; memory grows with the pairs that were ever bought."""

import numpy as np


class PaidPrices:
    """The last price of each shopper and item, and the sums of all prices of each item.

    Args:
        items: how many there are.
    """

    def __init__(self, items: int) -> None:
        self._last: dict[tuple[int, int], float] = {}
        self._own: dict[tuple[int, int], tuple[float, int]] = {}
        self._total, self._count = np.zeros(items), np.zeros(items, np.int64)

    def of(self, shopper: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What each shopper last paid, and the mean of what all others paid: float64 (R, M), NaN where nobody did.

        Args:
            shopper: int (R,).
            item: int (R, M).
        """
        pairs = [(int(u), int(i)) for u, row in zip(shopper, item, strict=True) for i in row]
        last = np.array([self._last.get(pair, np.nan) for pair in pairs]).reshape(item.shape)
        own = np.array([self._own.get(pair, (0.0, 0)) for pair in pairs]).reshape(*item.shape, 2)
        total, count = self._total[item] - own[..., 0], self._count[item] - own[..., 1]
        return last, np.where(count > 0, np.round(total / np.maximum(count, 1), 2), np.nan)

    def add(self, shopper: np.ndarray, item: np.ndarray, price: np.ndarray, bought: np.ndarray) -> None:
        """Remember what was bought, in the order of rows.

        Args:
            shopper: int (R,).
            item: int (R, M).
            price: float (R, M).
            bought: bool (R, M).
        """
        for row, column in zip(*np.nonzero(bought), strict=True):
            pair, paid = (int(shopper[row]), int(item[row, column])), float(price[row, column])
            total, count = self._own.get(pair, (0.0, 0))
            self._last[pair], self._own[pair] = paid, (total + paid, count + 1)
            self._total[pair[1]] += paid
            self._count[pair[1]] += 1
