"""The little language of --where: what it reads, what it refuses, and that no text breaks it."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from equipoise.common.errors import UserError
from equipoise.evaluation.front.constraint import Constraint, parse_constraints

AXES = ("ndcg", "ild", "exposure_ratio")


def parse(text: str) -> tuple[Constraint, ...]:
    return parse_constraints(text, AXES, 10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exposure_ratio>=0.8", (Constraint("exposure_ratio", ">=", 0.8),)),
        (
            " ndcg@10 > .5  AND\nild<=1e-1 ",
            (Constraint("ndcg", ">", 0.5), Constraint("ild", "<=", 0.1)),
        ),
        ("fairness<0.9 and ndcg>=98%", (Constraint("exposure_ratio", "<", 0.9), Constraint("ndcg", ">=", 98.0, True))),
        ("ild >= +0.5", (Constraint("ild", ">=", 0.5),)),
    ],
)
def test_reads(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no constraint"),
        ("ndcg", "no constraint"),
        ("ndcg=0.8", "no constraint"),
        ("ndcg=>0.8", "no constraint"),
        ("ndcg>=0.8 or ild>=0.1", "no constraint"),
        ("ndcg>=0.8 and", "no constraint"),
        ("and ndcg>=0.8", "no constraint"),
        ("ndcg>=nan", "no constraint"),
        ("ndcg>=1e999", "no constraint"),
        ("0.1<=ndcg<=0.8", "no constraint"),
        ("__import__('os').system('true')>=1", "no constraint"),
        ("coverage>=0.8", "'coverage' is not measured"),
        ("ndcg@5>=0.8", "--cutoff 5"),
    ],
)
def test_refuses(text, words):
    with pytest.raises(UserError, match="--where") as error:
        parse(text)
    assert words in str(error.value)


@given(st.text(alphabet="ndcgild_@ ><=.%0123456789eE+-and()\n\t'\"١", max_size=40) | st.text(max_size=40))
@example("ndcg>=٣")
def test_any_text_is_read_or_refused_in_one_sentence(text):
    try:
        found = parse(text)
    except UserError as error:
        assert str(error).startswith("--where: ")
        return
    assert found
    assert all(constraint.axis in AXES and np.isfinite(constraint.number) for constraint in found)


@given(st.lists(st.tuples(st.sampled_from(AXES), st.sampled_from([">=", ">", "<=", "<"]), st.floats(-1e6, 1e6),
                          st.booleans()), min_size=1, max_size=4))  # fmt: skip
def test_what_is_written_is_read_back(parts):
    constraints = tuple(Constraint(axis, operator, float(f"{x:g}"), percent) for axis, operator, x, percent in parts)
    assert parse(" and ".join(map(str, constraints))) == constraints


def test_holds_and_misses():
    values = np.array([0.5, 0.8, 0.9, np.nan])
    at_least = Constraint("ild", ">=", 0.8)
    assert at_least.holds(values, 0.5).tolist() == [False, True, True, False]
    assert at_least.missed(values, 0.5).tolist() == pytest.approx([0.3, 0, 0, np.inf])
    below = Constraint("ild", "<", 0.8)
    assert below.holds(values, 0.5).tolist() == [True, False, False, False]
    assert below.missed(values, 0.5)[1] > 0  # touching a strict bound is a miss
    share = Constraint("ild", ">=", 150, percent=True)
    assert share.bound(0.5) == 0.75
    assert share.holds(values, 0.5).tolist() == [False, True, True, False]
