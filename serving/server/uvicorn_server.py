"""Serving until a signal: one socket, one event loop, clients that must be quick, and an orderly end.

uvicorn's own connections have no deadline for the head of a request: a client that sends its request line and headers
byte by byte, or nothing at all, keeps a connection as long as it likes. Bodies have a deadline of their own
(`strict_body.py`).
"""

import asyncio
import json
import signal
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from equipoise.common.errors import UserError
from equipoise.serving.server.options import ServerOptions

KEEP_ALIVE_SECONDS = 30
GRACE_SECONDS = 5
BACKLOG = 1024
HEAD_SECONDS = 10.0
"""How long the head of a request may take."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UserError: the address is taken, or none of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen on {host} port {port} ({reason}): choose another --port or --host") from error


def address_of(listener: socket.socket) -> str:
    """Where clients find a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def make_server(app: ASGIApp, options: ServerOptions, ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """uvicorn with our limits.

    Args:
        app: the application.
        options: for how long a request may take.
        ready: called as soon as the server answers.
    """
    config = uvicorn.Config(
        app,
        http=ImpatientProtocol,
        ws="none",
        loop="asyncio",
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(options.timeout_s) + GRACE_SECONDS,
    )
    return _Announcing(config, ready)


def serve(app: ASGIApp, listener: socket.socket, options: ServerOptions, ready: Callable[[str], None]) -> None:
    """Answer requests until SIGTERM or Ctrl-C; then finish those that are running.

    Args:
        app: the application.
        listener: from `listen`.
        options: for how long a request may take.
        ready: told the address as soon as the server answers.
    """
    address = address_of(listener)
    server = make_server(app, options, lambda: ready(address))
    # uvicorn raises the signal that stopped it once more at its end: to these, so that the exit code is 0.
    earlier = {name: signal.signal(name, lambda *_: None) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listener])
    finally:
        for name, handler in earlier.items():
            signal.signal(name, handler)


class _Announcing(uvicorn.Server):
    """Says when it has started."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start and say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that answers 408 to a late head and 400 to a garbled one, and closes."""

    head_seconds = HEAD_SECONDS
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected: its first request is due."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Bytes have come: part of a request, or the beginning of the next one."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._deadline is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, unless an answer is under way."""
        self._refuse(400, "the request is no valid HTTP/1.1")

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(self.head_seconds, self._late)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self._refuse(408, f"no complete request arrived within {self.head_seconds:g} seconds")

    def _refuse(self, status: int, sentence: str) -> None:
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": sentence, "where": "request"}).encode()
            headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
            for event in (
                h11.Response(status_code=status, headers=list(headers.items())),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
