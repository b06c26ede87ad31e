"""What a solve tells about the objectives: who conflicts with whom, and what the combined step does to each."""

from collections.abc import Sequence

import numpy as np

from equipoise.train.averages import Averages
from equipoise.train.balancing.gradient_stats import ALMOST_ZERO, Conditioned


def cosines_of(gram: np.ndarray) -> np.ndarray:
    """Pairwise cosines (K, K) of a raw Gram matrix; NaN where a gradient is zero or not finite."""
    squares = np.where(np.isfinite(np.diag(gram)), np.diag(gram), np.nan)
    norms = np.sqrt(np.maximum(squares, 0.0))
    norms[~(norms > ALMOST_ZERO * np.nanmax(norms, initial=0.0))] = np.nan
    return np.clip(gram / norms[:, None] / norms[None, :], -1.0, 1.0)


def remember_cosines(averages: Averages, names: Sequence[str], gram: np.ndarray, prefix: str) -> None:
    """`PLACE/cosine/A-B`, `PLACE/conflict/A-B` (1 where it is negative) and `PLACE/conflict_rate` over all pairs."""
    cosines = cosines_of(gram)
    conflicts = []
    for j in range(len(names)):
        for i in range(j):
            if np.isfinite(cosines[i, j]):
                averages.add(f"{prefix}/cosine/{names[i]}-{names[j]}", float(cosines[i, j]))
                averages.add(f"{prefix}/conflict/{names[i]}-{names[j]}", float(cosines[i, j] < 0))
                conflicts.append(cosines[i, j] < 0)
    if conflicts:
        averages.add(f"{prefix}/conflict_rate", float(np.mean(conflicts)))


def remember_sure(averages: Averages, names: Sequence[str], sure: np.ndarray) -> None:
    """`balance/sure_conflict/A-B`: 1 where the two surely conflict; `balance/acts`: 1 where any two do."""
    for j in range(len(names)):
        for i in range(j):
            averages.add(f"balance/sure_conflict/{names[i]}-{names[j]}", float(sure[i, j]))
    averages.add("balance/acts", float(sure.any()))


def remember_step(averages: Averages, names: Sequence[str], gram: np.ndarray, weights: np.ndarray) -> None:
    """What d = Σ α_k g_k does to first order: `effect` ⟨g_k, d⟩, `along` its cosine, `against` 1 where negative."""
    used = np.where(weights[:, None] * weights[None, :] != 0, gram, 0.0)
    length = float(np.sqrt(max(weights @ used @ weights, 0.0)))
    averages.add("balance/length", length)
    for k, name in enumerate(names):
        square = gram[k, k]
        if not np.isfinite(square):
            continue
        norm = float(np.sqrt(max(square, 0.0)))
        averages.add(f"balance/norm/{name}", norm)
        effect = float(np.where(weights != 0, gram[k], 0.0) @ weights)
        if not np.isfinite(effect):  # products of huge gradients overflow: nothing can be said
            continue
        averages.add(f"balance/effect/{name}", effect)
        if norm * length > 0:
            averages.add(f"balance/along/{name}", float(np.clip(effect / (norm * length), -1.0, 1.0)))
            averages.add(f"balance/against/{name}", float(effect < -1e-9 * norm * length))


def remember_decision(
    averages: Averages, names: Sequence[str], conditioned: Conditioned, preference: np.ndarray, weights: np.ndarray
) -> None:
    """Weights, preference, scales, and who was left out and why."""
    for k, name in enumerate(names):
        averages.add(f"balance/weight/{name}", float(weights[k]))
        averages.add(f"balance/preference/{name}", float(preference[k]))
        averages.add(f"balance/zero/{name}", float(k in conditioned.zero))
        averages.add(f"balance/nonfinite/{name}", float(k in conditioned.nonfinite))
    for k, floor in zip(conditioned.active, conditioned.floors, strict=True):
        averages.add(f"balance/floored/{names[k]}", float(floor < 1.0))
    for k, scale in zip(conditioned.active, conditioned.scales, strict=True):
        averages.add(f"balance/scale/{names[k]}", float(scale))
