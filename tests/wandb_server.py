"""A stand-in for W&B's server: as much of its API as the client needs to begin a run and stream its history."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VIEWER = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}


class WandbServer:
    """Listens on this machine; `die` closes the port, as a lost network would.

    Attributes:
        begun: variables of the latest UpsertBucket: name, project, groupName, displayName, config, …
        history: by W&B's run id the rows that have arrived.
        arrived: set whenever rows arrive.
    """

    def __init__(self) -> None:
        self.begun: dict[str, Any] = {}
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.arrived = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """What a client's process needs to come here, with a key that opens nothing."""
        url = f"http://127.0.0.1:{self._http.server_address[1]}"
        return {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online", "WANDB_SILENT": "true"}

    def die(self) -> None:
        """Answer nobody any more."""
        self._http.shutdown()
        self._http.server_close()

    def answer(self, query: dict[str, Any]) -> dict[str, Any]:
        """To a GraphQL request; what is not known here is an error, which the client logs and passes over."""
        name, values = query.get("operationName"), query.get("variables") or {}
        if name == "Viewer":
            return {"data": {"viewer": VIEWER}}
        if name == "UpsertBucket":
            self.begun |= {key: value for key, value in values.items() if value is not None}
            project = {"id": "p", "name": values.get("project"), "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": self.begun["name"], "displayName": values.get("displayName")}
            bucket |= {"project": project, "historyLineCount": 0}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        return {"data": None, "errors": [{"message": f"{name} is not known here"}]}

    def stream(self, run: str, sent: dict[str, Any]) -> None:
        """A part of a run's files, each with the number of its first line."""
        part = (sent.get("files") or {}).get("wandb-history.jsonl")
        if part:
            rows = self.history.setdefault(run, [])
            rows[part["offset"] :] = [json.loads(line) for line in part["content"]]
            self.arrived.set()


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # a connection per request, so that none outlives the server

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            found: dict[str, Any] = {}
            if self.path.endswith("/graphql"):
                found = server.answer(json.loads(body))
            elif self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], json.loads(body))
            data = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server that is gone at the end, if it was not before."""
    server = WandbServer()
    try:
        yield server
    finally:
        server.die()
