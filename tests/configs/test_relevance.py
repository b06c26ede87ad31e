"""The formula of relevance: what is read, what is refused, and that it reads back what it writes."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.configs.relevance import default_relevance, parse_relevance

NAMES = ["ctr", "cvr", "basket", "visits"]


@pytest.mark.parametrize(
    ("text", "exponents"),
    [
        ("log(ctr)", {"ctr": 1.0}),
        ("log(ctr) + log(cvr)", {"ctr": 1.0, "cvr": 1.0}),
        ("log(ctr) + 0.5*log(cvr) + log(basket)*2", {"ctr": 1.0, "cvr": 0.5, "basket": 2.0}),
        ("log(ctr) - 0.25 * log(basket)", {"ctr": 1.0, "basket": -0.25}),
        ("-log(basket) + (log(ctr) - log(cvr))", {"basket": -1.0, "ctr": 1.0, "cvr": -1.0}),
        ("log(ctr) - (log(cvr) - log(basket))", {"ctr": 1.0, "cvr": -1.0, "basket": 1.0}),
    ],
)
def test_terms_are_read_with_their_exponents(text: str, exponents: dict[str, float]) -> None:
    assert parse_relevance(text, NAMES) == exponents


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("log(cttr)", "did you mean 'ctr'"),
        ("log(ctr) + log(ctr)", "twice"),
        ("ctr + cvr", "cannot be read"),
        ("log(ctr) * log(cvr)", "cannot be read"),
        ("0 * log(ctr)", "cannot be read"),
        ("1e999*log(ctr)", "cannot be read"),
        ("log(ctr, cvr)", "cannot be read"),
        ("log(x=ctr)", "cannot be read"),
        ("exp(ctr)", "cannot be read"),
        ("__import__('os').system('true')", "cannot be read"),
        ("log(ctr) +", "cannot be read"),
        ("True*log(ctr)", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_anything_else_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        parse_relevance(text, NAMES)


def format_relevance(exponents: Mapping[str, float]) -> str:
    """The formula that `parse_relevance` reads back."""
    terms = []
    for name, exponent in exponents.items():
        size = f"log({name})" if abs(exponent) == 1 else f"{abs(exponent)!r}*log({name})"
        terms.append(f"{' - ' if exponent < 0 else ' + '}{size}")
    text = "".join(terms)
    return text[3:] if text.startswith(" + ") else f"-{text[3:]}"


@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        st.floats(allow_nan=False, allow_infinity=False).filter(bool),
        min_size=1,
    )
)
def test_a_formula_reads_back_what_it_writes(exponents: dict[str, float]) -> None:
    found = parse_relevance(format_relevance(exponents), NAMES)
    assert found == exponents and list(found) == list(exponents)


@given(st.text(max_size=60))
def test_no_text_does_more_than_be_read_or_refused(text: str) -> None:
    try:
        found = parse_relevance(text, NAMES)
    except ValueError as error:
        assert str(error).startswith("relevance ")
    else:
        assert set(found) <= set(NAMES) and all(math.isfinite(value) and value for value in found.values())


def test_the_default_is_ctr_and_cvr_as_far_as_there_are_any() -> None:
    assert default_relevance(NAMES) == "log(ctr) + log(cvr)"
    assert default_relevance(["ctr", "basket"]) == "log(ctr)"
