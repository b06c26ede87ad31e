"""Scores several tokenised requests together, as few passes of the model as memory allows."""

from collections.abc import Sequence

import numpy as np
import torch

from equipoise.common.errors import UserError
from equipoise.data.batches import Slate, build_batch
from equipoise.data.token_budget import token_groups
from equipoise.modeling.cached_scorer import CachedScorer, TokenSlate
from equipoise.modeling.model import SlateModel
from equipoise.modeling.prefix_cache import PrefixCache

MOST_TOKENS = 16_384
"""Tokens of one forward."""

Ids = tuple[Sequence[int], Sequence[Sequence[int]], np.ndarray | None]
"""Token ids of a prefix and of its candidates, and their standardised features (C, F), where the model reads some."""


class BatchScorer:
    """Scores with `split` attention through the cache of prefixes, and with any other without one.

    Args:
        model: in evaluation form.
        cache: used with this model alone.
        max_row: most tokens of a row, where the attention is not `split`.
        pad_id: fills such rows.
    """

    def __init__(self, model: SlateModel, cache: PrefixCache, max_row: int, pad_id: int) -> None:
        self.model, self.cache, self.max_row, self.pad_id = model, cache, max_row, pad_id
        split = model.backbone.attention == "split"
        self._cached = CachedScorer(model, cache, MOST_TOKENS) if split else None

    def score(self, requests: Sequence[Ids], pointwise: bool = False) -> list[dict[str, list[float]]]:
        """By objective the logits or adjustments of each request's candidates; only logits with `pointwise`.

        Raises:
            UserError: a score is no finite number.
        """
        sizes = [len(prefix) + sum(map(len, candidates)) for prefix, candidates, _ in requests]
        found: list[dict[str, list[float]]] = [{} for _ in requests]
        for group in token_groups(sizes, MOST_TOKENS):
            outputs = self._pass([requests[index] for index in group], pointwise)
            for name in self.model.pointwise if pointwise else self.model.objectives:
                values = outputs[name].double().cpu()
                if not bool(values.isfinite().all()):
                    raise UserError(f"the model gave a score of {name} that is no finite number: evaluate the run")
                start, flat = 0, values.tolist()
                for index in group:
                    stop = start + len(requests[index][1])
                    found[index][name] = flat[start:stop]
                    start = stop
        return found

    def _pass(self, requests: Sequence[Ids], pointwise: bool) -> dict[str, torch.Tensor]:
        if self._cached is not None:
            return self._cached.score([TokenSlate(*ids) for ids in requests], pointwise)
        nothing = [np.zeros(len(candidates), dtype=np.int64) for _, candidates, _ in requests]
        slates = [
            Slate(0, prefix, candidates, n, n, n, features=features)
            for (prefix, candidates, features), n in zip(requests, nothing, strict=True)
        ]
        batch = build_batch(slates, self.max_row, self.pad_id).to(next(self.model.parameters()).device)
        with torch.inference_mode():
            return self.model(**batch.model_inputs())
