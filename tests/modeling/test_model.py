"""The slate model against plain transformers, packed against unpacked, and tower against tower."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.pytorch_utils import Conv1D

from equipoise.common.errors import UserError
from equipoise.configs.schema import LoraConfig
from equipoise.data.batches import Slate, build_batch
from equipoise.modeling.adapters import lora_layers
from equipoise.modeling.boundary import StepContext
from equipoise.modeling.model import ModelSpec, SlateModel, build_model

RELATIVES = ["qwen3", "mistral"]
"""Close to llama: left out by `make test-quick` where a test takes all architectures."""
ARCHITECTURES = ["llama", *(pytest.param(arch, marks=pytest.mark.slow) for arch in RELATIVES), "gpt2", "bert"]
LENGTHS = [5, 3, 7, 1, 4, 6]


def run(
    model: SlateModel, slates: list[Slate], max_row: int = 1000, step: StepContext | None = None
) -> dict[str, torch.Tensor]:
    return model.score(build_batch(slates, max_row, pad_id=0).model_inputs(), step)


def only(slate: Slate, *which: int) -> Slate:
    """The slate with these candidates alone, in this order."""
    index = list(which)
    arrays = {name: getattr(slate, name)[index] for name in ("item", "click", "conversion")}
    return replace(slate, candidates=[slate.candidates[i] for i in index], **arrays)


def separately(model: SlateModel, slate: Slate, name: str) -> torch.Tensor:
    return torch.cat([run(model, [only(slate, i)])[name] for i in range(len(slate.candidates))])


def adapter_gradients(model: SlateModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named.items(), grads, strict=True)}


def stock_model(model: SlateModel, folder: str, seed: int, tower: str) -> nn.Module:
    """Plain transformers' model of the same base, the LoRA products of `shared` and `tower` added to its weights."""
    torch.manual_seed(seed)
    stock = AutoModel.from_config(AutoConfig.from_pretrained(folder), attn_implementation="sdpa").eval()
    layers = stock.get_submodule(model.backbone.layers_name)
    merged = 0
    with torch.no_grad():
        for half, start, adapter in ((model.backbone.trunk, 0, "shared"), (model.backbone.upper, 2, tower)):
            named = dict(half.named_parameters())
            for name, down in named.items():
                found = re.search(rf"(\d+)\.(.+)\.lora_A\.{adapter}\.weight$", name)
                if found is None:
                    continue
                up = named[name.replace(".lora_A.", ".lora_B.")]
                target = layers[start + int(found[1])].get_submodule(found[2])
                change = (up @ down) * (8.0 / 4)  # alpha / rank
                target.weight += change.T if isinstance(target, Conv1D) else change
                merged += 1
    assert merged >= 4 * 4
    return stock


