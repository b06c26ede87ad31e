"""Recall: which items of the whole catalogue a shopper will take, as a softmax over those that compete in a batch.

Source: sampled softmax with the log-Q correction (Bengio & Senécal 2008; Yi et al., RecSys 2019, for in-batch items).
Shape suffixes: B shoppers of a batch, C items that compete in it, D dimension.
"""

import torch
from torch.nn.functional import cross_entropy

from equipoise.configs.objectives import RecallConfig
from equipoise.train.objectives.base import Objective, Step


def retrieval_scores(
    shoppers_BD: torch.Tensor,
    items_CD: torch.Tensor,
    log_popularity_C: torch.Tensor,
    log_times_BC: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """s(u, i) = scale · ⟨u, v_i⟩ + prior · log p_i + repeat · log(1 + n_ui), float32 (B, C).

    Args:
        shoppers_BD, items_CD: unit vectors.
        log_popularity_C, log_times_BC: what is known beside the texts.
        weights: scale, prior, repeat.
    """
    scale, prior, repeat = weights.unbind()
    return scale * shoppers_BD @ items_CD.T + prior * log_popularity_C + repeat * log_times_BC


class Recall(Objective):
    """Cross-entropy of the item that was taken, s(u, i) − log Q(i) as logits, in nats.

    Q(i) is the chance that item i is among the competitors, so that s learns log p(i | u) up to a constant. Other items
    that the shopper took as well do not compete. Every process has competitors of its own.
    """

    kind = "retrieval"
    options: RecallConfig

    def loss(self, step: Step) -> torch.Tensor:
        batch = step.batch.recall
        assert batch is not None, "a run with this objective draws texts for every batch"
        vectors, shoppers = step.outputs[self.name], batch.target.shape[0]
        scores_BC = retrieval_scores(
            vectors[:shoppers],
            vectors[shoppers:],
            batch.log_popularity,
            batch.log_times,
            step.outputs[f"{self.name}.weights"],
        )
        logits_BC = (scores_BC + batch.beside - batch.log_sampled).masked_fill(batch.also, -torch.inf)
        if batch.weight is None:
            total = cross_entropy(logits_BC, batch.target, reduction="sum")
            return step.world.scale_to_global_mean(total, shoppers * step.world.size)
        total = (batch.weight * cross_entropy(logits_BC, batch.target, reduction="none")).sum()
        counted = step.world.sum(batch.weight.sum()) if step.self_normalize else shoppers * step.world.size
        return step.world.scale_to_global_mean(total, counted)
