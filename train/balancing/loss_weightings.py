"""Weightings that read the losses, and the fixed and random weights that they have to beat."""

import math
from typing import Any

import numpy as np

from equipoise.configs.balancing import DwaOptions, FamoOptions, GradnormOptions, UncertaintyOptions
from equipoise.train.balancing.gradient_stats import GradientStats, Weighting


def weighted(stats: GradientStats) -> np.ndarray:
    """Fixed weights: the baseline that balancing has to beat.

    α = preference: linear scalarisation.
    """
    return stats.preference.copy()


def rlw(stats: GradientStats) -> np.ndarray:
    """Random loss weighting, a baseline to beat (Lin et al. 2022, "Reasonable Effectiveness of Random
    Weighting: A Litmus Test for Multi-Task Learning", the normal distribution of section 3).

    The paper's weights sum to 1; here to A, so that the expected weight is the preference.

    α_k = p_k · A softmax_k(ξ), ξ ~ N(0, 1) drawn from the step alone: the same on every process and after a resume.

    Returns:
        α > 0, float64 (A,).
    """
    draws = np.random.default_rng(stats.step).standard_normal(len(stats.names))
    shares = np.exp(draws - draws.max())
    return stats.preference * len(shares) * shares / shares.sum()


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


LARGEST_LOG_VARIANCE = 20.0
"""|s| stays below: a loss that has come to 0 would pull its s to −∞, and its weight to ∞."""


