"""What a weighting reads of the gradients, with scale and angle kept apart, and what a weighting is."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class GradientStats:
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
        lower_bounds: of the losses, (A,) or one for all: losses + lower_bounds are the losses as the log shows them.
    """

    names: tuple[str, ...]
    cosines: np.ndarray
    norms: np.ndarray
    preference: np.ndarray
    losses: np.ndarray
    step: int = 0
    lower_bounds: np.ndarray | float = 0.0

    @property
    def gram(self) -> np.ndarray:
        """⟨g_i, g_j⟩, (A, A)."""
        return self.cosines * np.outer(self.norms, self.norms)


class Weighting(ABC):
    """From a problem to the weights α of d = Σ α_k g_k. Stateful methods keep their state by objective name."""

    needs_losses_after: ClassVar[bool] = False
    """Whether `after_step` wants the losses of the same batch once more, after the optimizer's step."""

    @abstractmethod
    def compute_weights(self, stats: GradientStats) -> np.ndarray:
        """α, float64 (A,), on the gradients after `normalize`; updates the method's state."""

    def after_step(self, before: dict[str, float], after: dict[str, float]) -> None:  # noqa: B027 (few need it)
        """Take in the losses (above their lower bounds) of one batch before and after the optimizer's step."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold, as JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027 (few need it)
        """Go on from a checkpoint."""


class StatelessWeighting(Weighting):
    """A method that is a plain function of the problem."""

    def __init__(self, function: Callable[[GradientStats], np.ndarray]) -> None:
        self._function = function

    def compute_weights(self, stats: GradientStats) -> np.ndarray:
        """The function's answer."""
        return self._function(stats)


ALMOST_ZERO = 1e-10
"""A gradient this much shorter than the longest one, or a loss this much smaller than the largest, counts as zero."""

NOISE_FLOOR = 1e-3
"""Of a gradient this much shorter than the longest one much is rounding: its share of the step is cut down.

Healthy objectives differ by factors of 10 to 100 in length; one with nothing to learn is thousands of times shorter.
"""


@dataclass(frozen=True)
class Conditioned:
    """The usable objectives of a Gram matrix.

    Attributes:
        active: int indices of the objectives in the solve.
        scales: float64 (A,), factors s_k > 0 that the normalisation puts on the gradients, g_k ← s_k g_k.
        cosines: float64 (A, A), unit diagonal.
        norms: float64 (A,), of the scaled gradients.
        zero, nonfinite: indices left out, and why.
        floors: float64 (A,), 1, or for a gradient below the noise floor its length over that floor.
    """

    active: np.ndarray
    scales: np.ndarray
    cosines: np.ndarray
    norms: np.ndarray
    zero: np.ndarray
    nonfinite: np.ndarray
    floors: np.ndarray


def condition(gram: np.ndarray, normalize: str, losses: np.ndarray) -> Conditioned:
    """Leave out zero and non-finite gradients, apply the normalisation, and split off the cosines.

    Args:
        gram: (K, K) of the raw gradients.
        normalize: `none`; `l2`: every gradient gets the mean norm of the active ones;
            `loss`: every gradient is divided by its loss (in absolute value).
        losses: (K,), read by `loss` alone.
    """
    gram = np.asarray(gram, dtype=np.float64)
    squares = np.diag(gram)
    finite = np.isfinite(squares) & (squares >= 0)
    norms = np.sqrt(np.where(finite, squares, 0.0))
    longest = norms.max(initial=0.0)
    usable = finite & (norms > ALMOST_ZERO * longest)
    # Finite gradients can still meet in a non-finite product: leave out whichever does so most often, the later of two.
    while (broken := ~np.isfinite(gram) & np.outer(usable, usable)).any():
        worst = len(gram) - 1 - int(np.argmax((broken | broken.T).sum(1)[::-1]))
        usable[worst] = finite[worst] = False
    if normalize == "loss":
        finite &= np.isfinite(losses)
        sizes = np.where(np.isfinite(losses), np.abs(losses), 0.0)
        usable &= finite & (sizes > ALMOST_ZERO * sizes.max(initial=0.0))  # or its gradient would drown all others
    active = np.flatnonzero(usable)
    lengths = norms[active]
    scales = np.ones(len(active))
    if normalize == "l2" and len(active):
        scales = lengths.mean() / lengths
    elif normalize == "loss":
        scales = 1.0 / np.abs(losses[active])
    floors = np.minimum(1.0, lengths / max(NOISE_FLOOR * lengths.max(initial=0.0), 1e-300))
    cosines = gram[np.ix_(active, active)] / lengths[:, None] / lengths[None, :]
    cosines = np.clip((cosines + cosines.T) / 2, -1.0, 1.0)
    np.fill_diagonal(cosines, 1.0)
    left_out = np.setdiff1d(np.arange(len(gram)), active)
    return Conditioned(
        active, scales, cosines, lengths * scales, left_out[finite[left_out]], left_out[~finite[left_out]], floors
    )
