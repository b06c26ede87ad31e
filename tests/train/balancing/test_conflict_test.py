"""When a conflict is sure: noise, planted conflicts, drift, and what the balancer makes of it."""

import json

import numpy as np
import pytest

from equipoise.configs.balancing import BalancingConfig
from equipoise.train.balancing.balancer import Balancer
from equipoise.train.balancing.conflict_test import WINDOW, ConflictTest
from equipoise.train.balancing.gradient_stats import condition
from equipoise.train.world import World


def run(test: ConflictTest, means: np.ndarray, steps: int, seed: int, noise: float = 0.05) -> list[np.ndarray]:
    """The decision after every step, for cosines around `means`."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(steps):
        drawn = rng.normal(means, noise)
        test.update(np.triu(drawn, 1) + np.triu(drawn, 1).T + np.eye(len(means)), np.ones(len(means)))
        found.append(test.conflicts())
    return found


def test_noise_is_hardly_ever_taken_for_a_conflict() -> None:
    """Four objectives without conflict: over 1,000 steps at most a few of 200 trainings see one at any step."""
    wrong = sum(bool(np.any(run(ConflictTest(4, 0.05), np.zeros((4, 4)), 1000, seed))) for seed in range(200))
    assert wrong <= 14  # 10 would be 5 %; the sequence is asymptotic


def test_a_planted_conflict_is_found_and_no_other() -> None:
    means = np.zeros((3, 3))
    means[0, 1] = -0.03
    found = run(ConflictTest(3, 0.05), means, 400, 1)
    assert found[-1][0, 1] and found[-1][1, 0] and found[-1].sum() == 2
    first = next(step for step, each in enumerate(found) if each[0, 1])
    assert 20 <= first < 200
    strong = np.zeros((3, 3))
    strong[0, 1] = -0.5
    assert run(ConflictTest(3, 0.05), strong, 25, 2)[-1][0, 1]  # as soon as anything may be sure


def test_a_conflict_that_ends_is_forgotten() -> None:
    test, means = ConflictTest(2, 0.05), np.array([[0.0, -0.1], [-0.1, 0.0]])
    assert run(test, means, 300, 3)[-1].any()
    assert not run(test, -means, 2 * WINDOW, 4)[-1].any()


def test_what_is_not_known_changes_nothing_and_state_goes_on() -> None:
    test, again = ConflictTest(2, 0.05), ConflictTest(2, 0.05)
    run(test, np.array([[0.0, -0.1], [-0.1, 0.0]]), 100, 5)
    bounds = test.bounds()
    test.update(np.full((2, 2), np.nan), np.array([np.nan, np.nan]))
    np.testing.assert_array_equal(test.bounds(), bounds)
    again.restore(json.loads(json.dumps(test.state())))
    np.testing.assert_array_equal(again.bounds(), test.bounds())
    np.testing.assert_array_equal(again.longest_scales(), test.longest_scales())


def gram_with(cosine: float, norms: tuple[float, float] = (1.0, 2.0)) -> np.ndarray:
    return np.array([[1.0, cosine], [cosine, 1.0]]) * np.outer(norms, norms)


def decided(balancer: Balancer, gram: np.ndarray, step: int) -> np.ndarray:
    return balancer._decide(gram, np.ones(len(gram)), step)


@pytest.mark.parametrize("method", ["pcgrad", "mgda", "upgrad"])
@pytest.mark.parametrize("normalize", ["none", "l2"])
def test_without_a_sure_conflict_the_step_is_the_plain_sum(method: str, normalize: str) -> None:
    config = BalancingConfig(method=method, normalize=normalize, significance=0.05)
    balancer = Balancer(["a", "b"], [1.0, 0.3], config, World(), 1.0)
    always = Balancer(["a", "b"], [1.0, 0.3], BalancingConfig(method=method, normalize=normalize), World(), 1.0)
    rng = np.random.default_rng(6)
    scales = condition(gram_with(0.0), normalize, np.ones(2)).scales
    for step in range(200):
        weights = decided(balancer, gram_with(rng.normal(0.0, 0.05)), step)
        np.testing.assert_allclose(weights, np.array([1.0, 0.3]) * scales)
    assert balancer.drain()["balance/acts"] == 0
    for step in range(200):
        decided(balancer, gram_with(rng.normal(-0.3, 0.05)), step)
    sure = gram_with(-0.3)
    np.testing.assert_allclose(decided(balancer, sure, 400), decided(always, sure, 400), rtol=1e-6)
    assert balancer.drain()["balance/sure_conflict/a-b"] > 0.8
    restored = Balancer(["a", "b"], [1.0, 0.3], config, World(), 1.0)
    restored.restore(json.loads(json.dumps(balancer.state())))
    np.testing.assert_allclose(decided(restored, sure, 401), decided(balancer, sure, 401))


def test_a_gradient_below_its_usual_length_is_not_blown_up() -> None:
    """A batch without positives: under l2 it would speak as loudly as all others, in a direction of noise."""
    config = BalancingConfig(method="pcgrad", normalize="l2", significance=0.05)
    balancer = Balancer(["a", "b"], [1.0, 1.0], config, World(), 1.0)
    for step in range(50):
        decided(balancer, gram_with(0.0), step)
    tiny = gram_with(0.0, (1.0, 2e-6))
    weights = decided(balancer, tiny, 50)
    assert weights[1] * 2e-6 < 1e-5 and weights[1] < 3
    plain = Balancer(["a", "b"], [1.0, 1.0], BalancingConfig(method="pcgrad", normalize="l2"), World(), 1.0)
    assert decided(plain, tiny, 50)[1] > 100  # up to the noise floor
