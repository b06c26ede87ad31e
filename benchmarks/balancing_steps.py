"""How long a training step takes: plain sums, our three levels, LibMTL and TorchJD, taking turns on one model."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.figures import figure, ratio, take_turns
from benchmarks.peers import TorchJD, has_libmtl, has_torchjd, libmtl
from benchmarks.workload import (
    Sizes,
    Workload,
    build_balancer,
    build_workload,
    plain,
    random_batch,
    separate_prompts,
)
from equipoise.configs.balancing import BalancingConfig, Layers

METHOD = "pcgrad"
"""Whose step is timed: the default method, which ours and both peers have."""

LEVELS: dict[str, Any] = {"boundary": "boundary", "layers": Layers(layers=1), "parameters": "parameters"}
PLAIN = ("plain", "plain_at_once")
PEERS = ("libmtl", "torchjd", "torchjd_one_by_one")
"""`torchjd_one_by_one` differentiates one objective after another, `torchjd` all at once (its default)."""


def variant(workload: Workload, name: str, method: str = METHOD) -> Callable[[], None]:
    """A step by name: a level, a peer, or summed losses: `plain` with the towers one by one, as ours and as training
    runs them, `plain_at_once` with the graph of all of them at once, as the peers."""
    if name in PLAIN:
        return partial(workload.step, plain(workload), one_by_one=name == "plain")
    if name in LEVELS:
        balancer = build_balancer(workload, BalancingConfig(method=method, level=LEVELS[name]))
        return partial(workload.step, plain(workload), balancer.compute_weights, one_by_one=True)
    if name == "libmtl":
        return partial(workload.step, libmtl(workload, method))
    engine = TorchJD(workload, method)
    if name == "torchjd_one_by_one":
        engine.chunk = 1
    return partial(workload.step, engine)


def installed_peers() -> list[str]:
    """Those of PEERS that can run here."""
    return [name for name in PEERS if (has_libmtl() if name == "libmtl" else has_torchjd())]


def time_steps(backbone: str, objectives: int, sizes: Sizes, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of every variant's step, by name, (rounds,)."""
    workload = build_workload(backbone, objectives, sizes)
    names = [*PLAIN, *LEVELS, *installed_peers()]
    return take_turns({name: variant(workload, name) for name in names}, rounds)


def time_without_slates(backbone: str, objectives: int, sizes: Sizes, rounds: int) -> dict[str, np.ndarray]:
    """Seconds of our step on slates, and of the peers' on the same candidates as separate prompts."""
    for_us, for_peers = build_workload(backbone, objectives, sizes), build_workload(backbone, objectives, sizes)
    vocabulary = for_peers.model.backbone.config.vocab_size
    for_peers.batch = random_batch(separate_prompts(sizes), vocabulary, 0).to(for_peers.device)
    peers = {name: variant(for_peers, name) for name in installed_peers()}
    return take_turns({"boundary": variant(for_us, "boundary"), **peers}, rounds)


def step_figures(seconds: Mapping[str, np.ndarray], backbone: str, objectives: int) -> list[dict[str, Any]]:
    """Ratios and medians of one backbone and K."""
    where: dict[str, Any] = {"backbone": backbone, "objectives": objectives, "method": METHOD}
    end = f"{backbone}_K{objectives}"
    entries = [
        figure(f"overhead_ratio_{level}_{end}", **ratio(seconds, level, "plain"), unit="step / plain step", **where)
        for level in LEVELS
    ]
    if "plain_at_once" in seconds:
        against = ratio(seconds, "boundary", "plain_at_once")
        entries.append(
            figure(f"overhead_ratio_at_once_{end}", **against, unit="step / plain step, all at once", **where)
        )
    for peer in PEERS:
        if peer in seconds:
            times = ratio(seconds, peer, "boundary")
            entries.append(figure(f"time_ratio_{peer}_{end}", **times, unit="peer's step / our step", **where))
    for name, values in seconds.items():
        entries.append(figure(f"step_ms_{name}_{end}", float(np.median(values)) * 1e3, "ms", **where))
    return entries


def without_slates_figures(seconds: Mapping[str, np.ndarray], backbone: str, objectives: int) -> list[dict[str, Any]]:
    """Peers on separate prompts over ours on slates."""
    where: dict[str, Any] = {"backbone": backbone, "objectives": objectives, "method": METHOD}
    return [
        figure(
            f"time_ratio_{peer}_without_slates_{backbone}_K{objectives}",
            **ratio(seconds, peer, "boundary"),
            unit="peer's step on separate prompts / our step on slates",
            **where,
        )
        for peer in PEERS
        if peer in seconds
    ]


def summary(figures: list[dict[str, Any]], objectives: int) -> list[dict[str, Any]]:
    """The figures by which a run is judged: at `objectives`, the backbone that is worst for us; of TorchJD's two ways
    its faster or smaller one."""
    chosen = []
    for name, prefixes, worst in (
        *((f"overhead_ratio_{level}", [f"overhead_ratio_{level}"], max) for level in LEVELS),
        ("overhead_ratio_at_once", ["overhead_ratio_at_once"], max),
        ("time_ratio_libmtl", ["time_ratio_libmtl"], min),
        ("time_ratio_libmtl_without_slates", ["time_ratio_libmtl_without_slates"], min),
        ("memory_ratio_libmtl_without_slates", ["memory_ratio_libmtl_without_slates"], max),
        ("time_ratio_torchjd", ["time_ratio_torchjd", "time_ratio_torchjd_one_by_one"], min),
        ("memory_ratio_libmtl", ["memory_ratio_libmtl"], max),
        ("memory_ratio_torchjd", ["memory_ratio_torchjd", "memory_ratio_torchjd_one_by_one"], max),
    ):
        fitting = [
            entry
            for entry in figures
            if entry.get("objectives") == objectives
            and entry["name"] in {f"{prefix}_{entry.get('backbone')}_K{objectives}" for prefix in prefixes}
        ]
        if fitting:
            one = worst(fitting, key=lambda entry: entry["value"])
            chosen.append({**one, "name": name})
    return chosen
