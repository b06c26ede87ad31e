"""LibMTL's way, as a peer: a shared LoRA trunk with a tower per objective, on separate prompts.

The model is ours with every prompt alone in its row, stock SDPA and objective adapters on all tokens; all towers are
computed at once and PCGrad compares the gradients of all shared parameters. Not part of any extra:
`pip install --no-deps LibMTL==1.1.5` (see benchmarks.peers).
"""

from collections.abc import Callable

from benchmarks.balancing_steps import variant
from benchmarks.workload import Sizes, Way, build_workload

WAY = Way(attention="sdpa", scope="all")


def libmtl_step(backbone: str, objectives: int, sizes: Sizes) -> Callable[[], None]:
    """A step on `sizes`, which has one candidate per slate."""
    return variant(build_workload(backbone, objectives, sizes, way=WAY), "libmtl")
