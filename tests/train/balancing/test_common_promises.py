"""What every stateful or loss-reading method promises: resuming, missing objectives, finite weights, preference."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.configs.balancing import BalancingConfig
from equipoise.train.balancing.gradient_stats import GradientStats, Weighting
from equipoise.train.balancing.registry import build_method

Make = Callable[..., GradientStats]

OPTIONS: dict[str, dict[str, Any]] = {
    "gradvac": {"momentum": 0.8},
    "uncertainty": {},
    "dwa": {"window": 3},
    "rlw": {},
    "famo": {},
    "stch": {},
    "gradnorm": {},
    "lexicographic": {"order": ["b", "a"], "tolerance": 0.25},
    "pcd": {"tau": 0.3, "momentum": 0.9},
    "epsilon_constraint": {"bounds": {"c": 0.5}},
    "torchjd:UPGrad": {},
    "torchjd:PCD": {"tau": 0.3},
    "torchjd:GradVac": {},
    "torchjd:Random": {},
}
OURS = [name for name in OPTIONS if not name.startswith("torchjd:")]


def build(name: str, **options: Any) -> Weighting:
    return build_method(BalancingConfig(method=name, options={**OPTIONS[name], **options}))


def part(stats: GradientStats, rows: list[int]) -> GradientStats:
    """The problem of some of its objectives."""
    return replace(
        stats,
        names=tuple(stats.names[k] for k in rows),
        cosines=stats.cosines[np.ix_(rows, rows)],
        norms=stats.norms[rows],
        preference=stats.preference[rows],
        losses=stats.losses[rows],
    )


def course(make_problem: Make, steps: int = 20) -> list[GradientStats]:
    """Problems of four objectives; now and then one of them, or two, have no gradient."""
    rng = np.random.default_rng(8)
    problems = []
    for step in range(steps):
        vectors = rng.standard_normal((4, 3)) * 10.0 ** rng.uniform(-2, 2, (4, 1))
        stats = make_problem(vectors, [1, 2, 0.5, 1], losses=rng.uniform(0.1, 2, 4), step=step)
        kept = {5: [0, 2, 3], 6: [1, 3], 9: [2], 12: [1, 2, 3]}.get(step, [0, 1, 2, 3])
        problems.append(part(stats, kept))
    return problems


def run(method: Weighting, problems: list[GradientStats]) -> list[list[float]]:
    weights = []
    for stats in problems:
        weights.append(method.compute_weights(stats).tolist())
        if method.needs_losses_after:
            losses = dict(zip(stats.names, stats.losses.tolist(), strict=True))
            method.after_step(losses, {name: loss * (0.7 + 0.1 * k) for k, (name, loss) in enumerate(losses.items())})
    return weights


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("cut", [1, 6, 10, 13])
def test_an_interrupted_run_goes_on_bit_for_bit(make_problem: Make, name: str, cut: int) -> None:
    problems = course(make_problem)
    first = build(name)
    start = run(first, problems[:cut])
    kept = json.dumps(first.state())
    run(first, problems[cut:])  # the kept state is no view of the living one
    second = build(name)
    second.restore(json.loads(kept))
    assert json.dumps(second.state()) == kept
    assert start + run(second, problems[cut:]) == run(build(name), problems)


@pytest.mark.parametrize("name", ["gradvac", "uncertainty", "dwa", "famo", "gradnorm", "pcd", "torchjd:GradVac"])
def test_the_state_matters(make_problem: Make, name: str) -> None:
    problems = course(make_problem)
    fresh = run(build(name), problems[13:])
    assert fresh != run(build(name), problems)[13:]


@pytest.mark.parametrize("name", [*OURS, "torchjd:Random"])
def test_one_objective_alone_is_followed(make_problem: Make, name: str) -> None:
    method = build(name)
    for step in range(5):
        (alpha,) = method.compute_weights(make_problem([[3.0, 1.0]], [2.0], losses=[0.3], step=step))
        assert alpha > 0


@st.composite
def hard_courses(draw: st.DrawFn) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Three steps of vectors, preferences and losses: dependent, equal and opposed gradients, norms 1e-8 to 1e8."""
    count, size = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    entry = st.lists(st.integers(-3, 3), min_size=size, max_size=size).filter(any)
    steps = []
    for _ in range(3):
        vectors = np.array([draw(entry) for _ in range(count)], dtype=np.float64)
        scales = 10.0 ** np.array([draw(st.integers(-8, 8)) for _ in range(count)])
        preference = 10.0 ** np.array([draw(st.integers(-3, 3)) for _ in range(count)])
        losses = np.array([draw(st.sampled_from([0.0, 1e-9, 0.3, 1.0, 1e8])) for _ in range(count)])
        steps.append((vectors * scales[:, None], preference, losses))
    return steps


