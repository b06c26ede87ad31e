"""GET /metrics: the server's counters for Prometheus."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

router = APIRouter()


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Requests, latencies, batches, queue and prefix cache."""
    return Response(request.app.state.service.metrics.page(), media_type=CONTENT_TYPE_LATEST)
