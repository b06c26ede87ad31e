"""Our balancing against LibMTL, TorchJD and plain summed losses: step time, memory, agreement, solvers, bytes.

    python -m benchmarks.balancing [--quick] --json FILE [--parts steps memory agreement solvers bytes]

Runs on the GPU where there is one. The peers are measured where they are installed: `pip install equipoise[torchjd]`,
`pip install --no-deps LibMTL==1.1.5`. `--quick` takes two minutes on two cores that do nothing else; the whole
takes about half an hour there. Times taken on a busy machine mean little: look at `middle_half`, and at `of_fastest`.

Names end in BACKBONE_K; without that end they are the run's summary: K = 4, on the backbone that is worst for us, and
of TorchJD's two ways to differentiate the one that is better for TorchJD. A time ratio is the peer's step over ours, a
memory ratio our peak over the peer's.

Overheads compare with summed losses whose towers run one by one, as training runs them, so that balancing is the only
difference; `overhead_ratio_at_once` compares our step with the ordinary one, which holds all towers' graphs at once.
"""

import argparse
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from transformers.utils import logging as transformers_logging

from benchmarks.balancing_agreement import agreement_figures
from benchmarks.balancing_bytes import bytes_figures
from benchmarks.balancing_memory import memory_figures
from benchmarks.balancing_solvers import solver_figures
from benchmarks.balancing_steps import (
    installed_peers,
    step_figures,
    summary,
    time_steps,
    time_without_slates,
    without_slates_figures,
)
from benchmarks.figures import report, show, write
from benchmarks.workload import Sizes

MAIN = 4
"""The number of objectives that the summary is about."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        sizes: the batch, by backbone.
        objectives: the numbers K of objectives.
        memory: the backbones whose memory is measured.
        rounds: steps of each variant.
        without_slates_rounds: the same where the peers train on separate prompts; 0 leaves it out.
        matrices: random Gram matrices per spread of the norms.
        peer_matrices: those of them that TorchJD gets, whose solvers take longer.
        solves: timed for each method and K.
        agreement: the batch and backbone on which directions are compared.
    """

    sizes: dict[str, Sizes]
    objectives: tuple[int, ...]
    memory: tuple[str, ...]
    rounds: int
    without_slates_rounds: int
    matrices: int
    peer_matrices: int
    solves: int
    agreement: tuple[str, Sizes]


WHOLE = Plan(
    sizes={"minilm": Sizes(4, 10, 96, 16), "llama100m": Sizes(2, 8, 96, 16)},
    objectives=(2, 4, 8),
    memory=("minilm", "llama100m"),
    rounds=20,
    without_slates_rounds=5,
    matrices=300,
    peer_matrices=300,
    solves=100,
    agreement=("minilm", Sizes(2, 8, 48, 12)),
)
QUICK = Plan(
    sizes={"minilm": Sizes(2, 8, 64, 12), "llama100m": Sizes(1, 4, 48, 12)},
    objectives=(MAIN,),
    memory=("minilm",),
    rounds=5,
    without_slates_rounds=0,
    matrices=300,
    peer_matrices=14,
    solves=20,
    agreement=("tiny", Sizes(2, 3, 9, 4)),
)
TINY = Plan(
    sizes={"tiny": Sizes(2, 3, 9, 4)},
    objectives=(MAIN,),
    memory=("tiny",),
    rounds=2,
    without_slates_rounds=1,
    matrices=7,
    peer_matrices=2,
    solves=2,
    agreement=("tiny", Sizes(2, 3, 9, 4)),
)
"""For the tests."""


def _steps(plan: Plan) -> list[dict[str, Any]]:
    entries = []
    for backbone, sizes in plan.sizes.items():
        for count in plan.objectives:
            print(f"steps: {backbone}, K = {count}", flush=True)
            entries += step_figures(time_steps(backbone, count, sizes, plan.rounds), backbone, count)
        if plan.without_slates_rounds:
            print(f"steps: {backbone}, without slates", flush=True)
            seconds = time_without_slates(backbone, MAIN, sizes, plan.without_slates_rounds)
            entries += without_slates_figures(seconds, backbone, MAIN)
    return entries


def _memory(plan: Plan) -> list[dict[str, Any]]:
    entries = []
    for backbone in plan.memory:
        print(f"memory: {backbone}", flush=True)
        names = ["plain", "plain_at_once", "boundary", "parameters", *installed_peers()]
        entries += memory_figures(backbone, MAIN, names, plan.sizes[backbone], separate=plan.without_slates_rounds > 0)
    return entries


PARTS: dict[str, Callable[[Plan], list[dict[str, Any]]]] = {
    "bytes": lambda plan: bytes_figures(MAIN),
    "solvers": lambda plan: solver_figures(plan.matrices, plan.peer_matrices, plan.solves),
    "agreement": lambda plan: agreement_figures(*plan.agreement, MAIN),
    "memory": _memory,
    "steps": _steps,
}


def measure(plan: Plan, parts: list[str]) -> list[dict[str, Any]]:
    """All figures of the named parts, the summary first."""
    entries: list[dict[str, Any]] = []
    for part in parts:
        print(f"{part} …", flush=True)
        entries += PARTS[part](plan)
    return summary(entries, MAIN) + entries


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Our balancing against LibMTL, TorchJD and plain summed losses.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="less than five minutes on two cores")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: all")
    asked = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for message in (".*batching rule.*", ".*not DPP.*", ".*may be inaccurate.*"):  # TorchJD's vmap, and its solvers
        warnings.filterwarnings("ignore", message=message)
    plan = QUICK if asked.quick else WHOLE
    figures = measure(plan, asked.parts)
    peers = installed_peers()
    write(asked.json, report("balancing", figures, quick=asked.quick, parts=asked.parts, peers=peers))
    show("Balancing (the file also has the conflicts by spread)", [f for f in figures if "spread" not in f])
    for name, how in (("libmtl", "--no-deps LibMTL==1.1.5"), ("torchjd", "equipoise[torchjd]")):
        if name not in peers:
            print(f"{name} is not installed, so nothing is compared with it: pip install {how}")


if __name__ == "__main__":
    main()
