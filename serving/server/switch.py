"""From one export to the next without dropping a request: the new one is loaded beside the old one, must answer its own
golden requests, and takes over in one step; the old one finishes what it has begun.

A request is answered by one export from its first byte to its last, and says which (`x-equipoise-export`).
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from equipoise.common.errors import format_error
from equipoise.export.serving_record import FILE_NAME
from equipoise.serving.recommender import Recommender
from equipoise.serving.server.options import ServerOptions
from equipoise.serving.server.service import SERVICE, Service

logger = logging.getLogger("equipoise.serve")

POLL_SECONDS = 1.0
HEADER = b"x-equipoise-export"


@dataclass(frozen=True)
class Followed:
    """A link to an export, which may come to lead to another one.

    Attributes:
        link: the symbolic link.
        load: loads the export of a folder, and asks it its golden requests; raises what refuses it.
        poll_seconds: between two looks at the link.
    """

    link: Path
    load: Callable[[Path], Recommender]
    poll_seconds: float = POLL_SECONDS


class Switch:
    """The service that answers, and its exchange for that of a newer export.

    Args:
        service: of the export that is loaded.
        options: of the server.
        followed: the link that is watched; None serves one export for good.
    """

    def __init__(self, service: Service, options: ServerOptions, followed: Followed | None = None) -> None:
        self.current, self.options, self.followed = service, options, followed
        self._refused: tuple[Path, float] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer, and to watch the link; needs a running event loop."""
        self.current.start()
        if self.followed is not None:
            self._watching = asyncio.create_task(self._watch(self.followed), name="export link")

    async def close(self) -> None:
        """Finish what is running."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching
        await asyncio.gather(*self._retiring)
        await self.current.close()

    async def _watch(self, followed: Followed) -> None:
        while True:
            await asyncio.sleep(followed.poll_seconds)
            try:
                await self.look(followed)
            except Exception:  # the present export goes on, whatever it is
                logger.exception("the link %s cannot be followed; the present export goes on", followed.link)

    async def look(self, followed: Followed) -> bool:
        """Look at the link once, and serve what it leads to where that is new; returns whether it now does."""
        target = followed.link.resolve()
        if target == self.current.recommender.export.resolve():
            return False
        mark = (target, _written(target))
        if mark == self._refused:
            return False
        logger.info("loading %s beside %s", target, self.current.version)
        try:
            recommender = await asyncio.to_thread(followed.load, target)
            new = Service(recommender, self.options, self.current.metrics, self.current.traces)
        except Exception as error:
            self._refused = mark
            self.current.metrics.switches.labels("refused").inc()
            logger.error("%s is refused, %s goes on: %s", target, self.current.version, format_error(error))
            return False
        self._take_over(new)
        return True

    def _take_over(self, new: Service) -> None:
        """In one step of the event loop: requests that come from now on are answered by the new service."""
        old, self._refused = self.current, None
        new.carry_over(old)
        new.start()
        self.current = new
        new.metrics.follow(new)
        new.metrics.switches.labels("done").inc()
        logger.info("%s answers from now on, in place of %s", new.version, old.version)
        task = asyncio.create_task(self._retire(old), name="retiring export")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _retire(self, old: Service) -> None:
        while old.in_flight:
            await asyncio.sleep(0.02)
        await old.close()


def _written(export: Path) -> float:
    """When an export was written; 0 where there is none: a refused one that is written again is tried again."""
    try:
        return (export / FILE_NAME).stat().st_mtime
    except OSError:
        return 0.0


class VersionMiddleware:
    """ASGI middleware that gives each request the service that answers it, and the answer its version.

    Args:
        app: what is called.
        switch: knows the service of the moment.
    """

    def __init__(self, app: ASGIApp, switch: Switch) -> None:
        self.app, self.switch = app, switch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counted among those of its service until it is answered."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        service = self.switch.current
        scope[SERVICE] = service
        service.in_flight += 1

        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                version = service.version.encode("latin-1", "replace")
                message = {**message, "headers": [*message.get("headers", []), (HEADER, version)]}
                service.metrics.answers.labels(service.version).inc()
            await send(message)

        try:
            await self.app(scope, receive, send_with_version)
        finally:
            service.in_flight -= 1
