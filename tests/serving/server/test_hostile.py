"""Requests that mean no good: each gets a clear 4xx, and the server answers the next one as ever."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from benchmarks.serving_hostile import CASES, MAX_BODY_KB, MAX_CANDIDATES, exchange, post
from equipoise.serving.server import strict_body
from equipoise.serving.server.service import MAX_VARIANTS


@pytest.fixture(scope="module")
def live(start_servers: Any) -> Any:
    """One server for all of them: they must not spoil it for each other."""
    return start_servers(max_body_kb=MAX_BODY_KB, max_candidates=MAX_CANDIDATES, head_seconds=1.0)


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_with_a_sentence(live: Any, name: str) -> None:
    case = CASES[name]
    before = sum(live.recommender.passes)
    found = exchange(live.host, live.port, case.sent)
    assert sum(live.recommender.passes) == before, "it reached the model"
    if 499 not in case.status:
        status = int(found.split()[1])
        assert status in case.status, found
        body = json.loads(found.partition(b"\r\n\r\n")[2])
        assert set(body) == {"error", "where"}
        assert case.words.replace("\\", "") in body["error"], body
        assert b"application/json" in found
    assert live.alive()


def test_none_of_them_was_a_5xx(live: Any) -> None:
    for case in CASES.values():
        exchange(live.host, live.port, case.sent)
    assert len(CASES) >= 30
    assert live.alive()
    text = live.client.get("/metrics").text
    assert not re.findall(r'equipoise_requests_total\{[^}]*status="5\d\d"\}', text)
    answered = re.findall(r'equipoise_requests_total\{[^}]*status="4\d\d"\} (\d+)', text)
    assert sum(map(int, answered)) >= 30


def test_large_bodies_are_checked_off_the_event_loop(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[int, str] = {}
    check = strict_body.read_body

    def noted(body: bytes, *rest: Any) -> Any:
        threads[len(body)] = threading.current_thread().name
        return check(body, *rest)

    monkeypatch.setattr(strict_body, "read_body", noted)
    for padding in (0, 2 * strict_body.SMALL_BYTES):
        body = json.dumps({"candidates": [{"item_id": "i1"}]}).encode() + b" " * padding
        exchange(live.host, live.port, post(body))
    small, large = (threads[size] for size in sorted(threads))
    assert large.startswith("read") and not small.startswith("read")


def test_explanations_are_worked_at_one_after_the_other(start_servers: Any) -> None:
    live = start_servers(max_candidates=MAX_CANDIDATES)
    live.recommender.seconds = 0.02
    body = {"user": {"age": 40}, "candidates": [{"item_id": f"i{place}"} for place in range(5)]}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: live.client.post("/explain", json=body), range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert max(live.recommender.passes) <= MAX_VARIANTS, "variants of several explanations passed together"
