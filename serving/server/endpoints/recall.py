"""POST /recall: the best items of the whole catalogue for one shopper."""

import json

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from equipoise.serving.server.recall_body import RecallRequest
from equipoise.serving.server.strict_body import StrictRoute

router = APIRouter(route_class=StrictRoute)


class RecalledItem(BaseModel):
    """One item."""

    item_id: str
    rank: int = Field(description="From 1.")
    score: float = Field(description="log p of taking it, up to a constant of the shopper.")
    title: str | None = Field(description="Where the export knows it.")


class RecallAnswer(BaseModel):
    """The items, best first."""

    request_id: str | None
    items: list[RecalledItem]
    unknown: int = Field(description="Ids of the request that the catalogue does not hold.")


@router.post("/recall", response_model=RecallAnswer)
async def recall(asked: RecallRequest, request: Request) -> Response:
    """Search the catalogue for one shopper; requests that arrive together share a pass."""
    found = await request.app.state.service.recall(asked, request)
    content = json.dumps(found.to_json(), allow_nan=False, ensure_ascii=False)
    return Response(content, media_type="application/json")
