"""GET /examples: requests of the export's own data to try, and what the page needs to know beside them."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

router = APIRouter()


class Examples(BaseModel):
    """What is served, and requests to try."""

    export: str
    pointwise: list[str]
    listwise: list[str]
    operating_point: dict[str, float] = Field(description="ω of each list-wise objective where a request gives none.")
    bounds: dict[str, tuple[float, float]] = Field(description="Lowest and highest ω of each list-wise objective.")
    max_candidates: int
    examples: list[dict[str, Any]]


@router.get("/examples")
async def examples(request: Request) -> Examples:
    """Shoppers with candidates, as the test split has them."""
    service = request.app.state.service
    recommender = service.recommender
    return Examples(
        export=recommender.name,
        pointwise=list(recommender.pointwise),
        listwise=list(recommender.listwise),
        operating_point=dict(recommender.operating_point),
        bounds=dict(recommender.bounds),
        max_candidates=service.options.max_candidates,
        examples=recommender.examples,
    )
