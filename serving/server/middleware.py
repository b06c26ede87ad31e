"""ASGI middleware: who may ask, what is counted, and an answer where an endpoint failed."""

import logging
import secrets
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from equipoise.serving.server.metrics import Metrics
from equipoise.serving.server.refusal import CLIENT_GONE, error_answer

logger = logging.getLogger("equipoise.serve")

OPEN_PATHS = frozenset({"/health", "/"})
"""The page holds no data: it asks for the token and brings it along."""


class TokenMiddleware:
    """ASGI middleware that answers 401 to whoever lacks the token, before anything of a request is read."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what has the token or needs none."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._allowed(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        refused = error_answer(
            401,
            "bring the server's token in the header: Authorization: Bearer TOKEN",
            "header authorization",
            {"www-authenticate": "Bearer"},
        )
        await refused(scope, receive, send)

    def _allowed(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        same = secrets.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token)
        return kind.lower() == "bearer" and same


class FaultMiddleware:
    """ASGI middleware that answers 500 where an endpoint raised what it should not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except Exception:
            if scope["type"] != "http" or started:
                raise
            logger.exception("%s %s failed", scope["method"], scope["path"])
            await error_answer(500, "the server failed; its log has the reason", "server")(scope, receive, send)


class MetricsMiddleware:
    """ASGI middleware; unknown paths are counted as `other`, so that no client can invent labels."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str]) -> None:
        self.app, self.metrics, self.routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), CLIENT_GONE

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        finally:
            route = scope["path"] if scope["path"] in self.routes else "other"
            self.metrics.saw_request(route, status, time.perf_counter() - start)
