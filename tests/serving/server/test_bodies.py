"""Ids and fields of a body: whole numbers of 64 bits are taken as they are, others and too much are refused."""

from typing import Any

import pytest

from equipoise.serving.server.bodies import Candidate, check_id


@pytest.mark.parametrize("value", [7, 7.0, "7", 10**15 + 1, 2**63 - 1, 2**64 - 1, -(2**63), "9" * 30])
def test_an_id_of_64_bits_keeps_every_digit(value: Any) -> None:
    assert str(check_id(value)) == str(int(value) if isinstance(value, float) else value)
    assert Candidate.model_validate({"item_id": value}).item_id == value


@pytest.mark.parametrize(
    ("value", "words"), [(2**64 + 1, "more than 64 bits"), (1e17, "exact"), (True, "give an id"), ("", "give an id")]
)
def test_what_is_no_exact_id_is_refused_with_the_way_out(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_id(value)


@pytest.mark.parametrize("value", [10**17 + 1, 2**63 - 1, -(2**63), 1e17, -1e15, 0.1])
def test_a_field_takes_every_number_of_64_bits_as_files_do(value: float) -> None:
    read = Candidate.model_validate(
        {"context": {"code": value}, "item": {"code": [value]}, "features": {"code": value}}
    )
    assert (read.context, read.item, read.features) == ({"code": value}, {"code": [value]}, {"code": value})


@pytest.mark.parametrize("value", [2**64 + 1, -(10**30), 1e20, float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["context", "item", "features"])
def test_a_larger_number_of_a_field_is_refused_with_the_way_out(place: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"code[\s\S]*more than 64 bits: give it as a text"):
        Candidate.model_validate({place: {"code": value}})
