"""Provider-side fairness: groups of providers get the exposure that is due to them."""

import torch

from equipoise.configs.objectives import FairnessConfig
from equipoise.train.objectives.base import Exposure, Step, moving_average
from equipoise.train.objectives.grouped import GroupedObjective
from equipoise.train.objectives.placed import WholeSlates


class Fairness(GroupedObjective):
    """The exposure share E_g of each group against its target T_g; as `parallel` J = ½ Σ_g (E_g − T_g)² / T_g.

    E and T are taken over the global batch and averaged over time, for single slates are too noisy (after
    Singh & Joachims 2018). T is the group's share of candidates (`parity`) or of relevance (`merit`).
    """

    options: FairnessConfig

    def due(self, slates: WholeSlates) -> torch.Tensor:
        """The same to all candidates of a slate, or by their relevance."""
        if self.options.target == "parity":
            return super().due(slates)
        return slates.relevance_SM.masked_fill(~slates.filled_SM, -torch.inf).softmax(1)

    def goal(self, step: Step, exposure: Exposure) -> torch.Tensor:
        """J of the global batch: the same number on every process."""
        exposed_G = self.exposed(step, exposure)
        share = exposure.filled_SM / exposure.filled_SM.sum(1, keepdim=True)
        if self.options.target == "merit":
            relevance_SM = step.relevance()[
                exposure.candidates_SM
            ]  # its softmax is the share of Π p, without underflow
            share = relevance_SM.masked_fill(~exposure.filled_SM, -torch.inf).softmax(1)
        local_G = self.by_group(step, exposure, share.to(exposed_G.dtype))
        due_G = step.world.sum(local_G) / step.totals.slates
        due_G = moving_average(self.state, "target", due_G, self.options.momentum)
        present_G = due_G > 0
        missing_G = torch.where(present_G, exposed_G - due_G, 0.0)
        return 0.5 * (missing_G**2 / torch.where(present_G, due_G, 1.0)).sum()
