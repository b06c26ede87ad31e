"""Coverage of the catalogue: exposure spread over many categories (or items, brands, …)."""

import math

import torch

from equipoise.configs.objectives import CoverageConfig
from equipoise.train.objectives.base import Exposure, Step
from equipoise.train.objectives.grouped import GroupedObjective


class Coverage(GroupedObjective):
    """J = −H(E) / log G: the negative entropy of the exposure over the values of one item attribute, in [−1, 0]."""

    options: CoverageConfig

    @property
    def lower_bound(self) -> float:
        """All values exposed alike."""
        return -1.0

    def goal(self, step: Step, exposure: Exposure) -> torch.Tensor:
        """J of the global batch: the same number on every process."""
        exposed_G = self.exposed(step, exposure)
        return (exposed_G * exposed_G.clamp(min=1e-12).log()).sum() / math.log(max(self.groups, 2))
