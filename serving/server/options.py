"""What `equipoise serve` may be told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerOptions:
    """Where to listen, whom to answer, and what a request and all requests together may take.

    Args:
        host, port: where to listen; port 0 takes any free one.
        token: bearer token that requests must bring, or None.
        max_candidates: of one request; None leaves the export's own limit.
        max_body_kb: of one request, KiB.
        timeout_s: seconds to send a request, and again seconds to answer it.
        queue: requests that may wait for the model; more are refused with 503.
        batch_candidates: candidates that pass the model together, of all waiting requests.
        batch_wait_ms: how long a pass waits for further requests.
        batching: False gives every request a pass of its own.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_candidates: int | None = None
    max_body_kb: int = 1024
    timeout_s: float = 30.0
    queue: int = 256
    batch_candidates: int = 256
    batch_wait_ms: float = 0.0
    batching: bool = True
