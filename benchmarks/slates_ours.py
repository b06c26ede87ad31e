"""Our step on packed slates, and the same step without one of its ideas.

`ours` is four balanced objectives (PCGrad at the boundary), prefix-split attention and adapters of the objectives on
candidate tokens only, so that the prefix passes every layer once. Each of WITHOUT leaves one idea out.
"""

from collections.abc import Callable
from functools import partial

from benchmarks.balancing_steps import variant
from benchmarks.contender import Contender
from benchmarks.workload import Sizes, Way, Workload, build_workload, resized, separate_prompts

OBJECTIVES = 4
FAST = Way(attention="split", scope="candidates")
WITHOUT = {
    "packing": "every candidate in a row of its own, behind a copy of the prefix",
    "towers": "a model per objective, each with all layers of its own",
    "scope": "objective adapters on all tokens, so that the prefix passes the upper layers once per objective",
    "balancing": "the plain sum of the losses",
    "split_attention": "stock SDPA under a mask of all pairs of tokens",
}
"""The ideas, by name: what stands in the place of each."""


def training_step(workload: Workload, balancing: bool = True) -> Callable[[], None]:
    """A step as training takes it, towers one by one; balanced or plainly summed."""
    return variant(workload, "boundary" if balancing else "plain")


def one_after_another(steps: list[Callable[[], None]]) -> None:
    """Take all these steps."""
    for step in steps:
        step()


def ours(backbone: str, sizes: Sizes, prompts: int) -> dict[str, Contender]:
    """Our step with four objectives and with one, and the four without each of the ideas.

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
    alone = resized(full, separate_prompts(Sizes(1, prompts, sizes.prefix, sizes.length)))
    singles = [training_step(workload, balancing=False) for workload in single]
    return {
        "ours": Contender(training_step(full), packed),
        "ours_one": Contender(singles[0], packed),
        "without_packing": Contender(training_step(alone), prompts),
        "without_towers": Contender(partial(one_after_another, singles), packed),
        "without_scope": Contender(training_step(wide), packed),
        "without_balancing": Contender(training_step(full, balancing=False), packed),
        "without_split_attention": Contender(training_step(masked), packed),
    }
