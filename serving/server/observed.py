"""Counts every request with its route, status and time."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from equipoise.serving.server.metrics import Metrics
from equipoise.serving.server.refusal import CLIENT_GONE


class Observed:
    """ASGI middleware; unknown paths are counted as `other`, so that no client can invent labels."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str]) -> None:
        self.app, self.metrics, self.routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), CLIENT_GONE

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            route = scope["path"] if scope["path"] in self.routes else "other"
            self.metrics.saw_request(route, status, time.perf_counter() - start)
