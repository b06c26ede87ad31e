"""What a balancing method reads, and what a method is."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class Problem:
    """One solve: the A objectives whose gradients are finite and not zero. Arrays are float64.

    Scale and angle are kept apart: g_k = norms_k · e_k with ⟨e_i, e_j⟩ = cosines_ij, so that no tolerance depends on
    the scale of the gradients.

    Attributes:
        names: of the objectives in the solve, (A,); state is kept by name, for objectives come and go.
        cosines: (A, A), unit diagonal, positive semi-definite up to rounding.
        norms: (A,) > 0, of the gradients after `normalize`.
        preference: (A,) > 0. Larger means: a larger share of the progress goes to this objective.
        losses: (A,) global losses above their lower bounds, finite.
        step: number of the optimizer step: the seed of whatever is random.
        least: the losses' lower bounds, (A,) or one for all: losses + least are the losses as the log shows them.
    """

    names: tuple[str, ...]
    cosines: np.ndarray
    norms: np.ndarray
    preference: np.ndarray
    losses: np.ndarray
    step: int = 0
    least: np.ndarray | float = 0.0

    @property
    def gram(self) -> np.ndarray:
        """⟨g_i, g_j⟩, (A, A)."""
        return self.cosines * np.outer(self.norms, self.norms)


class Method(ABC):
    """From a problem to the weights α of d = Σ α_k g_k. Stateful methods keep their state by objective name."""

    needs_losses_after: ClassVar[bool] = False
    """Whether `after_step` wants the losses of the same batch once more, after the optimizer's step."""

    @abstractmethod
    def weights(self, problem: Problem) -> np.ndarray:
        """α, float64 (A,), on the gradients after `normalize`; updates the method's state."""

    def after_step(self, before: dict[str, float], after: dict[str, float]) -> None:  # noqa: B027 (few need it)
        """Take in the losses (above their lower bounds) of one batch before and after the optimizer's step."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold, as JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027 (few need it)
        """Go on from a checkpoint."""


class Stateless(Method):
    """A method that is a plain function of the problem."""

    def __init__(self, function: Callable[[Problem], np.ndarray]) -> None:
        self._function = function

    def weights(self, problem: Problem) -> np.ndarray:
        """The function's answer."""
        return self._function(problem)
