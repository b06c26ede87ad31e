"""Weightings with priorities: an order of objectives, bounds on losses, floors of weights."""

from dataclasses import replace
from typing import Any

import numpy as np

from equipoise.configs.balancing import EpsilonConstraintOptions, PcdOptions
from equipoise.train.balancing.common_directions import mgda
from equipoise.train.balancing.gradient_stats import GradientStats, Weighting
from equipoise.train.balancing.solvers import project, raise_progress, semidefinite, stationary


def priorities(stats: GradientStats, order: list[str] | None) -> list[int]:
    """Indices by rank: those that `order` names, then the others by falling preference, ties as they come."""
    named = [stats.names.index(name) for name in order or [] if name in stats.names]
    others = [k for k in range(len(stats.names)) if k not in named]
    return named + sorted(others, key=lambda k: -stats.preference[k])


def lexicographic(stats: GradientStats, order: list[str] | None = None, tolerance: float = 0.0) -> np.ndarray:
    """Priorities: what is lower in rank never takes progress from what is higher.

    d_1 = p_1 g_1; then d_k is the point nearest to d_{k−1} + p_k g_k with ⟨g_j, d⟩ ≥ ⟨g_j, d_j⟩ for all j above k, less
    the share `tolerance` of that progress. d_{k−1} keeps all these bounds, so there always is such a point. A
    lexicographic optimum (Skalse et al. 2022, "Lexicographic Multi-Objective Reinforcement Learning") is sought by
    projecting a gradient onto the half-spaces that do not hurt the others (Lopez-Paz & Ranzato 2017, "Gradient Episodic
    Memory").

    α of the last d_k.

    Args:
        stats: reads cosines, norms and preference.
        order: names by falling priority; None is by preference.
        tolerance: 0: no progress of a higher priority is lost; 1: it is never turned into the opposite.

    Returns:
        α ≥ 0, float64 (A,); the preference where nothing conflicts.
    """
    cosines = semidefinite(stats.cosines)
    u = np.zeros(len(stats.names))  # d in units of the unit gradients
    bounds = np.full(len(u), -np.inf)
    for k in priorities(stats, order):
        target = u.copy()
        target[k] += stats.preference[k] * stats.norms[k]
        extra = project(cosines, target, bounds)
        if extra is not None:  # None is rounding where bounds all but oppose one another: d stays as it keeps them
            u = target + extra
        progress = float(cosines[k] @ u)
        # Where the higher ones leave g_k no progress at all, what is left is held as it is.
        bounds[k] = progress - tolerance * max(progress, 0.0)
    return u / stats.norms


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


VANISHED_PROGRESS = 10 * np.finfo(np.float64).eps
"""‖d̃‖² is zero below this share of the square of what it was summed from."""


class Pcd(Weighting):
    """Priority-Constrained Descent: the primary objective's gradient, bent as little as the promises to the others need
    ("Not All Objectives Are Born Equal", TMLR 2026, arXiv:2606.29521).

        d̃ = argmin ½‖d − g̃_1‖²  subject to  ⟨g̃_j, d⟩ ≥ τ_j ‖g̃_j‖² for every other j,  d = d̃ · ‖g_1‖/‖d̃‖,

    g̃_k = g_k/√v̂_k, v̂_k the bias-corrected moving average of ‖g_k‖². Bounds that no point keeps are all dropped (d =
    g_1), and d̃ = 0 gives d = 0, as in TorchJD's code; the ε that it adds to v̂ is left out, for no gradient here is
    zero. Ours: the preference raises the promises, τ_j = min(1, tau p_j/p_1), and while the primary has no gradient in
    the solve, the shortest step that keeps the promises is taken, in the primary's usual length: d = √v̂_1 d̃ with g̃_1
    = 0.

    Promises come before the primary: where gradients are opposed d follows the others, so no point of the front is at
    rest, and a long descent ends at the others' minima, the later the smaller tau is.

    Keeps the moving averages, and the preferences seen: without `primary`, the highest of them leads.
    """

    def __init__(self, options: PcdOptions) -> None:
        self._named, self._tau = options.primary, options.tau
        self._squares = MovingAverage(options.momentum)
        self._preference: dict[str, float] = {}

    def compute_weights(self, stats: GradientStats) -> np.ndarray:
        """α ≥ 0, float64 (A,)."""
        self._preference.update(zip(stats.names, stats.preference.tolist(), strict=True))
        primary = self._named or max(self._preference, key=lambda name: self._preference[name])
        usual = np.array(
            [self._squares.update(n, float(x) ** 2) ** 0.5 for n, x in zip(stats.names, stats.norms, strict=True)]
        )
        sizes = stats.norms / usual  # ‖g̃‖
        first = np.array([name == primary for name in stats.names])
        leading = self._preference.get(primary, stats.preference)  # named, but never seen: the promises are tau
        bounds = np.where(first, -np.inf, np.minimum(1.0, self._tau * stats.preference / leading) * sizes)
        target = np.where(first, sizes, 0.0)
        cosines = semidefinite(stats.cosines)
        extra = project(cosines, target, bounds)
        u = target if extra is None else target + extra
        return u * self._unit(stats, primary, u, float(u @ cosines @ u), usual) / stats.norms

    def _unit(self, stats: GradientStats, primary: str, u: np.ndarray, square: float, usual: np.ndarray) -> float:
        """What one unit of d̃ (coefficients u, squared length) is in d."""
        if primary not in stats.names:
            return self._squares[primary] ** 0.5 if primary in self._squares else float(usual.mean())
        if not square > VANISHED_PROGRESS * u.sum() ** 2:
            return 0.0
        return float(stats.norms[stats.names.index(primary)]) / square**0.5

    def state(self) -> dict[str, Any]:
        """Averages of the squared norms, and preferences, by name."""
        return {"squares": self._squares.state(), "preference": self._preference}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._squares.restore(state["squares"])
        self._preference = dict(state["preference"])


