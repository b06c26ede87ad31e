"""POST /explain: why candidates get their scores."""

import json

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from equipoise.serving.server.request_body import ExplainRequest
from equipoise.serving.server.strict_body import StrictRoute

router = APIRouter(route_class=StrictRoute)


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
    contributions: list[PartAnswer] = Field(description="In the order of the prompt.")
    sentences: list[str] = Field(description="The same in words.")


class ExplanationAnswer(BaseModel):
    """The explained candidates."""

    request_id: str | None
    candidates: list[ExplainedAnswer]


@router.post("/explain", response_model=ExplanationAnswer)
async def explain(asked: ExplainRequest, request: Request) -> Response:
    """Explain up to three candidates of one shopper; of at most 100, for all are scored once per part."""
    found = await request.app.state.service.explain(asked, request)
    content = json.dumps(found.to_json(), allow_nan=False, ensure_ascii=False)
    return Response(content, media_type="application/json")
