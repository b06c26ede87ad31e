"""Example slates: which requests are shown, what is kept of them, and who moves under an operating point."""

import numpy as np

from equipoise.evaluation.example_slates import example_record, example_requests, reranked
from equipoise.evaluation.metrics import ScoreTable


def table() -> ScoreTable:
    """Requests 7, 3, 5, 4 of 3, 1, 2 and 2 candidates; request 5 has no click."""
    request = np.array([7, 7, 7, 3, 5, 5, 4, 4])
    return ScoreTable(
        request,
        np.array([2, 0, 1, 0, 1, 2, 0, 1]),
        [f"u{n}" for n in request],
        np.array([0, 1, 0, 1, 0, 0, 0, 1]),
        np.array([0, 1, 0, 0, 0, 0, 0, 0]),
        np.array([0.5, 0.4, 0.1, 0.3, 0.2, 0.2, 0.3, 0.2]),
        np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]),
        delta={"diversity": np.array([-1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0])},
        items={"provider": np.array(["a", "b", "b"])},
    )


def test_shown_are_requests_with_a_choice_and_a_click():
    assert example_requests(table()) == [4, 7]
    assert example_requests(table(), most=1) == [4]
    quiet = table()
    quiet.click[:] = 0
    assert example_requests(quiet) == [4, 5, 7]


def test_the_record_holds_the_candidates_as_the_table_does():
    record = example_record(table(), {7: {"request_id": "r", "prefix": "buys tea"}}, ["x", "y", "z"], ["provider"])
    (example,) = record["examples"]
    assert (example["request_id"], example["prefix"], example["user"]) == ("r", "buys tea", "u7")
    first = example["candidates"][0]
    assert first["title"] == "z" and first["attributes"] == {"provider": "b"} and first["click"] == 0
    assert (first["pctr"], first["pcvr"], first["delta"]) == (0.5, 0.5, {"diversity": -1.0})
    assert first["relevance"] == np.log(0.5) + np.log(0.5)


def test_who_moves_by_hand():
    candidates = example_record(table(), {7: {}}, ["x", "y", "z"])["examples"][0]["candidates"]
    plain = reranked(candidates, {}, top=3)
    assert [(row["candidate"], row["rank"], row["before"]) for row in plain] == [(0, 1, 1), (1, 2, 2), (2, 3, 3)]
    # r = log .25, log .2, log .05 = −1.39, −1.61, −3.00; with δ: −2.39, −1.61, −1.00.
    moved = reranked(candidates, {"diversity": 1.0}, top=2)
    assert [(row["candidate"], row["rank"], row["before"]) for row in moved] == [(2, 1, 3), (1, 2, 2)]
    assert moved[0]["utility"] == np.log(0.1) + np.log(0.5) + 2.0
