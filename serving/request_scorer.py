"""From the texts of requests to the scores of their candidates: the one way of `score`, `recommend` and the server."""

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch

from equipoise.common.calibration import Calibrations, with_calibration
from equipoise.data.batches import Slate, SlateBatch, build_batch
from equipoise.data.features import Scales, read_by_heads, standardised
from equipoise.data.prefetch import prefetched
from equipoise.data.recall_texts import TextLayout
from equipoise.data.things import ThingTexts
from equipoise.data.token_budget import token_groups
from equipoise.data.tokens import SlateTokenizer
from equipoise.modeling.beside_text import BesideText
from equipoise.modeling.cached_scorer import CachedScorer, TokenSlate
from equipoise.modeling.fused.requests import FusedScorer
from equipoise.modeling.model import SlateModel
from equipoise.modeling.precision import computing
from equipoise.modeling.prefix_cache import PrefixCache
from equipoise.modeling.text_vectors import text_vectors

MAX_TOKENS = 16_384
"""Tokens of one forward of a server."""

P = TypeVar("P")


class RequestTokenizer:
    """Rendered requests as token ids, in any thread.

    Args:
        tokenizer: whose items are what `slate` is given.
        scales: how the features are standardised, by name; empty where the heads read none.
        beside: reads priors and things; None where the model has neither.
    """

    def __init__(self, tokenizer: SlateTokenizer, scales: Scales, beside: BesideText | None = None) -> None:
        self.tokenizer, self.scales, self.beside = tokenizer, scales, beside
        self._lock = Lock()  # what the tokenizer remembers is shared by all threads

    def slate(
        self,
        prefix: str,
        items: Sequence[Any],
        contexts: Sequence[str],
        features: Sequence[Sequence[float]] | np.ndarray | None,
        things: ThingTexts | None = None,
    ) -> TokenSlate:
        """One request.

        Args:
            prefix: text of the shopper.
            items: of each candidate, as the tokenizer names them.
            contexts: text of each candidate.
            features: raw values, float64 (C, features), NaN where unknown; read where heads or priors read some.
            things: what candidates are compared with; None where nothing is known of it.
        """
        with self._lock:
            prefix_ids = self.tokenizer.prefix(prefix)
            candidate_ids = self.tokenizer.candidates(items, contexts)
        read = features is not None and bool(read_by_heads(self.scales))
        scaled = standardised(self.scales, features) if read else None  # type: ignore[arg-type]
        if self.beside is None:
            return TokenSlate(prefix_ids, candidate_ids, scaled)
        if things is None:
            things = ThingTexts((), [""] * len(items))
        prior, compared = self.beside.of(features, things)
        return TokenSlate(prefix_ids, candidate_ids, scaled, prior, compared)

    def prefix(self, text: str) -> list[int]:
        """The token ids of a prefix."""
        with self._lock:
            return self.tokenizer.prefix(text)


@dataclass(frozen=True)
class GroupedSlates:
    """Slates that are ready for the model.

    Attributes:
        slates: in the order of their scores.
        groups: which of them go through the model together.
        batches: of each group; empty where the model reads slates through a cache of prefixes.
        pointwise: only logits are wanted.
    """

    slates: Sequence[TokenSlate]
    groups: list[list[int]]
    batches: list[SlateBatch]
    pointwise: bool


