"""The solvers alone, on one core: how long they take, whom their directions harm, how exact they are; and TorchJD's.

Random Gram matrices of K = 2 … 8 gradients in K, K + 2 or 3K dimensions, norms drawn log-uniformly from 10^±0, 10^±1,
10^±2 and 10^±4. Conflicts are counted for the methods that promise none: directions d with ⟨e_k, d⟩ < −1e-9 ‖d‖ for
some unit gradient e_k (`clear`: below −1 %). The residual of a method's own optimality condition is that of
`benchmarks.optimality`, relative and without scale. TorchJD gets the same matrices in float64 and in
float32.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.figures import figure
from benchmarks.optimality import RESIDUALS, conflicts, residual
from benchmarks.peers import TORCHJD, has_torchjd
from equipoise.configs.balancing import BalancingConfig
from equipoise.train.balancing.balancer import weights_on_gradients
from equipoise.train.balancing.gradient_stats import GradientStats, condition
from equipoise.train.balancing.registry import METHODS, build_method

SPREADS = (0, 1, 2, 4)
SIZES = range(2, 9)
PROMISE_NO_CONFLICT = ("mgda", "upgrad", "dualproj", "nash", "fairgrad", "imtl_g")
CLEAR = 0.01
OPTIONS: dict[str, dict[str, Any]] = {"epsilon_constraint": {"bounds": {"o0": 0.5}}}
"""What a method needs that has no default."""


@contextmanager
def one_core() -> Iterator[None]:
    """Keep numpy, scipy and torch to one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


def random_problem(
    rng: np.random.Generator, count: int, spread: float, step: int = 0
) -> tuple[GradientStats, np.ndarray]:
    """A problem of `count` objectives, and the gradients (count, n) that it belongs to."""
    vectors = rng.standard_normal((count, int(rng.choice([count, count + 2, 3 * count]))))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    norms = 10.0 ** rng.uniform(-spread, spread, count)
    cosines = units @ units.T
    np.fill_diagonal(cosines, 1.0)
    names = tuple(f"o{k}" for k in range(count))
    losses = rng.uniform(0.1, 2.0, count)
    stats = GradientStats(
        names=names, cosines=cosines, norms=norms, preference=np.ones(count), losses=losses, step=step
    )
    return stats, units * norms[:, None]


def problems(matrices: int, seed: int = 0) -> Iterator[tuple[int, GradientStats, np.ndarray]]:
    """(spread, problem, gradients), `matrices` for each spread; the first ones are the same whatever their number."""
    for spread in SPREADS:
        rng = np.random.default_rng([seed, spread])
        for index in range(matrices):
            yield spread, *random_problem(rng, SIZES[index % len(SIZES)], spread, index)


def _config(name: str) -> BalancingConfig:
    return BalancingConfig(method=name, options=OPTIONS.get(name, {}))


def time_solver(name: str, solves: int) -> dict[int, float]:
    """K → median milliseconds from the Gram matrix to the weights, conditioning included."""
    config, medians = _config(name), {}
    for count in SIZES:
        rng, seconds = np.random.default_rng(count), []
        for index in range(solves):
            stats, _ = random_problem(rng, count, SPREADS[index % len(SPREADS)], index)
            method, gram = build_method(config), stats.gram
            start = time.perf_counter()
            conditioned = condition(gram, str(config.normalize), stats.losses)
            weights_on_gradients(method, conditioned, stats.names, stats.preference, stats.losses, index)
            seconds.append(time.perf_counter() - start)
        medians[count] = float(np.median(seconds)) * 1e3
    return medians


def time_figures(solves: int) -> list[dict[str, Any]]:
    """Per method the K that takes longest, and the slowest method."""
    entries = []
    for name in METHODS:
        medians = time_solver(name, solves)
        count = max(medians, key=lambda k: medians[k])
        where: dict[str, Any] = {"method": name, "objectives": count}
        entries.append(figure(f"solver_ms_{name}", medians[count], "ms, median, one core", **where))
    slowest = max(entries, key=lambda entry: entry["value"])
    return [{**slowest, "name": "solver_ms_max"}, *entries]


def _torchjd_solver(name: str, dtype: torch.dtype) -> Callable[[GradientStats, np.ndarray], np.ndarray]:
    from torchjd import aggregation

    class_name, settings = TORCHJD[name]

    def solve(stats: GradientStats, gradients: np.ndarray) -> np.ndarray:
        if class_name == "NashMTL":  # it keeps state, and reads the gradients themselves
            aggregator = aggregation.NashMTL(n_tasks=len(stats.names))
            return aggregator.weighting(torch.from_numpy(gradients).to(dtype)).double().numpy()
        weighting = getattr(aggregation, f"{class_name}Weighting")(**settings)
        weights = weighting(torch.from_numpy(stats.gram).to(dtype)).double().numpy()
        # Ours takes the sum of what TorchJD takes the mean of.
        return weights * len(weights) if name in ("upgrad", "dualproj", "aligned") else weights

    return solve


