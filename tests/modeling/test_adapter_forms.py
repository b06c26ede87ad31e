"""Adapters of several ranks, and such as begin as principal directions."""

from collections.abc import Callable

import pytest
import torch

from equipoise.common.errors import UserError
from equipoise.configs.schema import BackboneConfig, LoraConfig
from equipoise.modeling.adapters import activate, inject_adapters, lora_layers
from equipoise.modeling.backbone import find_layers, load_backbone
from equipoise.modeling.fused.layers import adapter_bank, adapter_scale
from equipoise.modeling.principal import NORM, principal_directions, start_principal

Tiny = Callable[..., BackboneConfig]


@pytest.mark.parametrize("rslora", [False, True])
def test_ranks_differ_by_adapter_and_module_and_the_scale_does_not(tiny_backbone: Tiny, rslora: bool) -> None:
    model = load_backbone(tiny_backbone("llama"))
    ranks = {"shared": 2, "cvr": 8, "down_proj": 3, "self_attn.o_proj": 1}
    inject_adapters(model, 1, ["ctr", "cvr"], LoraConfig(rank=4, alpha=6, rslora=rslora, ranks=ranks))
    _, layers = find_layers(model)

    def rank(layer: int, module: str, adapter: str) -> int:
        return layers[layer].get_submodule(module).lora_A[adapter].weight.shape[0]

    assert [rank(0, f"self_attn.{name}_proj", "shared") for name in "qkvo"] == [2, 2, 2, 1]
    assert [rank(1, "self_attn.q_proj", name) for name in ("ctr", "cvr")] == [4, 8]
    assert [rank(1, "mlp.down_proj", name) for name in ("ctr", "cvr")] == [3, 3]
    scales = [scale for layer in lora_layers(model) for scale in layer.scaling.values()]
    assert scales == pytest.approx([6 / (2 if rslora else 4)] * len(scales))
    assert adapter_scale(layers[:1]) == pytest.approx(scales[0])
    with pytest.raises(UserError, match=r"backbone\.kernels: fused .* lora\.ranks gives them several ranks"):
        adapter_bank(layers[1:], ["ctr", "cvr"], scales[0])


def test_an_unknown_name_among_ranks_is_refused(tiny_backbone: Tiny) -> None:
    message = (
        r"lora\.ranks names 'cxr', which is neither an adapter \(shared, ctr\) nor a module with one \(q_proj, k_proj"
    )
    with pytest.raises(UserError, match=message):
        inject_adapters(load_backbone(tiny_backbone("llama")), 1, ["ctr"], LoraConfig(rank=4, ranks={"cxr": 2}))


@pytest.mark.parametrize("arch", ["llama", "gpt2"])  # Conv1D holds its weight the other way round
def test_principal_adapters_read_what_their_weight_makes_largest(arch: str, tiny_backbone: Tiny) -> None:
    model = load_backbone(tiny_backbone(arch))
    inject_adapters(model, 1, ["ctr", "cvr"], LoraConfig(rank=4, ranks={"cvr": 6}))
    state = torch.random.get_rng_state()
    before = {name: p.clone() for name, p in model.named_parameters() if ".lora_A." not in name}
    start_principal(model)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else draws other numbers
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)
    layer = lora_layers(find_layers(model)[1][2])[0]
    weight = layer.get_base_layer().weight.detach()
    weight = weight.T if arch == "gpt2" else weight
    strongest = torch.linalg.svd(weight, full_matrices=False)
    for name, rank in (("ctr", 4), ("cvr", 6)):
        rows = layer.lora_A[name].weight
        assert torch.allclose(rows @ rows.T, NORM**2 * torch.eye(rank), atol=1e-5)
        reached = (weight @ rows.T / NORM).norm(dim=0)
        assert (
            reached.square().sum() > 0.99 * strongest.S[:rank].square().sum()
        )  # of random weights, whose values lie close
    once = layer.lora_A["ctr"].weight.clone()
    start_principal(model)
    assert torch.equal(layer.lora_A["ctr"].weight, once)


def test_principal_adapters_change_nothing_before_the_first_step(tiny_backbone: Tiny) -> None:
    model = load_backbone(tiny_backbone("llama", attention="sdpa")).eval()
    ids = torch.arange(6)[None]
    with torch.inference_mode():
        plain = model(input_ids=ids, use_cache=False).last_hidden_state
    inject_adapters(model, 1, ["ctr"], LoraConfig(rank=4))
    start_principal(model)
    for layer in lora_layers(model):
        activate(layer, next(iter(layer.lora_A)))
    with torch.inference_mode():
        assert torch.equal(model(input_ids=ids, use_cache=False).last_hidden_state, plain)


def test_directions_of_a_weight_of_low_rank_and_of_a_small_one() -> None:
    torch.manual_seed(3)
    low = torch.randn(20, 2) @ torch.randn(2, 30)
    rows = principal_directions(low, 2)
    assert torch.allclose(low @ rows.T @ rows, low, atol=1e-4)
    assert principal_directions(torch.randn(3, 30), 8).shape == (3, 30)


def test_packed_weights_are_refused(tiny_backbone: Tiny) -> None:
    model = load_backbone(tiny_backbone("llama"))
    inject_adapters(model, 1, ["ctr"], LoraConfig(rank=4))
    packed = lora_layers(model)[0].get_base_layer().weight
    packed.data = packed.data.to(torch.uint8)
    with pytest.raises(UserError, match=r"lora\.init: principal reads the base's weights, which backbone\.quantize"):
        start_principal(model)
    packed.data = torch.empty(0)
    with pytest.raises(UserError, match="principal reads whole weights, which ZeRO-3 has cut up"):
        start_principal(model)
