"""POST /price: the best allowed price of every candidate for one shopper."""

import json

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from equipoise.serving.server.answer import Served, served
from equipoise.serving.server.price_body import PriceRequest
from equipoise.serving.server.strict_body import StrictRoute

router = APIRouter(route_class=StrictRoute)


class Point(BaseModel):
    """One price."""

    price: float
    model_demand: float = Field(description="pCTR · pCVR as the model gives it.")
    demand: float = Field(description="The same, made non-increasing in the price by isotonic regression.")
    expected: float = Field(description="(price − cost) · demand.")


class Priced(BaseModel):
    """The chosen price of one candidate."""

    item_id: str | None
    position: int = Field(description="Place in the request, from 0.")
    price: float = Field(description="The allowed price with the largest expectation; of equal ones the lowest.")
    demand: float
    expected: float = Field(description="Profit or revenue per impression.")
    current: Point | None = Field(description="The same at the current price; null where it is unknown.")
    rises: bool = Field(description="Whether the model's demand rose with the price somewhere.")
    largest_change: float = Field(description="How far isotonic regression had to move the demand, at most.")
    extrapolated: bool = Field(description="Whether the price lies outside those of the training data.")
    curve: list[Point] = Field(description="All allowed prices, ascending.")


class PriceAnswer(BaseModel):
    """Chosen prices, in the order of the candidates."""

    request_id: str | None
    goal: str
    candidates: list[Priced]
    served: Served


@router.post("/price", response_model=PriceAnswer)
async def price(asked: PriceRequest, request: Request) -> Response:
    """Choose prices for one shopper; all candidates at all prices pass the model together."""
    pricing, outcome = await request.app.state.service.price(asked, request)
    content = {**pricing.to_json(), "served": served(outcome)}
    return Response(json.dumps(content, allow_nan=False, ensure_ascii=False), media_type="application/json")