class Uncertainty(Weighting):
    """Uncertainty weighting: losses weigh ½/σ², and the σ are learnt (Kendall, Gal & Cipolla 2018, equation 7).

    In the form that is learnt, s = log σ²: minimise Σ ½ e^{−s_k} L_k + ½ s_k over s. The paper learns s with the
    network's optimizer; here by an Adam of its own, from s = 0, one move per solve. At rest σ_k² = L_k: all losses fall
    at their own relative rate. The preference multiplies the weight and not the loss that s reads, or s would undo it.

    α_k = p_k ½ e^{−s_k}.
    """

    def __init__(self, options: UncertaintyOptions) -> None:
        self._s = Adam(options.lr)

    def compute_weights(self, stats: GradientStats) -> np.ndarray:
        """α, float64 (A,), from s before this solve moves it."""
        half = {name: 0.5 * math.exp(-self._s[name]) for name in stats.names}
        alpha = stats.preference * np.array(list(half.values()))
        losses = zip(stats.names, stats.losses, strict=True)
        self._s.move({name: 0.5 - half[name] * float(loss) for name, loss in losses}, LARGEST_LOG_VARIANCE)
        return alpha

    def state(self) -> dict[str, Any]:
        """s and its moments, by name."""
        return {"s": self._s.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._s.restore(state["s"])


FASTEST_RISE = 1e6
"""r is at most this: the window before may have had a loss of 0."""


class Dwa(Weighting):
    """Dynamic weight average: what has fallen least weighs most (Liu, Johns & Davison 2019, equation 7).

    α_k = p_k · A softmax_k(r/T), r_k = L̄_k(last window) / L̄_k(the one before). The paper's window is an epoch; here
    it is `window` optimizer steps, whose solves (several per step under accumulation) are averaged. As in the paper,
    the weights are equal until two windows are full.

    Windows are counted from step 0; an objective that a window never saw keeps the means it had.
    """

    def __init__(self, options: DwaOptions) -> None:
        self._temperature, self._steps = options.temperature, options.window
        self._window = 0
        self._sums: dict[str, list[float]] = {}  # name → sum of this window's losses, and their number
        self._last: dict[str, float] = {}
        self._before: dict[str, float] = {}

    def compute_weights(self, stats: GradientStats) -> np.ndarray:
        """α, float64 (A,), Σ α/p = A."""
        if stats.step // self._steps != self._window:
            self._window = stats.step // self._steps
            self._close_window()
        for name, loss in zip(stats.names, stats.losses, strict=True):
            total, count = self._sums.get(name, [0.0, 0.0])
            self._sums[name] = [total + float(loss), count + 1]
        logits = np.array([self._rate(name) for name in stats.names]) / self._temperature
        shares = np.exp(logits - logits.max())
        return stats.preference * len(shares) * shares / shares.sum()

    def _close_window(self) -> None:
        for name, (total, count) in self._sums.items():
            if name in self._last:
                self._before[name] = self._last[name]
            self._last[name] = total / count
        self._sums = {}

    def _rate(self, name: str) -> float:
        if name not in self._before:
            return 1.0
        last, before = self._last[name], self._before[name]
        if last == before:  # 0/0 among them
            return 1.0
        return min(last / before, FASTEST_RISE) if before > 0 else FASTEST_RISE

    def state(self) -> dict[str, Any]:
        """The present window's sums and the two means before it, by name."""
        return {"window": self._window, "sums": self._sums, "last": self._last, "before": self._before}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._window = state["window"]
        self._sums = {name: list(sums) for name, sums in state["sums"].items()}
        self._last, self._before = dict(state["last"]), dict(state["before"])


def stch(stats: GradientStats, mu: float) -> np.ndarray:
    """Smooth Tchebycheff scalarisation (Lin et al. 2024, "Smooth Tchebycheff Scalarization for Multi-Objective
    Optimization", equations 9 and 10).

    α is the gradient of μ log Σ exp(λ_k (f_k − z_k*)/μ), a smooth maximum: at its minimum the weighted losses are about
    equal, so every point of the front can be reached, also where it is not convex. λ is the preference divided by its
    sum, z* the lower bounds of the losses, which `GradientStats.losses` are already above. The losses' scale matters:
    it is the preference's task to make them comparable.

    α_k = λ_k softmax_k(λ (f − z*)/μ).

    Args:
        stats: reads preference and losses alone.
        mu: μ > 0; 0 would be the worst loss alone.

    Returns:
        α ≥ 0, float64 (A,), Σ α/λ = 1.
    """
    weight = stats.preference / stats.preference.sum()
    height = weight * stats.losses
    shares = np.exp((height - height.max()) / mu)
    return weight * shares / shares.sum()


LOSS_FLOOR = 1e-8
"""Added to a loss before its logarithm and in a denominator, as in the official code."""

LARGEST_LOGIT = 30.0
"""|w| stays below: without decay an objective that always falls fastest would drift for ever."""


class Famo(Weighting):
    """FAMO: all losses fall at one relative rate, seen from the losses alone (Liu et al. 2023, algorithm 1).

    d = Σ z_k ∇log ℓ_k, z = softmax(w), scaled so that the weights on ∇ℓ sum to 1; after the step w moves by what each
    log ℓ really lost: w ← w − lr·Adam((∂z/∂w)ᵀ δ + decay·w), δ_k = log ℓ_k(before) − log ℓ_k(after). As in the official
    code, Adam moves w and 1e-8 is added to the losses, which are taken above their lower bounds.

    The preference enters twice: the weights are p_k z_k/ℓ_k, and w moves by δ_k/p_k (p relative to its mean). With the
    first alone z would learn to undo it; with both, log losses fall at rates proportional to p: with β ∝ p² z, this is
    FAMO's dual descent for the objectives log ℓ_k / p_k.

    Learns from the losses before and after each step; see the module.
    """

    needs_losses_after = True

    def __init__(self, options: FamoOptions) -> None:
        self._w = Adam(options.lr, options.decay)
        self._preference: dict[str, float] = {}  # of the objectives in the last solve

    def compute_weights(self, stats: GradientStats) -> np.ndarray:
        """α_k ∝ p_k z_k/ℓ_k, float64 (A,), Σ α = 1."""
        self._preference = dict(zip(stats.names, stats.preference.tolist(), strict=True))
        z = self._softmax(stats.names)
        alpha = stats.preference * z / (np.maximum(stats.losses, 0.0) + LOSS_FLOOR)
        alpha = alpha / alpha.max()
        return alpha / alpha.sum()

    def after_step(self, before: dict[str, float], after: dict[str, float]) -> None:
        """Move w; objectives that the last solve left out, or that are missing here, keep theirs."""
        names = tuple(name for name in self._preference if name in before and name in after)
        if not names:
            return
        preference = np.array([self._preference[name] for name in names])
        fall = np.array([_log(before[name]) - _log(after[name]) for name in names]) * preference.mean() / preference
        z = self._softmax(names)
        self._w.move(dict(zip(names, (z * (fall - z @ fall)).tolist(), strict=True)), LARGEST_LOGIT)

    def _softmax(self, names: tuple[str, ...]) -> np.ndarray:
        w = np.array([self._w[name] for name in names])
        z = np.exp(w - w.max())
        return z / z.sum()

    def state(self) -> dict[str, Any]:
        """w and its moments, and whom the last solve moved, by name."""
        return {"w": self._w.state(), "preference": self._preference}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._w.restore(state["w"])
        self._preference = dict(state["preference"])


def _log(loss: float) -> float:
    return math.log(max(loss, 0.0) + LOSS_FLOOR)


SMALLEST_LOG_WEIGHT = -40.0
"""log w stays above this, relative to the largest: where a target is 0, w would fall for ever."""


class Gradnorm(Weighting):
    """GradNorm: weights that bring gradients' norms to what the training rates ask for (Chen et al. 2018, algorithm 1).

    Equation 2: L(w) = Σ |w_k‖g_k‖ − Ḡ p_k r_k^α|, Ḡ the mean of w_k‖g_k‖, the target a constant; r_k = L_k/L_k(0)
    relative to its mean, so what has learnt least gets the largest target. The preference p (relative to its mean)
    multiplies it, and is what w starts from (1 in the paper).

    Difference from the paper: it is log w that steps down the gradient of L/Ḡ, as in LibMTL, whose w is a softmax. So w
    stays positive, and the step does not depend on the gradients' scale; linear steps oscillate as soon as norms differ
    by more than 1/√lr. Σ w = A after every move, as in the paper.

    One move of w per solve.
    """

    def __init__(self, options: GradnormOptions) -> None:
        self._alpha, self._lr = options.alpha, options.lr
        self._log_w: dict[str, float] = {}
        self._first: dict[str, float] = {}

    def compute_weights(self, stats: GradientStats) -> np.ndarray:
        """α = w before this solve's move, float64 (A,), Σ α = A."""
        for name, loss in zip(stats.names, stats.losses, strict=True):
            self._first.setdefault(name, float(loss))
        wish = stats.preference / stats.preference.mean()
        start = zip(stats.names, np.log(wish).tolist(), strict=True)
        alpha = _normalised(np.array([self._log_w.get(name, log_p) for name, log_p in start]))
        scaled = stats.norms / stats.norms.max() * alpha
        scaled /= scaled.mean()  # w‖g‖/Ḡ
        target = wish * self._rates(stats) ** self._alpha
        moved = np.log(alpha) - self._lr * np.sign(scaled - target) * scaled
        moved = np.log(_normalised(np.maximum(moved, moved.max() + SMALLEST_LOG_WEIGHT)))
        self._log_w.update(zip(stats.names, moved.tolist(), strict=True))
        return alpha

    def _rates(self, stats: GradientStats) -> np.ndarray:
        """Relative inverse training rates r, (A,), mean 1."""
        first = np.array([self._first[name] for name in stats.names])
        # A first loss of 0 has nothing to compare with: its rate is 1.
        left = np.where(first > 0, stats.losses / np.where(first > 0, first, 1.0), 1.0)
        return left / left.mean() if left.mean() > 0 else np.ones(len(left))

    def state(self) -> dict[str, Any]:
        """log w and the first losses, by name."""
        return {"log_w": self._log_w, "first": self._first}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._log_w, self._first = dict(state["log_w"]), dict(state["first"])


def _normalised(log_w: np.ndarray) -> np.ndarray:
    """w > 0 with Σ w = A."""
    w = np.exp(log_w - log_w.max())
    return len(w) * w / w.sum()
