"""Whether LibMTL, TorchJD and we find the same direction: same model, same batch, all shared parameters."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.figures import figure
from benchmarks.peers import LIBMTL, LIBMTL_ONLY_FOR, TORCHJD, TorchJD, has_libmtl, has_torchjd, libmtl
from benchmarks.workload import Backward, Sizes, Workload, build_balancer, build_workload, combined_gradient, plain
from equipoise.configs.balancing import BalancingConfig
from equipoise.modeling.boundary import BoundaryGradients, StepContext
from equipoise.train.balancing.registry import METHODS

RANDOM_ORDERS = ("pcgrad", "gradvac")
"""The peers draw an order for each gradient; of two objectives there is only one."""


def _ours(workload: Workload, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Our weights (K,) on the gradients, and the gradients (K, P) of the shared parameters, float64."""
    config = BalancingConfig(method=method, level="parameters", normalize="none")
    balancer = build_balancer(workload, config)
    recorded: dict[str, Any] = {}

    def compute_weights(gradients: BoundaryGradients, context: StepContext) -> list[float]:
        recorded["gradients"] = gradients.gradients(workload.shared()).double().cpu().numpy()
        recorded["weights"] = balancer.compute_weights(gradients, context)
        return recorded["weights"]

    plain(workload)(workload.losses(compute_weights=compute_weights))
    return np.array(recorded["weights"]), recorded["gradients"]


def compare(backbone: str, sizes: Sizes, method: str, objectives: int, peer: str) -> dict[str, float]:
    """Cosine of the two combined gradients, and the largest difference of a weight after each sums to 1 in absolute
    value; the peer's weights are read off its combined gradient."""
    workload = build_workload(backbone, objectives, sizes)
    weights, gradients = _ours(workload, method)
    workload.optimizer.zero_grad()
    build: Callable[[Workload, str], Backward] = libmtl if peer == "libmtl" else TorchJD
    engine = build(workload, method)
    engine(workload.losses())
    peer_gradient = combined_gradient(workload.shared()).numpy()
    our_gradient = weights @ gradients
    cosine = float(our_gradient @ peer_gradient / np.linalg.norm(our_gradient) / np.linalg.norm(peer_gradient))
    peer_weights = np.linalg.lstsq(gradients.T, peer_gradient)[0]
    scaled = weights / np.abs(weights).sum() - peer_weights / np.abs(peer_weights).sum()
    return {"cosine": cosine, "weights": float(np.abs(scaled).max())}


def agreement_figures(backbone: str, sizes: Sizes, objectives: int = 4) -> list[dict[str, Any]]:
    """For every method that we share with a peer."""
    entries = []
    peers = [("libmtl", LIBMTL, has_libmtl()), ("torchjd", TORCHJD, has_torchjd())]
    for peer, methods, installed in peers:
        for method in [name for name in methods if installed and name in METHODS]:
            count = 2 if method in RANDOM_ORDERS else objectives
            if peer == "libmtl":
                count = LIBMTL_ONLY_FOR.get(method, count)
            torch.manual_seed(0)
            same = compare(backbone, sizes, method, count, peer)
            where: dict[str, Any] = {"method": method, "peer": peer, "objectives": count, "backbone": backbone}
            entries.append(figure(f"agreement_{method}_{peer}", same["cosine"], "cosine of the directions", **where))
            entries.append(
                figure(f"agreement_weights_{method}_{peer}", same["weights"], "largest difference of a weight", **where)
            )
    return entries
