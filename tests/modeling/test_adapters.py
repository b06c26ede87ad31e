"""Where adapters are put, what they train, and how they are switched."""

import re
from collections.abc import Callable

import pytest
import torch

from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig, LoraConfig
from equipoise.modeling.adapters import activate, adapter_of, inject_adapters, lora_layers, target_modules
from equipoise.modeling.backbone import find_layers, load_backbone

LINEARS = {
    "llama": 7,
    "qwen3": 7,
    "mistral": 7,
    "gpt2": 4,
    "bert": 6,
}


@pytest.mark.parametrize("arch", LINEARS)
def test_adapters_lie_in_disjoint_layers_and_alone_train(
    arch: str, tiny_backbone: Callable[..., BackboneConfig]
) -> None:
    model = load_backbone(tiny_backbone(arch))
    before = {name: p.clone() for name, p in model.named_parameters()}
    inject_adapters(model, 1, ["ctr", "cvr"], LoraConfig(rank=4))
    name, _ = find_layers(model)
    placed: dict[str, set[int]] = {}
    count = 0
    for parameter_name, parameter in model.named_parameters():
        adapter = adapter_of(parameter_name)
        assert parameter.requires_grad == (adapter is not None)
        if adapter is None:
            assert torch.equal(parameter, before[parameter_name.replace(".base_layer", "")])
            continue
        layer = re.match(rf"{re.escape(name)}\.(\d+)\.", parameter_name)
        placed.setdefault(adapter, set()).add(int(layer[1]))
        count += 1
        assert (parameter.abs().max() == 0) == (".lora_B." in parameter_name)  # starts without effect, able to learn
    assert placed == {"shared": {0}, "ctr": {1, 2, 3}, "cvr": {1, 2, 3}}
    assert count == 2 * LINEARS[arch] * (1 + 3 + 3)


@pytest.mark.parametrize(("arch", "found"), [("llama", 3), ("gpt2", 1), ("bert", 3)])
def test_attention_targets(arch: str, found: int, tiny_backbone: Callable[..., BackboneConfig]) -> None:
    layer = find_layers(load_backbone(tiny_backbone(arch)))[1][0]
    (chosen,) = target_modules([layer], "attention")
    assert len(chosen) == found
    assert not any("mlp" in name or "output" in name or "o_proj" in name for name in chosen)


def test_named_targets(tiny_backbone: Callable[..., BackboneConfig]) -> None:
    layer = find_layers(load_backbone(tiny_backbone("llama")))[1][0]
    assert target_modules([layer], ["q_proj", "mlp.up_proj"]) == [["self_attn.q_proj", "mlp.up_proj"]]
    with pytest.raises(
        UserError, match=r"lora\.targets: 'qq_proj' is no linear module of a layer: choose from self_attn"
    ):
        target_modules([layer], ["q_proj", "qq_proj"])


@pytest.mark.parametrize("split", [0, 4, 9])
def test_a_split_without_trunk_or_tower_is_refused(split: int, tiny_backbone: Callable[..., BackboneConfig]) -> None:
    with pytest.raises(UserError, match=rf"backbone\.split: {split} must lie between 1 and 3"):
        inject_adapters(load_backbone(tiny_backbone("llama")), split, ["ctr"], LoraConfig())


def test_adapters_of_a_bfloat16_base_are_float32(tiny_backbone: Callable[..., BackboneConfig]) -> None:
    model = load_backbone(tiny_backbone("llama", dtype="bfloat16"))
    inject_adapters(model, 2, ["ctr"], LoraConfig(rank=4))
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if adapter_of(name) else torch.bfloat16)


def test_switching_selects_one_adapter_and_leaves_gradients_alone(
    tiny_backbone: Callable[..., BackboneConfig],
) -> None:
    model = load_backbone(tiny_backbone("llama"))
    inject_adapters(model, 2, ["ctr", "cvr"], LoraConfig(rank=4, alpha=12.0, rslora=False))
    layer = lora_layers(model.layers[2].mlp)[0]
    with torch.no_grad():
        layer.lora_B["ctr"].weight.normal_()
        layer.lora_B["cvr"].weight.normal_()
        x = torch.randn(3, 32)
        base = layer.base_layer(x)
        for name in ("ctr", "cvr", "ctr"):
            activate(layer, [name])
            # W x + (alpha / rank) B A x
            expected = base + 3.0 * x @ layer.lora_A[name].weight.T @ layer.lora_B[name].weight.T
            torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
            assert all(p.requires_grad for n, p in layer.named_parameters() if "lora_" in n)


def test_the_adapter_of_a_parameter() -> None:
    assert adapter_of("backbone.upper.0.mlp.up_proj.lora_A.ctr.weight") == "ctr"
    assert adapter_of("backbone.trunk.layers.0.mlp.lora_B.shared.weight") == "shared"
    assert adapter_of("backbone.upper.0.mlp.up_proj.base_layer.weight") is None
    assert adapter_of("heads.ctr.score.weight") is None


def test_a_layer_without_linear_modules_is_no_backbone():
    with pytest.raises(UserError, match=r"backbone\.path: layer 0 has no linear module"):
        target_modules([torch.nn.Sequential(torch.nn.Conv1d(4, 4, 1))], "all-linear")
