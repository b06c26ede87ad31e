"""The renderer: pieces vanish where a field is missing, filters speak in coarse words, faults name the piece."""

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.common.errors import UserError
from equipoise.data.prompts import (
    FILTERS,
    ContextRenderer,
    history_text,
    is_missing,
    parse_piece,
    piece_fields,
    plain_text,
    prefix_text,
    render_pieces,
)


@pytest.mark.parametrize("missing", [None, math.nan, "", "  ", math.inf])
def test_a_piece_vanishes_with_its_field(missing: object) -> None:
    fields = {"age": missing, "town": "Ulm"}
    assert render_pieces(["age {age}", "from {town}", "{age} in {town}", "member"], fields) == "from Ulm, member"
    assert render_pieces(["age {age}"], {}) == ""


def test_values_are_written_plainly() -> None:
    values = [3.0, 2.5, 7, True, "  two  words ", Decimal("2.50"), 0.1 + 0.2]
    assert [plain_text(value) for value in values] == ["3", "2.5", "7", "yes", "two words", "2.5", "0.3"]


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("count", [0, 1, 2, 3, 5, 6, 9, 10, 49, 50], "never|once|twice|3 times|5 to 6 times|5 to 6 times|7 to 9 times"
         "|10 to 14 times|25 to 49 times|50 times or more"),
        ("days", [0, 0.9, 1, 6, 7, 14, 29, 30, 364.5, 365], "today|today|yesterday|this week|last week|2 weeks ago"
         "|3 weeks ago|a month ago|half a year ago|over a year ago"),
        ("money", [3.0, 3.456, 24.4, 1234], "3|3.46|24|1200"),
        ("share", [0, 0.001, 0.01, 0.1, 0.5, 1.0], "none|1 in 1000|1 in 100|1 in 10|half|most"),
    ],
)  # fmt: skip
def test_filters(name: str, values: list[float], words: str) -> None:
    assert [render_pieces([f"{{x|{name}}}"], {"x": value}) for value in values] == words.split("|")


@given(st.sampled_from(sorted(FILTERS)), st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_filter_has_words_for_every_number(name: str, value: float) -> None:
    assert FILTERS[name](value)


@pytest.mark.parametrize(
    ("piece", "said"),
    [
        ("bought {n|often}", "unknown filter 'often'"),
        ("bought {n", "brace without its partner"),
        ("bought n}", "brace without its partner"),
        ("bought {}", "no field name"),
        ("bought { |count}", "no field name"),
    ],
)
def test_a_malformed_piece_is_named(piece: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        parse_piece(piece)
    assert f"'{piece}'" in str(caught.value)


@pytest.mark.parametrize("name", ["价格", "price eur", "price-eur", "größe", "n.x", "1st"])
def test_a_field_may_have_any_name_that_a_column_may_have(name: str) -> None:
    assert render_pieces([f"costs {{{name}|money}}", f"at {{{name}}}"], {name: 12}) == "costs 12, at 12"


@pytest.mark.parametrize("value", ["NaN", "nan", "inf", "-inf", float("nan"), float("inf")])
@pytest.mark.parametrize("name", sorted(FILTERS))
def test_a_number_that_is_none_lets_its_piece_vanish(name: str, value: object) -> None:
    assert render_pieces([f"bought {{n|{name}}}", "of {kind}"], {"n": value, "kind": "tea"}) == "of tea"


def test_a_list_is_told_value_by_value() -> None:
    contexts = ContextRenderer(["of {tags}"], ", ")
    tags = [["tea", "green"], [], None, ["tea", "green"]]
    assert contexts.texts([tags], 4) == ["of tea, green", "", "", "of tea, green"]


def test_a_filter_on_text_names_piece_and_value() -> None:
    with pytest.raises(UserError, match=r"'\{n\|count\}' got n = 'many', which is not a number"):
        render_pieces(["{n|count}"], {"n": "many"})


def test_prefix_tells_the_history_last() -> None:
    fields = {"age": 30.0}

    def prefix(pieces: list[str], fields: dict, *histories: list[str]) -> str:
        return prefix_text(pieces, fields, [history_text(titles, "bought: ") for titles in histories], ", ")

    assert prefix(["age {age}"], fields, ["tea", "jam"]) == "age 30, bought: tea, jam"
    assert prefix(["age {age}"], fields, []) == "age 30"
    assert prefix(["age {age}"], {}, ["tea"]) == "bought: tea"
    assert prefix([], {}, []) == ""
    assert prefix(["age {age}"], fields, ["tea"], [], ["jam"]) == "age 30, bought: tea, bought: jam"
    assert history_text(["tea", "  ", "jam"], "liked: ", " / ") == "liked: tea / jam"


def test_fields_are_listed_once_in_order() -> None:
    assert piece_fields(["{b} of {a|count}", "{b}", "none"]) == ["b", "a"]


def test_zero_and_false_are_not_missing() -> None:
    assert not any(is_missing(value) for value in (0, 0.0, False, "0"))
