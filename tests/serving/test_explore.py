"""Drawn lists: their propensities, seeds, and what stays as it was."""

import itertools
import math

import numpy as np
import pytest

from equipoise.common.errors import UserError
from equipoise.common.lists import ListRule, ListTerm
from equipoise.serving.explore import Explorer, list_utilities, make_explorer
from equipoise.serving.ranking import Ranking

RULE = ListRule(3, {"diversity": ListTerm("spread", ("category",))})


def ranking(request_id: str | None = "r1", top: int | None = None, omega: float = 0.0) -> Ranking:
    logits = {"ctr": [0.0, 1.0, 0.5, -1.0]}
    categories = {"category": ["a", "b", "b", "c"]}
    deltas = {"diversity": [0.0] * 4}
    point = {"diversity": omega}
    return Ranking.of(
        request_id, ["i0", "i1", "i2", "i3"], logits, deltas, point, top, lists=RULE, attributes=categories
    )


def test_a_drawn_list_has_the_propensities_of_its_utilities() -> None:
    plain = ranking(top=2)
    drawn = Explorer(0.7, seed=5)(plain)
    utilities = [scored.utility for scored in plain.given]
    left = list(range(4))
    total = 0.0
    for scored in sorted(drawn.given, key=lambda each: each.rank):
        weights = {position: math.exp(utilities[position] / 0.7) for position in left}
        assert scored.propensity == pytest.approx(weights[scored.position] / sum(weights.values()))
        if scored.rank <= 2:
            total += math.log(weights[scored.position] / sum(weights.values()))
        left.remove(scored.position)
    assert drawn.exploration is not None and drawn.exploration.log_propensity == pytest.approx(total)
    assert [scored.rank for scored in drawn.candidates] == [1, 2]
    told = drawn.to_json()
    assert told["exploration"] == {"temperature": 0.7, "log_propensity": pytest.approx(total)}
    assert all(0 < each["propensity"] <= 1 for each in told["candidates"])
    assert "exploration" not in plain.to_json() and "propensity" not in plain.to_json()["candidates"][0]


def test_draws_follow_seed_and_request() -> None:
    def order(explorer: Explorer, name: str | None) -> list[str | None]:
        return [scored.item_id for scored in explorer(ranking(name)).candidates]

    first, again, other = Explorer(5.0, seed=1), Explorer(5.0, seed=1), Explorer(5.0, seed=2)
    names = [f"r{number}" for number in range(20)]
    assert [order(first, name) for name in names] == [order(again, name) for name in reversed(names)][::-1]
    assert [order(first, name) for name in names] != [order(other, name) for name in names]
    assert len({tuple(order(first, None)) for _ in range(40)}) > 3  # without a name, each is a draw of its own


def test_a_cold_draw_is_the_list_also_where_places_are_filled() -> None:
    """Scores alone give i1, i2, i0, i3; with diversity i0 is second. At a low temperature the draw is that list."""
    plain, filled = ranking(), ranking(omega=3.0)
    assert [s.item_id for s in plain.candidates] != [s.item_id for s in filled.candidates]
    for each in (plain, filled):
        cold = Explorer(1e-4, seed=0)(each)
        assert [s.item_id for s in cold.candidates] == [s.item_id for s in each.candidates]
    handed = list_utilities(filled)
    in_order = [handed[scored.position] for scored in filled.candidates]
    assert in_order == sorted((scored.utility for scored in filled.given), reverse=True)
    assert list_utilities(plain).tolist() == [scored.utility for scored in plain.given]


def test_a_drawn_ranking_ranked_again_is_a_ranking() -> None:
    drawn = Explorer(2.0, seed=0)(ranking())
    assert drawn.reranked({"diversity": 0.0}) == ranking()


def test_all_lists_are_drawn_as_often_as_the_answer_says() -> None:
    explorer, count = Explorer(1.0, seed=9), 800
    seen: dict[tuple[int, ...], int] = {}
    said: dict[tuple[int, ...], float] = {}
    for _ in range(count):
        drawn = explorer(ranking(None, top=2))
        order = tuple(scored.position for scored in drawn.candidates)
        seen[order] = seen.get(order, 0) + 1
        assert drawn.exploration is not None
        said[order] = math.exp(drawn.exploration.log_propensity)
    assert sum(said.values()) == pytest.approx(1.0)
    assert set(seen) == set(itertools.permutations(range(4), 2))
    for order, chance in said.items():
        assert abs(seen[order] / count - chance) < 4.5 * np.sqrt(chance * (1 - chance) / count)


def test_options() -> None:
    assert make_explorer(0.0, None) is None
    for temperature, seed, words in ((-1.0, None, "out of range"), (float("nan"), None, "out of"), (0.0, 3, "is 0")):
        with pytest.raises(UserError, match=words):
            make_explorer(temperature, seed)
