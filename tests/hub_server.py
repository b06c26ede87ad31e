"""A stand-in for the Hugging Face Hub: as much of its interface as pushing, listing and loading models need."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_opens_nothing"


class HubServer:
    """Listens on this machine.

    Attributes:
        repos: by name and branch the files, path → content.
        private: by name whether others may not read it.
        commits: one per commit: repository, branch, message, paths added, paths deleted.
        refuse: by path of a request the status that is answered instead.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[dict[str, Any]] = []
        self.refuse: dict[str, int] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def head(self, repo: str, branch: str) -> str:
        """The latest commit of a branch, or of what a commit's id names."""
        files = self.repos[repo].get(branch, {})
        return hashlib.sha1(json.dumps([branch, sorted(files), len(self.commits)]).encode()).hexdigest()

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a branch or commit; None where there is none."""
        for branch, files in self.repos.get(repo, {}).items():
            if revision in (branch, self.head(repo, branch)):
                return self.head(repo, branch), files
        return None

    def post(self, path: str, body: bytes) -> tuple[int, Any]:
        """Status and answer of a change."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, [asked["organization"] or "me", asked["name"]]))
            status = 409 if name in self.repos else 200
            if status == 200:
                self.repos[name] = {"main": {".gitattributes": b""}}
                self.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
            return status, {"url": f"{self.url}/{name}", "id": "1", "name": name}
        if path == "/api/validate-yaml":
            text = json.loads(body)["content"]
            wrong = [] if text.startswith("---\nbase_model") or "library_name: peft" in text else [{"message": "empty"}]
            return (400 if wrong else 200), {"errors": wrong, "warnings": []}
        found = re.fullmatch(r"/api/models/(.+?)/(branch|preupload|commit)/([^/]+)", path)
        if found is None or found[1] not in self.repos:
            return 404, {"error": "not here"}
        repo, what, branch = found[1], found[2], unquote(found[3])
        if what == "branch":
            status = 409 if branch in self.repos[repo] else 200
            self.repos[repo].setdefault(branch, dict(self.repos[repo]["main"]))
            return status, {}
        if what == "preupload":
            paths = [each["path"] for each in json.loads(body)["files"]]
            return 200, {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]}
        lines = [json.loads(line) for line in body.splitlines()]
        files = self.repos[repo][branch]
        made: dict[str, Any] = {"repo": repo, "branch": branch, "added": [], "deleted": []}
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                made |= {"message": value["summary"], "parent": value.get("parentCommit")}
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                made["added"].append(value["path"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
                made["deleted"].append(value["path"])
        self.commits.append(made)
        commit = self.head(repo, branch)
        return 200, {"commitUrl": f"{self.url}/{repo}/commit/{commit}", "commitOid": commit, "pullRequestUrl": None}

    def get(self, path: str) -> tuple[int, Any, dict[str, str]]:
        """Status, content and headers of what is read."""
        found = re.fullmatch(r"/api/models/(.+?)(?:/revision/([^/]+))?(/tree/([^/]+)(?:/(.*))?)?", path)
        if found:
            repo, revision = found[1], unquote(found[2] or found[4] or "main")
            at = self.files(repo, revision)
            if at is None:
                return 404, {"error": "not here"}, {"X-Error-Code": "RepoNotFound"}
            commit, files = at
            if found[3]:
                names = [name for name in files if name.startswith(found[5] or "")]
                listed = [{"type": "file", "path": n, "size": len(files[n]), "oid": _oid(files[n])} for n in names]
                return 200, listed, {}
            siblings = [{"rfilename": name} for name in sorted(files)]
            return 200, {"id": repo, "sha": commit, "private": self.private[repo], "siblings": siblings}, {}
        found = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path)
        at = self.files(found[1], unquote(found[2])) if found else None
        if found is None or at is None:
            return 404, {"error": "not here"}, {"X-Error-Code": "RepoNotFound"}
        commit, files = at
        content = files.get(unquote(found[3]))
        if content is None:
            return 404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
        return 200, content, {"X-Repo-Commit": commit, "ETag": f'"{_oid(content)}"'}


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _handler(server: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, status: int, content: Any, headers: dict[str, str]) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def do_POST(self) -> None:
            body, path = self.rfile.read(int(self.headers.get("Content-Length") or 0)), urlsplit(self.path).path
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._answer(401, {"error": "Invalid username or password."}, {})
            elif path in server.refuse:
                self._answer(server.refuse[path], {"error": "no"}, {})
            else:
                self._answer(*server.post(path, body), {})

        def do_GET(self) -> None:
            self._answer(*server.get(urlsplit(self.path).path))

        do_HEAD = do_GET

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return Handler


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """A server that is gone at the end."""
    server = HubServer()
    try:
        yield server
    finally:
        server.close()
