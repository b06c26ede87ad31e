"""What a ranked slate looks like on the wire."""

import json
from typing import Any

from fastapi import Response
from pydantic import BaseModel, Field

from equipoise.serving.ranking import Ranking
from equipoise.serving.server.batching import Outcome
from equipoise.serving.server.service import CachedRanking


class ScoredCandidate(BaseModel):
    """A candidate with everything that was computed for it."""

    item_id: str | None = Field(description="As given; null where the request gave none.")
    position: int = Field(description="Place in the request, from 0.")
    rank: int = Field(description="Place by utility, from 1.")
    probabilities: dict[str, float] = Field(description="pCTR, pCVR … by objective.")
    pctcvr: float | None = Field(description="pCTR · pCVR; null where the export has no cvr.")
    relevance: float = Field(description="log pCTR + log pCVR.")
    deltas: dict[str, float] = Field(description="Adjustment δ of each list-wise objective.")
    utility: float = Field(description="relevance + Σ ω·δ + value_weight · log value + boost.")
    value: float | None = Field(description="What it is worth; null where nothing said so.")
    boost: float = Field(description="What was added to its utility.")


class Served(BaseModel):
    """How the answer came about."""

    queue_ms: float = Field(description="Waiting for the model.")
    model_ms: float = Field(description="The pass of the model.")
    requests: int = Field(description="Requests that shared the pass.")
    prefix_cached: bool | None = Field(description="Whether the shopper's prefix was in the cache; null if unknown.")


class SlateAnswer(BaseModel):
    """A slate with scores."""

    request_id: str | None
    omega: dict[str, float] = Field(description="The operating point that was used.")
    relevance_weights: dict[str, float] = Field(description="Weights of log p in the utility that are not 1.")
    value_weight: float = Field(description="Weight of log value in the utility.")
    candidates: list[ScoredCandidate]
    served: Served


def served(outcome: Outcome[CachedRanking]) -> dict[str, Any]:
    """How an answer came about, in the form of `Served`."""
    return {
        "queue_ms": round(outcome.waited * 1000, 3),
        "model_ms": round(outcome.model_pass.seconds * 1000, 3),
        "requests": outcome.model_pass.requests,
        "prefix_cached": outcome.result.prefix_cached,
    }


def answer(outcome: Outcome[CachedRanking], ranking: Ranking) -> Response:
    """The answer as JSON, in the form of `SlateAnswer`: written as it is, for checking our own numbers takes time.

    Raises:
        ValueError: a score is not finite, which no client could read.
    """
    content = {**ranking.to_json(), "served": served(outcome)}
    return Response(json.dumps(content, allow_nan=False, ensure_ascii=False), media_type="application/json")
