"""What list-wise objectives over groups of items share: the exposure of each group in the global batch, over time."""

from collections.abc import Mapping
from typing import Self

import torch

from equipoise.common.link import Link
from equipoise.common.lists import SMALLEST
from equipoise.configs.objectives import GroupedConfig
from equipoise.modeling.operations import operation
from equipoise.train.objectives.base import Exposure, Step, move_average, moving_average, slate_weights
from equipoise.train.objectives.placed import PlacedObjective, WholeSlates, Wish, pure_exposure


def prices_of(exposed_G: torch.Tensor, due_G: torch.Tensor) -> torch.Tensor:
    """`common.lists.group_prices` on the device, (G,)."""
    ratio_G = torch.where(due_G > 0, exposed_G / due_G.clamp(min=1e-300), 0.0)
    large_G = due_G >= SMALLEST
    of_large = torch.where(large_G, ratio_G, 0.0).max()
    most = torch.where(large_G.any(), of_large, ratio_G.max()).clamp(min=1e-12)
    return (1 - ratio_G / most).clamp(0.0, 1.0) * (due_G > 0)


def _group_prices(averages_2G: list[torch.Tensor]) -> torch.Tensor:
    exposed_G, due_G = (average_G.nan_to_num() for average_G in averages_2G)
    return prices_of(exposed_G.double(), due_G.double()).to(exposed_G.dtype)


group_prices = operation(
    "group_prices(Tensor[] averages) -> Tensor",
    _group_prices,
    lambda averages: torch.empty_like(averages[0]),
    kernels=2,
)
"""`prices_of` the averages of exposure and of what is due; NaN of what has never been seen."""


KEYS = ("exposed", "due")
"""Of the averages that prices are made of."""


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

    def wish(self, step: Step, slates: WholeSlates) -> Wish:
        """Prices by how weak each group is under pure relevance, 1 the weakest and 0 the strongest, over time."""
        codes_SM = slates.codes[self.options.attribute]
        with torch.no_grad():
            self._note_shares(step, slates, codes_SM)
            price_G = group_prices([self.state[key].to(slates.gain_SM) for key in KEYS])
            return Wish(price_SM=price_G[codes_SM])

    def due(self, slates: WholeSlates) -> torch.Tensor:
        """The share of exposure that is due to each candidate, float32 (S, M): the same to all of a slate."""
        filled_SM = slates.filled_SM.to(slates.relevance_SM.dtype)
        return filled_SM / filled_SM.sum(1, keepdim=True)

    def _note_shares(self, step: Step, slates: WholeSlates, codes_SM: torch.Tensor) -> None:
        """Each group's mean share over the global batch's slates, under pure relevance and as is due, over time."""
        places = self.options.places
        exposed_SM = step.once(("pure exposure", places), lambda: pure_exposure(slates, places))
        weight_S = step.once("slate weights", lambda: slate_weights(step.batch))
        kept_2SM = torch.stack([exposed_SM, self.due(slates).to(exposed_SM.dtype)]) * slates.filled_SM
        kept_2SM = kept_2SM if weight_S is None else kept_2SM * weight_S[:, None].to(kept_2SM.dtype)
        local_2G = kept_2SM.new_zeros(2, self.groups).index_add(1, codes_SM.flatten(), kept_2SM.flatten(1))
        global_2G = step.world.sum(local_2G) / step.totals.slates
        for key, global_G in zip(KEYS, global_2G.unbind(), strict=True):
            move_average(self.state, key, global_G, self.options.momentum)

    def by_group(self, step: Step, exposure: Exposure, weights_SM: torch.Tensor) -> torch.Tensor:
        """This process's sum of weights over each group, (G,)."""
        return exposure.by_group(weights_SM, step.batch.attributes[self.options.attribute], self.groups)

    def exposed(self, step: Step, exposure: Exposure) -> torch.Tensor:
        """The share of exposure of each group, (G,): global batch, moving average, gradient of the present in full."""
        local_G = self.by_group(step, exposure, exposure.pi_SM)
        global_G = step.world.sum_with_gradient(local_G) / step.totals.slates
        return moving_average(self.state, "exposure", global_G, self.options.momentum)
