"""The recall loss against its formula."""

import math
from collections.abc import Callable

import pytest
import torch

from equipoise.configs.objectives import RecallConfig
from equipoise.data.batches import RecallBatch
from equipoise.train.objectives.base import Step
from equipoise.train.objectives.recall import Recall, retrieval_scores


def recall_batch(
    target: list[int], popularity: list[float], sampled: list[float], also: list[list[bool]]
) -> RecallBatch:
    return RecallBatch(
        texts={},
        target=torch.tensor(target),
        log_popularity=torch.tensor(popularity).log(),
        log_sampled=torch.tensor(sampled).log(),
        log_times=torch.tensor([[0.0, math.log(3), 0.0], [0.0, 0.0, 0.0]]),
        beside=torch.tensor([[0.0, 0.0, 0.7], [-0.3, 0.0, 0.0]]),
        also=torch.tensor(also),
    )


def test_loss_is_the_corrected_cross_entropy(make_step: Callable[..., Step]) -> None:
    batch = recall_batch([1, 2], [0.5, 0.3, 0.2], [0.9, 0.5, 0.25], [[True, False, False], [False, False, False]])
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    step = make_step([1], {"recall": vectors, "recall.weights": torch.tensor([2.0, 0.5, 1.5])})
    object.__setattr__(step.batch, "recall", batch)
    found = Recall("recall", RecallConfig(dimension=8)).loss(step)

    def logit(cosine: float, popularity: float, times: int, sampled: float) -> float:
        return 2 * cosine + 0.5 * math.log(popularity) + 1.5 * math.log(1 + times) - math.log(sampled)

    # The first shopper took item 0 as well: it does not compete.
    first = [logit(0, 0.3, 2, 0.5), logit(0.8, 0.2, 0, 0.25) + 0.7]
    second = [logit(0.6, 0.5, 0, 0.9) - 0.3, logit(0.8, 0.3, 0, 0.5), logit(0.96, 0.2, 0, 0.25)]
    expected = [math.log(sum(map(math.exp, first))) - first[0], math.log(sum(map(math.exp, second))) - second[2]]
    assert float(found) == pytest.approx(sum(expected) / 2, rel=1e-6)
    object.__setattr__(batch, "weight", torch.tensor([3.0, 1.0]))
    found = Recall("recall", RecallConfig(dimension=8)).loss(step)
    assert float(found) == pytest.approx((3 * expected[0] + expected[1]) / 4, rel=1e-6)


def test_scores_are_their_formula() -> None:
    scores = retrieval_scores(
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[0.6, 0.8], [0.0, 1.0]]),
        torch.tensor([-1.0, -2.0]),
        torch.tensor([[0.0, 2.0]]),
        torch.tensor([10.0, 0.5, 3.0]),
    )
    torch.testing.assert_close(scores, torch.tensor([[6.0 - 0.5, 0.0 - 1.0 + 6.0]]))
