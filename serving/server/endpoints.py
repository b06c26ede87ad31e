"""What is asked of the model: POST /rank, /score, /recall, /price and /explain."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from equipoise.serving.ranking import Ranking
from equipoise.serving.server.batching import ScoredOutcome
from equipoise.serving.server.bodies import ExplainRequest, PriceRequest, RankRequest, RecallRequest, SlateRequest
from equipoise.serving.server.service import CachedRanking, service_of
from equipoise.serving.server.strict_body import StrictRoute

router = APIRouter(route_class=StrictRoute)


class ScoredCandidate(BaseModel):
    """A candidate with everything that was computed for it."""

    item_id: str | None = Field(description="As given; null where the request gave none.")
    position: int = Field(description="Place in the request, from 0.")
    rank: int = Field(description="Place in the list, from 1.")
    probabilities: dict[str, float] = Field(description="pCTR, pCVR … by objective.")
    predictions: dict[str, float] | None = Field(None, description="Values and counts by objective, if there are any.")
    pctcvr: float | None = Field(description="pCTR · pCVR; null where the export has no cvr.")
    relevance: float = Field(description="log pCTR + log pCVR, or the export's formula.")
    deltas: dict[str, float] = Field(description="Adjustment δ of each list-wise objective.")
    utility: float = Field(
        description="relevance + Σ ω·δ + value_weight · log value + boost; ω·δ not of objectives that fill places."
    )
    place: dict[str, float] | None = Field(
        None,
        description="What it counted where it was placed: relevance in shares of the ideal list, each objective, and "
        "cost, the relevance given up there. Absent where lists are sorted by utility.",
    )
    propensity: float | None = Field(
        None, description="How likely it was at its place given those before it. Absent where lists are not drawn."
    )
    value: float | None = Field(description="What it is worth; null where nothing said so.")
    boost: float = Field(description="What was added to its utility.")


class Served(BaseModel):
    """How the answer came about."""

    queue_ms: float = Field(description="Waiting for the model.")
    model_ms: float = Field(description="The pass of the model.")
    requests: int = Field(description="Requests that shared the pass.")
    prefix_cached: bool | None = Field(description="Whether the shopper's prefix was in the cache; null if unknown.")
    missing: dict[str, int] = Field(description="How often each field that is read was not given, by PLACE.NAME.")
    left_out: int | None = Field(
        None, description="Candidates that the priors kept from the model. Absent where all passed it."
    )
    export: str = Field(description="The version of the export that answered, as the header x-equipoise-export.")


class Draw(BaseModel):
    """How a list was drawn: Plackett-Luce on the utilities divided by the temperature."""

    temperature: float
    log_propensity: float = Field(description="Of the answered list: the sum of the logs of its propensities.")


class SlateAnswer(BaseModel):
    """A slate with scores."""

    request_id: str | None
    omega: dict[str, float] = Field(description="The operating point that was used.")
    relevance_weights: dict[str, float] = Field(description="Weights of log p in the utility that are not 1.")
    value_weight: float = Field(description="Weight of log value in the utility.")
    candidates: list[ScoredCandidate]
    exploration: Draw | None = Field(None, description="Absent where lists are not drawn.")
    served: Served


def served_record(
    outcome: ScoredOutcome[CachedRanking], missing: Mapping[str, int], version: str, left_out: int = 0
) -> dict[str, Any]:
    """How an answer came about, in the form of `Served`."""
    told = {"left_out": left_out} if left_out else {}
    return told | {
        "queue_ms": round(outcome.waited * 1000, 3),
        "model_ms": round(outcome.model_pass.seconds * 1000, 3),
        "requests": outcome.model_pass.requests,
        "prefix_cached": outcome.result.prefix_cached,
        "missing": dict(missing),
        "export": version,
    }


def slate_response(
    outcome: ScoredOutcome[CachedRanking],
    ranking: Ranking,
    missing: Mapping[str, int],
    version: str,
    left_out: int = 0,
) -> Response:
    """The answer as JSON, in the form of `SlateAnswer`: written as it is, for checking our own numbers takes time.

    Raises:
        ValueError: a score is not finite, which no client could read.
    """
    content = {**ranking.to_json(), "served": served_record(outcome, missing, version, left_out)}
    return Response(json.dumps(content, allow_nan=False, ensure_ascii=False), media_type="application/json")


@router.post("/rank", response_model=SlateAnswer)
async def rank(body: RankRequest, request: Request) -> Response:
    """Rank the candidates of one shopper; `top` of them are answered."""
    missing, outcome = await service_of(request).rank(body, request)
    ranking = outcome.result.ranking
    left_out = len(body.candidates) - len(ranking.given)
    return slate_response(outcome, ranking, missing, service_of(request).version, left_out)


@router.post("/score", response_model=SlateAnswer)
async def score(body: SlateRequest, request: Request) -> Response:
    """Score the candidates of one shopper, in the order given."""
    missing, outcome = await service_of(request).rank(body, request, shown=False)
    return slate_response(outcome, outcome.result.ranking.as_given(), missing, service_of(request).version)


class RecalledItem(BaseModel):
    """One item."""

    item_id: str
    rank: int = Field(description="From 1.")
    score: float = Field(description="log p of taking it, up to a constant of the shopper.")
    title: str | None = Field(description="Where the export knows it.")
    sources: dict[str, float] = Field(description="What the score is a sum of.")


class RecallAnswer(BaseModel):
    """The items, best first."""

    request_id: str | None
    items: list[RecalledItem]
    unknown: int = Field(description="Ids of the request that the catalogue does not hold.")


@router.post("/recall", response_model=RecallAnswer)
async def recall(body: RecallRequest, request: Request) -> Response:
    """Search the catalogue for one shopper; requests that arrive together share a pass."""
    recalled = await service_of(request).recall(body, request)
    content = json.dumps(recalled.to_json(), allow_nan=False, ensure_ascii=False)
    return Response(content, media_type="application/json")


class Point(BaseModel):
    """One price."""

    price: float
    model_demand: float = Field(description="pCTR · pCVR as the model gives it.")
    demand: float = Field(description="The same, made non-increasing in the price by isotonic regression.")
    expected: float = Field(description="(price − cost) · demand.")


class Range(BaseModel):
    """A 95 % interval over the resamples of the run's linear priors."""

    low: float
    high: float


