"""Serving until a signal: one socket, one event loop, and an orderly end."""

import signal
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from equipoise.common.errors import UserError
from equipoise.serving.server.connections import ImpatientProtocol
from equipoise.serving.server.options import ServerOptions

KEEP_ALIVE_SECONDS = 30
GRACE_SECONDS = 5
BACKLOG = 1024


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
    host, port = listener.getsockname()[:2]
    server = make_server(app, options, lambda: ready(f"http://{f'[{host}]' if ':' in host else host}:{port}"))
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
