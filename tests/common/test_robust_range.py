"""What pictures show: everything but what would flatten the rest."""

import math

import pytest

from equipoise.common.robust_range import robust_range


def test_an_outlier_is_left_outside_and_the_rest_shown() -> None:
    steady = [0.5 + 0.01 * n for n in range(40)]
    assert robust_range(steady) == (0.5, 0.89)
    low, high = robust_range([*steady, 1e6])
    assert low == 0.5 and 0.89 < high < 2
    low, high = robust_range([*steady, -1e6, math.nan, math.inf])
    assert -1 < low < 0.5 and high == 0.89


@pytest.mark.parametrize("values", [[1.0, 2.0, 1e6], [5.0], [3.0] * 9])
def test_few_or_equal_values_are_all_shown(values: list[float]) -> None:
    assert robust_range(values) == (min(values), max(values))


def test_a_spike_over_a_constant_is_left_outside() -> None:
    assert robust_range([1.0] * 30 + [50.0]) == (1.0, 1.0)
    assert robust_range([math.nan]) == (0.0, 1.0)
