"""POST /recall: the answer is the library's, requests share a pass, and one model thread serves all endpoints."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest


@pytest.fixture
def live(start_servers: Any, stand_in: Any) -> Any:
    return start_servers(stand_in)


def test_answer_is_that_of_the_search(live: Any) -> None:
    asked = {"request_id": 7, "user": {"age": 40}, "bought": {"i3": 2, "gone": 1}, "exclude": ["i5"], "top": 6}
    answer = live.client.post("/recall", json=asked)
    assert answer.status_code == 200, answer.text
    expected = live.recommender.recall_prepared([live.recommender.prepare_recall(asked)])[0]
    assert answer.json() == expected.to_json()
    items = answer.json()["items"]
    assert [item["rank"] for item in items] == [1, 2, 3, 4, 5, 6]
    assert items[0]["item_id"] == "i3"  # 3 · log 3 lifts it above all
    assert "i5" not in [item["item_id"] for item in items]
    assert (answer.json()["request_id"], answer.json()["unknown"]) == ("7", 1)


def test_bought_items_are_left_out_on_demand(live: Any) -> None:
    asked = {"prefix": "age 40", "bought": ["i3", "i3", "i4"], "top": 40}
    with_them = [item["item_id"] for item in live.client.post("/recall", json=asked).json()["items"]]
    without = live.client.post("/recall", json={**asked, "exclude_bought": True}).json()["items"]
    assert len(with_them) == 40
    assert [item["item_id"] for item in without] == [item for item in with_them if item not in ("i3", "i4")]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"top": 0}, "top"),
        ({"top": 5000}, "top"),
        ({"bought": "i3"}, "bought"),
        ({"bought": {"i3": -1}}, "bought.i3"),
        ({"exclude": [{}]}, "exclude"),
        ({"exclude_bought": "yes"}, "exclude_bought"),
        ({"candidates": []}, "candidates"),
        ({"user": {"age": 1}, "prefix": "age 1"}, "prefix"),
    ],
)
def test_wrong_requests_are_refused_by_name(live: Any, change: dict[str, Any], field: str) -> None:
    answer = live.client.post("/recall", json=change)
    assert answer.status_code == 422
    assert field in answer.text


def test_one_thread_runs_the_model(live: Any, request_of: Any) -> None:
    live.recommender.seconds = 0.05  # the stand-in fails where two passes run at once
    jobs = [("/recall", {"prefix": f"age {n}"}) for n in range(8)] + [("/rank", request_of()) for _ in range(8)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda job: live.client.post(job[0], json=job[1]).status_code, jobs))
    assert answers == [200] * 16
    assert max(live.recommender.passes) > 1
