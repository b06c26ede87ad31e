"""What may change on resume is a list; the rest is refused, and what changed is said."""

import logging
from pathlib import Path
from typing import Any

import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.modeling.base_identity import Identity
from equipoise.train.resume import refuse_changed_base, refuse_changed_settings, write_inputs

RUN = Path("runs/one")
BASE: dict[str, Any] = {
    "name": "run",
    "output": "runs/one",
    "data": {"folder": "prepared", "tables": {"impressions": "a.csv", "items": "b.csv"}},
    "backbone": {"path": "base"},
    "objectives": {"ctr": {}, "cvr": {}},
    "train": {"batch_size": 4},
}


def config(*path: str, value: Any = None) -> RunConfig:
    settings = RunConfig.model_validate(BASE).model_dump(mode="json")
    at = settings
    for key in path[:-1]:
        at = at[key]
    if path:
        at[path[-1]] = value
    return RunConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 99),
        ("lora.alpha", 64),
        ("lora.rank", 4),
        ("lora.rslora", True),
        ("lora.scope", "all"),
        ("lora.dropout", 0.1),
        ("backbone.split", 3),
        ("backbone.layers", 3),
        ("backbone.pooling", "mean"),
        ("backbone.init", "random"),
        ("tokens.max_prefix", 40),
        ("tokens.max_candidate", 40),
        ("train.batch_size", 8),
        ("train.accumulate", 2),
        ("train.negatives", 4),
        ("train.precision", "bf16"),
        ("train.feature_dropout", 0.2),
        ("train.learned_lr_ratio", 0.2),
        ("objectives.ctr.weight", 2.0),
        ("balancing.method", "mgda"),
        ("balancing.normalize", "none"),
        ("data.prompt.item", ["{name}"]),
        ("data.max_candidates", 8),
        ("relevance", "log(ctr)"),
    ],
)
def test_what_makes_another_run_is_refused(path: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"cannot go on with other settings .*{path}.*\(was .*, now .*--overwrite"):
        refuse_changed_settings(config(), config(*path.split("."), value=value), RUN)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.lr", 1e-4),
        ("train.head_lr", 1e-4),
        ("train.max_steps", 100),
        ("train.epochs", 3.0),
        ("train.save_every", 5),
        ("train.select", {"valid/ctr/auc": 1.0}),
        ("train.max_nonfinite", 5),
        ("evaluate.cutoffs", [5]),
        ("tokens.max_row", 512),
        ("backbone.path", "moved"),
        ("backbone.attention", "sdpa"),
    ],
)
def test_what_may_change_is_said(path: str, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        refuse_changed_settings(config(), config(*path.split("."), value=value), RUN)
    assert "changed since the run began: " in caplog.text and path in caplog.text and "→" in caplog.text


@pytest.mark.parametrize(("path", "value"), [("output", "runs/two"), ("data.folder", "moved"), ("wandb.tags", ["a"])])
def test_places_change_without_a_word(path: str, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        refuse_changed_settings(config(), config(*path.split("."), value=value), RUN)
    assert not caplog.text


def test_another_base_than_it_began_on_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    began = Identity({"model.safetensors": "a"}, "t", {})
    with caplog.at_level(logging.INFO):
        refuse_changed_base(began, config(), tmp_path)
    assert "does not say on which weights" in caplog.text
    write_inputs(began, tmp_path)
    refuse_changed_base(began, config(), tmp_path)
    with pytest.raises(UserError, match=r"trained on another base model .*model\.safetensors"):
        refuse_changed_base(Identity({"model.safetensors": "b"}, "t", {}), config(), tmp_path)
    with pytest.raises(UserError, match="trained with another tokenizer"):
        refuse_changed_base(Identity({"model.safetensors": "a"}, "u", {}), config(), tmp_path)
    (tmp_path / "inputs.json").write_text("{")
    with pytest.raises(UserError, match=r"inputs\.json cannot be read"):
        refuse_changed_base(began, config(), tmp_path)
