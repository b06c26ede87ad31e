"""ASGI middleware: who may ask, what is counted, and an answer where an endpoint failed."""

import ipaddress
import logging
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from equipoise.serving.server.refusal import CLIENT_GONE, error_answer

if TYPE_CHECKING:  # it would load the model's libraries
    from equipoise.serving.server.metrics import Metrics

logger = logging.getLogger("equipoise.serve")

OPEN_PATHS = frozenset({"/health", "/", "/favicon.ico", "/docs", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"})
"""Pages hold no data: they ask for the token and bring it along."""


class HostMiddleware:
    """ASGI middleware that answers 400 where the header Host is not a name of this server.

    A page elsewhere can lead its own name to this machine's address, and then read what a browser here gets (DNS
    rebinding). Addresses, and names without a dot, belong to nobody elsewhere.

    Args:
        app: what is called with all others.
        allowed: names, with `*.shop.example` for all below one; empty allows addresses and names without a dot.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str] = ()) -> None:
        self.app, self._allowed = app, [name.lower().rstrip(".") for name in allowed]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what was sent to this server by a name of its own."""
        if scope["type"] != "http" or scope["path"] == "/health":
            await self.app(scope, receive, send)
            return
        name = host_name(Headers(scope=scope).get("host", ""))
        if self._is_ours(name):
            await self.app(scope, receive, send)
            return
        sentence = f"this server does not answer to the name '{name[:100]}': start it with --allowed-host {name[:100]}"
        await error_answer(400, sentence, "header host")(scope, receive, send)

    def _is_ours(self, name: str) -> bool:
        if not self._allowed:
            return is_address(name) or "." not in name or name.endswith(".localhost")
        return any(
            name == own or (own.startswith("*.") and name.endswith(own[1:])) or own == "*" for own in self._allowed
        )


def host_name(header: str) -> str:
    """The name or address of a header Host, without its port and in lower case."""
    header = header.strip().lower()
    name = header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0]
    return name.rstrip(".")


def is_address(name: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


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

    def __init__(self, app: ASGIApp, metrics: "Metrics", routes: frozenset[str]) -> None:
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