SMALLEST_BOUND = 1e-12
"""Distances are relative to |ε|; to this where ε is 0, so that any loss above it counts as far off."""


class EpsilonConstraint(Weighting):
    """ε-constraints: the free objectives descend, while each bounded loss is brought below its bound and held there.

    d is the point nearest to Σ_free p_k g_k with, for every bounded j, the dynamic barrier of Gong, Liu & Liu 2021
    ("Bi-objective Trade-off with Dynamic Barrier Gradient Descent", there with one constraint):

        ⟨g_j, d⟩ ≥ φ_j,   φ_j = rate · ‖g_j‖² · clip((L̄_j − ε_j)/|ε_j|, −1, 1),

    L̄ the bias-corrected moving average of the loss. Above the bound the loss must fall, the faster the farther it is
    off; below it may rise, the less the nearer it is. Where no point keeps all bounds, repair comes first: the min-norm
    point of the broken ones alone (`mgda`), which lowers them all.

    Keeps L̄ by name; bounds are in the units of the logged losses.
    """

    def __init__(self, options: EpsilonConstraintOptions) -> None:
        self._bounds, self._rate = dict(options.bounds), options.rate
        self._losses = MovingAverage(options.momentum)

    def compute_weights(self, stats: GradientStats) -> np.ndarray:
        """α ≥ 0, float64 (A,); the preference on the free ones and 0 on the bounded ones while no bound is touched."""
        over = self._over(stats)
        free = np.isnan(over)
        bounds = np.where(free, -np.inf, self._rate * stats.norms * np.clip(over, -1.0, 1.0))
        target = np.where(free, stats.preference * stats.norms, 0.0)
        extra = project(semidefinite(stats.cosines), target, bounds)
        if extra is None:
            return _repair(stats, np.flatnonzero(over > 0))
        return (target + extra) / stats.norms

    def _over(self, stats: GradientStats) -> np.ndarray:
        """By how much each L̄ exceeds its bound, relative to the bound, (A,); NaN where there is none."""
        over = np.full(len(stats.names), np.nan)
        for k, (name, loss) in enumerate(zip(stats.names, stats.losses + stats.lower_bounds, strict=True)):
            if name in self._bounds:
                bound = self._bounds[name]
                over[k] = (self._losses.update(name, float(loss)) - bound) / max(abs(bound), SMALLEST_BOUND)
        return over

    def state(self) -> dict[str, Any]:
        """L̄ by name."""
        return {"losses": self._losses.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._losses.restore(state["losses"])


def _repair(stats: GradientStats, broken: np.ndarray) -> np.ndarray:
    """The min-norm weights of these objectives, 0 on the others."""
    part = replace(
        stats,
        names=tuple(stats.names[k] for k in broken),
        cosines=stats.cosines[np.ix_(broken, broken)],
        norms=stats.norms[broken],
        preference=stats.preference[broken],
        losses=stats.losses[broken],
    )
    alpha = np.zeros(len(stats.names))
    alpha[broken] = mgda(part)
    return alpha


def pe_ltr(stats: GradientStats, floor: float = 0.4) -> np.ndarray:
    """PE-LTR: the min-norm point among weights that leave every objective its floor.

    Lin et al. 2019, "A Pareto-Efficient Algorithm for Multiple Objective Optimization in E-Commerce Recommendation".
    Theirs drops ω ≥ 0, solves a linear system and then looks for the nearest feasible point; here the problem itself is
    solved.

    ω of min ‖Σ ω_k g_k‖² subject to Σ ω = 1, ω_k ≥ floor · preference_k / Σ preference.

    Floor 0 is MGDA with equal preference, floor 1 the fixed weights.

    Returns:
        ω, float64 (A,), Σ ω = 1.
    """
    least = floor * stats.preference / stats.preference.sum()
    equal = replace(stats, preference=np.ones(len(least)))
    if floor in (0.0, 1.0):
        return least if floor else mgda(equal)
    unit = stats.norms.max()
    rates = stats.norms.min() / stats.norms
    target = least * (stats.norms / unit)
    cosines = semidefinite(stats.cosines)
    # What is left to deal out, in the units of rates @ v: the optimum is where ⟨g_k, d⟩ is least wherever ω is raised.
    left = (1.0 - floor) * (stats.norms.min() / unit)

    def to_the_sum(v: np.ndarray, slope: np.ndarray) -> float:
        return float((left - rates @ v) / (rates @ slope))

    highest = 0.0 if stationary(cosines) else np.inf
    raised = raise_progress(cosines, target, rates, to_the_sum, highest) * (rates / left)
    missing = 1.0 - raised.sum()
    if highest == 0.0 and missing > 1e-7:  # weights of a sum that is 0 cost nothing, where no progress is left to buy
        raised += missing * mgda(equal)
    else:  # what rounding has lost of the sum goes to the shortest gradient, whose weight moves the point least
        shortest = int(np.argmax(np.where(raised > 0, rates, 0.0)))
        raised[shortest] = max(raised[shortest] + missing, 0.0)
    return least + (1.0 - floor) * raised / raised.sum()
