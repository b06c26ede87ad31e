"""Peak memory of a training step: our packed slates against LibMTL's way on the same impressions as separate prompts.

Measured in fresh processes by benchmarks.balancing_memory: what two steps take above what the loaded model holds.
"""

from typing import Any

from benchmarks.balancing_memory import SEPARATE, measure
from benchmarks.figures import figure
from benchmarks.peer_libmtl import WAY
from benchmarks.peers import has_libmtl
from benchmarks.slates_ours import FAST, OBJECTIVES
from benchmarks.workload import Sizes


def memory_figures(backbone: str, sizes: Sizes) -> list[dict[str, Any]]:
    """Our peak, LibMTL's where it is installed, and their ratio."""
    end = f"_{backbone}"
    where: dict[str, Any] = {"backbone": backbone, "objectives": OBJECTIVES, **vars(sizes)}
    mine = measure(backbone, OBJECTIVES, "boundary", sizes, FAST)
    found = [figure(f"peak_mib_ours{end}", mine / 2**20, "MiB above the model", **where)]
    if has_libmtl():
        theirs = measure(backbone, OBJECTIVES, f"libmtl{SEPARATE}", sizes, WAY)
        found.append(figure(f"peak_mib_libmtl{end}", theirs / 2**20, "MiB above the model", **where))
        found.append(figure(f"memory_ratio_libmtl{end}", mine / theirs, "our peak / peer's peak", **where))
    return found