def stock_logit(stock: nn.Module, model: SlateModel, slate: Slate, index: int, tower: str) -> torch.Tensor:
    """The logit of one candidate from a plain prompt, by plain transformers and the linear head."""
    ids = torch.tensor([slate.prefix + slate.candidates[index]])
    prefix = len(slate.prefix)
    if model.backbone.encoder:  # the one thing that is not stock: prefix tokens do not see the candidate
        mask = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)
        mask[:, :, :prefix, prefix:] = False
        states = stock(input_ids=ids, attention_mask=mask).last_hidden_state[0, prefix:]
        pooled = states.mean(0) if model.backbone.pooling == "mean" else states[-1]
    else:
        pooled = stock(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
    return pooled @ model.heads[tower].score.weight[0] + model.offsets[tower]


@pytest.mark.parametrize(
    ("arch", "pooling"),
    [
        *((arch, "last") for arch in ("llama", *RELATIVES, "gpt2", "bert", "roberta")),
        ("bert", "mean"),
        ("roberta", "mean"),
    ],
)
def test_packed_scores_are_those_of_the_stock_model(
    arch: str, pooling: str, make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    model, slate = make_model(arch, pooling=pooling), make_slate(0, LENGTHS)
    folder = model.backbone.config._name_or_path
    with torch.no_grad():
        outputs = run(model, [make_slate(1, [2, 8]), slate])
        for tower in ("ctr", "cvr"):
            stock = stock_model(model, folder, 3, tower)
            expected = torch.stack([stock_logit(stock, model, slate, i, tower) for i in range(len(LENGTHS))])
            assert expected.max() - expected.min() > 0.2
            assert (expected[:, None] - expected[None]).abs().fill_diagonal_(1).min() > 3e-4
            torch.testing.assert_close(outputs[tower][2:], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_trunk_and_tower_without_adapters_are_the_stock_model(
    arch: str, make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    model, slate = make_model(arch, random_adapters=False), make_slate(2, LENGTHS)
    torch.manual_seed(3)
    stock = AutoModel.from_config(AutoConfig.from_pretrained(model.backbone.config._name_or_path)).eval()
    with torch.no_grad():
        outputs = run(model, [slate])
        expected = torch.stack([stock_logit(stock, model, slate, i, "ctr") for i in range(len(LENGTHS))])
    torch.testing.assert_close(outputs["ctr"], expected, rtol=1e-5, atol=1e-6)
    assert outputs["ctr"].std() > 1e-3


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_packing_changes_neither_scores_nor_gradients(
    arch: str, make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    model, slates = make_model(arch), [make_slate(4, LENGTHS), make_slate(5, [2, 2, 9], prefix=14)]
    coefficients = torch.randn(9, generator=torch.Generator().manual_seed(1))
    assert build_batch(slates, 22, 0).input_ids.shape[0] == 5  # rows of 2, 3, 1 and of 2, 1 candidates
    packed, split = run(model, slates), run(model, slates, max_row=22)
    for name in ("ctr", "cvr"):
        alone = torch.cat([separately(model, slate, name) for slate in slates])
        expected = adapter_gradients(model, (alone * coefficients).mean())
        scale = max(float(g.abs().max()) for g in expected.values())
        assert scale > 1e-2
        for outputs in (packed, split):
            torch.testing.assert_close(outputs[name], alone, rtol=1e-5, atol=1e-5)
            for parameter, gradient in adapter_gradients(model, (outputs[name] * coefficients).mean()).items():
                torch.testing.assert_close(gradient, expected[parameter], rtol=0, atol=1e-5 * max(1.0, scale))
    torch.testing.assert_close(split["diversity"], packed["diversity"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "bert"])
def test_a_score_depends_on_its_own_candidate_alone(
    arch: str, make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    model, slate, other = make_model(arch), make_slate(6, LENGTHS), make_slate(7, LENGTHS)
    exchanged = replace(slate, candidates=[slate.candidates[0], *other.candidates[1:], *other.candidates])
    arrays = {
        name: getattr(slate, name).repeat(2)[: len(exchanged.candidates)] for name in ("item", "click", "conversion")
    }
    exchanged = replace(exchanged, **arrays)
    with torch.no_grad():
        before, after = run(model, [slate]), run(model, [exchanged, other])
    for name in ("ctr", "cvr"):
        torch.testing.assert_close(after[name][0], before[name][0], rtol=1e-5, atol=1e-5)
        assert (after[name][1:6] - before[name][1:]).abs().min() > 1e-3  # the others have changed indeed
    assert abs(after["diversity"][0] - before["diversity"][0]) > 1e-3  # δ alone reads the slate


@pytest.mark.parametrize("arch", ["qwen3", "gpt2", "bert"])
def test_scores_follow_the_order_of_the_candidates(
    arch: str, make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    model, slate = make_model(arch, listwise=("diversity", "fairness")), make_slate(8, LENGTHS)
    order = [3, 0, 5, 1, 4, 2]
    with torch.no_grad():
        before = run(model, [slate])
        after = run(model, [make_slate(9, [4, 4]), only(slate, *order)], max_row=30)
    for name in ("ctr", "cvr", "diversity", "fairness"):
        assert before[name].std() > 0.1
        torch.testing.assert_close(after[name][2:], before[name][order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arch", ["mistral", "bert"])
def test_the_first_ranking_is_relevance(
    arch: str, make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    model = make_model(arch, random_adapters=False, listwise=("diversity", "coverage"))
    outputs = run(model, [make_slate(10, LENGTHS), make_slate(11, [3])])
    for name in ("diversity", "coverage"):
        assert torch.equal(outputs[name], torch.zeros(7))
    # … but not stuck there: the head's last layer learns at once.
    outputs["diversity"].sum().backward()
    assert model.heads["diversity"].out.weight.grad.abs().max() > 1e-3
    # The first logits are the base rates', give or take little, in every tower.
    assert (outputs["ctr"] + 1.5).abs().max() < 0.5
    assert (outputs["cvr"] + 0.5).abs().max() < 0.5


def test_every_output_has_its_own_adapter_and_all_share_the_trunk(
    make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    model = make_model("llama", pointwise={"ctr": 1, "cvr": 2}, listwise=("diversity", "fairness"))
    slates = [make_slate(12, LENGTHS)]
    names = ("ctr", "cvr", "cvr.1", "diversity", "fairness")
    # The list-wise heads read r, which comes from the pointwise towers.
    moves = {
        "shared": set(names),
        "ctr": {"ctr", "diversity", "fairness"},
        "cvr": {"cvr", "cvr.1", "diversity", "fairness"},
        "diversity": {"diversity"},
        "fairness": {"fairness"},
    }
    with torch.no_grad():
        before = run(model, slates)
        assert set(before) == set(names)
        for adapter, expected in moves.items():
            parameters = [p for name, p in model.named_parameters() if f".lora_B.{adapter}." in name]
            kept = [parameter.clone() for parameter in parameters]
            for parameter in parameters:
                parameter.add_(0.1)
            after = run(model, slates)
            for parameter, values in zip(parameters, kept, strict=True):
                parameter.copy_(values)
            moved = {name for name in names if not torch.equal(before[name], after[name])}
            assert moved == expected, adapter
            assert all((before[name] - after[name]).abs().max() > 1e-3 for name in moved)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_output_trains_its_own_tower_and_the_trunk_only(
    checkpointing: bool, make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    model = make_model("qwen3", listwise=("diversity", "fairness"), checkpointing=checkpointing).train()
    for name in model.objectives:
        model.zero_grad()
        run(model, [make_slate(13, LENGTHS)])[name].square().sum().backward()
        touched = {
            match[1]
            for parameter, p in model.named_parameters()
            if p.grad is not None and p.grad.any() and (match := re.search(r"\.lora_[AB]\.(\w+)\.", parameter))
        }
        assert touched == {"shared", name}
        heads = {
            parameter.split(".")[1]
            for parameter, p in model.named_parameters()
            if p.grad is not None and "heads." in parameter
        }
        assert heads == {name}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_checkpointing_changes_no_gradient(
    arch: str, make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    slates = [make_slate(14, LENGTHS), make_slate(15, [2, 4])]
    grads = []
    for checkpointing in (False, True):
        model = make_model(arch, checkpointing=checkpointing).train()
        step = StepContext(lambda gradients, context: [0.5, 2.0, 1.0])
        calls = {"below": 0, "above": 0}
        trunk_layers = model.backbone.trunk.get_submodule(model.backbone.layers_name)
        for half, layer in (("below", trunk_layers[0]), ("above", model.backbone.upper[0])):
            count_calls(lora_layers(layer)[0], calls, half)
        outputs = run(model, slates, step=step)
        with torch.no_grad():  # a forward in between must not disturb what backward recomputes
            run(model, [make_slate(16, [3, 3, 3])])
        # Two forwards; above the boundary prefixes and candidates apart, for each of three towers.
        assert calls == {"below": 2, "above": 12}
        sum(output.square().mean() for output in outputs.values()).backward()
        assert calls == ({"below": 3, "above": 18} if checkpointing else {"below": 2, "above": 12})
        grads.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert grads[0].keys() == grads[1].keys()
    for name, gradient in grads[0].items():
        assert gradient.abs().max() > 1e-7, name
        torch.testing.assert_close(grads[1][name], gradient, rtol=1e-5, atol=1e-6)


def count_calls(module: nn.Module, calls: dict[str, int], key: str) -> None:
    original = module.forward

    def counted(*args: object, **kwargs: object) -> object:
        calls[key] += 1
        return original(*args, **kwargs)

    module.forward = counted


@pytest.mark.parametrize(
    ("attention", "scope", "expected"),
    [
        ("sdpa", "all", {"embed": 1, "0": 1, "1": 1, "2": 4, "3": 4}),
        # Above the boundary prefixes and candidates apart; in the last layer keys of either, then last tokens.
        ("split", "all", {"embed": 1, "0": 1, "1": 1, "2": 8, "3": 12}),
        # Prefixes once for all towers.
        ("split", "candidates", {"embed": 1, "0": 1, "1": 1, "2": 5, "3": 9}),
    ],
)
def test_the_trunk_runs_once_and_each_upper_layer_once_per_tower(
    attention: str,
    scope: str,
    expected: dict[str, int],
    make_model: Callable[..., SlateModel],
    make_slate: Callable[..., Slate],
) -> None:
    model = make_model("llama", listwise=("diversity", "coverage"), attention=attention, scope=scope)
    calls = {"embed": 0, "0": 0, "1": 0, "2": 0, "3": 0}
    count_calls(model.backbone.trunk.get_input_embeddings(), calls, "embed")
    lower = list(model.backbone.trunk.layers[:2])
    for index, layer in enumerate([*lower, *model.backbone.upper]):
        count_calls(layer, calls, str(index))
    outputs = run(model, [make_slate(17, LENGTHS)])
    assert calls == expected
    sum(output.sum() for output in outputs.values()).backward()
    assert calls == expected


def test_one_backward_through_the_model_solves_once_and_obeys_the_weights(
    make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    model, slates = make_model("llama"), [make_slate(18, LENGTHS)]
    weights = [0.25, 0.0, 3.0]

    def losses(step: StepContext | None = None) -> list[torch.Tensor]:
        return [output.square().mean() for output in run(model, slates, step=step).values()]

    separate = [adapter_gradients(model, losses()[k]) for k in range(3)]
    solves = []
    sum(losses(StepContext(lambda gradients, context: solves.append(gradients) or weights))).backward()
    assert len(solves) == 1
    assert len(solves[0].values) == 3
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        # Below the boundary the weighted sum; above it, every tower's own gradient in full.
        factors = weights if ".shared." in name else [1.0, 1.0, 1.0]
        expected = sum(w * grads[name] for w, grads in zip(factors, separate, strict=True))
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-5)


def test_a_blocked_objective_spares_its_whole_tower(
    make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    model, slates = make_model("llama"), [make_slate(19, LENGTHS)]
    alone = adapter_gradients(model, run(model, slates)["ctr"].square().mean())
    step = StepContext()
    outputs = run(model, slates, step=step)
    step.guard.block({"cvr", "diversity"})
    (outputs["ctr"].square().mean() + (outputs["cvr"] * torch.nan).sum() + outputs["diversity"].sum()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, alone[name], rtol=1e-5, atol=1e-7)


def test_frozen_embeddings_are_averaged_per_candidate(
    make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    model, slates = make_model("bert", keep_embeddings=True), [make_slate(20, [3, 1]), make_slate(21, [4])]
    table = model.backbone.trunk.get_input_embeddings().weight
    expected = [table[torch.tensor(ids)].mean(0) for slate in slates for ids in slate.candidates]
    kept = run(model, slates)["embeddings"]
    torch.testing.assert_close(kept, torch.stack(expected), rtol=1e-6, atol=1e-6)
    assert not kept.requires_grad


@pytest.mark.parametrize("arch", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_bfloat16_base_trains_float32_adapters(
    arch: str, checkpointing: bool, make_model: Callable[..., SlateModel], make_slate: Callable[..., Slate]
) -> None:
    slates = [make_slate(22, LENGTHS)]
    exact = run(make_model(arch), slates)
    model = make_model(arch, dtype="bfloat16", checkpointing=checkpointing).train()
    outputs = run(model, slates, step=StepContext(lambda gradients, context: [1.0] * 3))
    for name, output in outputs.items():
        assert output.dtype == torch.float32
        # bfloat16 has 8 bits: a few percent of the spread after four layers.
        assert (output - exact[name]).detach().abs().max() < 0.15 * max(1.0, exact[name].abs().max().item())
    sum(output.square().mean() for output in outputs.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.dtype == torch.bfloat16


def test_the_seed_alone_decides_adapters_and_heads(make_model: Callable[..., SlateModel]) -> None:
    torch.manual_seed(0)
    one = make_model("llama", random_adapters=False, seed=5).state_dict()
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    again = make_model("llama", random_adapters=False, seed=5).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)  # and it disturbs nobody else's draws
    other = make_model("llama", random_adapters=False, seed=6).state_dict()
    trained = [name for name in one if ".lora_A." in name or name == "heads.ctr.score.weight"]
    assert trained
    for name in trained:
        assert torch.equal(one[name], again[name])
        assert not torch.equal(one[name], other[name])


def test_the_default_split_is_at_two_thirds_and_a_bad_one_is_refused(
    tiny_backbone: Callable[..., object],
) -> None:
    def build(split: int | None) -> SlateModel:
        return build_model(ModelSpec(tiny_backbone("llama", split=split), LoraConfig(rank=2), {"ctr": 1}, [], {}, 0))

    assert build(None).backbone.split == 2
    assert len(build(3).backbone.upper) == 1
    with pytest.raises(UserError, match=r"backbone\.split: 4 must lie between 1 and 3"):
        build(4)
