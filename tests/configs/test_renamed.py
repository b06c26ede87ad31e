"""Settings under the names of the version before."""

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from equipoise.common.errors import UserError
from equipoise.configs import load
from equipoise.configs.load import build_config, load_config, read_run_config
from equipoise.configs.renamed import RENAMED, with_new_names
from equipoise.sweep.config import load_sweep
from equipoise.sweep.plan import make_plan

OLD: dict[str, Any] = {
    "name": "run",
    "output": "runs/run",
    "data": {
        "folder": "prepared",
        "source": "complete_journey",
        "split": {"valid_share": 0.3, "test_share": 0.25},
        "features": ["price", {"name": "kind", "scale": "category", "slopes": False, "told": False}],
    },
    "backbone": {"path": "x"},
    "objectives": {"ctr": {}},
    "train": {"forget": 0.2},
}


@pytest.fixture(autouse=True)
def _warn_anew() -> None:
    load._warn.cache_clear()


def of_ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The records of this package: W&B, if a test before has used it, may log from a thread of its own."""
    return [record for record in caplog.records if record.name.startswith("equipoise")]


def settings_of(config: Any) -> tuple[Any, ...]:
    split, feature = config.data.split, config.data.features[1]
    return (
        config.train.feature_dropout,
        split.valid_fraction,
        split.test_fraction,
        feature.interactions,
        feature.included,
    )


def test_old_names_are_read_with_one_warning_each(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            config = build_config(OLD, [], Path("run.yaml"))
    assert settings_of(config) == (0.2, 0.3, 0.25, False, False)
    said = [record.getMessage() for record in of_ours(caplog)]
    assert len(said) == len(RENAMED)
    assert said[0].startswith("'train.forget' is now called 'train.feature_dropout': rename it")
    assert OLD["train"] == {"forget": 0.2}


def test_overrides_may_use_either_name(caplog: pytest.LogCaptureFixture) -> None:
    new = with_new_names(OLD)[0]
    for settings in (OLD, new):
        for key in ("forget", "feature_dropout"):
            assert build_config(settings, [f"train.{key}=0.4"], Path("x")).train.feature_dropout == 0.4
    assert build_config(new, ["train={forget: 0.1}"], Path("x")).train.feature_dropout == 0.1
    assert "train.forget" in caplog.text


def test_both_names_at_once_are_refused() -> None:
    both = {**OLD, "train": {"forget": 0.2, "feature_dropout": 0.1}}
    with pytest.raises(UserError, match=r"'forget' is the old name of 'train\.feature_dropout'.*drop 'forget'"):
        build_config(both, [], Path("run.yaml"))


def test_a_run_of_before_is_read_silently(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(OLD))
    assert settings_of(read_run_config(tmp_path)) == (0.2, 0.3, 0.25, False, False)
    assert not of_ours(caplog)
    assert settings_of(load_config(tmp_path / "config.yaml")) == (0.2, 0.3, 0.25, False, False)
    assert len(of_ours(caplog)) == len(RENAMED)


def test_a_sweep_may_vary_a_setting_by_its_old_name(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(OLD))
    sweep = {"name": "s", "base": str(tmp_path / "base.yaml"), "output": str(tmp_path / "out")}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**sweep, "grid": {"train.forget": [0.1, 0.5]}}))
    plan = make_plan(load_sweep(tmp_path / "sweep.yaml"))
    assert [run.config.train.feature_dropout for run in plan] == [0.1, 0.5]
