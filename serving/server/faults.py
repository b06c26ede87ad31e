"""Faults of ours: an answer, a traceback in the log, and a connection that stays usable."""

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from equipoise.serving.server.refusal import error_answer

logger = logging.getLogger("equipoise.serve")


class Faults:
    """ASGI middleware that answers 500 where an endpoint raised what it should not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            if scope["type"] != "http" or started:
                raise
            logger.exception("%s %s failed", scope["method"], scope["path"])
            await error_answer(500, "the server failed; its log has the reason", "server")(scope, receive, send)
