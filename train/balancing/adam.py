"""Adam on one number per objective: what the methods that learn their weights are moved by."""

import math


class Adam:
    """Kingma & Ba 2015, algorithm 1, with decay in the gradient: `torch.optim.Adam` on one scalar per name, from 0.

    An objective that gets no gradient keeps its number, its moments and its own count of moves.

    Args:
        lr: step size.
        decay: coefficient of the squared numbers' penalty, ½·decay·x².
    """

    RATES = (0.9, 0.999)
    EPSILON = 1e-8

    def __init__(self, lr: float, decay: float = 0.0) -> None:
        self._lr, self._decay = lr, decay
        self._kept: dict[str, list[float]] = {}  # name → number, first moment, second moment, moves

    def __getitem__(self, name: str) -> float:
        return self._kept[name][0] if name in self._kept else 0.0

    def move(self, gradients: dict[str, float], limit: float = math.inf) -> None:
        """One step down the gradients; the numbers stay within ±limit."""
        slow, slower = self.RATES
        for name, gradient in gradients.items():
            number, first, second, moves = self._kept.get(name, [0.0] * 4)
            gradient += self._decay * number
            first = slow * first + (1 - slow) * gradient
            second = slower * second + (1 - slower) * gradient**2
            moves += 1
            size = math.sqrt(second / (1 - slower**moves)) + self.EPSILON
            number -= self._lr * (first / (1 - slow**moves)) / size
            self._kept[name] = [min(max(number, -limit), limit), first, second, moves]

    def state(self) -> dict[str, list[float]]:
        """For the checkpoint, as JSON."""
        return {name: list(kept) for name, kept in self._kept.items()}

    def restore(self, state: dict[str, list[float]]) -> None:
        """From the checkpoint."""
        self._kept = {name: list(kept) for name, kept in state.items()}
