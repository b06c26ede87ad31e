"""Several processes give the loss and the gradient of one process with the union of their rows."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from equipoise.configs.objectives import CoverageConfig, CtrConfig, CvrConfig, DiversityConfig, FairnessConfig
from equipoise.train.objectives.base import Objective, Step, Totals
from equipoise.train.objectives.coverage import Coverage
from equipoise.train.objectives.cvr import Cvr
from equipoise.train.objectives.diversity import Diversity
from equipoise.train.objectives.fairness import Fairness
from equipoise.train.objectives.pointwise import Binary
from equipoise.train.world import World

PARTS = [[4, 1], [3, 2]]
SLATES = [size for part in PARTS for size in part]
CATEGORY = [0, 0, 1, 0, 2, 1, 1, 3, 0, 2]
CLICK = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
CONVERSION = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
LOG_SAMPLING_RATE = [-1.0, 0.0, -0.3, -0.7]
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "ctr": lambda: Binary("ctr", CtrConfig()),
    "esmm": lambda: Cvr("cvr", CvrConfig()),
    "ips": lambda: Cvr("cvr", CvrConfig(estimator="ips")),
    "dr": lambda: Cvr("cvr", CvrConfig(estimator="dr")),
    "diversity": lambda: Diversity("delta", DiversityConfig(form="parallel")),
    "text": lambda: Diversity("delta", DiversityConfig(similarity="text")),
    "parity": lambda: Fairness("delta", FairnessConfig(attribute="category", form="parallel")),
    "merit": lambda: Fairness("delta", FairnessConfig(attribute="category", target="merit", form="parallel")),
    "coverage": lambda: Coverage("delta", CoverageConfig(form="parallel")),
    "lists, diversity": lambda: Diversity("delta", DiversityConfig(places=3)),
    "lists, parity": lambda: Fairness("delta", FairnessConfig(attribute="category", places=3)),
    "lists, merit": lambda: Fairness("delta", FairnessConfig(attribute="category", target="merit", places=3)),
    "lists, coverage": lambda: Coverage("delta", CoverageConfig(places=3)),
}


def three_steps(name: str, make_step: Callable[..., Step], world: World) -> list[torch.Tensor]:
    """Loss and gradients of three steps, for the part of the rows that this process holds."""
    sizes = SLATES if world.size == 1 else PARTS[world.rank]
    first_slate = 0 if world.size == 1 else 2 * world.rank
    first = sum(SLATES[:first_slate])
    rows = slice(first, first + sum(sizes))
    importance_weight = sum(
        1.0 if c else 1.0 / torch.tensor(LOG_SAMPLING_RATE[s]).exp().item()
        for s, c in zip(slate_numbers(), CLICK, strict=True)
    )
    objective = OBJECTIVES[name]()
    if hasattr(objective, "groups"):
        objective.groups = 4
    results = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        outputs = {
            key: torch.randn(10, generator=generator, dtype=torch.float64)[rows].clone().requires_grad_(True)
            for key in ("ctr", "cvr", "cvr.1", "delta")
        }
        outputs["embeddings"] = torch.randn(10, 4, generator=generator, dtype=torch.float64)[rows]
        step = make_step(
            sizes,
            outputs,
            click=CLICK[rows],
            conversion=CONVERSION[rows],
            log_sampling_rate=LOG_SAMPLING_RATE[first_slate : first_slate + len(sizes)],
            attributes={"category": CATEGORY[rows]},
            world=world,
            totals=Totals(10.0, importance_weight, 4.0),
        )
        step = replace(step, batch=replace(step.batch, row=step.batch.row + first_slate))
        loss = objective.loss(step)
        loss.backward()
        grads = [outputs[key].grad for key in ("ctr", "cvr", "cvr.1", "delta")]
        results.append(torch.stack([torch.zeros(sum(sizes), dtype=torch.float64) if g is None else g for g in grads]))
        results.append(loss.detach())
    return results


def slate_numbers() -> list[int]:
    return [number for number, size in enumerate(SLATES) for _ in range(size)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_are_one_with_the_union(
    name: str, make_step: Callable[..., Step], run_world: Callable[..., list]
) -> None:
    (alone,) = run_world(1, lambda world: three_steps(name, make_step, world))
    one, two = run_world(2, lambda world: three_steps(name, make_step, world))
    for whole, left, right in zip(alone, one, two, strict=True):
        if whole.ndim == 0:
            torch.testing.assert_close((left + right) / 2, whole, rtol=1e-12, atol=1e-14)
        else:
            # Engines average gradients over processes.
            torch.testing.assert_close(torch.cat([left, right], 1) / 2, whole, rtol=1e-12, atol=1e-14)
            assert whole.abs().max() > 1e-3
