"""POST /score: the same scores in the order of the request."""

from fastapi import APIRouter, Request, Response

from equipoise.serving.server.answer import SlateAnswer, answer
from equipoise.serving.server.request_body import SlateRequest
from equipoise.serving.server.strict_body import StrictRoute

router = APIRouter(route_class=StrictRoute)


@router.post("/score", response_model=SlateAnswer)
async def score(asked: SlateRequest, request: Request) -> Response:
    """Score the candidates of one shopper, in the order given."""
    outcome = await request.app.state.service.rank(asked, request)
    return answer(outcome, outcome.result.ranking.as_given())
