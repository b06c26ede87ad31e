"""A 2-process job that balances 100 steps with every method and writes what each rank did.

Run by test_balancing.py: `accelerate launch … weights_job.py OUTPUT CONFIG_JSON…`, one run per balancing section.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from equipoise.configs.balancing import BalancingConfig
from equipoise.modeling.boundary import StepContext
from equipoise.train.balancing.balancer import Balancer
from equipoise.train.world import World

STEPS, OBJECTIVES, ROWS, WIDTH = 100, ("ctr", "cvr", "diversity"), 8, 12


class CountingWorld(World):
    """Counts what is exchanged through it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        self.sent.append(("sum", x.numel() * x.element_size()))
        return super().sum(x)

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        self.sent.append(("broadcast", x.numel() * x.element_size()))
        return super().broadcast(x)


class Model(torch.nn.Module):
    """A two-layer trunk, the boundary, and one linear tower per objective."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.trunk = torch.nn.ModuleList([torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)])
        self.towers = torch.nn.ModuleList([torch.nn.Linear(WIDTH, 1) for _ in OBJECTIVES])

    def forward(self, x: torch.Tensor, context: StepContext) -> list[torch.Tensor]:
        z = torch.tanh(self.trunk[1](torch.tanh(self.trunk[0](x))))
        views = context.fan_out(z, OBJECTIVES)
        return [tower(view)[:, 0] for tower, view in zip(self.towers, views, strict=True)]


def run(settings: dict[str, Any]) -> dict[str, Any]:
    """100 steps; the weights as hexadecimal floats, the final trunk, and the bytes exchanged in each step."""
    world = CountingWorld()
    model = Model()
    balancer = Balancer(
        OBJECTIVES, [1.0, 2.0, 0.5], BalancingConfig(**settings), world, scale=world.size,
        trunk=[list(layer.parameters()) for layer in model.trunk],
    )  # fmt: skip
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(100 + world.rank)
    history, sent = [], []
    for step in range(STEPS):
        x = torch.randn(ROWS, WIDTH, generator=generator)
        targets = torch.stack([x[:, 0], -x[:, 0] + x[:, 1], x[:, 2].abs()])

        context = StepContext(balancer.compute_weights, step)

        def losses(context: StepContext, x: torch.Tensor = x, targets: torch.Tensor = targets) -> torch.Tensor:
            outputs = wrapped(x, context)
            return torch.stack([(y - t).square().mean() for y, t in zip(outputs, targets, strict=True)])

        optimizer.zero_grad()
        shares = losses(context)
        before = (World().sum(shares) / world.size).double().numpy()
        context.report_losses(OBJECTIVES, before)
        world.sent.clear()
        shares.sum().backward()
        sent.append(list(world.sent))
        optimizer.step()
        if balancer.method.needs_losses_after:
            with torch.no_grad():
                after = World().sum(losses(StepContext())) / world.size
                balancer.after_step(before, after.double().numpy())
        assert balancer._weights is not None
        history.append([float(weight).hex() for weight in balancer._weights])
    trunk = [float(value).hex() for value in model.trunk[0].weight.detach().reshape(-1)]
    return {"weights": history, "trunk": trunk, "sent": sent, "log": balancer.drain()}


def main() -> None:
    """Write OUTPUT/rank-N.json: one record per configuration."""
    from accelerate import Accelerator, InitProcessGroupKwargs

    Accelerator(cpu=True, kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")])
    torch.set_num_threads(1)
    folder, *settings = sys.argv[1:]
    records = [run(json.loads(text)) for text in settings]
    (Path(folder) / f"rank-{World().rank}.json").write_text(json.dumps(records))


if __name__ == "__main__":
    main()
