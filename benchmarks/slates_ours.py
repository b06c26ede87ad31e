"""Our step on packed slates, and the same step without one of its ideas.

`ours` is four balanced objectives (PCGrad at the boundary), prefix-split attention and adapters of the objectives on
candidate tokens only, so that the prefix passes every layer once. Each of WITHOUT leaves one idea out.

LibMTL's way, as a peer: the model is ours with every prompt alone in its row, stock SDPA and objective adapters on all
tokens; all towers are computed at once and PCGrad compares the gradients of all shared parameters. Not part of any
extra: `pip install --no-deps LibMTL==1.1.5` (see benchmarks.peers).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.balancing_steps import variant
from benchmarks.contender import Contender
from benchmarks.workload import Sizes, Way, Workload, build_workload, resized, separate_prompts

OBJECTIVES = 4
FAST = Way(attention="split", scope="candidates")
LIBMTL_WAY = Way(attention="sdpa", scope="all")
WITHOUT = {
    "packing": "every candidate in a row of its own, behind a copy of the prefix",
    "towers": "a model per objective, each with all layers of its own",
    "scope": "objective adapters on all tokens, so that the prefix passes the upper layers once per objective",
    "balancing": "the plain sum of the losses",
    "split_attention": "stock SDPA under a mask of all pairs of tokens",
}
"""The ideas, by name: what stands in the place of each."""
HISTORY = 64
"""Things that candidates are compared with, as many as `data.comparison` takes at most by default."""
PROMPT_TOKENS = 2200
"""Of a peer's step where it need not treat as many impressions as ours: enough for full matrix products."""


@dataclass(frozen=True)
class Point:
    """`prompts` separate prompts stand against `sizes`; their time is linear in their number, for no token is shared,
    so that a peer's time per impression may be taken on fewer than ours treats."""

    backbone: str
    sizes: Sizes
    prompts: int

    def separate(self, prompts: int | None = None) -> Sizes:
        """The peers' batch, of `prompts` if told."""
        return Sizes(prompts or self.prompts, 1, self.sizes.prefix, self.sizes.length)

    def circumstances(self) -> dict[str, Any]:
        """What a figure says about this point."""
        return {
            "backbone": self.backbone,
            "prefix": self.sizes.prefix,
            "candidates": self.sizes.candidates,
            "length": self.sizes.length,
            "slates": self.sizes.slates,
            "prompts": self.prompts,
        }


def point(backbone: str, sizes: Sizes, most_tokens: int = PROMPT_TOKENS) -> Point:
    """A point whose peers get at least one prompt, and no more than `most_tokens` tokens or our own impressions."""
    fitting = max(1, most_tokens // (sizes.prefix + sizes.length))
    return Point(backbone, sizes, min(fitting, sizes.slates * sizes.candidates))


def training_step(workload: Workload, balancing: bool = True) -> Callable[[], None]:
    """A step as training takes it, towers one by one; balanced or plainly summed."""
    return variant(workload, "boundary" if balancing else "plain")


def one_after_another(steps: list[Callable[[], None]]) -> None:
    """Take all these steps."""
    for step in steps:
        step()


def ours(backbone: str, sizes: Sizes, prompts: int) -> dict[str, Contender]:
    """Our step with four objectives and with one, and the four with the comparison and without each of the ideas.

    Args:
        backbone: one of BACKBONES.
        sizes: of the slates.
        prompts: how many the variant without packing gets in a step; the time of a prompt does not depend on it.
    """
    packed = sizes.slates * sizes.candidates
    full = build_workload(backbone, OBJECTIVES, sizes, way=FAST)
    single = [build_workload(backbone, 1, sizes, seed, way=FAST) for seed in range(OBJECTIVES)]
    wide = build_workload(backbone, OBJECTIVES, sizes, way=Way(attention="split", scope="all"))
    masked = build_workload(backbone, OBJECTIVES, sizes, way=Way(attention="sdpa", scope="candidates"))
    comparing = build_workload(backbone, OBJECTIVES, replace(sizes, history=HISTORY), way=FAST)
    alone = resized(full, separate_prompts(Sizes(1, prompts, sizes.prefix, sizes.length)))
    singles = [training_step(workload, balancing=False) for workload in single]
    return {
        "ours": Contender(training_step(full), packed),
        "ours_one": Contender(singles[0], packed),
        "with_comparison": Contender(training_step(comparing), packed),
        "without_packing": Contender(training_step(alone), prompts),
        "without_towers": Contender(partial(one_after_another, singles), packed),
        "without_scope": Contender(training_step(wide), packed),
        "without_balancing": Contender(training_step(full, balancing=False), packed),
        "without_split_attention": Contender(training_step(masked), packed),
    }


def libmtl_step(backbone: str, objectives: int, sizes: Sizes) -> Callable[[], None]:
    """A step on `sizes`, which has one candidate per slate."""
    return variant(build_workload(backbone, objectives, sizes, way=LIBMTL_WAY), "libmtl")
