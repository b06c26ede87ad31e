"""What list-wise objectives over groups of items share: the exposure of each group in the global batch, over time."""

from collections.abc import Mapping
from typing import Self

import torch

from equipoise.common.link import Link
from equipoise.common.lists import SMALLEST
from equipoise.configs.objectives import GroupedConfig
from equipoise.train.objectives.base import Exposure, Step, moving_average, slate_weights
from equipoise.train.objectives.placed import PlacedObjective, PricePlacer, WholeSlates, pure_exposure


def prices_of(exposed_G: torch.Tensor, due_G: torch.Tensor) -> torch.Tensor:
    """`common.lists.group_prices` on the device, (G,)."""
    ratio_G = torch.where(due_G > 0, exposed_G / due_G.clamp(min=1e-300), 0.0)
    large_G = due_G >= SMALLEST
    of_large = torch.where(large_G, ratio_G, 0.0).max()
    most = torch.where(large_G.any(), of_large, ratio_G.max()).clamp(min=1e-12)
    return (1 - ratio_G / most).clamp(0.0, 1.0) * (due_G > 0)


class GroupedObjective(PlacedObjective):
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

    def placer(self, step: Step, slates: WholeSlates) -> PricePlacer:
        """Prices by how weak each group is under pure relevance, 1 the weakest and 0 the strongest, over time."""
        codes_SM = slates.codes[self.options.attribute]
        exposed_G = self._share(step, slates, codes_SM, pure_exposure(slates, self.options.places), "exposed")
        due_G = self._share(step, slates, codes_SM, self.due(slates), "due")
        price_G = prices_of(exposed_G.double(), due_G.double()).to(exposed_G)
        return PricePlacer(slates, self.options.places, price_G[codes_SM])

    def due(self, slates: WholeSlates) -> torch.Tensor:
        """The share of exposure that is due to each candidate, float32 (S, M): the same to all of a slate."""
        filled_SM = slates.filled_SM.to(slates.relevance_SM.dtype)
        return filled_SM / filled_SM.sum(1, keepdim=True)

    @torch.no_grad()
    def _share(
        self, step: Step, slates: WholeSlates, codes_SM: torch.Tensor, share_SM: torch.Tensor, key: str
    ) -> torch.Tensor:
        """Each group's mean share over the slates of the global batch and over time, float32 (G,)."""
        weight_S = slate_weights(step.batch)
        kept_SM = share_SM * slates.filled_SM
        kept_SM = kept_SM if weight_S is None else kept_SM * weight_S[:, None].to(kept_SM.dtype)
        local_G = kept_SM.new_zeros(self.groups).index_add(0, codes_SM.flatten(), kept_SM.flatten())
        global_G = step.world.sum(local_G) / step.totals.slates
        moving_average(self.state, key, global_G, self.options.momentum)
        return torch.nan_to_num(self.state[key].to(global_G))

    def by_group(self, step: Step, exposure: Exposure, weights_SM: torch.Tensor) -> torch.Tensor:
        """This process's sum of weights over each group, (G,)."""
        return exposure.by_group(weights_SM, step.batch.attributes[self.options.attribute], self.groups)

    def exposed(self, step: Step, exposure: Exposure) -> torch.Tensor:
        """The share of exposure of each group, (G,): global batch, moving average, gradient of the present in full."""
        local_G = self.by_group(step, exposure, exposure.pi_SM)
        global_G = step.world.sum_with_gradient(local_G) / step.totals.slates
        return moving_average(self.state, "exposure", global_G, self.options.momentum)
