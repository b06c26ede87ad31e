"""Provider-side fairness: groups of providers get the exposure that is due to them."""

import torch

from configs.schema import FairnessConfig
from train.objectives.base import Exposure, ListwiseObjective, Step, moving_average


class Fairness(ListwiseObjective):
    """J = ½ Σ_g (E_g − T_g)² / T_g: the exposure share of each group against its target.

    E and T are taken over the global batch and averaged over time, for single slates are too noisy (after
    Singh & Joachims 2018). T is the group's share of candidates (`parity`) or of relevance (`merit`).
    """

    options: FairnessConfig

    @property
    def attributes(self) -> list[str]:
        return [self.options.attribute]

    def __init__(self, name: str, options: FairnessConfig) -> None:
        super().__init__(name, options)
        self.groups = 0  # set from the items table before training

    def goal(self, step: Step, exposure: Exposure) -> torch.Tensor:
        """J of the global batch: the same number on every process."""
        codes_N = step.batch.attributes[self.options.attribute]
        share = exposure.filled_SM / exposure.filled_SM.sum(1, keepdim=True)
        if self.options.target == "merit":
            relevance_SM = step.relevance()[exposure.slots_SM]  # its softmax is the share of Π p, without underflow
            share = relevance_SM.masked_fill(~exposure.filled_SM, -torch.inf).softmax(1)
        exposed_G = exposure.by_group(exposure.pi_SM, codes_N, self.groups)
        due_G = exposure.by_group(share.to(exposed_G.dtype), codes_N, self.groups)
        exposed_G = step.world.sum_with_gradient(exposed_G) / step.totals.slates
        due_G = step.world.sum(due_G) / step.totals.slates
        exposed_G = moving_average(self.state, "exposure", exposed_G, self.options.momentum)
        due_G = moving_average(self.state, "target", due_G, self.options.momentum)
        present = due_G > 0
        return 0.5 * ((exposed_G[present] - due_G[present]) ** 2 / due_G[present]).sum()
