"""Coverage of the catalogue: exposure spread over many categories (or items, brands, …)."""

import math

import torch

from equipoise.configs.objectives import CoverageConfig
from equipoise.train.objectives.base import Exposure, Step
from equipoise.train.objectives.grouped import GroupedObjective


class Coverage(GroupedObjective):
    """The exposure of each value of one item attribute; as `parallel` J = −H(E) / log G, in [−1, 0]."""

    options: CoverageConfig

    @property
    def lower_bound(self) -> float:
        """All values exposed alike, or the base class's of drawn lists."""
        return super().lower_bound if self.options.form == "greedy" else -1.0

    def goal(self, step: Step, exposure: Exposure) -> torch.Tensor:
        """J of the global batch: the same number on every process."""
        exposed_G = self.exposed(step, exposure)
        return (exposed_G * exposed_G.clamp(min=1e-12).log()).sum() / math.log(max(self.groups, 2))
