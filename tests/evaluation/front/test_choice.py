"""The three choices on fronts where the right point is known, and what holds on any."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from equipoise.common.errors import UserError
from equipoise.evaluation.front.choice import by_constraint, by_knee, by_weights, parse_weights
from equipoise.evaluation.front.constraint import parse_constraints
from equipoise.evaluation.front.pareto import front_mask

AXES = ("ndcg", "ild", "exposure_ratio")
VALUES = arrays(np.float64, st.tuples(st.integers(2, 15), st.just(3)), elements=st.integers(0, 8).map(lambda n: n / 8))
WEIGHTS = st.lists(st.integers(1, 9), min_size=3, max_size=3)


@given(VALUES, WEIGHTS)
def test_choice_by_weights_is_on_the_front_and_unbeaten(measured, values, weights):
    choice = by_weights(measured(values, AXES), dict(zip(AXES, map(float, weights), strict=True)))
    assert front_mask(values)[choice.point]
    span = np.ptp(values, axis=0)
    scaled = (values - values.min(axis=0)) / np.where(span > 0, span, 1)
    score = scaled @ np.array(weights)
    assert score[choice.point] >= score.max() - 1e-9


@given(VALUES)
def test_knee_is_on_the_front(measured, values):
    assert front_mask(values)[by_knee(measured(values, AXES), AXES).point]


@given(VALUES, st.integers(0, 8))
def test_choice_by_constraint_fulfils_it_and_is_the_largest_that_does(measured, values, eighths):
    measurement, bound = measured(values, AXES), eighths / 8
    where = parse_constraints(f"exposure_ratio>={bound}", AXES, 10)
    allowed = values[:, 2] >= bound
    if not allowed.any():
        with pytest.raises(UserError, match="none of the"):
            by_constraint(measurement, where, "ndcg")
        return
    choice = by_constraint(measurement, where, "ndcg")
    assert allowed[choice.point]
    assert values[choice.point, 0] == values[allowed, 0].max()


def test_weights_decide_on_the_scale_of_each_axis(measured):
    # ild moves by a hundredth of what ndcg moves; scaled, both count alike.
    measurement = measured([[0.9, 0.700], [0.6, 0.709], [0.1, 0.710]], ("ndcg", "ild"))
    assert by_weights(measurement, {"ndcg": 1.0, "ild": 1.0}).point == 1
    assert by_weights(measurement, {"ndcg": 3.0, "ild": 1.0}).point == 0
    assert by_weights(measurement, {"ndcg": 1.0, "ild": 9.0}).point == 2
    assert by_weights(measurement, {"ndcg": 1.0}).point == 0
    assert by_weights(measurement, {"ndcg": 0.2, "ild": 0.6}).details["weights"] == pytest.approx(
        {"ndcg": 0.25, "ild": 0.75}
    )


def test_knee_of_two_axes_is_farthest_from_the_chord(measured):
    x = np.linspace(0, 1, 21)
    values = np.stack([20 * np.sqrt(1 - x**2), 3 + x], axis=1)  # an ellipse: the knee is where both are equally near 1
    choice = by_knee(measured(values, ("ndcg", "ild")), ("ndcg", "ild"))
    chord = np.abs(values[:, 0] / 20 + (values[:, 1] - 3) - 1)
    assert choice.point == np.argmax(chord) == 14


def test_equal_points_give_the_one_nearest_to_pure_relevance(measured):
    measurement = measured([[0.5, 0.5], [0.8, 0.4], [0.8, 0.4], [0.4, 0.8]], ("ndcg", "ild"))
    assert by_weights(measurement, {"ndcg": 1.0}).point == 1
    assert by_constraint(measurement, parse_constraints("ild>=0.4", ("ndcg", "ild"), 10), "ndcg").point == 1


def test_percentages_are_of_pure_relevance(measured):
    measurement = measured([[0.8, 0.1], [0.79, 0.5], [0.7, 0.9]], ("ndcg", "ild"))
    for bound, point in ((98, 1), (87, 2), (99.5, 0)):
        where = parse_constraints(f"ndcg>={bound}%", ("ndcg", "ild"), 10)
        assert by_constraint(measurement, where, "ild").point == point


def test_an_unfulfilled_constraint_names_the_nearest_point_and_its_miss(measured):
    measurement = measured([[0.8, 0.1], [0.7, 0.5], [0.2, 0.6]], ("ndcg", "ild"))
    where = parse_constraints("ild>=0.55 and ndcg>=0.6", ("ndcg", "ild"), 10)
    with pytest.raises(UserError) as error:
        by_constraint(measurement, where, "ndcg")
    assert "none of the 3 measured points" in str(error.value)
    assert "diversity 1 (ild 0.5000, 0.05 from 0.55)" in str(error.value)


def test_stability_tells_a_clear_choice_from_a_close_one(measured):
    clear = measured([[0.9, 0.1], [0.1, 0.9]], ("ndcg", "ild"), noise=0.01, resamples=200)
    weights = {"ndcg": 2.0, "ild": 1.0}
    assert by_weights(clear, weights).stability(clear) == 1.0
    close = measured([[0.9, 0.1], [0.8999, 0.1]], ("ndcg", "ild"), noise=0.01, resamples=200)
    assert 0.3 < by_weights(close, {"ndcg": 1.0}).stability(close) < 0.7
    unsampled = measured([[0.9, 0.1], [0.1, 0.9]], ("ndcg", "ild"))
    assert np.isnan(by_weights(unsampled, weights).stability(unsampled))
    assert close.alike(0, 1, ("ndcg", "ild")) and not clear.alike(0, 1, ("ndcg", "ild"))


def test_an_undefined_axis_is_refused(measured):
    measurement = measured([[0.9, np.nan], [0.8, np.nan]], ("ndcg", "ild"))
    with pytest.raises(UserError, match="not defined"):
        by_weights(measurement, {"ndcg": 1.0, "ild": 1.0})
    with pytest.raises(UserError, match="not defined"):
        by_knee(measurement, ("ndcg", "ild"))


def test_weights_are_read_by_axis_or_objective():
    axes = ("ndcg", "ndcg_click", "ndcg_conversion", "ild")
    assert parse_weights("ctr=0.6, cvr=0.4", axes, 10) == {"ndcg_click": 0.6, "ndcg_conversion": 0.4}
    assert parse_weights("ndcg@10=1,diversity=2e-1", axes, 10) == {"ndcg": 1.0, "ild": 0.2}


@pytest.mark.parametrize("text", ["", "ctr", "ctr=", "ctr=x", "ctr=0", "ctr=-1", "ctr=inf", "ctr=nan", "=1",
                                  "ctr=1,ndcg_click=2", "fairness=1", "ndcg@5=1"])  # fmt: skip
def test_other_weights_are_refused(text):
    with pytest.raises(UserError, match="--weights"):
        parse_weights(text, ("ndcg", "ndcg_click"), 10)
