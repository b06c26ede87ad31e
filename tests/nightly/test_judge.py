"""What refuses a model, or a day: by hand-made scores."""

import numpy as np
import pytest

from equipoise.configs.nightly import NightlyConfig
from equipoise.evaluation.evaluate_run import RankingAttributes
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.nightly.drift import number_psi, psi, text_psi
from equipoise.nightly.judge import Scored, day_is_refused, judge, judge_alone

REQUESTS, SIZE = 300, 10
NOTHING = RankingAttributes((), None, None)
PROVIDERS = RankingAttributes((), None, "provider")
SETTINGS = NightlyConfig()


def scored(noise: float, scale: float = 1.0, seconds: float = 1.0, new: float = 0.0, boost: float = 0.0) -> Scored:
    """A model whose log-odds are the truth with noise; `new`: noise on item 9 alone; `boost`: of provider b."""
    draw = np.random.default_rng(0)
    truth = draw.normal(-1, 1.5, REQUESTS * SIZE)
    click = (draw.random(len(truth)) < 1 / (1 + np.exp(-truth))).astype(np.int8)
    item = np.tile(np.arange(SIZE), REQUESTS)
    own = np.random.default_rng(1).normal(0, 1, len(truth))
    logit = scale * (truth + noise * own) + np.where(item == SIZE - 1, new * own, 0) + boost * (item % 2)
    table = ScoreTable(
        request=np.repeat(np.arange(REQUESTS), SIZE),
        item=item,
        user=np.repeat([f"u{n}" for n in range(REQUESTS)], SIZE),
        click=click,
        conversion=np.zeros_like(click),
        pctr=1 / (1 + np.exp(-logit)),
        user_groups={"age": np.where(np.repeat(np.arange(REQUESTS), SIZE) % 2, "young", "old")},
        items={"provider": np.array(["a", "b"] * (SIZE // 2))},
    )
    return Scored(table, seconds)


@pytest.mark.parametrize(
    ("challenger", "reason"),
    [
        ({"noise": 1.5}, "surely worse"),
        ({"noise": 0.5, "scale": 3.0}, "calibration error (ECE) of ctr rises"),
        ({"noise": 0.5, "new": 6.0}, "on new items"),
        ({"noise": 0.5, "seconds": 5.0}, "scoring takes 5.0 s"),
        ({"noise": 0.5, "boost": 1.2}, "exposure ratio of providers"),
    ],
)
def test_a_worse_model_is_refused(challenger: dict[str, float], reason: str) -> None:
    settings = SETTINGS if reason != "exposure ratio of providers" else SETTINGS.model_copy(update={"most_loss": 1.0})
    verdict = judge(scored(0.5), scored(**challenger), settings, PROVIDERS, known_items=SIZE - 1)
    assert any(reason in each for each in verdict.reasons), verdict.reasons


def test_the_same_model_and_a_better_one_may_be_served() -> None:
    same = judge(scored(0.5), scored(0.5), SETTINGS, NOTHING, known_items=SIZE)
    assert not same.reasons and same.differences["ctr/auc"] == {"difference": 0.0, "interval": [0.0, 0.0]}
    better = judge(scored(1.0), scored(0.2), SETTINGS, NOTHING, known_items=SIZE)
    assert not better.reasons and better.differences["ctr/auc"]["interval"][0] > 0
    strict = SETTINGS.model_copy(update={"promote": "better"})
    assert "not surely better" in judge(scored(0.5), scored(0.5), strict, NOTHING, known_items=SIZE).reasons[0]
    assert not judge(scored(1.0), scored(0.2), strict, NOTHING, known_items=SIZE).reasons


def test_the_first_model_must_rank_better_than_chance() -> None:
    assert not judge_alone(scored(0.5), NOTHING).reasons
    assert "no better than chance" in judge_alone(scored(0.5, scale=-1.0), NOTHING).reasons[0]


@pytest.mark.parametrize(
    ("now", "before", "refused"),
    [
        (0.7, 0.72, False),
        (0.62, 0.72, False),
        (0.6, 0.72, True),
        (0.5, 0.72, True),
        (None, 0.72, True),
        (0.4, 0.5, False),
    ],
)
def test_a_day_on_which_the_served_model_fails_is_refused(now: float | None, before: float, refused: bool) -> None:
    assert (day_is_refused(now, before, SETTINGS) is not None) == refused


def test_drift() -> None:
    draw = np.random.default_rng(0)
    one, same, other = draw.normal(0, 1, 4000), draw.normal(0, 1, 4000), draw.normal(1, 1, 4000)
    assert number_psi(one, same) < 0.02 < 0.25 < number_psi(one, other)
    assert number_psi(one, np.where(draw.random(4000) < 0.4, np.nan, one)) > 0.25  # unknown ones are a group
    assert number_psi(np.zeros(10), np.zeros(20)) == pytest.approx(0, abs=1e-6)
    assert text_psi(["a", "b"] * 50, ["b", "a"] * 50) == pytest.approx(0)
    assert text_psi(["a", "b"] * 50, ["a", None] * 50) > 0.25
    # By hand: (0.5 − 0.75) log(0.5 / 0.75) + (0.5 − 0.25) log(0.5 / 0.25)
    assert psi(np.array([3.0, 1.0]), np.array([2.0, 2.0])) == pytest.approx(0.25 * np.log(1.5) + 0.25 * np.log(2))
