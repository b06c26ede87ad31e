"""How far weights are from what a method's paper asks of them: numbers without scale, for tests and benchmarks.

Written from the definitions alone. Everything is measured on unit gradients e_k, with β_k = α_k ‖g_k‖ and
d = Σ β_k e_k, relative to Σ |β_k|: the size of the terms whose rounding no solver can undo.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import nnls

from equipoise.train.balancing.gradient_stats import GradientStats

SINGULAR = 1e-12
"""Eigenvalue of the cosines below which gradients are dependent."""


def conflicts(stats: GradientStats, weights: np.ndarray) -> int:
    """How many objectives the step harms: ⟨e_k, d⟩ < −1e-9 ‖d‖ (of Σ |β_k| where d is what is left of their sum)."""
    beta = weights * stats.norms
    along, terms = stats.cosines @ beta, np.abs(beta).sum()
    length = max(float(beta @ along), 0.0) ** 0.5
    return int((along < -1e-9 * (length if length > 1e-6 * terms else terms)).sum())


def residual(name: str, stats: GradientStats, weights: np.ndarray, **options: Any) -> float:
    """The largest violation of the method's own conditions; 0 is exact. Options are the method's own, by name."""
    return float(RESIDUALS[name](stats, np.asarray(weights, dtype=np.float64), **options))


def _hull_holds_zero(stats: GradientStats) -> bool:
    """Whether some convex combination of the unit gradients is 0, up to the root of what rounding does to cosines."""
    rows = np.vstack([_root(stats.cosines), np.ones(len(stats.norms))])
    weights, _ = nnls(rows, np.eye(len(rows))[-1], maxiter=1000)
    return float(weights @ stats.cosines @ weights) <= 2e-13 * weights.sum() ** 2


def _root(cosines: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(cosines)
    return (vectors * np.sqrt(np.where(values > 1e-15 * len(values), values, 0.0))).T


def _point(stats: GradientStats, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """β, ⟨e_k, d⟩ and Σ |β_k|."""
    beta = weights * stats.norms
    return beta, stats.cosines @ beta, float(np.abs(beta).sum())


def _kkt(multipliers: np.ndarray, slack: np.ndarray, size: float) -> float:
    """Of v ≥ 0, slack ≥ 0, v·slack = 0, all in units of `size`."""
    v, slack = multipliers / size, slack / size
    return float(max(-v.min(), -slack.min(), np.minimum(np.abs(v), np.abs(slack)).max(), 0.0))


def _mgda(stats: GradientStats, weights: np.ndarray) -> float:
    beta, along, size = _point(stats, weights)
    rates = stats.preference / stats.norms
    return _kkt(beta, along - rates * (beta @ along) / (beta @ rates), size)


def _onto_cone(stats: GradientStats, beta: np.ndarray) -> np.ndarray:
    """β of the point nearest to Σ β_k e_k that harms nobody: the rest lies in the cone of the −e_k (Moreau 1962)."""
    size = np.abs(beta).max()
    root = _root(stats.cosines)
    return beta + size * nnls(root, -root @ (beta / size), maxiter=1000)[0]


def _same_point(stats: GradientStats, beta: np.ndarray, expected: np.ndarray) -> float:
    """Distance of the two points, after the free factor of the first."""
    a, b = _root(stats.cosines) @ beta, _root(stats.cosines) @ expected
    size = np.abs(expected).sum()
    factor = a @ b / (a @ a) if a @ a > (1e-6 * np.abs(beta).sum()) ** 2 else size / np.abs(beta).sum()
    return float(np.linalg.norm(factor * a - b) / size) if factor > 0 else 1.0


def _upgrad(stats: GradientStats, weights: np.ndarray) -> float:
    parts = np.diag(stats.preference * stats.norms)
    expected = np.sum([_onto_cone(stats, part) for part in parts], axis=0)
    return _same_point(stats, weights * stats.norms, expected)


def _dualproj(stats: GradientStats, weights: np.ndarray) -> float:
    expected = _onto_cone(stats, stats.preference * stats.norms)
    return _same_point(stats, weights * stats.norms, expected)


def _cagrad(stats: GradientStats, weights: np.ndarray, c: float = 0.4) -> float:
    mean = stats.preference / stats.preference.sum()
    _, along, size = _point(stats, weights)
    center = mean * stats.norms
    rates = stats.preference * (stats.norms.min() / stats.norms)
    v = (weights - mean) * stats.norms  # the direction that lifts the worst off the mean, a combination of g_k / p_k
    if not np.abs(v).max() > 1e-15 * size:
        return float(c > 0.0 and not _hull_holds_zero(stats))
    moved = max(float(v @ stats.cosines @ v), 0.0) ** 0.5
    radius = c * max(float(center @ stats.cosines @ center), 0.0) ** 0.5
    level = float(v @ along) / float(v @ rates)
    sphere = abs(moved - radius) / size
    if moved < (1.0 - 1e-9) * radius and _hull_holds_zero(stats):  # no more than 0 can be had
        level = sphere = 0.0
    return max(sphere, _kkt(v, along - level * rates, size))


def _pe_ltr(stats: GradientStats, weights: np.ndarray, floor: float = 0.4) -> float:
    _, along, size = _point(stats, weights)
    raised = weights - floor * stats.preference / stats.preference.sum()
    v, rates = raised * stats.norms, 1.0 / stats.norms
    level = float(v @ along) / float(raised.sum()) if floor < 1.0 else float((along / rates).min())
    return max(abs(weights.sum() - 1.0), _kkt(v, along - level * rates, size))


def _fair(stats: GradientStats, weights: np.ndarray, alpha: float) -> float:
    beta, along, size = _point(stats, weights)
    if beta.min() < 0:
        return 1.0
    if _hull_holds_zero(stats):  # the limit: no step at all
        return float(beta @ along) / size**2
    if beta.min() <= 0 or along.min() <= 0:
        return 1.0
    ratio = np.log(along * stats.norms) + np.log(weights / stats.preference) / alpha
    return float(np.abs(ratio - ratio.mean()).max())


def _imtl_g(stats: GradientStats, weights: np.ndarray) -> float:
    beta, along, size = _point(stats, weights)
    c, wanted = stats.cosines, stats.preference
    # Of dependent gradients, the least squares: C (C β − factor · p) = 0.
    pull = c @ wanted
    if np.linalg.norm(pull) <= 1e-9 * np.linalg.norm(wanted):
        return max(float(beta @ along), 0.0) ** 0.5 / size
    factor = pull @ c @ along / (pull @ pull)
    return float(np.abs(c @ along - factor * pull).max() / np.abs(factor * wanted).max()) if factor > 0 else 1.0


def _aligned(stats: GradientStats, weights: np.ndarray) -> float:
    """Against G^(−1/2) p = 2/π ∫ (G + t²)⁻¹ p dt: solves of well-scaled matrices only, and no singular vectors."""
    norms = stats.norms / stats.norms.max()
    values, vectors = np.linalg.eigh(stats.cosines)
    if values[0] > SINGULAR:
        inverse = (vectors / values) @ vectors.T / np.outer(norms, norms)
        least = 1.0 / np.linalg.eigvalsh(inverse)[-1]
        step = 0.1  # the trapezoid rule on log t errs by exp(−π² / step)
        t = np.exp(np.arange(np.log(least) / 2 - 36, np.log(len(norms)) / 2 + 36, step))
        unit = 1.0 / np.sqrt(norms**2 + t[:, None] ** 2)
        graded = norms * unit
        matrices = stats.cosines * graded[:, :, None] * graded[:, None, :]
        matrices += np.eye(len(norms)) * ((t[:, None] * unit) ** 2)[:, :, None]
        solved = np.linalg.solve(matrices, (unit * stats.preference)[:, :, None])[:, :, 0] * unit
        expected = least**0.5 * (2 / np.pi) * step * (t[:, None] * solved).sum(0)
    else:  # eigh of the Gram matrix itself: good for norms of about one size
        clean = (vectors * np.where(values > SINGULAR, values, 0.0)) @ vectors.T
        scaled, vectors = np.linalg.eigh(clean * np.outer(norms, norms))
        kept = np.arange(len(values)) >= (values <= SINGULAR).sum()
        inverse_root = np.where(kept, 1.0 / np.sqrt(np.maximum(scaled, 1e-300)), 0.0)
        expected = (vectors * inverse_root) @ vectors.T @ stats.preference / inverse_root.max()
    beta, wanted = weights * norms, expected * norms
    size = max(float(np.abs(wanted).max()), 1e-6 * float((stats.preference * norms).max()))  # 0 if p is in the kernel
    return float(np.abs(beta - wanted).max() / size)


RESIDUALS: dict[str, Callable[..., float]] = {
    "mgda": _mgda,
    "upgrad": _upgrad,
    "dualproj": _dualproj,
    "cagrad": _cagrad,
    "pe_ltr": _pe_ltr,
    "nash": lambda stats, weights: _fair(stats, weights, 1.0),
    "fairgrad": lambda stats, weights, alpha=2.0: _fair(stats, weights, alpha),
    "imtl_g": _imtl_g,
    "aligned": _aligned,
}
