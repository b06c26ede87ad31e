"""What list-wise objectives over groups of items share: the exposure of each group in the global batch, over time."""

from collections.abc import Mapping
from typing import Self

import torch

from equipoise.common.link import Link
from equipoise.configs.objectives import GroupedConfig
from equipoise.train.objectives.base import Exposure, ListwiseObjective, Step, moving_average


class GroupedObjective(ListwiseObjective):
    """An objective on the exposure of the values of one item attribute.

    `groups` is the number of values, which `bind` takes from the items table.
    """

    options: GroupedConfig
    groups: int = 0

    def bind(self, groups: Mapping[str, int], links: Mapping[str, Link]) -> Self:
        """The same objective with the number of values of its attribute."""
        bound = super().bind(groups, links)
        bound.groups = groups[self.options.attribute]
        return bound

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
