"""What recall knows beside vectors, against brute force and hand-computed counts."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equipoise.common.errors import UserError
from equipoise.data.ragged import Ragged
from equipoise.modeling import recall_sources
from equipoise.modeling.recall_sources import (
    LITTLE,
    NAMES,
    POPULARITY,
    Counts,
    RecallSources,
    projected,
    titles_alike,
)

ITEMS = 6


def ragged(parts: list[list[int]]) -> Ragged:
    values = np.array([x for part in parts for x in part], dtype=np.int64)
    return Ragged(values, np.cumsum([0, *map(len, parts)]))


def counts(neighbours: int = 100) -> Counts:
    # Items 0 and 1 meet three times, 1 and 2 twice, 0 and 3 once; 4 and 5 are bought by nobody.
    taken = ragged([[0, 1], [0, 1, 2], [1, 2], [0, 1], [0, 3]])
    return Counts.of(taken, np.array([60.0, 30.0, 0.0, 0.0, 0.0]), ITEMS, 30.0, neighbours)


def sources(seed: int = 0) -> RecallSources:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((ITEMS, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    axes = rng.standard_normal((3, 2, 8)).astype(np.float32)
    axes[2] = 0.0
    axes[2, 0] = vectors.mean(axis=0)
    weights = dict(zip((*POPULARITY, *NAMES), rng.standard_normal(len(POPULARITY) + len(NAMES)).tolist(), strict=True))
    of_item, of_history = projected(axes, vectors)
    return RecallSources(counts(), titles_alike(vectors, 3), weights, of_item, of_history, axes, 30.0, 100)


def test_counts_are_those_of_the_requests() -> None:
    found = counts()
    total = np.array([4, 4, 2, 1, 0, 0]) + 0.5
    lately = np.array([0.25 + 0.5 + 1 + 1, 0.25 + 0.5 + 1 + 1, 0.5 + 1, 1, 0, 0]) + 0.1
    np.testing.assert_allclose(found.popularity, np.log([total / total.sum(), lately / lately.sum()]), rtol=1e-6)
    expected = np.zeros((ITEMS, ITEMS))
    expected[0, 1] = expected[1, 0] = 3 / 4
    expected[1, 2] = expected[2, 1] = 2 / math.sqrt(8)  # 0 and 3 met once only
    np.testing.assert_allclose(found.together.toarray(), expected, rtol=1e-6)
    assert found.bought.tolist() == [True] * 4 + [False] * 2


def test_the_neighbours_that_are_kept_met_most_often() -> None:
    kept = counts(neighbours=1).together.toarray()
    assert (kept > 0).sum(axis=1).tolist() == [1, 1, 1, 0, 0, 0]
    assert kept[1, 0] > 0 and kept[1, 2] == 0


@given(st.lists(st.lists(st.integers(0, 8), max_size=5, unique=True), min_size=1, max_size=12), st.integers(1, 9))
@settings(deadline=None, max_examples=50)
def test_together_is_brute_force(requests: list[list[int]], neighbours: int) -> None:
    found = Counts.of(ragged(requests), np.zeros(len(requests)), 9, 30.0, neighbours).together.toarray()
    for one in range(9):
        met = {o: sum(one in r and o in r for r in requests) for o in range(9) if o != one}
        often = sorted((times for times in met.values() if times >= 2), reverse=True)[:neighbours]
        assert sorted((met[o] for o in np.flatnonzero(found[one])), reverse=True) == often
        for other in np.flatnonzero(found[one]):
            totals = [sum(item in r for r in requests) for item in (one, other)]
            assert found[one, other] == pytest.approx(met[int(other)] / math.sqrt(totals[0] * totals[1]), rel=1e-5)


def test_titles_alike_are_the_nearest_others() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((20, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found, cosines = titles_alike(vectors.astype(np.float32), 4).toarray(), vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    for row in range(20):
        nearest = np.argsort(-cosines[row])[:4]
        assert sorted(np.flatnonzero(found[row])) == sorted(nearest)
        np.testing.assert_allclose(found[row, nearest], np.exp(20 * (cosines[row, nearest] - 1)), rtol=1e-4)


def test_large_catalogues_are_searched_by_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((40, 16))
    vectors = centres[rng.integers(40, size=4000)] + 0.5 * rng.standard_normal((4000, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    exact = titles_alike(vectors, 10)
    monkeypatch.setattr(recall_sources, "EXACT_UP_TO", 3999)
    monkeypatch.setattr(recall_sources, "PROBES", 8)
    found = titles_alike(vectors, 10)
    common = exact.astype(bool).multiply(found.astype(bool))
    assert 0.9 * exact.nnz < common.sum() < exact.nnz  # some are missed, few
    np.testing.assert_allclose(exact.multiply(common).data, found.multiply(common).data, rtol=1e-4)
    assert found.diagonal().max() == 0 and np.diff(found.indptr).max() <= 10


def brute(held: RecallSources, bought: dict[int, int]) -> np.ndarray:
    """The formula, item by item."""
    amounts = {item: math.log1p(times) for item, times in bought.items()}
    together, alike = held.counts.together.toarray(), held.alike.toarray()
    length, scores = math.sqrt(sum(a * a for a in amounts.values())), []
    for item in range(ITEMS):
        row = dict.fromkeys(NAMES, 0.0)
        sums = [sum(a * matrix[j, item] for j, a in amounts.items()) for matrix in (together, alike)]
        share = sums[0] / sum(amounts.values()) if amounts else 0.0
        for name, value in zip(LITTLE, (sums[0], share, sums[1]), strict=True):
            row[name] = math.log1p(value / LITTLE[name])
        times = bought.get(item, 0)
        if times:
            for least in (1, 2, 3, 5, 9):
                row["bought" if least == 1 else f"bought_{least}"] = float(times >= least)
            row |= {"log_times": math.log1p(times), "log_share": math.log(times / sum(bought.values()))}
            row |= {f"bought_{name}": row[name] for name in LITTLE}
            row["bought_lately"] = float(held.counts.popularity[1, item])
        score = sum(held.weights[name] * held.counts.popularity[place, item] for place, name in enumerate(POPULARITY))
        score += sum(held.weights[name] * value for name, value in row.items())
        if amounts:
            query = sum(a / length * held.of_history[j] for j, a in amounts.items())
            score += float(query @ held.of_item[item])
        scores.append(score)
    return np.array(scores)


@given(st.dictionaries(st.integers(0, ITEMS - 1), st.integers(1, 12)), st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_scores_are_the_formula_item_by_item(bought: dict[int, int], seed: int) -> None:
    held = sources(seed)
    items = np.array(sorted(bought), dtype=np.int64)
    times = np.array([bought[item] for item in items], dtype=np.int64)
    np.testing.assert_allclose(held.scores(items, times), brute(held, bought), rtol=1e-4, atol=1e-4)


def test_items_bought_no_times_count_as_not_bought() -> None:
    held = sources()
    expected = held.scores(np.array([1]), np.array([2]))
    np.testing.assert_allclose(held.scores(np.array([0, 1]), np.array([0, 2])), expected, rtol=1e-6)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    held = sources()
    held.write(tmp_path)
    again = RecallSources.read(tmp_path)
    past = (np.array([0, 2]), np.array([1, 4]))
    assert np.array_equal(again.scores(*past), held.scores(*past))
    assert again.weights == held.weights and again.neighbours == held.neighbours
    (tmp_path / "together.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"together\.npz is not as it was written"):
        RecallSources.read(tmp_path)


def test_counting_again_changes_counts_alone() -> None:
    held = sources()
    again = held.counted_again(ragged([[4, 5], [4, 5]]), np.zeros(2))
    assert again.counts.bought.tolist() == [False] * 4 + [True] * 2
    assert again.counts.together.toarray()[4, 5] == pytest.approx(1.0) and again.weights is held.weights


def test_another_catalogue_takes_what_is_known_along() -> None:
    held = sources()
    rng = np.random.default_rng(9)
    vectors = rng.standard_normal((4, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    moved = held.with_items([1, -1, 0, 4], vectors)
    assert moved.counts.popularity[:, 1].tolist() == held.counts.popularity.min(axis=1).tolist()
    np.testing.assert_array_equal(moved.counts.popularity[:, [0, 2, 3]], held.counts.popularity[:, [1, 0, 4]])
    assert moved.counts.together.toarray()[0, 2] == held.counts.together.toarray()[1, 0] > 0
    assert moved.counts.together.toarray()[1].sum() == 0
    assert moved.counts.bought.tolist() == [True, False, True, False]
    np.testing.assert_allclose(moved.of_item, projected(held.axes, vectors)[0])


def test_without_projections_there_is_no_query() -> None:
    empty = np.zeros((3, 0, 8), np.float32)
    held = replace(sources(), axes=empty, of_item=np.zeros((ITEMS, 0), np.float32), of_history=np.zeros((ITEMS, 0)))
    assert held.query(np.array([1]), np.array([1])).shape == (0,)
    assert held.scores(np.array([1]), np.array([1])).shape == (ITEMS,)
