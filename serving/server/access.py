"""Bearer tokens: who may ask."""

import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from equipoise.serving.server.refusal import error_answer

OPEN = frozenset({"/health", "/"})
"""The page holds no data: it asks for the token and brings it along."""


class Guarded:
    """ASGI middleware that answers 401 to whoever lacks the token, before anything of a request is read."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what has the token or needs none."""
        if scope["type"] != "http" or scope["path"] in OPEN or self._allowed(Headers(scope=scope)):
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
