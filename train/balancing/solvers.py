"""Small exact solvers on cosines: non-negative least squares, projection onto a cone, the largest common progress."""

from collections.abc import Callable

import numpy as np
from scipy.linalg.lapack import dposv

TOLERANCE = 1e-13
"""On cosines, hence free of scale: a gradient joins the point only where that shortens it by more than rounding."""

DEPENDENT = 1e-15
"""Squared sine of the angle to the span of others, below which a unit gradient lies in it."""

RANK = 1e-12
"""Eigenvalue of the cosines from which on a direction counts, where its inverse is taken."""


def factor(cosines: np.ndarray, least: float = 1e-15) -> np.ndarray:
    """R with RᵀR = cosines; directions that are no more than rounding, or negative by it, are rows of zeros.

    Args:
        cosines: (A, A).
        least: eigenvalues up to A times this are left out.
    """
    values, vectors = np.linalg.eigh(cosines)
    values = np.where(values > least * len(values), values, 0.0)
    return (vectors * np.sqrt(values)).T


def semidefinite(cosines: np.ndarray) -> np.ndarray:
    """The matrix itself; where noise has made it indefinite by more than rounding, without its negative part."""
    if np.linalg.eigvalsh(cosines)[0] > -1e-15 * len(cosines):
        return cosines
    root = factor(cosines)
    return root.T @ root


