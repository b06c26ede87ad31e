"""One point of the grid: a backbone, the sizes of our slates, and how many prompts the peers get in a step."""

from dataclasses import dataclass
from typing import Any

from benchmarks.workload import Sizes

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
