"""Moving averages of one number per objective, without the bias of the first steps."""


class MovingAverage:
    """Σ β^(t−s) x_s / Σ β^(t−s), over the steps s that saw the objective (Kingma & Ba 2015, section 3).

    Args:
        momentum: β; 0 is the last value alone.
    """

    def __init__(self, momentum: float) -> None:
        self._momentum = momentum
        self._kept: dict[str, list[float]] = {}  # name → sum, and the weights' sum

    def update(self, name: str, value: float) -> float:
        """Take in a value; returns the average."""
        total, mass = self._kept.get(name, [0.0, 0.0])
        keep = self._momentum
        self._kept[name] = [keep * total + (1 - keep) * value, keep * mass + (1 - keep)]
        return self[name]

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def __getitem__(self, name: str) -> float:
        total, mass = self._kept[name]
        return total / mass

    def state(self) -> dict[str, list[float]]:
        """For the checkpoint, as JSON."""
        return {name: list(kept) for name, kept in self._kept.items()}

    def restore(self, state: dict[str, list[float]]) -> None:
        """From the checkpoint."""
        self._kept = {name: list(kept) for name, kept in state.items()}
