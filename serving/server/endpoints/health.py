"""GET /health: whether the server answers, and what it serves."""

from importlib.metadata import version

from fastapi import APIRouter, Request
from pydantic import BaseModel

router = APIRouter()


class Health(BaseModel):
    """The export that is served."""

    status: str
    export: str
    pointwise: list[str]
    listwise: list[str]
    version: str


@router.get("/health")
async def health(request: Request) -> Health:
    """Whether the server is alive; needs no token."""
    recommender = request.app.state.service.recommender
    return Health(
        status="ok",
        export=recommender.name,
        pointwise=list(recommender.pointwise),
        listwise=list(recommender.listwise),
        version=version("equipoise"),
    )
