"""Bytes that balancing puts on the wire per backward, counted in a run of two processes (gloo)."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.figures import figure
from benchmarks.workload import Sizes, build_balancer, build_workload, plain
from equipoise.configs.balancing import BalancingConfig
from equipoise.train.world import World

STEPS = 3


class CountingWorld(World):
    """Adds up the bytes of what is summed and broadcast."""

    def __init__(self) -> None:
        self.summed = self.broadcasted = 0

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """As the world does."""
        self.summed += x.numel() * x.element_size()
        return super().sum(x)

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        """As the world does."""
        self.broadcasted += x.numel() * x.element_size()
        return super().broadcast(x)


def _one(rank: int, folder: str, backbone: str, objectives: int, sizes: Sizes) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    workload, world = build_workload(backbone, objectives, sizes, device="cpu"), CountingWorld()
    balancer = build_balancer(workload, BalancingConfig(), world)
    for _ in range(STEPS):
        workload.step(plain(workload), balancer.compute_weights, one_by_one=True)
    Path(folder, f"{rank}.txt").write_text(f"{world.summed} {world.broadcasted} {balancer.solves}")
    dist.barrier()
    dist.destroy_process_group()


def count_bytes(backbone: str, objectives: int, sizes: Sizes) -> tuple[float, float]:
    """Bytes summed and bytes broadcast per backward at level `boundary`, by each process."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_one, args=(folder, backbone, objectives, sizes), nprocs=2)
        both = {Path(folder, f"{rank}.txt").read_text() for rank in range(2)}
    if len(both) != 1:
        raise RuntimeError(f"the processes did not exchange the same: {both}")
    summed, broadcasted, solves = map(int, both.pop().split())
    if solves != STEPS:
        raise RuntimeError(f"{solves} solves in {STEPS} steps")
    return summed / STEPS, broadcasted / STEPS


def bytes_figures(objectives: int = 4) -> list[dict[str, Any]]:
    """On the tiny shape: the number does not depend on the model."""
    summed, broadcasted = count_bytes("tiny", objectives, Sizes(2, 3, 9, 4))
    where: dict[str, Any] = {"objectives": objectives, "processes": 2, "summed": summed, "broadcast": broadcasted}
    return [figure("bytes_per_step", summed + broadcasted, "bytes per backward and process", **where)]
