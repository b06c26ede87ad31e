"""What `equipoise serve` may be told."""

from dataclasses import dataclass
from pathlib import Path

from equipoise.common.options import option

FIRST_HELP = "Candidates of a list that pass the model, the first by the priors."


@dataclass(frozen=True)
class ServerOptions:
    """Where to listen, whom to answer, and what a request and all requests together may take.

    `token`: bearer token that requests must bring, or None; a command reads it from where others cannot see it.
    """

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 for all of this machine.")
    port: int = option(8000, "Port; 0 takes a free one.", lower_bound=0, upper_bound=65535)
    workers: int = option(1, "Processes that answer, each with a model of its own.", lower_bound=1, upper_bound=256)
    token: str | None = None
    allowed_host: tuple[str, ...] = option(
        (), "Name that requests may call the server by; may be repeated.", shown="addresses, names without a dot"
    )
    max_candidates: int | None = option(None, "Candidates of a request.", shown="the export's limit")
    first: int | None = option(None, FIRST_HELP, shown="all")
    unknown_fields: bool = option(False, "Ignore fields that the export does not read.", "--allow-unknown-fields")
    max_body_kb: int = option(1024, "KiB of a request.")
    max_explained: int = option(4000, "Scores that an explanation may take: candidates times parts.")
    timeout_s: float = option(30.0, "Seconds to send a request, and again to answer it.")
    queue: int = option(256, "Requests that may wait for the model.")
    batching: bool = option(True, "Let waiting requests pass the model together.")
    batch_candidates: int = option(256, "Candidates of a pass of the model.")
    batch_wait_ms: float = option(0.0, "How long a pass waits for further requests.")
    keep: str | None = option(None, "Promise to keep by moving ω: 'exposure_ratio>=0.8'.")
    keep_state: Path | None = option(None, "File that remembers where promises stand.")
    explore: float = option(0.0, "Temperature of drawn lists, in units of utility; 0 draws none.")
    explore_seed: int | None = option(None, "Of the draws.", shown="a new one")
    log: Path | None = option(None, "Folder that logs what is shown.")
    traces: str | None = option(None, "Collector of OpenTelemetry traces: http://localhost:4318.")