class Verdict:
    """Counts of one method of one maker, by spread, and its largest residual."""

    def __init__(self, name: str, maker: str, solve: Callable[[GradientStats, np.ndarray], np.ndarray]) -> None:
        self.name, self.maker, self._solve = name, maker, solve
        self.conflicts, self.clear = dict.fromkeys(SPREADS, 0), dict.fromkeys(SPREADS, 0)
        self.failures, self.solved = 0, 0
        self.residuals: list[float] = []
        self.seconds: list[float] = []

    def judge(self, spread: int, stats: GradientStats, gradients: np.ndarray) -> None:
        """Solve once. What raises, is not finite or all zero is a failure, and no conflict."""
        start = time.perf_counter()
        try:
            weights = self._solve(stats, gradients)
        except Exception:  # whatever the peers' solvers raise
            if self.maker == "ours":
                raise
            self.failures += 1
            return
        self.seconds.append(time.perf_counter() - start)
        if not np.isfinite(weights).all() or not weights.any():
            self.failures += 1
            return
        self.solved += 1
        self.conflicts[spread] += conflicts(stats, weights) > 0
        beta = weights * stats.norms
        along, length = stats.cosines @ beta, float(beta @ stats.cosines @ beta) ** 0.5
        self.clear[spread] += bool((along < -CLEAR * length).any())
        if self.name in RESIDUALS:
            self.residuals.append(residual(self.name, stats, weights))

    def figures(self) -> list[dict[str, Any]]:
        """Of this method, by spread."""
        where: dict[str, Any] = {"method": self.name, "maker": self.maker}
        end, entries = f"{self.maker}_{self.name}", []
        if self.name in PROMISE_NO_CONFLICT:
            for spread in SPREADS:
                more = {**where, "spread": spread, "clear": self.clear[spread]}
                entries.append(figure(f"conflicts_{end}_spread{spread}", self.conflicts[spread], "directions", **more))
        if self.residuals:
            half = float(np.median(self.residuals))
            worst = max(self.residuals)
            entries.append(figure(f"optimality_residual_{end}", worst, "relative, largest", **where, median=half))
        if self.maker != "ours":
            milliseconds = float(np.median(self.seconds)) * 1e3 if self.seconds else np.nan
            entries.append(figure(f"solver_ms_{end}", milliseconds, "ms, median, one core", **where))
            entries.append(figure(f"failures_{end}", self.failures, "solves", **where, solved=self.solved))
        return entries


def _totals(maker: str, verdicts: list[Verdict], residual_name: str) -> list[dict[str, Any]]:
    promising = [verdict for verdict in verdicts if verdict.name in PROMISE_NO_CONFLICT]
    judged = sum(verdict.solved for verdict in promising)
    clear = sum(sum(verdict.clear.values()) for verdict in promising)
    total = sum(sum(verdict.conflicts.values()) for verdict in promising)
    residuals = [value for verdict in verdicts for value in verdict.residuals]
    failures = sum(verdict.failures for verdict in verdicts)
    where: dict[str, Any] = {"of": judged, "methods": ", ".join(verdict.name for verdict in promising)}
    return [
        figure(f"conflicts_{maker}", total, "directions", **where, clear=clear, failures=failures),
        figure(residual_name, max(residuals, default=np.nan), "relative, largest", of=len(residuals)),
    ]


def exactness_figures(matrices: int, peer_matrices: int) -> list[dict[str, Any]]:
    """Conflicts and residuals of ours on `matrices` per spread, of TorchJD's on the first `peer_matrices` of them."""
    names = [name for name in METHODS if name in RESIDUALS or name in PROMISE_NO_CONFLICT]
    makers: dict[str, tuple[int, str, list[Verdict]]] = {
        "ours": (matrices, "optimality_residual_max", [Verdict(name, "ours", _our_solver(name)) for name in names])
    }
    for maker, dtype in (("torchjd", torch.float64), ("torchjd_float32", torch.float32)):
        if has_torchjd():
            of_torchjd = [Verdict(name, maker, _torchjd_solver(name, dtype)) for name in names if name in TORCHJD]
            makers[maker] = (peer_matrices, f"optimality_residual_{maker}", of_torchjd)
    entries = []
    for maker, (count, residual_name, verdicts) in makers.items():
        for spread, stats, gradients in problems(count):
            for verdict in verdicts:
                verdict.judge(spread, stats, gradients)
        entries += _totals(maker, verdicts, residual_name)
        entries += [one for verdict in verdicts for one in verdict.figures()]
    return entries


def _our_solver(name: str) -> Callable[[GradientStats, np.ndarray], np.ndarray]:
    config = _config(name)
    return lambda stats, gradients: build_method(config).compute_weights(stats)


def solver_figures(matrices: int, peer_matrices: int, solves: int) -> list[dict[str, Any]]:
    """All of them; `solves` are timed for each method and K."""
    with one_core():
        return time_figures(solves) + exactness_figures(matrices, peer_matrices)
