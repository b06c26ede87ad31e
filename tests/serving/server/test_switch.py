"""A server that follows a link: no request fails at a switch, each says who answered, and a bad export is refused."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from equipoise.common.errors import UserError
from equipoise.serving.server.switch import Followed

CLIENTS = 8


class Exports:
    """Folders of exports, a link to one of them, and how they are loaded."""

    def __init__(self, folder: Path, make: Callable[[], Any]) -> None:
        self.folder, self.make, self.loaded = folder, make, 0
        self.bad: set[str] = set()
        for name in ("one", "two"):
            (folder / name).mkdir()
            (folder / name / "serving.json").write_text(f'"{name}"')
        self.link = folder / "current"
        self.lead_to("one")

    def lead_to(self, name: str) -> None:
        """As a promotion does it."""
        new = self.folder / ".new"
        new.symlink_to(name)
        new.replace(self.link)

    def load(self, folder: Path) -> Any:
        """A stand-in for the export of a folder."""
        self.loaded += 1
        if folder.name in self.bad:
            raise UserError(f"{folder} does not answer its golden requests: told so")
        recommender = self.make()
        recommender.export, recommender.seconds, recommender.version = folder, 0.01, f"{folder.name}@1"
        return recommender

    @property
    def followed(self) -> Followed:
        """What the server is told."""
        return Followed(self.link, self.load, poll_seconds=0.02)


@pytest.fixture
def exports(tmp_path: Path, make_stand_in: Callable[[], Any]) -> Exports:
    return Exports(tmp_path, make_stand_in)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that is to happen soon."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_no_request_fails_at_a_switch(
    exports: Exports, start_server: Callable[..., Any], request_of: Callable[..., dict[str, Any]]
) -> None:
    first = exports.load(exports.folder / "one")
    live = start_server(first, followed=exports.followed)
    stop, failures, answered = threading.Event(), [], Counter()

    def ask() -> None:
        with httpx.Client(base_url=f"http://{live.host}:{live.port}", timeout=30, trust_env=False) as client:
            while not stop.is_set():
                answer = client.post("/rank", json=request_of())
                version = answer.headers.get("x-equipoise-export", "")
                if answer.status_code != 200 or answer.json()["served"]["export"] != version:
                    failures.append(answer.text)
                answered[version.partition("@")[0]] += 1

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    until(lambda: answered["one"] > 2 * CLIENTS)
    exports.lead_to("two")
    until(lambda: answered["two"] > 2 * CLIENTS)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures and set(answered) == {"one", "two"}
    health = live.client.get("/health").json()
    assert health["export_version"].startswith("two@") and health["status"] == "ok"
    version = health["export_version"]
    assert live.counted(f'equipoise_export{{version="{version}"}}') == 1
    assert live.counted(f'equipoise_answers_total{{version="{version}"}}') >= answered["two"]
    assert live.counted('equipoise_switches_total{result="done"}') == 1
    assert sum(first.passes) == answered["one"]  # the old one has answered what it had begun, and nothing after


def test_a_bad_export_is_refused_and_the_old_one_goes_on(
    exports: Exports, start_server: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    exports.bad.add("two")
    live = start_server(exports.load(exports.folder / "one"), followed=exports.followed)
    with caplog.at_level("ERROR", "equipoise.serve"):
        exports.lead_to("two")
        until(lambda: live.counted('equipoise_switches_total{result="refused"}') == 1)
    assert "does not answer its golden requests" in caplog.text and "one@" in caplog.text
    assert live.alive() and live.client.get("/health").json()["export_version"].startswith("one@")
    time.sleep(0.2)
    assert exports.loaded == 2  # it is not tried again and again
    exports.bad.clear()
    time.sleep(0.02)
    (exports.folder / "two" / "serving.json").write_text('"two, written again"')
    until(lambda: live.client.get("/health").json()["export_version"].startswith("two@"))
    assert live.alive()


def test_a_link_that_leads_nowhere_changes_nothing(exports: Exports, start_server: Callable[..., Any]) -> None:
    exports.bad.add("gone")
    live = start_server(exports.load(exports.folder / "one"), followed=exports.followed)
    exports.lead_to("gone")
    until(lambda: live.counted('equipoise_switches_total{result="refused"}') == 1)
    assert live.alive()
    exports.lead_to("one")
    time.sleep(0.1)
    assert live.client.get("/health").json()["export_version"].startswith("one@") and exports.loaded == 2
