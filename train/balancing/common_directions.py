"""Weightings that look for one direction in which all objectives advance: nearest to 0, most equal, or most fair."""

import numpy as np
from scipy.linalg.lapack import dgejsv, dposv

from equipoise.train.balancing.gradient_stats import GradientStats
from equipoise.train.balancing.solvers import (
    RANK,
    factor,
    nonnegative_least_squares,
    project,
    raise_progress,
    semidefinite,
    stationary,
)


def mgda(stats: GradientStats) -> np.ndarray:
    """MGDA: the min-norm point of the convex hull of the gradients (Désidéri 2012; Sener & Koltun 2018).

    Solved exactly, as non-negative least squares on cosines, so that norms many powers of ten apart do no harm and
    opposed, duplicate or dependent gradients need no special case.

    argmin_α ‖Σ α_k g_k‖² over the simplex, in the metric of the preference: ⟨g_k, d⟩ ∝ preference_k where α_k > 0.

    A preference p turns the hull into that of g_k / p_k, so that the max-min progress ⟨g_k, d⟩ / p_k is sought: what is
    preferred is promised more.

    Returns:
        α ≥ 0, float64 (A,), Σ α = 1.
    """
    # With u = α·norm the problem is min ‖Ru‖² over u ≥ 0, cᵀu = 1, c = p/norm: only c knows the scale. Up to a factor,
    # that is the u ≥ 0 of least ‖Ru‖² + (cᵀu − 1)², and the factor goes when Σ α is set to 1.
    c = stats.preference / stats.norms
    c = c / c.max()
    right = np.zeros(len(c) + 1)
    right[-1] = 1.0
    u = nonnegative_least_squares(np.vstack([factor(stats.cosines), c]), right)
    alpha = u * (stats.norms.min() / stats.norms)
    return alpha / alpha.sum()


def aligned(stats: GradientStats) -> np.ndarray:
    """Aligned-MTL: the principal components of the gradients are brought to one length, that of the shortest.

    Senushkin et al. 2023, "Independent Component Alignment for Multi-Task Learning", algorithm 1. With norms 10^±4 the
    eigenvalues of the Gram matrix spread over 10^16, more than `eigh` of it can see; one-sided Jacobi on a factor
    (Demmel et al. 1999, LAPACK's dgejsv) finds the small ones as exactly as the large ones.

    α = B·preference, B = √λ_min V Λ^(−1/2) Vᵀ over the non-zero spectrum V Λ Vᵀ of the Gram matrix.

    Which part of it is zero is decided on cosines.

    Returns:
        α, float64 (A,), of either sign; the preference for orthogonal gradients of one length.
    """
    root = factor(stats.cosines, RANK)
    root = root[root.any(axis=1)] * (stats.norms / stats.norms.max())
    # The job numbers say whether columns or rows are graded, and which side's singular vectors are wanted.
    if len(root) == root.shape[1]:
        singular, _, vectors, *_ = dgejsv(root, joba=0, jobu=3, jobv=0)
    else:
        singular, vectors, *_ = dgejsv(root.T, joba=2, jobu=0, jobv=3)
    vectors = vectors[:, : len(singular)]
    return vectors @ (vectors.T @ stats.preference * (singular.min() / singular))


def imtl_g(stats: GradientStats) -> np.ndarray:
    """IMTL-G: the step that goes equally far along every unit gradient.

    Liu et al. 2021, "Towards Impartial Multi-Task Learning", equation 6. The paper's weights add up to 1; that sum may
    vanish or be negative, which would turn the step around, so here their absolute values do (the same where all are
    positive).

    α with ⟨e_k, d⟩ ∝ preference_k for all k, e_k the unit gradients.

    Of dependent gradients that cannot all be satisfied, the least-squares solution is taken (pseudo-inverse). Where
    even that is 0, as for two opposed gradients, preference / norm is what regular matrices tend to, and then d = 0.

    Returns:
        α, float64 (A,), of either sign, Σ |α| = 1.
    """
    values, vectors = np.linalg.eigh(stats.cosines)
    along = vectors.T @ stats.preference
    kept = values > RANK
    beta = vectors[:, kept] @ (along[kept] / values[kept])
    if kept.all():  # twice as exact on all but dependent gradients
        beta = np.linalg.solve(stats.cosines, stats.preference)
    elif np.linalg.norm(along[kept]) <= 1e-10 * np.linalg.norm(along):
        beta = stats.preference
    alpha = beta * (stats.norms.min() / stats.norms)
    return alpha / np.abs(alpha).sum()


