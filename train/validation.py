"""Pointwise metrics on a few validation requests during training."""

import numpy as np
import torch
from torch import nn

from equipoise.configs.schema import RunConfig
from equipoise.evaluation.metrics import pointwise_metrics
from equipoise.train.assemble import DataParts
from equipoise.train.scoring import score_slates
from equipoise.train.world import World


def spread_rows(count: int, most: int | None) -> list[int]:
    """At most `most` of `count` rows, evenly spread over time, the same on every process."""
    if most is None or most >= count:
        return list(range(count))
    return np.linspace(0, count - 1, num=most).round().astype(int).tolist()


def validate(
    config: RunConfig, model: nn.Module, data: DataParts, device: torch.device, world: World
) -> dict[str, float]:
    """`valid/…` metrics on `train.eval_requests` slates spread over the valid split."""
    scores = score_slates(
        model,
        data.slates,
        spread_rows(len(data.slates), config.train.eval_requests),
        max_tokens=config.evaluate.max_tokens,
        max_row=config.tokens.max_row,
        device=device,
        world=world,
    )
    pctr = 1 / (1 + np.exp(-scores["ctr"]))
    pcvr = 1 / (1 + np.exp(-scores["cvr"])) if "cvr" in scores else None
    metrics = pointwise_metrics(scores["click"], scores["conversion"], pctr, pcvr, scores["row"])
    return {f"valid/{name}": value for name, value in metrics.items()}
