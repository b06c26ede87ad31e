"""Top-k of a catalogue against brute force in float64, exact and by FAISS."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from equipoise.common.errors import UserError
from equipoise.export.item_index import RecallIndex, read_index, write_vectors


def brute_force(
    vectors: np.ndarray, bias: np.ndarray, query: np.ndarray, k: int, exclude: np.ndarray, boost: tuple[Any, Any]
) -> tuple[list[int], list[float]]:
    scores = vectors.astype(np.float64) @ query.astype(np.float64) + bias
    scores[boost[0]] += boost[1]
    scores[exclude] = -np.inf
    order = sorted((item for item in range(len(scores)) if np.isfinite(scores[item])), key=lambda i: (-scores[i], i))
    return order[:k], [scores[item] for item in order[:k]]


@given(data=st.data())
def test_exact_search_is_brute_force(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    items, k = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 12))
    # Small integers: sums are exact, so that ties are ties.
    vectors = rng.integers(-2, 3, (items, 3)).astype(np.float32)
    bias = rng.integers(-3, 3, items).astype(np.float32)
    queries = rng.integers(-2, 3, (4, 3)).astype(np.float32)
    exclude = [rng.choice(items, rng.integers(0, items + 1), replace=False) for _ in queries]
    boosted = [np.sort(rng.choice(items, rng.integers(0, items + 1), replace=False)) for _ in queries]
    boosts = [(mine, rng.integers(0, 5, len(mine)).astype(np.float32)) for mine in boosted]
    found, scores = RecallIndex(vectors, bias, exact=True).search(queries, k, exclude, boosts)
    for row, query in enumerate(queries):
        order, values = brute_force(vectors, bias, query, k, exclude[row], boosts[row])
        assert found[row].tolist() == order + [-1] * (k - len(order))
        assert scores[row].tolist() == values + [-np.inf] * (k - len(order))


@pytest.fixture(scope="module")
def clustered() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, 128)).astype(np.float32)  # of 100 items each: the best 200 are of several
    vectors = centres[rng.integers(0, 200, 20_000)] + 0.7 * rng.standard_normal((20_000, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[rng.integers(0, 20_000, 20)] * 20.0
    return vectors.astype(np.float32), rng.gumbel(size=20_000).astype(np.float32), queries.astype(np.float32)


def test_faiss_finds_nearly_the_same_and_scores_it_exactly(
    clustered: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    pytest.importorskip("faiss")
    vectors, bias, queries = clustered
    rng = np.random.default_rng(1)
    exact, near = RecallIndex(vectors, bias, exact=True), RecallIndex(vectors, bias, exact=False, length=20.0)
    first, _ = exact.search(queries, 300)
    exclude = [row[:40] for row in first]  # the best ones of all: enough others must come
    boosts = [(np.sort(rng.choice(20_000, 5, replace=False)), np.full(5, 30.0, dtype=np.float32)) for _ in queries]
    expected, _ = exact.search(queries, 200, exclude, boosts)
    found, scores = near.search(queries, 200, exclude, boosts)
    shares = [np.isin(one, other).mean() for one, other in zip(expected, found, strict=True)]
    assert np.mean(shares) > 0.99
    for row, query in enumerate(queries):
        assert not np.isin(exclude[row], found[row]).any()
        boosted = np.setdiff1d(boosts[row][0], exclude[row])
        assert np.isin(boosted, found[row]).all()  # 30 more lifts anything to the top
        added = np.isin(found[row], boosts[row][0]) * 30.0
        np.testing.assert_allclose(scores[row], vectors[found[row]] @ query + bias[found[row]] + added, rtol=1e-4)
        assert (np.diff(scores[row]) <= 0).all()
    lists = near._approximate.invlists
    assert max(lists.list_size(number) for number in range(lists.nlist)) < 0.02 * len(vectors)
    write_vectors(tmp_path, vectors, bias, {"length": 20.0})
    near.save(tmp_path / "index.faiss")
    again, about = read_index(tmp_path)
    assert about == {"length": 20.0} and not again.exact
    assert again.search(queries, 200, exclude, boosts)[0].tolist() == found.tolist()


def test_broken_folders_are_refused(clustered: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    vectors, bias, _ = clustered
    with pytest.raises(UserError, match="holds no complete index"):
        read_index(tmp_path)
    write_vectors(tmp_path, vectors[:10], bias[:9], {})
    with pytest.raises(UserError, match="different numbers of items"):
        read_index(tmp_path)
    write_vectors(tmp_path, vectors[:10], bias[:10], {})
    assert read_index(tmp_path)[0].exact
    (tmp_path / "index.faiss").write_bytes(b"no index")
    with pytest.raises(UserError, match=r"index\.faiss is missing or broken"):
        read_index(tmp_path)