def cagrad(stats: GradientStats, c: float = 0.4) -> np.ndarray:
    """CAGrad: within a ball around the mean gradient, the direction that helps the worst-off objective most.

    Liu et al. 2021, "Conflict-Averse Gradient Descent for Multi-task Learning", equation 4. Solved exactly, as the
    largest common progress whose nearest point lies within the ball. The weights are those of d itself: the published
    code divides by 1 + c² or 1 + c, which a learning rate does too.

    α of argmax_d min_k ⟨g_k, d⟩ / p_k subject to ‖d − g0‖ ≤ c‖g0‖, g0 = Σ p_k g_k / Σ p_k, p the preference.

    Where 0 is in the hull of the gradients, many d have the least progress 0, and the one nearest to g0 is taken if the
    ball reaches it.

    Returns:
        α ≥ preference / Σ preference, float64 (A,).
    """
    mean = stats.preference / stats.preference.sum()
    unit = stats.norms.max()
    target = mean * (stats.norms / unit)
    rates = stats.preference * (stats.norms.min() / stats.norms)
    cosines = semidefinite(stats.cosines)
    radius = c * max(float(target @ cosines @ target), 0.0) ** 0.5
    if radius == 0.0:
        return mean

    def to_the_sphere(v: np.ndarray, slope: np.ndarray) -> float:
        missing, grows, bends = radius**2 - v @ cosines @ v, slope @ cosines @ v, slope @ cosines @ slope
        root = grows**2 + missing * bends
        return float(missing / (grows + root**0.5)) if root >= 0.0 else -np.inf

    highest = np.inf
    if stationary(cosines):
        highest = 0.0
        v = project(cosines, target, np.zeros(len(target)))
        assert v is not None  # 0 keeps all bounds
        if v @ cosines @ v <= radius**2:
            return mean + v * (unit / stats.norms)
    return mean + raise_progress(cosines, target, rates, to_the_sphere, highest) * (unit / stats.norms)


Pair = tuple[np.ndarray, np.ndarray]


def fairgrad(stats: GradientStats, alpha: float = 2.0) -> np.ndarray:
    """FairGrad: the step that is α-fair in the progress of the objectives.

    Ban & Ji 2024, "Fair Resource Allocation in Multi-Task Learning", equation 4: G w = (p / w)^(1/α) elementwise, p the
    preference. α = 1 is Nash-MTL; α → 0 tends to the plain sum, α → ∞ to max-min.

    w with ⟨g_k, d⟩ ∝ (preference_k / w_k)^(1/alpha), scaled to Σ w = 1.

    Where 0 is in the hull of the gradients, the weights of 0. Exact for alpha from 0.5 to 20, which is what the options
    allow; far outside, with norms many powers of ten apart, the iteration may end before the point is fair.

    Returns:
        w > 0, float64 (A,), Σ w = 1.
    """
    cosines = semidefinite(stats.cosines)
    if stationary(cosines):
        return mgda(stats)
    beta, s = bargain(cosines, stats.preference)
    power = 1.0 / alpha
    if power != 1.0:
        # In β = w·norm: C β = p^power · norm^(power − 1) · β^(−power). Its length is free: that of the start is near.
        target = power * np.log(stats.preference) + (power - 1.0) * np.log(stats.norms / stats.norms.min())
        target += (np.log(s) + power * np.log(beta) - target).mean()
        beta, _ = fair_point(cosines, target, power, (beta, s))
    weights = beta * (stats.norms.min() / stats.norms)
    return weights / weights.sum()


def bargain(cosines: np.ndarray, power: np.ndarray) -> Pair:
    """β > 0 with C β = power / β (Nash's point), and C β; from there `fair_point` finds the other fair points."""
    start = np.sqrt(power)
    return fair_point(cosines, np.log(power), 1.0, (start, start))


def fair_point(cosines: np.ndarray, target: np.ndarray, exponent: float, start: Pair) -> Pair:
    """β, s > 0 with C β = s and log s + exponent · log β = target: the minimum of a strictly convex potential.

    Primal-dual Newton: s is a variable of its own, so that steps are only as short as keeps β and s positive.

    Args:
        cosines: (A, A), positive semi-definite, 0 not in the hull.
        target: (A,).
        exponent: > 0.
        start: β, s > 0, (A,) each; C β = s need not hold.
    """
    beta, s = start
    last = np.inf
    for _ in range(100):
        fairness = target - np.log(s) - exponent * np.log(beta)
        rest = s - cosines @ beta
        error = np.abs(fairness).max()
        exact = np.abs(rest).max() <= 1e-15 * len(s) * beta.max()
        if exact and (error < 1e-13 or (error < 1e-9 and error > last / 2)):  # no better: rounding
            break
        last = error
        bend = exponent * s / beta
        unit = 1.0 / np.sqrt(1.0 + bend)
        matrix = (cosines + np.diag(bend)) * np.outer(unit, unit)
        change = unit * dposv(matrix, unit * (s * fairness + rest))[1]
        change_s = s * fairness - bend * change
        step = 1.0 / max(1.0, (-change / beta).max() / 0.95, (-change_s / s).max() / 0.95)
        beta, s = beta + step * change, s + step * change_s
    return beta, s


def nash(stats: GradientStats) -> np.ndarray:
    """Nash-MTL: the objectives bargain for the step; the solution maximises the product of their progresses.

    Navon et al. 2022, "Multi-Task Learning as a Bargaining Game", equation 3: G α = p / α elementwise, with the
    preference p as bargaining power (the asymmetric solution, Kalai 1977). Norms cancel: β = α·norm solves C β = p / β
    on cosines.

    α with α_k ⟨g_k, d⟩ ∝ preference_k: the α-fair step of `fairgrad` for α = 1.

    The solution's own length is one over that of the gradients and says nothing, so weights are scaled to Σ α = 1.
    Where 0 is in the hull of the gradients the solution grows without bound towards weights of 0: those are returned.

    Returns:
        α > 0, float64 (A,), Σ α = 1.
    """
    return fairgrad(stats, alpha=1.0)
