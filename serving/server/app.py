"""The application: endpoints, who may call them, what is counted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.routing import APIRoute

from equipoise.serving.recommender import Recommender
from equipoise.serving.server import endpoints, pages
from equipoise.serving.server.middleware import FaultMiddleware, HostMiddleware, MetricsMiddleware, TokenMiddleware
from equipoise.serving.server.options import ServerOptions
from equipoise.serving.server.refusal import ErrorAnswer, install
from equipoise.serving.server.service import Service
from equipoise.serving.server.switch import Followed, Switch, VersionMiddleware
from equipoise.serving.server.traces import open_traces
from equipoise.serving.server.workers import Counts, Worker

ROUTERS = {"the model": endpoints.router, "the server": pages.router}
"""By what they ask."""
OPENAPI = "/openapi.json"
REFUSED = (400, 401, 408, 413, 415, 422, 500, 503)


def create_app(
    recommender: Recommender,
    options: ServerOptions,
    followed: Followed | None = None,
    worker: Worker | None = None,
) -> FastAPI:
    """An ASGI application that serves a recommender.

    Args:
        recommender: the loaded export; the application is its only user.
        options: limits and token; host and port are the caller's.
        followed: the link that led to the export, whose later exports are served in its place.
        worker: which of several processes this is.
    """
    traces = open_traces(options.traces)
    service = Service(recommender, options, traces=traces)
    switch = Switch(service, options, followed)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        switch.start()
        yield
        await switch.close()
        await asyncio.to_thread(traces.close)

    app = FastAPI(
        title="Equipoise",
        description=f"Ranks slates with `{recommender.name}`.",
        openapi_url=OPENAPI,
        docs_url=None,  # both would load scripts from elsewhere: pages.py has /docs with files of its own
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses={status: {"model": ErrorAnswer} for status in REFUSED},
    )
    app.state.switch = switch
    app.state.counts = None if worker is None else Counts(worker, service.metrics.page)
    install(app)
    for asks, router in ROUTERS.items():
        app.include_router(router, tags=[asks])
    routes = frozenset(
        {
            OPENAPI,
            *(route.path for router in ROUTERS.values() for route in router.routes if isinstance(route, APIRoute)),
        }
    )
    app.add_middleware(FaultMiddleware)
    if options.token is not None:
        app.add_middleware(TokenMiddleware, token=options.token)
    if options.token is None or options.allowed_host:  # who has the token is no page of strangers
        app.add_middleware(HostMiddleware, allowed=options.allowed_host)
    app.add_middleware(MetricsMiddleware, metrics=service.metrics, routes=routes)
    app.add_middleware(VersionMiddleware, switch=switch)
    app.add_middleware(traces.around, routes=routes)
    return app
