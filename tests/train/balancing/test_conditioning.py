"""What is left out of a Gram matrix, and how the rest is scaled."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.train.balancing.gradient_stats import Conditioned, condition

VECTORS = np.array([[3.0, 4.0, 0.0], [0.0, 2.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 10.0]])
GRAM = VECTORS @ VECTORS.T
ONES = np.ones(4)


def plain(gram: np.ndarray, normalize: str = "none") -> Conditioned:
    return condition(gram, normalize, np.ones(len(gram)))


def test_cosines_and_norms_are_taken_apart() -> None:
    done = plain(GRAM)
    assert done.active.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(done.norms, [5, 2, 1, 10], rtol=1e-15)
    np.testing.assert_allclose(
        done.cosines, [[1, 0.8, -0.6, 0], [0.8, 1, 0, 0], [-0.6, 0, 1, 0], [0, 0, 0, 1]], atol=1e-15
    )
    assert done.scales.tolist() == [1, 1, 1, 1]
    assert done.zero.size == done.nonfinite.size == 0


def test_l2_brings_all_to_their_mean_norm() -> None:
    done = condition(GRAM, "l2", ONES)
    np.testing.assert_allclose(done.norms, [4.5] * 4, rtol=1e-15)
    np.testing.assert_allclose(done.scales, [4.5 / 5, 4.5 / 2, 4.5, 0.45], rtol=1e-15)
    # Those left out have no say in the mean.
    gram = GRAM.copy()
    gram[3] = gram[:, 3] = np.nan
    np.testing.assert_allclose(condition(gram, "l2", ONES).norms, [8 / 3] * 3, rtol=1e-15)


def test_loss_divides_by_the_size_of_the_loss_and_leaves_out_what_has_none() -> None:
    done = condition(GRAM, "loss", np.array([0.5, -2.0, 0.0, np.nan]))
    assert done.active.tolist() == [0, 1]
    np.testing.assert_allclose(done.scales, [2, 0.5], rtol=1e-15)
    np.testing.assert_allclose(done.norms, [10, 1], rtol=1e-15)
    assert (done.zero.tolist(), done.nonfinite.tolist()) == ([2], [3])
    assert condition(GRAM, "loss", np.array([0.5, -2.0, 1e-11, 1e-9])).active.tolist() == [0, 1, 3]
    assert condition(GRAM, "l2", np.array([1, 1, 0.0, np.nan])).active.tolist() == [0, 1, 2, 3]  # reads no loss


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
def test_a_broken_gradient_is_left_out_and_named(value: float) -> None:
    gram = GRAM.copy()
    gram[1] = gram[:, 1] = value
    done = plain(gram)
    assert done.active.tolist() == [0, 2, 3]
    assert (done.zero.tolist(), done.nonfinite.tolist()) == ([], [1])
    np.testing.assert_allclose(done.norms, [5, 1, 10])


def test_zero_and_almost_zero_gradients_are_left_out_and_named() -> None:
    done = plain(np.diag([1.0, 0.0, 1e-22, 1e-18]))
    assert done.active.tolist() == [0, 3]
    assert (done.zero.tolist(), done.nonfinite.tolist()) == ([1, 2], [])
    done = plain(np.zeros((3, 3)))
    assert done.active.size == 0
    assert done.zero.tolist() == [0, 1, 2]
    assert plain(np.full((2, 2), np.nan)).nonfinite.tolist() == [0, 1]


def test_a_non_finite_product_takes_out_one_gradient_and_spares_the_others() -> None:
    gram = GRAM.copy()
    gram[0, 1] = gram[1, 0] = np.inf
    done = plain(gram)
    assert done.active.tolist() == [0, 2, 3]
    assert (done.zero.tolist(), done.nonfinite.tolist()) == ([], [1])
    gram[0, 3] = gram[3, 0] = np.nan  # now 0 is what both have in common
    assert plain(gram).active.tolist() == [1, 2, 3]


def test_very_small_and_very_large_norms_keep_their_cosines() -> None:
    for scale in (1e-140, 1e140):
        done = plain(GRAM * scale**2)
        np.testing.assert_allclose(done.cosines, plain(GRAM).cosines, atol=1e-12)
        np.testing.assert_allclose(done.norms / scale, [5, 2, 1, 10], rtol=1e-12)


entries = st.one_of(
    st.floats(-1e6, 1e6), st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, 1e-300, 1e300])
)


@given(
    st.integers(1, 5).flatmap(lambda k: st.lists(entries, min_size=k * k, max_size=k * k)),
    st.sampled_from(["none", "l2", "loss"]),
)
def test_what_comes_out_is_always_sound(values: list[float], normalize: str) -> None:
    count = int(len(values) ** 0.5)
    with np.errstate(over="ignore", invalid="ignore"):
        losses = np.clip(values[:count], -1e9, 1e9) + 1e-3
        done = condition(np.array(values).reshape(count, count), normalize, losses)
    for array in (done.scales, done.cosines, done.norms):
        assert np.isfinite(array).all()
    assert (done.scales > 0).all()
    assert np.array_equal(done.cosines, done.cosines.T)
    assert (np.abs(done.cosines) <= 1).all()
    assert (np.diag(done.cosines) == 1).all()
    everything = np.concatenate([done.active, done.zero, done.nonfinite])
    assert sorted(everything.tolist()) == list(range(count))
