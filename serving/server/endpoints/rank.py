"""POST /rank: candidates by utility, best first."""

from fastapi import APIRouter, Request, Response

from equipoise.serving.server.answer import SlateAnswer, answer
from equipoise.serving.server.request_body import RankRequest
from equipoise.serving.server.strict_body import StrictRoute

router = APIRouter(route_class=StrictRoute)


@router.post("/rank", response_model=SlateAnswer)
async def rank(asked: RankRequest, request: Request) -> Response:
    """Rank the candidates of one shopper; `top` of them are answered."""
    outcome = await request.app.state.service.rank(asked, request)
    return answer(outcome, outcome.result.ranking)
