"""The largest micro-batch that a config allows: every prefix and every candidate as long as they may be."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from equipoise.configs.schema import RunConfig
from equipoise.data.batches import RecallBatch, Slate, SlateBatch, build_batch
from equipoise.data.recall_texts import text_inputs


@dataclass(frozen=True)
class StepShape:
    """Sizes of a micro-batch.

    Attributes:
        slates: slates of one process.
        candidates: of each slate.
        prefix, length: tokens of a prefix and of a candidate.
        max_row: most tokens of a row.
        features: numeric features of each candidate.
        shoppers, items: texts of the recall objective, as long as a prefix and as a candidate.
    """

    slates: int
    candidates: int
    prefix: int
    length: int
    max_row: int
    features: int = 0
    shoppers: int = 0
    items: int = 0

    def batch(self) -> SlateBatch:
        """A batch of these sizes, of one token alone: only its shape is meant."""
        none = np.zeros(self.candidates, dtype=np.int64)
        candidates = [[0] * self.length] * self.candidates
        features = np.zeros((self.candidates, self.features), dtype=np.float32) if self.features else None
        slates = [
            Slate(row, [0] * self.prefix, candidates, none, none, none, features=features) for row in range(self.slates)
        ]
        batch = build_batch(slates, self.max_row, 0)
        if not self.shoppers:
            return batch
        texts = [[0] * self.prefix] * self.shoppers + [[0] * self.length] * self.items
        nothing = torch.zeros(self.items)
        pairs = torch.zeros(self.shoppers, self.items)
        target = torch.zeros(self.shoppers, dtype=torch.int64)
        inputs = text_inputs([0], texts, self.max_row, 0)
        return replace(batch, recall=RecallBatch(inputs, target, nothing, nothing, pairs, pairs, pairs.bool()))

    def tokens(self) -> int:
        """Tokens of the batch, as `train.max_tokens` counts them."""
        return self.slates * (self.prefix + self.candidates * self.length)


def worst_step(config: RunConfig, slates: int | None = None, candidates: int | None = None) -> StepShape:
    """The largest micro-batch of a config.

    Args:
        config: `train.max_tokens` tokens where that is set, else `train.batch_size` slates.
        slates: instead of what the config says.
        candidates: per slate, instead of `train.negatives` + 2 (or `data.max_candidates` where all are kept).
    """
    kept = config.data.max_candidates if config.train.negatives is None else config.train.negatives + 2
    tokens, recall = config.tokens, config.objectives.recall
    shape = StepShape(
        slates or config.train.batch_size or 1,
        candidates or min(kept, config.data.max_candidates),
        tokens.max_prefix,
        tokens.max_candidate,
        tokens.max_row,
        sum(feature.heads for feature in config.data.features),
        *((recall.shoppers, recall.shoppers + recall.negatives) if recall is not None else (0, 0)),
    )
    budget = config.train.token_budget
    if slates is None and budget is not None:
        slate_tokens = replace(shape, slates=1).tokens()
        return replace(shape, slates=max(1, budget // slate_tokens))
    return shape
