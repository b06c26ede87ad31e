"""Weights by which a binary objective serves groups of users alike: more for groups that are foretold worse.

How well a group is foretold is its normalised entropy: its mean loss over the entropy of its own base rate (He et al.
2014), so that a group with a rate near ½, whose loss is large by nature, is not taken for a badly served one. Both are
taken over the global batch and averaged over time.

- `worst`: w_g ∝ exp(strength · (NE_g / NE − 1)), a soft worst group, as group DRO (Sagawa et al. 2020) has it.
- `parity`: w_g ∝ max(0, 1 + strength · (NE_g / NE − 1)), the gradient of the squared gaps beside the mean loss.

Weights have the mean 1 over all candidates. Shape suffixes: N candidates, G groups.
"""

import torch

from equipoise.configs.objectives import UserFairnessConfig
from equipoise.train.objectives.base import Step, move_average

LEAST_RATE = 1e-4
"""Base rates are kept between this and 1 less it: of a group without a click the entropy would be 0."""


@torch.no_grad()
def group_weights(
    options: UserFairnessConfig,
    state: dict[str, torch.Tensor],
    step: Step,
    counted_N: torch.Tensor,
    loss_N: torch.Tensor,
    label_N: torch.Tensor,
    groups: int,
) -> torch.Tensor:
    """How much more or less each candidate counts by its user's group, (N,).

    Args:
        options: of the objective.
        state: its averages, which are moved on.
        step: the batch and the processes.
        counted_N: how much each candidate counts in the loss without this, (N,).
        loss_N, label_N: of each candidate, (N,).
        groups: G.
    """
    codes_N = step.batch.user_groups[options.field][step.batch.slate]
    sums_3G = counted_N.new_zeros(3, groups)
    for row, values_N in enumerate((counted_N, counted_N * loss_N, counted_N * label_N)):
        sums_3G[row].index_add_(0, codes_N, values_N.to(sums_3G.dtype))
    move_average(state, "groups", step.world.sum(sums_3G), options.momentum)
    count_G, loss_G, positive_G = state["groups"].to(loss_N.device, loss_N.dtype)
    seen_G = count_G > 0
    entropies = _normalised(count_G, loss_G, positive_G)
    whole = _normalised(count_G.sum(), loss_G.sum(), positive_G.sum())
    worse_G = torch.where(seen_G, entropies / whole - 1, 0.0)
    if options.method == "worst":
        weight_G = (options.strength * worse_G).exp()
    else:
        weight_G = (1 + options.strength * worse_G).clamp(min=0.0)
    share_G = count_G / count_G.sum()
    return (weight_G / (weight_G * share_G).sum().clamp(min=1e-12))[codes_N]


def _normalised(count: torch.Tensor, loss: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Mean loss over the entropy of the base rate."""
    count = count.clamp(min=1e-12)
    rate = (positive / count).clamp(LEAST_RATE, 1 - LEAST_RATE)
    return loss / count / -(rate * rate.log() + (1 - rate) * (1 - rate).log())