@pytest.mark.parametrize("name", OURS)
@given(steps=hard_courses())
def test_weights_are_finite_whatever_comes(
    make_problem: Make, name: str, steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> None:
    method = build(name)
    for step, (vectors, preference, losses) in enumerate([*steps, *steps]):
        stats = make_problem(vectors, preference, losses=losses, step=step)
        alpha = method.compute_weights(stats)
        assert alpha.shape == (len(vectors),)
        assert alpha.dtype == np.float64
        assert np.isfinite(alpha).all()
        assert (alpha >= 0).all() or name == "gradvac"
        known = dict(zip(stats.names, losses.tolist(), strict=True))
        method.after_step(known, {key: loss / 2 for key, loss in known.items()})
    json.dumps(method.state(), allow_nan=False)


@pytest.mark.parametrize("name", OURS)
@given(steps=hard_courses(), power=st.integers(-6, 6))
def test_a_common_scale_of_the_gradients_leaves_the_direction_alone(
    make_problem: Make, name: str, steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]], power: int
) -> None:
    one, other = build(name), build(name)
    for step, (vectors, preference, losses) in enumerate(steps):
        stats = make_problem(vectors, preference, losses=losses, step=step)
        scaled = replace(stats, norms=stats.norms * 10.0**power)
        alpha, same = one.compute_weights(stats), other.compute_weights(scaled)
        # As directions: among equal gradients the weights are anyone's.
        terms = np.abs(alpha * stats.norms).max()
        np.testing.assert_allclose(same @ vectors, alpha @ vectors, rtol=0, atol=1e-6 * terms)


SHARES = ["gradvac", "uncertainty", "dwa", "rlw", "famo", "stch", "gradnorm", "lexicographic", "torchjd:UPGrad"]


@pytest.mark.parametrize("name", SHARES)
def test_a_larger_preference_gives_a_larger_share(make_problem: Make, name: str) -> None:
    """Of the weights, over a course of problems in which nothing else differs."""
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((12, 4, 5))
    shares = []
    for preferred in (0.5, 1.0, 3.0):
        method = build(name, order=["a", "b", "c", "d"]) if name == "lexicographic" else build(name)
        problems = [
            make_problem(v, [1, preferred, 1, 1], losses=[0.9, 1.0, 1.1, 1.2], step=step)
            for step, v in enumerate(vectors)
        ]
        weights = np.array(run(method, problems))
        shares.append(weights[:, 1] / weights.sum(1))
    shares = np.array(shares)
    assert (np.diff(shares, axis=0) > 0).all()


class Quadratics:
    """Two losses ½(x − c)ᵀH(x − c) + rest in the plane; their Pareto set is a curve from one minimum to the other."""

    minima = np.array([[1.0, 0.0], [-1.0, 0.5]])
    curvatures = np.array([[[1.0, 0.2], [0.2, 0.5]], [[0.6, -0.1], [-0.1, 2.0]]])

    def __init__(self, rest: float) -> None:
        self.rest = rest

    def losses(self, x: np.ndarray) -> np.ndarray:
        away = x - self.minima
        return self.rest + 0.5 * np.einsum("ki,kij,kj->k", away, self.curvatures, away)

    def gradients(self, x: np.ndarray) -> np.ndarray:
        return np.einsum("kij,kj->ki", self.curvatures, x - self.minima)

    def descend(self, method: Weighting, preference: tuple[float, float], make_problem: Make, steps: int) -> np.ndarray:
        """The losses at the end of a descent with falling steps, the direction scaled as one gradient would be."""
        x = np.array([0.5, 2.0])
        for step in range(steps):
            gradients, losses = self.gradients(x), self.losses(x)
            alpha = method.compute_weights(make_problem(gradients, preference, losses=losses, step=step))
            x = x - 0.3 / (1 + step / 100) * (alpha / alpha.sum()) @ gradients
            names = ("a", "b")
            method.after_step(
                dict(zip(names, losses.tolist(), strict=True)), dict(zip(names, self.losses(x).tolist(), strict=True))
            )
        return self.losses(x)

    def stationary(self, losses: np.ndarray) -> float:
        """How far a point of these losses lies above the front: least excess over a fine sample of it."""
        front = []
        for t in np.linspace(0, 1, 2001):
            weights = np.array([t, 1 - t])
            matrix = np.einsum("k,kij->ij", weights, self.curvatures)
            right = np.einsum("k,kij,kj->i", weights, self.curvatures, self.minima)
            front.append(self.losses(np.linalg.solve(matrix, right)))
        return float(np.abs(np.array(front) - losses).max(1).min())


FRONT = {
    "gradvac": {},
    "uncertainty": {},
    "dwa": {"window": 50},
    "rlw": {},
    "famo": {},
    "stch": {},
    "gradnorm": {},
    "torchjd:Sum": {},
}


@pytest.mark.parametrize("name", FRONT)
def test_the_end_point_moves_along_the_front_as_the_preference_moves(make_problem: Make, name: str) -> None:
    # Who descends on log losses seeks the loss of 0 alone, where there is one.
    stats = Quadratics(rest=2.0 if name in ("uncertainty", "famo") else 0.0)
    ends = []
    for preference in [(4.0, 1.0), (1.0, 1.0), (1.0, 4.0)]:
        method = build_method(BalancingConfig(method=name, options=FRONT[name]))
        ends.append(stats.descend(method, preference, make_problem, steps=1500))
        assert stats.stationary(ends[-1]) < 0.01, preference
    first, second = np.array(ends).T
    assert (np.diff(first) > 0.02).all(), ends
    assert (np.diff(second) < -0.02).all(), ends
