"""Explanations: parts left out as if they were missing, terms that add up, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.configs.schema import HistoryConfig, PromptConfig
from equipoise.serving.explain import Variant, variants_of
from equipoise.serving.explanation_picture import draw
from equipoise.serving.items import KnownItems
from equipoise.serving.limits import Limits
from equipoise.serving.omega import OperatingPoint
from equipoise.serving.prompt_parts import CutRequest, cut
from equipoise.serving.recommender import Recommender
from equipoise.serving.request_error import RequestError
from equipoise.serving.requests import RequestReader

PROMPT = PromptConfig(
    prefix=["age {age}", "{kind} mailing of {count|count}"],
    item=["{title}", "{brand}"],
    context=["seen {seen}", "{odd}"],
)
ITEMS = KnownItems({"tea": "green tea, own"}, {"tea": "Green tea"})
READER = RequestReader(
    PROMPT, HistoryConfig(max_events=3, label="buys "), ITEMS, OperatingPoint({}, {}), Limits(unknown_fields=True)
)
TEXT = st.sampled_from(["soap", "tea, green", " ", "x"])
USER = st.dictionaries(st.sampled_from(["age", "kind", "other"]), TEXT | st.none() | st.integers(0, 9))


def cut_of(request: dict[str, Any]) -> CutRequest:
    return cut(READER, request, READER.read(request))


@given(USER, st.lists(TEXT, max_size=5), st.dictionaries(st.sampled_from(["seen", "odd"]), TEXT), st.data())
def test_left_out_is_as_if_it_were_missing(user: dict, history: list, context: dict, data: st.DataObject) -> None:
    candidates = [{"item": {"title": "soap", "brand": "own"}, "context": context}, "tea"]
    request = {"user": user, "history": history, "candidates": candidates}
    found = cut_of(request)
    assert found.without(0, range(len(found.parts(0)))).prefix == ""
    number = data.draw(st.integers(0, len(found.parts(0)) - 1))
    part, without = found.parts(0)[number], found.without(0, [number])
    if part.where == "history":
        kept = [one.text for one in found.shopper if one.where == "history"]
        kept.pop(number - sum(one.where == "shopper" for one in found.shopper))
        expected = READER.read({**request, "history": kept})
    elif part.where == "shopper":
        expected = READER.read({**request, "user": {k: v for k, v in user.items() if k not in part.fields}})
    else:
        key = "item" if part.where == "item" else "context"
        fields = {k: v for k, v in candidates[0][key].items() if k not in part.fields}  # type: ignore[index,union-attr]
        expected = READER.read({**request, "candidates": [{**candidates[0], key: fields}, "tea"]})  # type: ignore[dict-item]
    assert without == expected


def test_ready_texts_are_cut_at_their_separators() -> None:
    prefix = "age 40, a mailing of twice, buys soap, Green tea"
    found = cut_of({"prefix": prefix, "candidates": [{"item_id": "tea", "context": "seen 1, odd"}]})
    assert [(one.where, one.text) for one in found.parts(0)] == [
        ("shopper", "age 40"), ("shopper", "a mailing of twice"), ("history", "soap"), ("history", "Green tea"),
        ("item", "green tea"), ("item", "own"), ("context", "seen 1"), ("context", "odd"),
    ]  # fmt: skip
    assert found.without(0, []).prefix == prefix
    assert found.without(0, [2]).prefix == "age 40, a mailing of twice, buys Green tea"
    assert found.without(0, [0, 1, 2]).prefix == "buys Green tea"
    assert found.without(0, [2, 3]).prefix == "age 40, a mailing of twice"
    assert found.without(0, [4, 7]).candidates[0].text == "own"
    assert found.without(0, [4, 7]).candidates[0].context == "seen 1"


@pytest.fixture(scope="module")
def recommender(tiny_export: Callable[..., Any]) -> Recommender:
    return Recommender.load(tiny_export("bert").folder)


CANDIDATES = [{"item_id": f"i{n}", "context": {"seen_before": n}, "value": 1.0 + n, "boost": 0.1 * n} for n in range(5)]


def test_contributions_are_the_differences_to_requests_without_the_part(recommender: Recommender) -> None:
    weights: dict[str, Any] = {"omega": {"diversity": 2.0}, "value_weight": 0.5}
    found = recommender.explain({"age": 40}, CANDIDATES, history=["tea", "soap"], explain=[3, "i1"], **weights)
    whole = recommender.score({"age": 40}, CANDIDATES, history=["tea", "soap"], **weights)
    assert [each.scored.position for each in found.candidates] == [3, 1]
    calls = {
        "age 40": recommender.score({}, CANDIDATES, history=["tea", "soap"], **weights),
        "tea": recommender.score({"age": 40}, CANDIDATES, history=["soap"], **weights),
        "soap": recommender.score({"age": 40}, CANDIDATES, history=["tea"], **weights),
    }
    for each in found.candidates:
        place = each.scored.position
        assert sum(each.terms.values()) == pytest.approx(each.scored.utility)
        assert "relevance" in each.scored.place and each.terms["diversity"] == 0  # it fills places instead
        told = {one.part.text: one for one in each.contributions}
        other = [dict(candidate) for candidate in CANDIDATES]
        other[place]["context"] = {}
        answers = {
            **calls,
            told_context(told): recommender.score({"age": 40}, other, history=["tea", "soap"], **weights),
        }
        assert len(answers) == 4 and len(told) == len(each.contributions) >= 5
        for text, without in answers.items():
            scored, base = without.given[place], whole.given[place]
            assert told[text].utility == pytest.approx(base.utility - scored.utility, abs=1e-4)
            change = base.deltas["fairness"] - scored.deltas["fairness"]
            assert told[text].objectives["fairness"] == pytest.approx(change, abs=1e-4)
            change = base.log_probabilities["cvr"] - scored.log_probabilities["cvr"]
            assert told[text].objectives["cvr"] == pytest.approx(change, abs=1e-4)
        assert f"is number {each.scored.rank} of 5" in each.sentences[0]


def told_context(told: dict[str, Any]) -> str:
    return next(text for text, one in told.items() if one.part.where == "context")


def test_the_first_by_rank_is_explained_by_default(recommender: Recommender) -> None:
    found = recommender.explain(None, ["i0", "i1", "i2"])
    assert [each.scored.rank for each in found.candidates] == [1]


def test_the_passes_do_not_grow_with_the_candidates(recommender: Recommender) -> None:
    request = {"user": {"age": 40}, "history": ["tea"], "candidates": [f"i{n % 24}" for n in range(100)]}
    found = recommender.cut(request)
    assert len(variants_of(found, [0])) <= len(found.parts(0))
    assert Variant(0, frozenset([0])) in variants_of(found, [0])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"candidates": ["i1"] * 101}, "has 101 entries, and an explanation scores all of them once per part"),
        ({"explain": [0, 1, 2, "i3"]}, "names 4 candidates: give 1 to 3"),
        ({"explain": []}, "names 0 candidates"),
        ({"explain": ["x"]}, r"explain\[0\] is 'x', which is none of the candidates"),
        ({"explain": [4]}, r"explain\[0\] is 4: give a place from 0 to 3"),
        ({"explain": [True]}, "is true or false"),
    ],
)
def test_what_is_refused(recommender: Recommender, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        recommender.explain_request({"candidates": ["i0", "i1", "i2", "i3"], **changes})


def test_the_picture_is_drawn(recommender: Recommender, tmp_path: Any) -> None:
    found = recommender.explain({"age": 40}, CANDIDATES, history=["tea $1 and $2"], explain=[0, 1])
    draw(tmp_path / "why.png", found.candidates)
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
