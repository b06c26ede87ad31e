"""Whether balancing helps: noisy objectives with and without a planted conflict, beside the plain sum.

    python -m benchmarks.balance_value [--quick] [--seeds 10] --json FILE

K = 4 quadratic objectives in 200 dimensions, stochastic gradients whose noise is as long as the signal at the start.
Without conflict (`none`) all have one optimum; `weak` and `strong` set the optima of the first two apart.
`regret_METHOD_CASE`: mean over objectives of the loss, in units of its loss at the start, over the last fifth of the
steps; `…_diff` less that of the plain sum (`weighted`), with its interval over seeds. METHOD is a method of balancing
as it is, or `tested_METHOD` with significance 0.05. `least_METHOD_CASE`: the loss of the objective that is served
worst. `acts_METHOD_CASE`: share of the steps in which the tested method acted. All steps are as long as the plain
sum's, so that methods differ in direction alone.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import figure, report, show, write
from equipoise.configs.balancing import BalancingConfig
from equipoise.train.balancing.balancer import Balancer
from equipoise.train.world import World

NAMES = ("a", "b", "c", "d")
SIZE, STEPS, RATE = 200, 1500, 0.02
METHODS = ("pcgrad", "upgrad", "mgda", "cagrad")
CASES = {"none": 0.0, "weak": 0.5, "strong": 2.0}
"""Name → how far apart the optima of the first two objectives lie, as a share of the distance from the start."""
SIGNIFICANCE = 0.05
LAST = 0.2


class Problem:
    """Quadratic objectives L_k = ½ (x − c_k)ᵀ A_k (x − c_k) with noisy gradients."""

    def __init__(self, seed: int, strength: float) -> None:
        rng = np.random.default_rng(seed)
        self.rng = np.random.default_rng([seed, 1])
        self.curve_KD = rng.uniform(0.2, 1.8, (len(NAMES), SIZE))
        self.centre_KD = np.zeros((len(NAMES), SIZE))
        axis = rng.normal(size=SIZE)
        axis /= np.linalg.norm(axis)
        self.centre_KD[0], self.centre_KD[1] = strength * axis / 2, -strength * axis / 2
        start = rng.normal(size=SIZE)
        self.start_D = start / np.linalg.norm(start)
        self.noise: float = np.linalg.norm(self.gradients(self.start_D, exact=True), axis=1).mean() / np.sqrt(SIZE)

    def losses(self, x_D: np.ndarray) -> np.ndarray:
        """(K,)."""
        return 0.5 * (self.curve_KD * (x_D - self.centre_KD) ** 2).sum(axis=1)

    def gradients(self, x_D: np.ndarray, exact: bool = False) -> np.ndarray:
        """(K, D)."""
        exact_KD = self.curve_KD * (x_D - self.centre_KD)
        return exact_KD if exact else exact_KD + self.noise * self.rng.normal(size=exact_KD.shape)


def trained(seed: int, strength: float, config: BalancingConfig, steps: int) -> tuple[np.ndarray, float]:
    """Losses over those at the start, mean of the last steps, (K,); and the share of steps in which a test acted."""
    problem = Problem(seed, strength)
    balancer = Balancer(NAMES, [1.0] * len(NAMES), config, World(), 1.0)
    x_D, kept = problem.start_D.copy(), np.zeros(len(NAMES))
    first, counted = problem.losses(x_D), 0
    for step in range(steps):
        gradients_KD = problem.gradients(x_D)
        weights = balancer._decide(gradients_KD @ gradients_KD.T, problem.losses(x_D), step)
        direction = weights @ gradients_KD
        plain = gradients_KD.sum(axis=0)
        direction *= float(np.linalg.norm(plain)) / max(float(np.linalg.norm(direction)), 1e-12)
        x_D = x_D - RATE / len(NAMES) * direction
        if step >= (1 - LAST) * steps:
            kept, counted = kept + problem.losses(x_D), counted + 1
    return kept / counted / first, float(balancer.drain().get("balance/acts", 1.0))


def measure_balance(seeds: int, steps: int) -> list[dict[str, Any]]:
    """All figures."""
    configs = {"weighted": BalancingConfig(method="weighted")}
    configs |= {name: BalancingConfig(method=name, normalize="none") for name in METHODS}
    configs |= {
        f"tested_{name}": BalancingConfig(method=name, normalize="none", significance=SIGNIFICANCE) for name in METHODS
    }
    figures = []
    for case, strength in CASES.items():
        found: Mapping[str, list[tuple[np.ndarray, float]]] = {
            name: [trained(seed, strength, config, steps) for seed in range(seeds)] for name, config in configs.items()
        }
        plain = np.array([losses.mean() for losses, _ in found["weighted"]])
        for name, runs in found.items():
            regrets = np.array([losses.mean() for losses, _ in runs])
            about = {"seeds": seeds, "steps": steps}
            figures.append(figure(f"regret_{name}_{case}", float(regrets.mean()), "of the start's loss", **about))
            figures.append(
                figure(
                    f"least_{name}_{case}", float(np.mean([losses.max() for losses, _ in runs])), "of the start's loss"
                )
            )
            if name == "weighted":
                continue
            apart = regrets - plain
            half = 1.96 * apart.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else float("nan")
            figures.append(figure(f"regret_{name}_{case}_diff", float(apart.mean()), "of the start's loss"))
            figures += [
                figure(f"regret_{name}_{case}_diff_{end}", float(apart.mean() + sign * half), "of the start's loss")
                for end, sign in (("low", -1), ("high", 1))
            ]
            if name.startswith("tested"):
                figures.append(
                    figure(f"acts_{name}_{case}", float(np.mean([acts for _, acts in runs])), "share of steps")
                )
    return figures


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Whether balancing helps.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="two seeds and few steps: whether it runs at all")
    parser.add_argument("--seeds", type=int, default=10, help="trainings of each method and case")
    asked = parser.parse_args()
    seeds, steps = (2, 200) if asked.quick else (asked.seeds, STEPS)
    figures = measure_balance(seeds, steps)
    write(asked.json, report("balance_value", figures, quick=asked.quick, seeds=seeds))
    show("Whether balancing helps", figures)


if __name__ == "__main__":
    main()
