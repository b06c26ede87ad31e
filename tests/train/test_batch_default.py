"""How large a micro-batch is where nothing says it: by the data, by what a run began with, never past the most."""

from pathlib import Path

import pytest

from equipoise.configs.schema import MOST_AUTO_TOKENS, RunConfig
from equipoise.data.prepare.slates import prepare
from equipoise.train.assemble import open_data, train_batches
from equipoise.train.batch_default import LEAST_SLATES, STEPS, auto_budget, settle_batch, slates_of_batch
from equipoise.train.token_caches import find_tokens
from equipoise.train.world import World
from tests.tiny_run import run_settings


@pytest.mark.parametrize(
    ("slates", "shares", "steps"),
    [(200, 1, (45, 50)), (1000, 1, (48, 50)), (1000, 4, (48, 50)), (60, 1, (13, 15)), (200, 8, (5, 6.25))],
)
def test_an_epoch_of_small_data_has_many_steps(slates: int, shares: int, steps: tuple[float, float]) -> None:
    each = 240
    budget = auto_budget(each * slates, slates, shares)
    assert steps[0] <= each * slates / (budget * shares) <= steps[1]
    assert budget >= LEAST_SLATES * each


def test_large_data_have_the_largest_batch() -> None:
    assert auto_budget(240 * 10**7, 10**7, 8) == MOST_AUTO_TOKENS
    assert auto_budget(MOST_AUTO_TOKENS * STEPS, 1000, 1) == MOST_AUTO_TOKENS


def test_heads_alone_take_smaller_batches_of_small_splits() -> None:
    assert [slates_of_batch(slates, 64) for slates in (60, 500, 3200, 10**6)] == [4, 10, 64, 64]


def test_a_job_settles_it_by_its_data_and_by_what_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.model_validate(run_settings(tmp_path, batch_size=None))
    prepare(config.data)
    tokens = find_tokens(config)
    settled = settle_batch(config, tokens)
    budget = settled.train.max_tokens
    assert isinstance(budget, int)
    assert settle_batch(settled, tokens) is settled  # a number stays
    data = open_data(config, "train", {}, tokens)
    slates = len(data.slates)
    found = train_batches(settled, data, World()).order.steps(1.0, 1)
    assert slates // (LEAST_SLATES + 1) <= found <= slates // (LEAST_SLATES - 1)

    begun = config.model_copy(update={"train": config.train.model_copy(update={"max_tokens": 777})})
    assert settle_batch(config, tokens, begun).train.max_tokens == 777
    by_slates = RunConfig.model_validate(run_settings(tmp_path, batch_size=2))
    assert settle_batch(config, tokens, by_slates).train.max_tokens == budget  # which --resume then refuses
    assert settle_batch(by_slates, tokens) is by_slates

    monkeypatch.setenv("WORLD_SIZE", "2")
    assert settle_batch(config, tokens).train.max_tokens == budget  # at least so many slates on each
