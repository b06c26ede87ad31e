"""A real pretrained decoder, its first layers: packed slates, towers and gradients against the stock class."""

import numpy as np
import pytest
import torch
from transformers import AutoModel

from equipoise.configs.schema import BackboneConfig, LoraConfig, TokensConfig
from equipoise.data.batches import Slate, SlateBatch, build_batch
from equipoise.data.tokens import SlateTokenizer
from equipoise.modeling.base_config import load_tokenizer
from equipoise.modeling.base_files import resolve_path
from equipoise.modeling.model import ForwardRequest, ModelSpec, SlateModel, build_model
from equipoise.train.kernel_choice import kernel_difference
from equipoise.train.self_check import self_check
from equipoise.train.world import World
from tests.decoder import SMOLLM2, needs_smollm2

pytestmark = needs_smollm2
LAYERS = 4
TITLES = ["organic green tea, 40 bags", "whole wheat bread", "shaving foam for men", "Gouda cheese, sliced", "crisps"]
PREFIXES = ["shopped 127 times, often buys tea, honey and biscuits", "age 45-54, often buys soap"]


def slates() -> list[Slate]:
    tokenizer = load_tokenizer(BackboneConfig(path=SMOLLM2))
    tokens = SlateTokenizer(tokenizer, TokensConfig(), False, TITLES)
    zeros = np.zeros(len(TITLES), dtype=np.int64)
    contexts = ["", "bought 3 times", "", "never bought", "last 12 days ago"]
    return [
        Slate(row, tokens.prefix(prefix), tokens.candidates(range(len(TITLES)), contexts), zeros, zeros, zeros)
        for row, prefix in enumerate(PREFIXES)
    ]


@pytest.fixture(scope="module")
def batch() -> SlateBatch:
    return build_batch(slates(), 1000, 0)


def decoder(scope: str = "candidates", trained: bool = True, **backbone: object) -> SlateModel:
    """Four layers, two of them towers of ctr, cvr and diversity; `trained`: the adapters hold random numbers."""
    settings = BackboneConfig(path=SMOLLM2, **{"layers": LAYERS, "split": 2, **backbone})
    lora, offsets = LoraConfig(rank=4, alpha=8, scope=scope), {"ctr": -1.5, "cvr": -0.5}
    model = build_model(ModelSpec(settings, lora, {"ctr": 1, "cvr": 1}, ("diversity",), offsets, 3))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if trained and ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model.eval()


@torch.no_grad()
def test_packed_slates_are_separate_prompts_in_the_stock_class(batch: SlateBatch) -> None:
    stock = AutoModel.from_pretrained(resolve_path(SMOLLM2)).eval()
    assert len(stock.layers) == 30
    stock.layers = stock.layers[:LAYERS]
    model = decoder(trained=False)
    packed = model(request=ForwardRequest(batch.model_inputs(), keep_vectors=True))["ctr.vector"]
    prompts = [slate.prefix + candidate for slate in slates() for candidate in slate.candidates]
    alone = [stock(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1] for ids in prompts]
    torch.testing.assert_close(packed, torch.stack(alone), rtol=1e-4, atol=1e-4 * float(packed.abs().max()))
    assert torch.pdist(packed).min() > 0.01 * packed.norm(dim=1).mean()  # no two candidates are alike


@pytest.mark.parametrize("scope", ["all", "candidates"])
def test_every_tower_sees_a_packed_slate_as_separate_prompts(scope: str, batch: SlateBatch) -> None:
    model = decoder(scope)
    assert self_check(model, model, batch, World()) < 1e-4


def test_in_bfloat16_packed_and_separate_differ_by_rounding_alone(batch: SlateBatch) -> None:
    model = decoder(dtype="bfloat16")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert self_check(model, model, batch, World(), "bf16") < 8e-2


def test_towers_learn_and_leave_each_other_alone(batch: SlateBatch) -> None:
    model = decoder(trained=False).train()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(".lora_" in name or name.startswith("heads.") for name in named)
    optimizer = torch.optim.AdamW(named.values(), lr=3e-3)
    clicks, losses = torch.tensor([1.0, 0, 0, 1, 0] * 2), []
    before = {name: p.detach().clone() for name, p in named.items()}
    for _ in range(6):
        logits = model.score(batch.model_inputs())["ctr"]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, clicks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    moved = {name for name, p in named.items() if p.grad is not None}
    assert any(".shared." in name for name in moved) and any(".ctr." in name for name in moved)
    assert all(torch.equal(p, before[name]) for name, p in named.items() if ".cvr." in name or ".diversity." in name)


@pytest.mark.parametrize("scope", ["all", "candidates"])
def test_fused_kernels_give_outputs_and_gradients_of_the_stock_layers(scope: str, batch: SlateBatch) -> None:
    model = decoder(scope)
    model.use_fused()
    assert kernel_difference(model, batch) < 1e-4
