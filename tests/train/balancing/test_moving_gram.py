"""The moving average of the Gram matrix against its sum, and the nearest matrix that is one."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.train.balancing.gram import MovingGram, nearest_gram


def random_gram(rng: np.random.Generator, count: int, spread: float = 0.0) -> np.ndarray:
    vectors = rng.standard_normal((count, count + 2)) * 10.0 ** rng.uniform(-spread, spread, (count, 1))
    return vectors @ vectors.T


def distance(x: np.ndarray, y: np.ndarray, sizes: np.ndarray) -> float:
    return float(np.linalg.norm((x - y) / np.outer(sizes, sizes)))


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9])
def test_average_is_the_written_out_sum(momentum: float) -> None:
    rng = np.random.default_rng(0)
    grams = [random_gram(rng, 3) for _ in range(7)]
    moving = MovingGram(3, momentum)
    for t, gram in enumerate(grams):
        factors = momentum ** np.arange(t, -1, -1.0)
        expected = sum(f * g for f, g in zip(factors, grams, strict=False)) / factors.sum()
        np.testing.assert_allclose(moving.update(gram), expected, rtol=1e-12)


def test_an_entry_that_is_not_finite_leaves_the_old_one() -> None:
    rng = np.random.default_rng(1)
    grams = [random_gram(rng, 3) for _ in range(6)]
    for t, bad in ((1, np.nan), (3, np.inf), (4, -np.inf)):
        grams[t][2] = grams[t][:, 2] = bad
    moving = MovingGram(3, 0.8)
    for gram in grams:
        result = moving.update(gram)
    whole, part = 0.8 ** np.arange(5, -1, -1.0), 0.8 ** np.arange(2, -1, -1.0)
    everywhere = sum(f * g for f, g in zip(whole, grams, strict=True)) / whole.sum()
    where_good = sum(f * grams[t] for f, t in zip(part, (0, 2, 5), strict=True)) / part.sum()
    np.testing.assert_allclose(result[:2, :2], everywhere[:2, :2], rtol=1e-12)
    np.testing.assert_allclose(result[2], where_good[2], rtol=1e-12)
    np.testing.assert_array_equal(result, result.T)


def test_what_was_never_finite_is_nan() -> None:
    gram = np.eye(2)
    gram[1, 1] = np.nan
    result = MovingGram(2, 0.9).update(gram)
    assert np.isnan(result[1, 1])
    np.testing.assert_allclose([result[0, 0], result[0, 1]], [1, 0], rtol=1e-12)


def test_state_goes_through_json_and_on() -> None:
    rng = np.random.default_rng(2)
    first, second = MovingGram(4, 0.7), MovingGram(4, 0.7)
    for _ in range(3):
        gram = random_gram(rng, 4, spread=3)
        gram[1] = gram[:, 1] = np.nan
        first.update(gram)
    second.restore(json.loads(json.dumps(first.state())))
    for _ in range(3):
        gram = random_gram(rng, 4, spread=3)
        np.testing.assert_array_equal(first.update(gram), second.update(gram))


@given(st.integers(0, 2**31), st.integers(1, 8))
def test_a_gram_matrix_stays_as_it_is(seed: int, count: int) -> None:
    gram = random_gram(np.random.default_rng(seed), count, spread=4)
    sizes = np.sqrt(np.diag(gram))
    result = nearest_gram(gram, sizes)
    np.testing.assert_allclose(result / np.outer(sizes, sizes), gram / np.outer(sizes, sizes), atol=1e-12)


@given(st.integers(0, 2**31), st.integers(2, 6))
def test_an_indefinite_matrix_gets_the_nearest_in_the_scaled_metric(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-4, 4, count)
    noise = rng.standard_normal((count, count))
    matrix = (np.eye(count) * rng.uniform(-1, 1) + noise + noise.T) * np.outer(sizes, sizes)
    result = nearest_gram(matrix, sizes)
    scaled = result / np.outer(sizes, sizes)
    np.testing.assert_allclose(scaled, scaled.T, atol=1e-12)
    assert np.linalg.eigvalsh(scaled).min() > -1e-12 * max(1.0, np.abs(scaled).max())
    reached = distance(result, matrix, sizes)
    for _ in range(50):
        step = rng.standard_normal((count, count)) * 10.0 ** rng.uniform(-4, 0)
        candidate = (np.linalg.cholesky(scaled + 1e-9 * np.eye(count)) + step) * sizes[:, None]
        assert reached <= distance(candidate @ candidate.T, matrix, sizes) + 1e-6
        far = random_gram(rng, count) * np.outer(sizes, sizes)
        assert reached <= distance(far, matrix, sizes) + 1e-9


def test_the_scale_decides_what_is_near() -> None:
    # The noise of a gradient 10⁴ times longer must not touch the angle between two short ones.
    matrix = np.array([[1e8, 0, 0], [0, 1.0, 0.5], [0, 0.5, 1.0]])
    matrix[0, 0] = -1e8
    result = nearest_gram(matrix, np.array([1e4, 1.0, 1.0]))
    np.testing.assert_allclose(result, [[0, 0, 0], [0, 1, 0.5], [0, 0.5, 1]], atol=1e-12)


def test_rows_of_size_zero_become_zero_and_bad_rows_stay() -> None:
    matrix = np.array(
        [[4.0, 0.1, 1.0, np.nan], [0.1, -0.2, 0.0, 1.0], [1.0, 0.0, 1.0, 2.0], [np.nan, 1.0, 2.0, np.nan]]
    )
    result = nearest_gram(matrix, np.array([2.0, 0.0, 1.0, 1.0]))
    np.testing.assert_allclose(result[:3, :3], [[4, 0, 1], [0, 0, 0], [1, 0, 1]], atol=1e-12)
    np.testing.assert_array_equal(result[3], matrix[3])
    np.testing.assert_array_equal(nearest_gram(matrix, np.array([2.0, 0.0, 1.0, np.nan]))[3], matrix[3])
    assert np.array_equal(nearest_gram(np.zeros((2, 2)), np.zeros(2)), np.zeros((2, 2)))
