"""Recall and its baselines against hand-computed truths."""

import math

import numpy as np
import pytest
from scipy import sparse

from equipoise.data.ragged import Ragged
from equipoise.evaluation.recall.recall_baselines import Bm25, CoVisitation, Popularity, Repeat, Union
from equipoise.evaluation.recall.recall_of_run import mean_interval
from equipoise.train.recall_scores import first_items, histories, recall_at


def test_first_items_are_the_best_in_order_and_leave_out_the_excluded() -> None:
    scores = np.array([[0.1, 0.9, 0.9, 0.5], [3.0, 2.0, 1.0, 0.0]])
    assert first_items(scores, 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    excluded = [np.array([1]), np.array([0, 1, 2])]
    assert first_items(scores, 3, excluded).tolist() == [[2, 3, 0], [3, -1, -1]]


def test_recall_is_the_share_of_what_was_taken() -> None:
    top = np.array([[4, 2, 7], [1, 0, -1], [5, 6, 7]])
    relevant = [np.array([2, 9]), np.array([0]), np.empty(0, dtype=int)]
    np.testing.assert_array_equal(recall_at(top, relevant, 1), [0.0, 0.0, np.nan])
    np.testing.assert_array_equal(recall_at(top, relevant, 3), [0.5, 1.0, np.nan])


def test_interval_holds_the_mean() -> None:
    values = np.array([0.0, 1.0, 1.0, 0.0, np.nan] * 40)
    low, high = mean_interval(values)
    assert 0.4 < low < 0.5 < high < 0.6
    assert all(math.isnan(end) for end in mean_interval(np.array([np.nan])))


@pytest.fixture
def history() -> sparse.csr_array:
    return histories([np.array([0, 2]), np.empty(0, dtype=int)], [np.array([1, 3]), np.empty(0, dtype=int)], 4)


def test_histories_are_logarithms_of_counts(history: sparse.csr_array) -> None:
    np.testing.assert_allclose(history.toarray(), [[math.log(2), 0, math.log(4), 0], [0, 0, 0, 0]], rtol=1e-6)


def test_popularity_and_repeat(history: sparse.csr_array) -> None:
    counts = np.array([1, 5, 0, 2])
    assert first_items(Popularity(counts).scores(history, []), 4).tolist() == [[1, 3, 0, 2]] * 2
    # What was bought first, most often first, then by popularity.
    assert first_items(Repeat(counts).scores(history, []), 4).tolist() == [[2, 0, 1, 3], [1, 3, 0, 2]]


def test_covisitation_is_the_cosine_of_cooccurrence(history: sparse.csr_array) -> None:
    # Requests {0,1}, {0,1,3}, {2}: n0 = 2, n1 = 2, n2 = 1, n3 = 1; n01 = 2, n03 = n13 = 1.
    positives = Ragged(np.array([0, 1, 0, 1, 3, 2]), np.array([0, 2, 5, 6]))
    scores = CoVisitation(positives, 4).scores(history, [])
    first, second = math.log(2), math.log(4)
    np.testing.assert_allclose(scores[0], [first, first, second, first / math.sqrt(2)], rtol=1e-6)
    assert (scores[1] == 0).all()


def test_union_takes_an_item_in_turn_from_each(history: sparse.csr_array) -> None:
    popular, rare = Popularity(np.array([9, 8, 7, 6])), Popularity(np.array([1, 2, 3, 4]))
    # In turn: 0, 3, 1, 2; each item counts where it came first.
    assert first_items(Union([popular, rare]).scores(history, []), 4).tolist() == [[0, 3, 1, 2]] * 2


def test_bm25_is_okapis_formula() -> None:
    texts = ["green tea", "black tea large", "soap"]
    scores = Bm25(texts).scores(sparse.csr_array((1, 3)), ["tea, soap"])[0]
    average = (2 + 3 + 1) / 3

    def term(documents_with_it: int, length: int) -> float:
        # Lucene's idf, which is never negative; frequency 1.
        idf = math.log(1 + (3 - documents_with_it + 0.5) / (documents_with_it + 0.5))
        return idf / (1 + 1.5 * (1 - 0.75 + 0.75 * length / average))

    expected = np.array([term(2, 2), term(2, 3), term(1, 1)])
    np.testing.assert_allclose(scores / scores[0], expected / expected[0], rtol=1e-5)