class PriceEvidence(BaseModel):
    """What the resamples say of one candidate."""

    elasticity: Range | None = Field(description="Of demand between its lowest and highest price; null with one price.")
    price: Range | None = Field(description="Of the best price that may be chosen.")
    gain: Range | None = Field(description="Of what the best price is expected to earn more than the present one.")


class Priced(BaseModel):
    """The chosen price of one candidate."""

    item_id: str | None
    position: int = Field(description="Place in the request, from 0.")
    price: float | None = Field(
        description="The allowed price with the largest expectation, of equal ones the lowest; the present one, null "
        "where that is unknown, where a change is withheld."
    )
    demand: float | None
    expected: float | None = Field(description="Profit or revenue per impression.")
    best: float | None = Field(description="The best allowed price, withheld or not; null where limits leave none.")
    withheld: Literal["response", "bounds", "limits"] | None = Field(
        description="Why the best price is not advised: the data do not show that demand answers to the price; all "
        "best prices lie at the bounds of the allowed ones; or the limits leave no price."
    )
    evidence: PriceEvidence | None = Field(description="Of the resamples; null where the export has none.")
    current: Point | None = Field(description="The same at the current price; null where it is unknown.")
    rises: bool = Field(description="Whether the model's demand rose with the price somewhere.")
    largest_change: float = Field(description="How far isotonic regression had to move the demand, at most.")
    extrapolated: bool = Field(description="Whether the price lies outside those of the training data.")
    curve: list[Point] = Field(description="All allowed prices, ascending.")


class PriceAnswer(BaseModel):
    """Chosen prices, in the order of the candidates."""

    request_id: str | None
    goal: str
    note: str | None = Field(description="One sentence where changes are withheld.")
    elasticity: Range | None = Field(description="Of all demand over the training data; null without resamples.")
    resamples: int | None = Field(description="Bootstrap resamples of users of which the intervals are.")
    candidates: list[Priced]
    served: Served


@router.post("/price", response_model=PriceAnswer)
async def price(body: PriceRequest, request: Request) -> Response:
    """Choose prices for one shopper; all candidates at all prices pass the model together."""
    pricing, missing, outcome = await service_of(request).price(body, request)
    content = {**pricing.to_json(), "served": served_record(outcome, missing, service_of(request).version)}
    return Response(json.dumps(content, allow_nan=False, ensure_ascii=False), media_type="application/json")


class PartAnswer(BaseModel):
    """What one part of the prompts does: each score minus the score without it."""

    where: str = Field(description="shopper, history, item, context, number or category.")
    text: str = Field(description="As the model reads it.")
    fields: list[str] = Field(description="That it was rendered from; none for history and ready texts.")
    objectives: dict[str, float] = Field(description="To log p of pointwise, δ of list-wise objectives.")
    utility: float = Field(description="To the utility.")


class ExplainedAnswer(BaseModel):
    """One candidate."""

    item_id: str | None
    position: int
    rank: int
    text: str = Field(description="Of the item.")
    probabilities: dict[str, float]
    deltas: dict[str, float]
    utility: float
    terms: dict[str, float] = Field(description="Of the utility; they add up to it.")
    place: dict[str, float] | None = Field(None, description="As /rank gives it.")
    contributions: list[PartAnswer] = Field(description="In the order of the prompt.")
    sentences: list[str] = Field(description="The same in words.")
    priors: list[dict[str, Any]] | None = Field(
        None, description="Of each objective that begins as a simple model: what its columns add to the log-odds."
    )


class ExplanationAnswer(BaseModel):
    """The explained candidates."""

    request_id: str | None
    candidates: list[ExplainedAnswer]


@router.post("/explain", response_model=ExplanationAnswer)
async def explain(body: ExplainRequest, request: Request) -> Response:
    """Explain up to three candidates of one shopper; of at most 100, for all are scored once per part."""
    explanation = await service_of(request).explain(body, request)
    content = json.dumps(explanation.to_json(), allow_nan=False, ensure_ascii=False)
    return Response(content, media_type="application/json")