class RequestScorer:
    """Scores slates, as many in one forward as a budget of tokens allows.

    Args:
        model: in evaluation form; with a cache and its `kernels` fused, by these.
        pad_id: fills short rows.
        max_row: most tokens of a row where the attention is not `split`, which takes rows of any length.
        max_tokens: most tokens of a forward; a longer slate is alone.
        cache: of prefixes, for `split` attention, used with this model alone; None encodes every prefix.
        chunk_tokens: without a cache, at most so many candidate tokens pass at once; None: all of a forward.
        calibrations: corrections of logits.
        precision: of the model's products, fp32 or bf16.
    """

    def __init__(
        self,
        model: SlateModel,
        pad_id: int,
        max_row: int,
        max_tokens: int = MAX_TOKENS,
        cache: PrefixCache | None = None,
        chunk_tokens: int | None = None,
        calibrations: Calibrations | None = None,
        precision: str = "fp32",
    ) -> None:
        self.calibrations, self.precision = calibrations or {}, precision
        split = model.backbone.attention == "split"
        self.model, self.cache, self.pad_id, self.max_tokens = model, cache, pad_id, max_tokens
        self.max_row, self.chunk_tokens = sys.maxsize if split else max_row, chunk_tokens
        kind = FusedScorer if model.kernels == "fused" else CachedScorer
        self._cached = kind(model, cache, max_tokens) if split and cache is not None else None

    def group(self, slates: Sequence[TokenSlate], pointwise: bool = False) -> GroupedSlates:
        """Make slates ready, in any thread, without the model."""
        sizes = [len(slate.prefix) + sum(map(len, slate.candidates)) for slate in slates]
        groups = token_groups(sizes, self.max_tokens)
        batches = [] if self._cached else [self._batch([slates[index] for index in group]) for group in groups]
        return GroupedSlates(slates, groups, batches, pointwise)

    def forward(self, grouped: GroupedSlates) -> dict[str, np.ndarray]:
        """Logits, calibrated, and adjustments of all candidates in the order of the slates, float64 (N,) by objective.

        Not for several threads at once. With `pointwise` there are logits only.
        """
        names = self.model.pointwise if grouped.pointwise else self.model.objectives
        counts = np.array([len(slate.candidates) for slate in grouped.slates])
        starts = np.cumsum(counts) - counts
        scores = {name: np.empty(int(counts.sum())) for name in names}
        for number, group in enumerate(grouped.groups):
            outputs = self._outputs(grouped, number)
            positions = np.concatenate([np.arange(starts[index], starts[index] + counts[index]) for index in group])
            for name in names:
                scores[name][positions] = outputs[name].double().cpu().numpy()
        return with_calibration(scores, self.calibrations)

    def stream(
        self, portions: Iterable[P], slates: Callable[[P], Sequence[TokenSlate]], pointwise: bool = False
    ) -> Generator[tuple[P, dict[str, np.ndarray]], None, None]:
        """Portions of requests with their scores as `forward` gives them; a thread makes the next ones ready.

        Args:
            portions: read in the thread.
            slates: of a portion, called in the thread.
            pointwise: only logits are wanted.
        """

        def ready() -> Iterator[tuple[P, GroupedSlates]]:
            for portion in portions:
                yield portion, self.group(slates(portion), pointwise)

        with closing(prefetched(ready())) as grouped:
            for portion, slates_of_portion in grouped:
                yield portion, self.forward(slates_of_portion)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def _outputs(self, grouped: GroupedSlates, number: int) -> dict[str, torch.Tensor]:
        with computing(self.precision, self.device):
            if self._cached is not None:
                slates = [grouped.slates[index] for index in grouped.groups[number]]
                return self._cached.score(slates, grouped.pointwise)
            batch = grouped.batches[number].to(self.device)
            return self.model.score(batch.model_inputs(), chunk_tokens=self.chunk_tokens)

    @torch.inference_mode()
    def vectors(self, name: str, layout: TextLayout, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Unit vectors of the shoppers' texts for an objective of retrieval, float32 (texts, D)."""
        with computing(self.precision, self.device):
            return text_vectors(self.model, name, layout, texts)

    def _batch(self, slates: Sequence[TokenSlate]) -> SlateBatch:
        nothing = [np.zeros(len(slate.candidates), dtype=np.int64) for slate in slates]
        full = [
            Slate(
                0,
                slate.prefix,
                slate.candidates,
                *(zeros, zeros, zeros),
                features=slate.features,
                prior=slate.prior,
                things=slate.things,
            )
            for slate, zeros in zip(slates, nothing, strict=True)
        ]
        return build_batch(full, self.max_row, self.pad_id)
