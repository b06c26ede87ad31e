"""A base's weights are loaded whole and alone, or refused in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig
from equipoise.modeling.backbone import load_backbone

WEIGHTS = "model.safetensors"


@pytest.fixture
def base(tiny_backbone: Callable[..., BackboneConfig], tmp_path: Path) -> BackboneConfig:
    """A tiny Llama with weights in a folder of its own."""
    load_backbone(tiny_backbone("llama"), 1).save_pretrained(tmp_path)
    return BackboneConfig(path=str(tmp_path))


def test_a_base_that_lacks_weights_is_refused(base: BackboneConfig) -> None:
    load_backbone(base)
    file = Path(base.path) / WEIGHTS
    tensors = load_file(file)
    save_file({name: t for name, t in tensors.items() if "layers.2." not in name}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 9 weights, such as layers\.2\.input_layernorm\.weight"):
        load_backbone(base)


@pytest.mark.parametrize("size", [0, 7, 100, 5000])
def test_a_cut_file_is_refused(base: BackboneConfig, size: int) -> None:
    file = Path(base.path) / WEIGHTS
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match=r"the weights in .* cannot be loaded .*: restore the files") as caught:
        load_backbone(base)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 7, 5000])
def test_a_cut_file_of_torch_is_refused(base: BackboneConfig, size: int) -> None:
    file = Path(base.path) / WEIGHTS
    other = file.with_name("pytorch_model.bin")
    torch.save(load_file(file), other)
    file.unlink()
    load_backbone(base)
    other.write_bytes(other.read_bytes()[:size])
    with pytest.raises(UserError, match=r"the weights in .* cannot be loaded"):
        load_backbone(base)


def test_a_missing_or_strange_shard_is_refused(base: BackboneConfig) -> None:
    folder = Path(base.path)
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = dict.fromkeys(tensors, "model-00001-of-00002.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_backbone(base)
    index.write_text("{")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_backbone(base)


def test_an_adapter_beside_the_weights_is_refused(base: BackboneConfig, tmp_path: Path) -> None:
    adapted = get_peft_model(load_backbone(base), LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"holds a PEFT adapter .*merge it into the weights, or move"):
        load_backbone(base)
