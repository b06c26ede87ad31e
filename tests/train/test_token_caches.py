"""Who makes a token cache, who asks for it, and that a second start tokenises nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.slates import prepare
from equipoise.data.tokens import SlateTokenizer
from equipoise.train.assemble import DataParts, open_data, open_split, train_batches
from equipoise.train.token_caches import find_tokens, make_tokens
from equipoise.train.world import World
from tests.tiny_run import run_settings

ROOT = Path(__file__).resolve().parents[2]


def refuse(self: Any, texts: list[str]) -> Any:
    raise AssertionError("a text is tokenised")


@pytest.fixture(scope="module")
def make_config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunConfig]:
    """The tiny run's config, its data prepared but not tokenised; `train` settings in place of its own."""

    def make(**train: Any) -> RunConfig:
        settings = run_settings(tmp_path_factory.mktemp("caches"), **train)
        config = RunConfig.model_validate(settings)
        prepare(config.data)
        return config

    return make


def open_train(config: RunConfig) -> DataParts:
    return open_data(config, "train", {}, find_tokens(config))


def test_one_process_makes_the_cache_and_starts_from_it_ever_after(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(batch_size=None, max_tokens=300)
    first = open_train(config)
    batch = train_batches(config, first, World())[0]
    assert 0 < (batch.segment_ids >= 0).sum() <= 300
    monkeypatch.setattr(SlateTokenizer, "ids", refuse)
    monkeypatch.setattr("equipoise.data.slate_set.SlateSet.rows", property(refuse))  # nor are the texts read again
    again = open_train(config)
    same = train_batches(config, again, World())[0]
    assert np.array_equal(batch.input_ids, same.input_ids)
    assert len(open_split(again, "valid").slates.slate(0).candidates) == 8
    with pytest.raises(AssertionError, match="a text is tokenised"):  # the patch would be felt
        find_tokens(config.model_copy(update={"tokens": config.tokens.model_copy(update={"max_prefix": 47})}))


def test_several_processes_ask_for_the_cache_and_never_make_it(
    make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"prepared holds no tokens .*: run `equipoise tokenize CONFIG` with the same"):
        find_tokens(config)
    assert not (config.data.folder / "tokens").exists()
    monkeypatch.delenv("WORLD_SIZE")
    cache, made = make_tokens(config)
    assert made
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert find_tokens(config).folder == cache.folder


def test_a_damaged_cache_stops_a_job_and_is_mended_by_the_command(make_config: Callable[..., RunConfig]) -> None:
    config = make_config()
    cache, _ = make_tokens(config)
    assert make_tokens(config)[1] is None
    (cache.folder / "train.item.npy").unlink()
    with pytest.raises(UserError, match=r"train\.item\.npy is missing or cut short: run `equipoise tokenize CONFIG`"):
        find_tokens(config)
    assert make_tokens(config)[1] is True
    assert find_tokens(config).counts == cache.counts


@pytest.mark.parametrize(
    ("train", "order"), [({"batch_size": 4}, "BatchOrder"), ({"batch_size": None, "max_tokens": 400}, "BudgetOrder")]
)
def test_the_setting_chooses_the_measure(
    train: dict[str, Any], order: str, make_config: Callable[..., RunConfig]
) -> None:
    config = make_config(**train)
    assert type(train_batches(config, open_train(config), World()).order).__name__ == order
