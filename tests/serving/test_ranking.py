"""Probabilities, utilities and ranks."""

import json
import math

import pytest

from equipoise.serving.ranking import Ranking
from equipoise.serving.utility import UtilityWeights

LOGITS = {"ctr": [0.0, 2.0, -1.0], "cvr": [-1.0, -3.0, 800.0]}
DELTAS = {"diversity": [0.5, -0.5, 0.0], "fairness": [0.0, 1.0, 0.0]}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def ranking(omega: dict[str, float], top: int | None = None) -> Ranking:
    return Ranking.of("r1", ["a", "b", None], LOGITS, DELTAS, omega, top)


def test_numbers() -> None:
    found = ranking({"diversity": 0.0, "fairness": 2.0})
    for place, scored in enumerate(found.given):
        ctr, cvr = sigmoid(LOGITS["ctr"][place]), sigmoid(LOGITS["cvr"][place])
        assert scored.position == place
        assert scored.probabilities == pytest.approx({"ctr": ctr, "cvr": cvr})
        assert scored.pctcvr == pytest.approx(ctr * cvr)
        assert scored.relevance == pytest.approx(math.log(ctr) + math.log(cvr))
        assert scored.utility == pytest.approx(scored.relevance + 2.0 * DELTAS["fairness"][place])
    assert [scored.item_id for scored in found.candidates] == ["b", None, "a"]
    assert [scored.rank for scored in found.candidates] == [1, 2, 3]


def test_extreme_logits_stay_finite() -> None:
    found = Ranking.of(None, ["a", "b"], {"ctr": [-5000.0, 5000.0]}, {}, {})
    assert found.given[0].relevance == -5000.0
    assert [scored.probabilities["ctr"] for scored in found.given] == [0.0, 1.0]
    assert found.given[0].pctcvr is None


def test_reranked_is_ranked_at_that_point() -> None:
    other = {"diversity": 3.0, "fairness": 0.5}
    assert ranking({"diversity": 0.0, "fairness": 0.0}).reranked(other) == ranking(other)
    assert ranking(other, top=1).reranked({}).candidates[0].item_id is None
    assert len(ranking(other, top=2).reranked({}).candidates) == 2


def test_ties_keep_the_given_order() -> None:
    found = Ranking.of(None, ["a", "b", "c"], {"ctr": [1.0, 2.0, 1.0]}, {}, {})
    assert [scored.item_id for scored in found.candidates] == ["b", "a", "c"]


def test_as_given() -> None:
    found = ranking({"fairness": 2.0}, top=1).as_given()
    assert [scored.item_id for scored in found.candidates] == ["a", "b", None]
    assert [scored.rank for scored in found.candidates] == [3, 1, 2]


def test_json() -> None:
    plain = json.loads(json.dumps(ranking({"diversity": 1.0}, top=2).to_json()))
    assert plain["request_id"] == "r1"
    assert plain["omega"] == {"diversity": 1.0}
    assert [candidate["rank"] for candidate in plain["candidates"]] == [1, 2]
    assert plain["candidates"][0].keys() == {
        "item_id", "position", "rank", "probabilities", "pctcvr", "relevance", "deltas", "utility", "value",
        "boost",
    }  # fmt: skip


def test_value_boost_and_relevance_weights_enter_the_utility() -> None:
    weights = UtilityWeights(relevance={"cvr": 2.0}, value=0.5)
    found = Ranking.of(
        None, ["a", "b", "c"], LOGITS, DELTAS, {"fairness": 2.0},
        weights=weights, values=[4.0, 1.0, 9.0], boosts=[0.0, 0.25, -1.0],
    )  # fmt: skip
    for place, scored in enumerate(found.given):
        logs = [math.log(sigmoid(LOGITS[name][place])) for name in ("ctr", "cvr")]
        expected = logs[0] + 2 * logs[1] + 2 * DELTAS["fairness"][place]
        expected += 0.5 * math.log((4.0, 1.0, 9.0)[place]) + (0.0, 0.25, -1.0)[place]
        assert scored.utility == pytest.approx(expected)
        assert scored.relevance == pytest.approx(sum(logs))  # stays what it is
        terms = found.weights.terms(scored.log_probabilities, scored.deltas, scored.value, scored.boost)
        assert sum(terms.values()) == pytest.approx(scored.utility)
    assert found.to_json()["value_weight"] == 0.5 and found.to_json()["relevance_weights"] == {"cvr": 2.0}
    assert found.reranked({}).value_weight == 0.5
