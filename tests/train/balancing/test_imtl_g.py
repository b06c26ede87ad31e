"""Equal projections: what they promise, by hand, and against TorchJD."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torchjd.aggregation import IMTLGWeighting

from equipoise.train.balancing.common_directions import imtl_g
from equipoise.train.balancing.gradient_stats import GradientStats


def test_every_unit_gradient_is_followed_as_far_as_it_is_preferred(make_problem: Callable[..., GradientStats]) -> None:
    rng = np.random.default_rng(12)
    for _ in range(30):
        count = int(rng.integers(1, 9))
        g, p = (
            rng.standard_normal((count, count + 1)) * 10.0 ** rng.uniform(-4, 4, (count, 1)),
            rng.uniform(0.3, 3, count),
        )
        alpha = imtl_g(make_problem(g, p))
        along = g @ (alpha @ g) / np.linalg.norm(g, axis=1) / p
        np.testing.assert_allclose(along, along[0], rtol=1e-9)
        assert along[0] > 0
        assert np.abs(alpha).sum() == pytest.approx(1.0, rel=1e-14)


def test_by_hand(make_problem: Callable[..., GradientStats]) -> None:
    np.testing.assert_allclose(imtl_g(make_problem([[2.0, 0.0], [0.0, 8.0]])), [0.8, 0.2])
    np.testing.assert_allclose(imtl_g(make_problem([[2.0, 0.0], [0.0, 8.0]], [1.0, 4.0])), [0.5, 0.5])
    # d = (1, 0.5) has projections of 1, and is 0.625 of each.
    np.testing.assert_allclose(imtl_g(make_problem([[1.0, 0.0], [0.6, 0.8]])), [0.5, 0.5], rtol=1e-13)


def test_it_agrees_with_the_paper_where_all_weights_are_positive(make_problem: Callable[..., GradientStats]) -> None:
    rng, positive = np.random.default_rng(13), 0
    for _ in range(40):
        count = int(rng.integers(2, 6))
        g = rng.standard_normal((count, 3 * count))
        theirs = IMTLGWeighting()(torch.from_numpy(g @ g.T)).numpy()
        if (theirs > 0).all():
            positive += 1
            np.testing.assert_allclose(imtl_g(make_problem(g)), theirs, rtol=1e-7)
    assert positive > 20


def test_a_negative_sum_does_not_turn_the_step_around(make_problem: Callable[..., GradientStats]) -> None:
    g = np.array([[0.01, 0.0], [0.99, 0.1]])  # the short one gets a large negative weight
    p = [0.1, 1.0]
    gram = g @ g.T
    papers = np.linalg.solve(gram, np.array(p) * np.linalg.norm(g, axis=1))
    assert papers.sum() < 0
    assert (g @ (imtl_g(make_problem(g, p)) @ g) > 0).all()


def test_dependent_gradients(make_problem: Callable[..., GradientStats]) -> None:
    equal = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(imtl_g(make_problem(equal)) @ equal, [0.5, 0.5], atol=1e-14)
    opposed = np.array([[3.0, 0.0], [-1.0, 0.0]])
    np.testing.assert_allclose(imtl_g(make_problem(opposed)), [0.25, 0.75], atol=1e-14)
