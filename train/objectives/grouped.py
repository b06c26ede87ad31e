"""What list-wise objectives over groups of items share: the exposure of each group in the global batch, over time."""

import torch

from equipoise.configs.objectives import GroupedConfig
from equipoise.train.objectives.base import Exposure, ListwiseObjective, Step, moving_average


class GroupedObjective(ListwiseObjective):
    """An objective on the exposure of the values of one item attribute.

    `groups` is the number of values; it is set from the items table before training.
    """

    options: GroupedConfig

    def __init__(self, name: str, options: GroupedConfig) -> None:
        super().__init__(name, options)
        self.groups = 0

    @property
    def attributes(self) -> list[str]:
        return [self.options.attribute]

    def by_group(self, step: Step, exposure: Exposure, weights_SM: torch.Tensor) -> torch.Tensor:
        """This process's sum of weights over each group, (G,)."""
        return exposure.by_group(weights_SM, step.batch.attributes[self.options.attribute], self.groups)

    def exposed(self, step: Step, exposure: Exposure) -> torch.Tensor:
        """The share of exposure of each group, (G,): global batch, moving average, gradient of the present in full."""
        local_G = self.by_group(step, exposure, exposure.pi_SM)
        global_G = step.world.sum_with_gradient(local_G) / step.totals.slates
        return moving_average(self.state, "exposure", global_G, self.options.momentum)
