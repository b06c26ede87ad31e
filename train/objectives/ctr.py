"""Click-through: binary cross-entropy on click."""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from equipoise.train.objectives.base import Objective, Step


class Ctr(Objective):
    """BCE of pCTR against click, over all candidates; sampled negatives are corrected for in the logit."""

    def loss(self, step: Step) -> torch.Tensor:
        """Mean BCE in nats over the sampled candidates of the global batch."""
        sampled_logit_N = step.outputs[self.name] - step.batch.log_sampling_rate
        total = binary_cross_entropy_with_logits(sampled_logit_N, step.batch.click, reduction="sum")
        return step.world.scale_to_global_mean(total, step.totals.candidates)
