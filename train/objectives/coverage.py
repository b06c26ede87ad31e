"""Coverage of the catalogue: exposure spread over many categories (or items, brands, …)."""

import math

import torch

from configs.schema import CoverageConfig
from train.objectives.base import Exposure, ListwiseObjective, Step, moving_average


class Coverage(ListwiseObjective):
    """J = −H(E) / log G: the negative entropy of the exposure over the values of one item attribute, in [−1, 0]."""

    options: CoverageConfig

    @property
    def attributes(self) -> list[str]:
        return [self.options.attribute]

    def __init__(self, name: str, options: CoverageConfig) -> None:
        super().__init__(name, options)
        self.groups = 0  # set from the items table before training

    def goal(self, step: Step, exposure: Exposure) -> torch.Tensor:
        """J of the global batch: the same number on every process."""
        codes_N = step.batch.attributes[self.options.attribute]
        exposed_G = exposure.by_group(exposure.pi_SM, codes_N, self.groups)
        exposed_G = step.world.sum_with_gradient(exposed_G) / step.totals.slates
        exposed_G = moving_average(self.state, "exposure", exposed_G, self.options.momentum)
        return (exposed_G * exposed_G.clamp(min=1e-12).log()).sum() / math.log(max(self.groups, 2))