def nonnegative_least_squares(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """argmin ‖matrix u − right‖² over u ≥ 0 (Lawson & Hanson 1974, chapter 23)."""
    count = matrix.shape[1]
    u = np.zeros(count)
    support: list[int] = []
    distance = np.inf
    for _ in range(30 * count):
        rest = right - matrix @ u
        if not rest @ rest < distance:  # the last change brought nothing but rounding
            break
        distance = float(rest @ rest)
        pull = matrix.T @ rest
        pull[support] = -np.inf
        entering = int(np.argmax(pull))
        if not pull[entering] > TOLERANCE * max(1.0, u.max()):
            break
        support.append(entering)
        while support:
            target = np.linalg.lstsq(matrix[:, support], right)[0]
            current = u[support]
            if (target > 0).all():
                u[support] = target
                break
            falling = target <= 0
            steps = np.full(len(support), np.inf)
            steps[falling] = current[falling] / np.maximum(current[falling] - target[falling], 1e-300)
            leaving = int(np.argmin(steps))
            u[support] = np.maximum(current + steps[leaving] * (target - current), 0.0)
            u[support.pop(leaving)] = 0.0
    return u


def project(cosines: np.ndarray, target: np.ndarray, bounds: np.ndarray) -> np.ndarray | None:
    """The point nearest to t = Σ target_k e_k that keeps ⟨e_k, d⟩ ≥ bounds_k for all k.

    Least-distance programming (Lawson & Hanson 1974, chapter 23) by the dual active-set method (Goldfarb & Idnani
    1983): the most broken bound enters, multipliers that would turn negative leave, and every support is solved anew.

    Args:
        cosines: (A, A), unit diagonal, positive semi-definite (see `semidefinite`).
        target: (A,) coefficients on the unit gradients.
        bounds: (A,); −inf is no bound.

    Returns:
        v ≥ 0, float64 (A,), of d = Σ (target + v)_k e_k, with v_k = 0 where ⟨e_k, d⟩ > bounds_k; None where no point
        keeps all bounds.
    """
    count = len(target)
    short = bounds - cosines @ target
    size = max(np.abs(target).max(), bounds.max())  # a bound far below 0 is loose, however large
    v = np.zeros(count)
    support: list[int] = []
    settled: list[int] = []
    kept = not (bounds > 0).any()  # by d = 0, if by nothing else
    for _ in range(30 * count):
        slack = cosines @ v - short
        slack[support + settled] = np.inf
        entering = int(np.argmin(slack))
        terms = max(size, v.max())
        if slack[entering] >= -1e-15 * count * terms:  # what rounding of the terms can do is no broken bound
            return v
        before = v.copy(), support.copy()
        if not _enter(cosines, v, support, entering, -slack[entering], kept):
            if not kept and -slack[entering] > DEPENDENT**0.5 * terms:
                return None
            v, support = before
            settled.append(entering)  # as far as cosines can tell, it depends on bounds that hold
            continue
        if support:
            _, exact, failed = dposv(cosines[np.ix_(support, support)], short[support])
            if not failed and (exact >= 0).all():
                v[support] = exact
    return v


def _enter(cosines: np.ndarray, v: np.ndarray, support: list[int], entering: int, short: float, kept: bool) -> bool:
    """Raise v[entering] until its bound, broken by `short`, holds; changes v and support. False: nothing mends it.

    Whether e depends on the support is a matter of rounding; `kept`, that some point keeps all bounds, is the benefit
    of the doubt.
    """
    while True:
        column = cosines[support, entering]
        # Raising v[entering] by t lowers v[support] by t·falls, so that the bounds of the support still just hold.
        falls = dposv(cosines[np.ix_(support, support)], column)[1] if support else column
        square = float(cosines[entering, entering] - column @ falls)
        terms = 1.0 + float(np.abs(falls).sum())
        full_step = short / square if square > (2e-16 * terms if kept else DEPENDENT * terms**2) else np.inf
        steps = np.full(len(support), np.inf)
        np.divide(v[support], falls, where=falls > TOLERANCE, out=steps)
        leaving = int(np.argmin(steps)) if support else -1
        step = min(full_step, steps[leaving]) if support else full_step
        if step == np.inf:
            return False
        v[support] = np.maximum(v[support] - step * falls, 0.0)
        v[entering] += step
        if step == full_step:
            support.append(entering)
            return True
        short -= step * square
        v[support.pop(leaving)] = 0.0


Piece = Callable[[np.ndarray, np.ndarray], float]
"""(v, slope) → the change of λ after which v + change·slope is at the limit; −inf: v is past it, the line never."""


def stationary(cosines: np.ndarray) -> bool:
    """Whether 0 is in the hull of the gradients: then no direction helps all, and no λ > 0 can be reached."""
    count = len(cosines)
    rows = np.vstack([factor(cosines), np.ones(count)])
    u = nonnegative_least_squares(rows, np.eye(len(rows))[-1])
    return float(u @ cosines @ u) <= 100 * DEPENDENT * float(u.sum()) ** 2


def raise_progress(
    cosines: np.ndarray, target: np.ndarray, rates: np.ndarray, piece: Piece, highest: float = np.inf
) -> np.ndarray:
    """The multipliers v ≥ 0 of d(λ) = Σ (target + v)_k e_k at the limit that `piece` knows, or at the highest λ.

    Args:
        cosines: (A, A), positive semi-definite.
        target: (A,) coefficients on the unit gradients.
        rates: (A,) > 0.
        piece: see `Piece`.
        highest: no λ above it can be reached.
    """
    progress = cosines @ target
    worst = int(np.argmin(progress / rates))
    low, high = progress[worst] / rates[worst], highest
    level, v, support = low, np.zeros(len(target)), np.array([worst])
    for _ in range(100):
        slope = np.zeros(len(target))
        slope[support] = np.linalg.lstsq(cosines[np.ix_(support, support)], rates[support])[0]
        change = piece(v, slope)
        if change > 0:
            low = max(low, level)
        else:
            high = min(high, level)
        change = min(change, highest - level)
        if np.isfinite(change):
            at_limit = v + change * slope
            if _is_nearest(cosines, target, rates * (level + change), at_limit):
                return np.maximum(at_limit, 0.0)
        before, level = level, level + change
        if not low < level < high:
            level = (low + high) / 2
        if level in (low, high, before):  # neighbours in float64
            return v
        nearest = project(cosines, target, rates * level)
        if nearest is None:
            high, level = level, before
            continue
        v = nearest
        support = np.flatnonzero(v) if v.any() else support
    return v


def _is_nearest(cosines: np.ndarray, target: np.ndarray, bounds: np.ndarray, v: np.ndarray) -> bool:
    """Whether v are the multipliers of `project`, up to rounding."""
    size = 1e-14 * max(np.abs(target).max(), np.abs(v).max(), bounds.max())
    slack = cosines @ (target + v) - bounds
    return bool(v.min() >= -size and slack.min() >= -size and np.abs(slack[v > size]).max(initial=0.0) <= size)
