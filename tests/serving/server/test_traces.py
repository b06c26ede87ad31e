"""Traces: what a collector gets of requests, and that none of it holds a request up."""

import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from equipoise.common.errors import UserError
from equipoise.launch.serve import check_options
from equipoise.serving.server.options import ServerOptions

pytest.importorskip("opentelemetry.instrumentation.asgi")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    """Keeps the spans that it is sent: name → span."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[Any] = []

    @property
    def spans(self) -> list[Any]:
        """All spans."""
        return [
            s for r in self.requests for resource in r.resource_spans for sc in resource.scope_spans for s in sc.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/v1/traces":
            self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on a free port."""
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def _attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_a_request_is_traced_below_its_caller(
    collector: Collector, start_server: Callable[..., Any], request_of: Callable[..., Any]
) -> None:
    live = start_server(traces=f"http://127.0.0.1:{collector.server_port}/")
    secret = "nobody else's business"
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    asked = request_of(3, history=[secret])
    assert live.client.post("/rank", json=asked, headers=headers).status_code == 200
    live.client.get("/health")
    live.client.get(f"/{secret}")
    _finish(live)
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"POST /rank", "prepare", "score", "GET other"}
    own = spans["POST /rank"]
    assert (own.trace_id.hex(), own.parent_span_id.hex()) == (TRACE, CALLER)
    for name in ("prepare", "score"):
        assert (spans[name].trace_id, spans[name].parent_span_id) == (own.trace_id, own.span_id)
        assert own.start_time_unix_nano <= spans[name].start_time_unix_nano
        assert spans[name].end_time_unix_nano <= own.end_time_unix_nano
    told = _attributes(spans["score"])
    assert (told["equipoise.candidates"], told["equipoise.pass.requests"]) == (3, 1)
    assert told["equipoise.export"] == "stand-in@1" and told["equipoise.waited_s"] >= 0
    assert _attributes(own)["http.route"] == "/rank"
    assert not any(secret in str(span) for span in (own, spans["prepare"], spans["score"]))
    resource = {
        each.key: each.value.string_value for each in collector.requests[0].resource_spans[0].resource.attributes
    }
    assert resource["service.name"] == "equipoise"


def _finish(live: Any) -> None:
    """Stop a server and wait until it has: its last spans are sent then."""
    live.server.should_exit = True
    for thread in threading.enumerate():
        if getattr(thread, "_target", None) == live.server.run:
            thread.join(20)


def test_a_refused_request_is_traced_and_a_collector_that_is_away_costs_nothing(
    start_server: Callable[..., Any], request_of: Callable[..., Any]
) -> None:
    live = start_server(traces="http://127.0.0.1:9")  # nobody listens there
    assert live.client.post("/rank", json=request_of(2)).status_code == 200
    assert live.client.post("/rank", json={"candidates": []}).status_code == 422


@pytest.mark.parametrize("given", ["localhost:4318", "http://", "file:///spans"])
def test_an_address_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(UserError, match="is no address"):
        check_options(ServerOptions(traces=given), cache_mb=0)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = "equipoise.serving.server.traces.find_spec"
    monkeypatch.setattr(found, lambda name: None if "asgi" in name else object())
    with pytest.raises(UserError, match=r"pip install 'equipoise\[traces\]'"):
        check_options(ServerOptions(traces="http://localhost:4318"), cache_mb=0)
