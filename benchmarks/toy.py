"""All methods on the two-dimensional problem of CAGrad: where they end from five starts, and how far from the front.

    python -m benchmarks.toy --json FILE [--picture FILE.png] [--steps N] [--quick] [--normalize none|l2|loss]

Each method runs as in training: the Gram matrix of the two gradients is conditioned and weighed by the real method
object with its default options and normalisation, and Adam (lr 1e-3, as in the papers) moves the point. The methods
with priorities put L1 first; `epsilon_constraint` keeps L2 below −10. Takes minutes; one process per core.
"""

import argparse
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.figures import figure, report, write
from benchmarks.toy_picture import draw
from benchmarks.toy_problem import LEAST, OBJECTIVES, STARTS, distance_to_front, losses_and_gradients, pareto_set
from equipoise.configs.balancing import BalancingConfig
from equipoise.train.balancing.balancer import weights_on_gradients
from equipoise.train.balancing.gradient_stats import condition
from equipoise.train.balancing.registry import METHODS, build_method

STEPS, QUICK_STEPS = 50_000, 2_000
RATE = 1e-3
KEPT_POINTS = 500
OPTIONS: dict[str, dict[str, Any]] = {
    "lexicographic": {"order": list(OBJECTIVES)},
    "pcd": {"primary": "L1"},
    "epsilon_constraint": {"bounds": {"L2": -10.0}},
}
"""What those methods need that have no natural default."""


class Adam:
    """Adam (Kingma & Ba 2015) in float64 on an array of points."""

    def __init__(self, points: np.ndarray, rate: float) -> None:
        self.points, self.rate, self.count = points.copy(), rate, 0
        self.first, self.second = np.zeros_like(points), np.zeros_like(points)

    def step(self, gradients: np.ndarray) -> None:
        """Move all points once."""
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradients
        self.second = 0.999 * self.second + 0.001 * gradients**2
        first = self.first / (1 - 0.9**self.count)
        self.points = self.points - self.rate * first / (np.sqrt(self.second / (1 - 0.999**self.count)) + 1e-8)


@dataclass(frozen=True)
class Path2D:
    """What one method did.

    Attributes:
        points: float64 (kept, starts, 2), the way; the last one is the end.
        losses: float64 (kept, starts, 2), of the same points.
        seconds: how long it took.
    """

    method: str
    points: np.ndarray
    losses: np.ndarray
    seconds: float


def follow(name: str, steps: int, normalize: str | None = None) -> Path2D:
    """Run one method from all starts for `steps` steps."""
    config = BalancingConfig(method=name, options=OPTIONS.get(name, {}), normalize=normalize)  # type: ignore[arg-type]
    methods = [build_method(config) for _ in STARTS]
    adam, preference = Adam(STARTS, RATE), np.ones(len(OBJECTIVES))
    every = max(1, steps // KEPT_POINTS)
    points, losses_by_step = [adam.points], []
    losses, gradients = losses_and_gradients(adam.points)
    losses_by_step.append(losses)
    begin = time.perf_counter()
    for step in range(steps):
        grams = gradients @ gradients.swapaxes(-1, -2)
        weights = []
        for method, gram, loss in zip(methods, grams, losses, strict=True):
            conditioned = condition(gram, str(config.normalize), loss)
            weights.append(weights_on_gradients(method, conditioned, OBJECTIVES, preference, loss, step, LEAST))
        adam.step((np.stack(weights)[:, None] @ gradients)[:, 0])
        before, (losses, gradients) = losses - LEAST, losses_and_gradients(adam.points)
        for method, old, new in zip(methods, before, losses - LEAST, strict=True):
            if method.needs_losses_after:
                method.after_step(
                    dict(zip(OBJECTIVES, old.tolist(), strict=True)), dict(zip(OBJECTIVES, new.tolist(), strict=True))
                )
        if (step + 1) % every == 0 or step + 1 == steps:
            points.append(adam.points)
            losses_by_step.append(losses)
    return Path2D(name, np.stack(points), np.stack(losses_by_step), time.perf_counter() - begin)


def follow_all(names: list[str], steps: int, normalize: str | None = None) -> list[Path2D]:
    """All methods, in as many processes as there are cores."""
    with multiprocessing.get_context("spawn").Pool(min(len(names), os.cpu_count() or 1)) as pool:
        return pool.starmap(follow, [(name, steps, normalize) for name in names], chunksize=1)


def figures_of(paths: list[Path2D], front: np.ndarray) -> list[dict[str, Any]]:
    """The end points and their distances to the front, per method and start (numbered from 1)."""
    entries = []
    for path in paths:
        distances = distance_to_front(path.losses[-1], front)
        for start, (end, losses, distance) in enumerate(
            zip(path.points[-1], path.losses[-1], distances, strict=True), 1
        ):
            where: dict[str, Any] = {"method": path.method, "start": start}
            name = f"{path.method}_start{start}"
            reached = losses.round(4).tolist()
            entries.append(figure(f"{name}_final_x1", end[0], "coordinate", **where))
            entries.append(figure(f"{name}_final_x2", end[1], "coordinate", **where))
            entries.append(figure(f"{name}_distance_to_front", distance, "loss", **where, losses=reached))
        entries.append(figure(f"{path.method}_worst_distance_to_front", distances.max(), "loss", method=path.method))
    return entries


def _show(paths: list[Path2D], front: np.ndarray) -> None:
    starts = [f"({x:g}, {y:g})" for x, y in STARTS]
    table = Table("method", *starts, "s", title="Distance to the Pareto front, by start")
    for path in paths:
        distances = distance_to_front(path.losses[-1], front)
        table.add_row(path.method, *[f"{d:.3f}" for d in distances], f"{path.seconds:.0f}")
    Console().print(table)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="All balancing methods on the two-dimensional problem of CAGrad.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--picture", type=Path, help="where the picture (PNG) goes")
    parser.add_argument("--steps", type=int, help=f"optimizer steps (default {STEPS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps unless --steps says otherwise")
    parser.add_argument("--normalize", choices=("none", "l2", "loss"), help="for all methods (default: each its own)")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="default: all")
    asked = parser.parse_args()
    steps = asked.steps or (QUICK_STEPS if asked.quick else STEPS)
    paths = follow_all(asked.methods, steps, asked.normalize)
    pareto = pareto_set()
    front = losses_and_gradients(pareto)[0]
    write(
        asked.json,
        report("toy", figures_of(paths, front), steps=steps, rate=RATE, normalize=asked.normalize or "default"),
    )
    _show(paths, front)
    if asked.picture:
        draw(asked.picture, [(p.method, p.points, p.losses, distance_to_front(p.losses[-1], front)) for p in paths])


if __name__ == "__main__":
    main()
