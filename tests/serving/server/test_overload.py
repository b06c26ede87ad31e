"""Too much, too slow, gone: the queue's end, time limits, clients that leave, and an orderly end."""

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

RequestOf = Callable[..., dict[str, Any]]


def raw(live: Any, *parts: bytes, pause: float = 0.0, patience: float = 10.0) -> bytes:
    """Send parts with pauses between them, and read until the server closes."""
    with socket.create_connection((live.host, live.port), timeout=patience) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        found = b""
        while chunk := connection.recv(65536):
            found += chunk
        return found


def posted(body: bytes, *headers: bytes) -> bytes:
    """A whole request as bytes."""
    lines = [b"POST /rank HTTP/1.1", b"host: x", b"content-type: application/json", *headers]
    return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", body])


def until(reached: Callable[[], bool], patience: float = 20.0) -> None:
    """Wait for it."""
    ends = time.monotonic() + patience
    while not reached():
        assert time.monotonic() < ends, "it never came to that"
        time.sleep(0.01)


def test_requests_that_arrive_together_pass_together(start_server: Any, request_of: RequestOf) -> None:
    live = start_server()
    live.recommender.seconds = 0.15
    with ThreadPoolExecutor(12) as pool:
        bodies = [request_of(5, user={"age": age}) for age in range(12)]
        answers = list(pool.map(lambda body: live.client.post("/rank", json=body), bodies))
    assert all(answer.status_code == 200 for answer in answers)
    assert sum(live.recommender.passes) == 12
    assert max(live.recommender.passes) >= 6
    for body, answer in zip(bodies, answers, strict=True):
        alone = live.recommender.score_prepared([live.recommender.prepare(body)])[0].to_json()
        assert answer.json()["candidates"] == alone["candidates"]


def test_one_failing_request_leaves_its_neighbours_alone(start_server: Any, request_of: RequestOf) -> None:
    live = start_server()
    live.recommender.seconds = 0.15
    bodies = [request_of(5, user=None, prefix="fail" if place == 3 else f"age {place}") for place in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: live.client.post("/rank", json=body), bodies))
    assert [answer.status_code for answer in answers] == [500 if place == 3 else 200 for place in range(8)]
    assert max(live.recommender.passes) >= 4


def test_a_full_queue_refuses_and_recovers(start_server: Any, request_of: RequestOf) -> None:
    live = start_server(queue=2, batch_candidates=5)
    live.recommender.seconds = 0.3
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: live.client.post("/rank", json=request_of(5)), range(10)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert len(refused) >= 5
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert "2 requests are waiting already" in refused[0].json()["error"]
    assert live.counted('equipoise_overload_total{reason="queue"}') == len(refused)
    assert live.alive()


def test_a_request_that_takes_too_long_is_given_up(start_server: Any, request_of: RequestOf) -> None:
    live = start_server(timeout_s=0.3)
    live.recommender.seconds = 1.0
    start = time.monotonic()
    answer = live.client.post("/rank", json=request_of())
    assert answer.status_code == 503 and 0.25 < time.monotonic() - start < 0.9
    assert "no answer within 0.3 seconds" in answer.json()["error"]
    live.recommender.seconds = 0.0
    time.sleep(1.0)
    assert live.alive()


def test_a_client_that_leaves_takes_its_request_along(start_server: Any, request_of: RequestOf) -> None:
    live = start_server(batch_candidates=5)
    live.recommender.released.clear()
    body = json.dumps(request_of(5)).encode()
    first = threading.Thread(target=lambda: live.client.post("/rank", json=request_of(5)))
    first.start()
    until(lambda: live.recommender.passes == [1])
    connections = [socket.create_connection((live.host, live.port)) for _ in range(6)]
    for connection in connections:
        connection.sendall(posted(body))
    until(lambda: live.counted("equipoise_queue_requests") == 6)
    for connection in connections:
        connection.close()
    until(lambda: live.counted("equipoise_queue_requests") == 0)
    live.recommender.released.set()
    first.join()
    assert live.alive()
    assert live.recommender.passes == [1, 1], "requests of clients that had left were scored"
    assert live.counted('equipoise_requests_total{route="/rank",status="499"}') == 6


def test_a_client_that_leaves_within_its_body(start_server: Any) -> None:
    live = start_server()
    with socket.create_connection((live.host, live.port)) as connection:
        connection.sendall(posted(b" " * 1000)[:-500])
        time.sleep(0.1)
    time.sleep(0.2)
    assert live.counted('equipoise_requests_total{route="/rank",status="499"}') == 1
    assert live.alive()


def test_a_slow_body_is_a_408(start_server: Any) -> None:
    live = start_server(timeout_s=0.4)
    start = time.monotonic()
    found = raw(live, posted(b" " * 1000)[:-900], b"{", b"}", pause=0.15)
    assert found.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.4 seconds" in found and b"connection: close" in found
    assert time.monotonic() - start < 3
    assert live.alive()


@pytest.mark.parametrize("sent", [b"", b"POST /rank HTT", b"POST /rank HTTP/1.1\r\nhost: x\r\nx-slow: "])
def test_a_slow_head_is_a_408(start_server: Any, sent: bytes) -> None:
    live = start_server(head_seconds=0.3)
    start = time.monotonic()
    found = raw(live, sent)
    assert found.startswith(b"HTTP/1.1 408 ") and b"no complete request arrived" in found
    assert 0.2 < time.monotonic() - start < 3
    assert live.alive()


def test_a_slow_second_head_is_a_408(start_server: Any) -> None:
    live = start_server(head_seconds=0.3)
    found = raw(live, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /hea", pause=0.1)
    assert found.startswith(b"HTTP/1.1 200 ") and b"HTTP/1.1 408 " in found
    time.sleep(0.4)
    live.recommender.seconds = 0.8  # a request under way is not bound by the deadline of heads
    assert live.alive()


def test_a_body_without_length_is_cut_off_while_it_streams(start_server: Any) -> None:
    live = start_server(max_body_kb=8)

    def endless() -> Any:
        for _ in range(200):
            yield b" " * 1024

    answer = live.client.post("/rank", content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413 and "more than 8 KiB" in answer.json()["error"]
    assert live.alive()


def test_an_announced_large_body_is_not_even_sent(start_server: Any) -> None:
    live = start_server(max_body_kb=8)
    head = posted(b"", b"expect: 100-continue").replace(b"content-length: 0", b"content-length: 99999999")
    found = raw(live, head)
    assert found.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in found


def test_many_silent_connections_do_not_stop_it(start_server: Any) -> None:
    live = start_server()
    silent = [socket.create_connection((live.host, live.port)) for _ in range(200)]
    assert live.alive()
    for connection in silent:
        connection.close()


def test_it_ends_only_after_the_running_request(start_server: Any, request_of: RequestOf) -> None:
    live = start_server()
    live.recommender.seconds = 0.6
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(live.client.post, "/rank", json=request_of())
        time.sleep(0.2)
        live.stop()
        assert answer.result(10).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{live.host}:{live.port}/health", trust_env=False)
