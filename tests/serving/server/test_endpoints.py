"""What each endpoint answers."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from equipoise.serving.explain import explain_request

RequestOf = Callable[..., dict[str, Any]]


def test_rank_is_what_the_recommender_gives(start_server: Any, request_of: RequestOf) -> None:
    live = start_server()
    asked = request_of(20, omega={"diversity": 2.0}, request_id="mine")
    answer = live.client.post("/rank", json=asked).json()
    expected = live.recommender.score_prepared([live.recommender.prepare(asked)])[0].to_json()
    served = answer.pop("served")
    assert answer == expected
    assert answer["request_id"] == "mine"
    assert answer["omega"] == {"diversity": 2.0, "fairness": 0.0}
    utilities = [candidate["utility"] for candidate in answer["candidates"]]
    assert utilities == sorted(utilities, reverse=True)
    assert served["requests"] == 1 and served["prefix_cached"] is False and served["model_ms"] >= 0


def test_score_keeps_the_order_and_rank_takes_the_top(start_server: Any, request_of: RequestOf) -> None:
    live = start_server()
    scored = live.client.post("/score", json=request_of(9)).json()["candidates"]
    ranked = live.client.post("/rank", json=request_of(9, top=4)).json()["candidates"]
    assert [each["position"] for each in scored] == list(range(9))
    assert [each["rank"] for each in ranked] == [1, 2, 3, 4]
    assert ranked == sorted(scored, key=lambda each: each["rank"])[:4]


def test_omega_changes_the_order_within_its_bounds(start_server: Any, request_of: RequestOf) -> None:
    live = start_server()

    def order(**omega: float) -> list[int]:
        answer = live.client.post("/rank", json=request_of(20, omega=omega)).json()
        return [each["position"] for each in answer["candidates"]]

    assert order(diversity=0.0) != order(diversity=5.0)
    assert order() == order(diversity=0.5)  # the operating point
    for omega, where in (({"fairness": 2.01}, "omega.fairness"), ({"diversity": -1}, "omega.diversity")):
        refused = live.client.post("/rank", json=request_of(omega=omega))
        assert refused.status_code == 422
        assert refused.json()["where"] == where
        assert "give a number from 0 to" in refused.json()["error"]


def test_a_returning_shopper_is_told_to_be_cached(start_server: Any, request_of: RequestOf) -> None:
    live = start_server()
    answers = [live.client.post("/rank", json=request_of()).json() for _ in range(3)]
    assert [answer["served"]["prefix_cached"] for answer in answers] == [False, True, True]
    assert live.counted("equipoise_prefix_cache_hits_total") == 2
    assert live.counted("equipoise_prefix_cache_misses_total") == 1
    assert live.counted("equipoise_prefix_cache_bytes") == 1024


def test_all_forms_of_a_request(start_server: Any) -> None:
    live = start_server()
    for asked in (
        {"candidates": [{"item_id": "i1"}]},
        {"user": None, "history": None, "candidates": [{"item": {"title": "tea", "brand": None}}]},
        {"user": {"age": 3, "user_id": True}, "history": ["Tea", {"item_id": "i3"}], "candidates": [{"text": "tea"}]},
        {"prefix": "anyone", "candidates": [{"item_id": "new", "text": "tea", "context": {"seen": 1.5}}]},
        {"prefix": "ünïcödé 🫖\u0000", "candidates": [{"item_id": "i1", "context": "seen"}], "top": 7, "request_id": 7},
    ):
        answer = live.client.post("/rank", json=asked)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["candidates"]) == 1


def test_health_examples_and_page(start_server: Any) -> None:
    live = start_server()
    health = live.client.get("/health").json()
    assert (
        health["status"] == "ok" and health["export"] == "stand-in" and health["listwise"] == ["diversity", "fairness"]
    )
    found = live.client.get("/examples").json()
    assert found["bounds"] == {"diversity": [0.0, 5.0], "fairness": [0.0, 2.0]}
    example = found["examples"][1]
    assert example["clicked"] == [1] and example["prefix"] == "age 31"
    assert example["shown"][2] == {"item_id": "i2", "text": "item number 2", "context": "seen 2"}
    assert live.client.post("/rank", json=example["request"]).status_code == 200
    page = live.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for elsewhere in ("http://", "https://", "src=", "@import"):
        assert elsewhere not in page.text.replace("http://www.w3.org/2000/svg", "").replace("'http:", "")


def test_examples_are_cut_to_the_limit(start_server: Any) -> None:
    live = start_server(max_candidates=4)
    example = live.client.get("/examples").json()["examples"][0]
    assert len(example["request"]["candidates"]) == len(example["shown"]) == 4
    assert live.client.post("/rank", json=example["request"]).status_code == 200


def test_metrics_count_routes_statuses_and_passes(start_server: Any, request_of: RequestOf) -> None:
    live = start_server()
    live.client.post("/rank", json=request_of(7))
    live.client.post("/rank", json=request_of(7, top=-1))
    live.client.get("/nowhere")
    live.client.get("/nowhere-else")
    assert live.counted('equipoise_requests_total{route="/rank",status="200"}') == 1
    assert live.counted('equipoise_requests_total{route="/rank",status="422"}') == 1
    assert live.counted('equipoise_requests_total{route="other",status="404"}') == 2
    assert live.counted('equipoise_request_seconds_count{route="/rank"}') == 2
    assert live.counted("equipoise_batch_candidates_sum") == 7
    assert live.counted("equipoise_pass_seconds_count") == 1
    assert live.counted("equipoise_queue_requests") == 0


def test_openapi_describes_what_is_there(start_server: Any) -> None:
    live = start_server()
    found = live.client.get("/openapi.json").json()
    assert set(found["paths"]) == {
        "/rank",
        "/score",
        "/price",
        "/recall",
        "/explain",
        "/examples",
        "/health",
        "/metrics",
        "/request_schema.json",
        "/",
    }
    assert {"400", "413", "422", "503"} <= set(found["paths"]["/rank"]["post"]["responses"])
    assert found["components"]["schemas"]["RankRequest"]["additionalProperties"] is False


def test_the_token_guards_all_but_health_and_page(start_server: Any, request_of: RequestOf) -> None:
    live = start_server(token="s3cret")
    assert live.alive()
    for given in ("", "Bearer", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret", "Bearer ünï"):
        headers = {"authorization": given.encode("utf-8")}
        refused = live.client.post("/rank", json=request_of(), headers=headers)
        assert refused.status_code == 401, given
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json()["where"] == "header authorization"
    for path, status in (("/health", 200), ("/", 200), ("/metrics", 401), ("/examples", 401), ("/openapi.json", 401)):
        assert live.client.get(path, headers={"authorization": ""}).status_code == status


@pytest.mark.parametrize("prefix", ["fail", "nan"])
def test_a_fault_of_ours_is_a_500_that_tells_nothing(start_server: Any, request_of: RequestOf, prefix: str) -> None:
    live = start_server()
    answer = live.client.post("/rank", json=request_of(user=None, prefix=prefix))
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server failed; its log has the reason", "where": "server"}
    assert live.counted('equipoise_requests_total{route="/rank",status="500"}') == 1
    assert live.alive()


def test_value_and_boost_enter_the_order(start_server: Any, request_of: Callable[..., dict[str, Any]]) -> None:
    client = start_server().client
    body = request_of(3)
    for place, candidate in enumerate(body["candidates"]):
        candidate |= {"value": 2.0**place, "boost": -0.25 * place}
    plain = client.post("/score", json=body).json()
    valued = client.post("/score", json={**body, "value_weight": 2.0}).json()
    assert plain["value_weight"] == 0.0 and valued["value_weight"] == 2.0
    for place, (before, after) in enumerate(zip(plain["candidates"], valued["candidates"], strict=True)):
        assert before["value"] == 2.0**place and before["boost"] == -0.25 * place
        assert after["utility"] == pytest.approx(before["utility"] + 2 * place * math.log(2))
        expected = before["relevance"] + 0.5 * before["deltas"]["diversity"] - 0.25 * place
        assert before["utility"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "more", "field"),
    [
        ({"value": 0}, {}, "candidates[0].value"),
        ({"value": -1.5}, {}, "candidates[0].value"),
        ({"boost": 5.1}, {}, "candidates[0].boost"),
        ({"boost": "much"}, {}, "candidates[0].boost"),
        ({}, {"value_weight": 1}, "candidates[0].value"),
        ({}, {"value_weight": 6}, "value_weight"),
        ({}, {"value_weight": -1}, "value_weight"),
    ],
)
def test_senseless_values_are_refused(
    start_server: Any, request_of: Callable[..., dict[str, Any]], change: dict, more: dict, field: str
) -> None:
    body = request_of(2, **more)
    body["candidates"][0] |= change
    answer = start_server().client.post("/rank", json=body)
    assert answer.status_code == 422 and answer.json()["where"] == field


def test_explain_is_what_the_library_says(start_server: Any, request_of: Callable[..., dict[str, Any]]) -> None:
    live = start_server()
    body = request_of(6, history=["tea", "soap"], omega={"diversity": 1.5})
    answer = live.client.post("/explain", json={**body, "explain": [4, "i2"]})
    assert answer.status_code == 200
    assert answer.json() == _explained(live.recommender, {**body, "explain": [4, "i2"]})
    first = live.client.post("/explain", json=body).json()["candidates"]
    best = live.client.post("/rank", json=body).json()["candidates"][0]
    assert [each["position"] for each in first] == [best["position"]]
    assert first[0]["utility"] == best["utility"]
    assert [part["text"] for part in first[0]["contributions"]][:3] == ["age 40", "tea", "soap"]


@pytest.mark.parametrize(
    ("count", "asked", "field"),
    [(101, [0], "candidates"), (5, [0, 1, 2, 3], "explain"), (5, ["none"], "explain[0]"), (5, [7], "explain[0]")],
)
def test_what_explain_refuses(
    start_server: Any, request_of: Callable[..., dict[str, Any]], count: int, asked: list, field: str
) -> None:
    live = start_server(max_candidates=200)
    body = {**request_of(5), "explain": asked}
    body["candidates"] = [{"item_id": f"i{n % 40}"} for n in range(count)]
    answer = live.client.post("/explain", json=body)
    assert answer.status_code == 422 and answer.json()["where"] == field
    assert live.alive()


def test_an_explanation_does_not_fill_a_short_queue_by_itself(
    start_server: Any, request_of: Callable[..., dict[str, Any]]
) -> None:
    live = start_server(queue=1)
    answer = live.client.post("/explain", json=request_of(5, history=["a", "b"]))
    assert answer.status_code == 200
    assert live.alive()


def _explained(recommender: Any, request: dict[str, Any]) -> dict[str, Any]:
    def score(reads: Any) -> Any:
        return recommender.score_prepared([recommender.tokenized(read) for read in reads])

    return explain_request(recommender.reader, request, score).to_json()


@pytest.mark.parametrize(
    ("allowed", "host", "status"),
    [
        ((), "localhost:8000", 200),
        ((), "127.0.0.1", 200),
        ((), "[::1]:8000", 200),
        ((), "shop.localhost", 200),
        ((), "equipoise", 200),
        ((), "shop.example", 400),
        ((), "localhost.evil.example", 400),
        (("shop.example",), "shop.example:443", 200),
        (("shop.example",), "SHOP.example.", 200),
        (("shop.example",), "localhost", 400),
        (("*.shop.example",), "rank.shop.example", 200),
        (("*.shop.example",), "evilshop.example", 400),
        (("*",), "any.example", 200),
    ],
)
def test_a_server_answers_to_its_own_names(start_server: Any, allowed: tuple, host: str, status: int) -> None:
    live = start_server(allowed_host=allowed)
    answer = live.client.get("/examples", headers={"host": host})
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["where"] == "header host" and "--allowed-host" in answer.json()["error"]
    assert live.client.get("/health", headers={"host": host}).status_code == 200


def test_whoever_has_the_token_may_call_the_server_anything(start_server: Any) -> None:
    live = start_server(token="tea")
    assert live.client.get("/examples", headers={"host": "shop.example"}).status_code == 200


def test_a_list_is_the_text_of_its_values(start_server: Any, request_of: Any) -> None:
    live = start_server()
    answers = [
        live.client.post("/rank", json=request_of(user={"age": age})).json() for age in ([40, "b", None], "40, b")
    ]
    assert answers[0]["candidates"] == answers[1]["candidates"]


def test_what_is_not_given_is_told_and_counted(start_server: Any, request_of: Any, caplog: Any) -> None:
    live = start_server()
    answer = live.client.post("/rank", json=request_of(3)).json()
    assert answer["served"]["missing"] == {"user.baskets": 1, "context.seen": 3}
    whole = request_of(1, user={"age": 4, "baskets": None}, candidates=[{"item_id": "i1", "context": {"seen": 1}}])
    assert live.client.post("/score", json=whole).json()["served"]["missing"] == {}
    live.client.post("/explain", json=request_of(3))
    live.client.post("/recall", json={"user": {"age": 40}})
    assert live.counted('equipoise_missing_fields_total{field="user.baskets"}') == 3
    assert live.counted('equipoise_missing_fields_total{field="context.seen"}') == 6
    assert caplog.text.count("lacks user.baskets") == 1


def test_unknown_names_may_be_ignored(start_server: Any, request_of: Any) -> None:
    body = request_of(user={"age": 40, "shoe_size": 44})
    refused = start_server().client.post("/rank", json=body)
    assert refused.status_code == 422 and refused.json()["where"] == "user.shoe_size"
    assert start_server(unknown_fields=True).client.post("/rank", json=body).status_code == 200
