"""The min-norm point against exact rational arithmetic."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.train.balancing.common_directions import mgda as mgda_of_problem
from equipoise.train.balancing.gradient_stats import GradientStats

Matrix = list[list[Fraction]]


def mgda(cosines: np.ndarray, norms: np.ndarray) -> np.ndarray:
    ones = np.ones(len(norms))
    return mgda_of_problem(GradientStats(tuple("abcdefghijklm"[: len(norms)]), cosines, norms, ones, ones))


def solve_exactly(matrix: Matrix, right: list[Fraction]) -> list[Fraction] | None:
    size = len(matrix)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(size):
        pivot = next((r for r in range(column, size) if rows[r][column]), None)
        if pivot is None:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for r in range(size):
            if r != column and rows[r][column]:
                factor = rows[r][column] / rows[column][column]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[column], strict=True)]
    return [rows[r][size] / rows[r][r] for r in range(size)]


def least_square(gram: Matrix) -> Fraction:
    """min ‖Σ α g‖² over the simplex: the best of all faces, each solved exactly; dependent faces are never needed."""
    best = None
    for size in range(1, len(gram) + 1):
        for face in itertools.combinations(range(len(gram)), size):
            matrix = [[gram[i][j] for j in face] + [Fraction(-1)] for i in face]
            matrix.append([Fraction(1)] * size + [Fraction(0)])
            solution = solve_exactly(matrix, [Fraction(0)] * size + [Fraction(1)])
            if solution is not None and min(solution[:size]) >= 0 and (best is None or solution[size] < best):
                best = solution[size]
    assert best is not None
    return best


def split(vectors: np.ndarray) -> tuple[Matrix, np.ndarray, np.ndarray]:
    """The exact Gram matrix of float vectors, and its cosines and norms rounded once."""
    exact = [[Fraction(float(x)) for x in vector] for vector in vectors]
    gram = [[sum((a * b for a, b in zip(g, h, strict=True)), Fraction(0)) for h in exact] for g in exact]
    norms = np.array([float(gram[k][k]) for k in range(len(gram))]) ** 0.5
    cosines = np.array([[float(entry) for entry in row] for row in gram]) / np.outer(norms, norms)
    np.fill_diagonal(cosines, 1.0)
    return gram, np.clip(cosines, -1, 1), norms


@st.composite
def gradients(draw: st.DrawFn) -> np.ndarray:
    """2–4 integer vectors, often dependent, equal or opposed, scaled by powers of two from 1e-4 to 1e4."""
    count, size = draw(st.integers(2, 4)), draw(st.integers(1, 5))
    entries = st.lists(st.integers(-9, 9), min_size=size, max_size=size).filter(any)
    vectors = [draw(entries) for _ in range(count)]
    if draw(st.booleans()):
        vectors[1] = [draw(st.sampled_from([1, 1, 2, -1, -3])) * x for x in vectors[0]]
    if count > 2 and draw(st.booleans()):
        joint = [-a - b for a, b in zip(vectors[0], vectors[1], strict=True)]
        vectors[2] = joint if any(joint) else vectors[0]
    scales = [draw(st.integers(-13, 13)) for _ in range(count)]
    return np.array(vectors, dtype=np.float64) * 2.0 ** np.array(scales)[:, None]


def check(vectors: np.ndarray) -> None:
    gram, cosines, norms = split(vectors)
    alpha = mgda(cosines, norms)
    assert (alpha >= 0).all()
    assert abs(alpha.sum() - 1) < 1e-12
    exact = [Fraction(float(a)) for a in alpha]
    along = [sum((a * entry for a, entry in zip(exact, row, strict=True)), Fraction(0)) for row in gram]  # ⟨g_k, d⟩
    square = sum((a * b for a, b in zip(exact, along, strict=True)), Fraction(0))
    # What rounding of the cosines can do is relative to the longest term of the sum, and to each gradient's length.
    longest = float((alpha * norms).max())
    assert float(square - least_square(gram)) <= 1e-12 * longest**2
    residual = max(float(square - a) / (norm * longest) for a, norm in zip(along, norms, strict=True))
    assert residual <= 1e-12  # so no gradient is opposed: ⟨g_k, d⟩ ≥ ‖d‖²


@given(gradients())
def test_it_is_the_least_point_of_the_hull(vectors: np.ndarray) -> None:
    check(vectors)


@pytest.mark.parametrize(
    "vectors",
    [
        [[10000, 1], [-20000, 5]],  # all but opposed
        [[10000, 1, 0], [-20000, 5, 1], [3, 2, 7]],
        [[1, 0], [1e4, 1], [1e8, -1]],
        # Two exactly opposed, hence a zero direction, beside two short ones, norms 1e8 apart.
        [[-26, 84, 54], [2496, -8064, -5184], [-23 / 2**19, 23 / 2**19, 0], [39 / 2**14, -47 / 2**14, 50 / 2**14]],
    ],
)
def test_hard_cases(vectors: list[list[float]]) -> None:
    check(np.array(vectors, dtype=np.float64))


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        ([[3.0, 0.0]], [1.0]),
        ([[1.0, 0.0], [0.0, 1.0]], [0.5, 0.5]),
        ([[2.0, 0.0], [0.0, 1.0]], [0.2, 0.8]),  # ∝ 1/norm²
        ([[1.0, 0.0], [5.0, 1.0]], [1.0, 0.0]),  # the shorter one lies within the longer one's shadow
        ([[4.0, 0.0], [-1.0, 0.0]], [0.2, 0.8]),  # opposed: they cancel
        ([[1e4, 0.0], [0.0, 1e-4]], [1e-16, 1.0]),
        ([[1.0, 2.0], [1.0, -2.0], [9.0, 0.0]], [0.5, 0.5, 0.0]),
    ],
)
def test_by_hand(vectors: list[list[float]], expected: list[float]) -> None:
    _, cosines, norms = split(np.array(vectors))
    # Compared as what each gradient contributes, for that is what rounding is relative to.
    terms, longest = np.array(expected) * norms, (np.array(expected) * norms).max()
    np.testing.assert_allclose(mgda(cosines, norms) * norms / longest, terms / longest, rtol=0, atol=1e-14)


def test_against_a_fine_grid() -> None:
    rng = np.random.default_rng(4)
    steps = np.linspace(0, 1, 201)
    grid = np.array([(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9])
    for _ in range(20):
        vectors = rng.standard_normal((3, 4)) * 10.0 ** rng.uniform(-1, 1, (3, 1))
        _, cosines, norms = split(vectors)
        best = ((grid @ vectors) ** 2).sum(1).min()
        mine = ((mgda(cosines, norms) @ vectors) ** 2).sum()
        assert mine <= best * (1 + 1e-12)
        # No finer than the grid: half a step moves the point by at most half a step of each gradient.
        assert best**0.5 - mine**0.5 <= 0.005 * norms.sum()


def test_many_objectives_meet_the_optimality_conditions() -> None:
    rng = np.random.default_rng(5)
    for count in (5, 8, 12):
        for rank in (2, count, 3 * count):
            vectors = rng.standard_normal((count, rank)) * 10.0 ** rng.uniform(-4, 4, (count, 1))
            norms = np.linalg.norm(vectors, axis=1)
            cosines = np.clip(vectors @ vectors.T / np.outer(norms, norms), -1, 1)
            np.fill_diagonal(cosines, 1.0)
            u = mgda(cosines, norms) * norms
            along, square = cosines @ u, u @ cosines @ u
            assert (square / norms - along).max() <= 1e-9 * u.max()


@given(st.integers(0, 2**31), st.integers(2, 5))
def test_float32_noise_moves_the_point_no_more_than_the_noise(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, int(rng.integers(1, count + 1))))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    noise = rng.uniform(-1e-7, 1e-7, cosines.shape)
    disturbed = np.clip(cosines + noise + noise.T, -1, 1)  # often no longer positive semi-definite
    np.fill_diagonal(disturbed, 1.0)
    alpha = mgda(disturbed, np.ones(count))
    assert np.isfinite(alpha).all()
    assert (alpha >= 0).all()
    clean = mgda(cosines, np.ones(count))
    # ‖d‖² is off by at most the noise, on either side.
    assert alpha @ cosines @ alpha <= clean @ cosines @ clean + 1e-6


@given(gradients(), st.integers(0, 2**31))
def test_what_is_preferred_is_promised_more(vectors: np.ndarray, seed: int) -> None:
    preference = np.random.default_rng(seed).uniform(0.2, 5, len(vectors))
    _, cosines, norms = split(vectors)
    names = tuple("abcd"[: len(norms)])
    alpha = mgda_of_problem(GradientStats(names, cosines, norms, preference, np.ones(len(norms))))
    u = alpha * norms
    level = u @ cosines @ u / (alpha @ preference)  # ⟨g_k, d⟩ = level · p_k on the support, and no less elsewhere
    excess = cosines @ u - level * preference / norms
    assert excess.min() >= -1e-12 * u.max()
    assert np.minimum(np.abs(excess), u).max() <= 1e-12 * u.max()
