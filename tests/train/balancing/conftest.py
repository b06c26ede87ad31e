"""Problems made from vectors."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from equipoise.train.balancing.gradient_stats import GradientStats


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., GradientStats]:
    """Vectors (A, n), the gradients themselves → the problem that a method reads."""

    def build(
        vectors: np.ndarray,
        preference: Sequence[float] | np.ndarray | None = None,
        *,
        losses: Sequence[float] | np.ndarray | None = None,
        names: Sequence[str] | None = None,
        step: int = 0,
    ) -> GradientStats:
        vectors = np.asarray(vectors, dtype=np.float64)
        norms = np.linalg.norm(vectors, axis=1)
        unit = vectors / norms[:, None]
        cosines = np.clip(unit @ unit.T, -1.0, 1.0)
        np.fill_diagonal(cosines, 1.0)
        count = len(vectors)
        return GradientStats(
            names=tuple(names) if names is not None else tuple("abcdefghijklmnopqrstuvwxyz"[:count]),
            cosines=cosines,
            norms=norms,
            preference=np.ones(count) if preference is None else np.asarray(preference, dtype=np.float64),
            losses=np.ones(count) if losses is None else np.asarray(losses, dtype=np.float64),
            step=step,
        )

    return build
