"""OpenTelemetry traces of requests: what each waited for, from its arrival to its answer. None unless asked for.

The spans below a request's own are `prepare` (read, rendered, tokenised), `score` (its wait and the model's pass, which
it may share), `search` and `explain`. They hold numbers alone: nothing that a shopper or a seller wrote.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Scope

from equipoise.common.errors import UserError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

UNTRACED = "^.*/(health|metrics|favicon.ico)$"
"""What is asked again and again by machines."""
NEEDED = (
    "opentelemetry",
    "opentelemetry.sdk",
    "opentelemetry.exporter.otlp.proto.http",
    "opentelemetry.instrumentation.asgi",
)
"""What the extra brings."""
COLLECTOR_SECONDS = 5
"""How long a collector may take, at most; answers never wait for it."""


class Traces:
    """Spans of a server.

    Args:
        provider: what makes and sends them; None makes none.
    """

    def __init__(self, provider: "TracerProvider | None" = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("equipoise.serve") if provider is not None else None

    @contextmanager
    def span(self, name: str) -> Iterator["Span | None"]:
        """A span below that of the request; None where there are no traces."""
        if self._tracer is None:
            yield None
            return
        with self._tracer.start_as_current_span(name) as span:
            yield span

    def around(self, app: ASGIApp, routes: frozenset[str]) -> ASGIApp:
        """ASGI middleware that makes the span of each request, below that of a caller who sends `traceparent`.

        Args:
            app: what is called.
            routes: paths that name spans; others are called `other`, so that no client can invent names.
        """
        if self._provider is None:
            return app
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        def named(scope: Scope) -> tuple[str, dict[str, Any]]:
            route = scope["path"] if scope["path"] in routes else "other"
            return f"{scope['method']} {route}", {"http.route": route}

        return OpenTelemetryMiddleware(
            app,
            tracer_provider=self._provider,
            default_span_details=named,
            excluded_urls=UNTRACED,
            exclude_spans=["receive", "send"],
        )

    def close(self) -> None:
        """Send what waits; a collector that does not answer holds it up for COLLECTOR_SECONDS."""
        if self._provider is not None:
            self._provider.shutdown()


def check_collector(collector: str | None) -> None:
    """Refuse traces that could not be sent.

    Raises:
        UserError: the extra is not installed, or the address is none.
    """
    if collector is None:
        return
    parts = urlsplit(collector)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--traces {collector} is no address: write it such as http://localhost:4318")
    for name in NEEDED:
        if not find_spec(name):
            raise UserError(f"--traces needs {name}: pip install 'equipoise[traces]'")


def open_traces(collector: str | None) -> Traces:
    """Traces that go to a collector by OTLP over HTTP; none where none is named.

    Args:
        collector: its address, to which `/v1/traces` is added. The variables OTEL_* of the environment (service name,
            sampler, headers) are read by the library.

    Raises:
        UserError: as `check_collector`.
    """
    check_collector(collector)
    if collector is None:
        return Traces()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource({SERVICE_NAME: "equipoise"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{collector.rstrip('/')}/v1/traces", timeout=COLLECTOR_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Traces(provider)
