"""Fused kernels against the stock layers: outputs, the boundary's Gram matrix, every gradient, on ragged slates."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from equipoise.common.errors import UserError
from equipoise.data.batches import SlateBatch
from equipoise.modeling.boundary import BoundaryGradients, StepContext
from equipoise.modeling.fused import kernels
from equipoise.modeling.fused.slates import FusedBackbone
from equipoise.modeling.model import PACKED, SlateModel

FAMILY = ("llama", "mistral", "qwen3", "bert", "roberta", "modernbert")


def step_of(model: SlateModel, batch: SlateBatch, fused: bool, at_once: bool = False) -> tuple[dict, list, dict]:
    """Outputs, Gram matrices of all and of each candidate, and gradients after a weighted backward."""
    grams: list[torch.Tensor] = []
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(batch.click.numel(), generator=generator).to(next(model.backbone.upper.parameters()).dtype)

    def weigh(gradients: BoundaryGradients, context: StepContext) -> list[float]:
        grams.extend([gradients.gram(), gradients.of_candidates(batch.click.numel())])
        return [0.5, 2.0, 1.0][: len(gradients.values)]

    def criterion(name: str, outputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return (outputs[name] * weights).mean() * (1 + list(model.objectives).index(name))

    (model.use_fused if fused else model.use_plain)()
    model.zero_grad()
    step = StepContext(weigh)
    if at_once:
        outputs = model.score(batch.model_inputs(), step)
        torch.stack([criterion(name, outputs) for name in model.objectives]).sum().backward()
    else:
        outputs = model.losses(batch.model_inputs(), criterion, step)
        outputs["losses"].sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    return {name: value.detach() for name, value in outputs.items()}, grams, gradients


def exact_norm(norm: Any, x: torch.Tensor) -> torch.Tensor:
    return norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)


def assert_same(one: tuple[dict, list, dict], other: tuple[dict, list, dict], tolerance: float) -> None:
    assert one[0].keys() == other[0].keys() and one[2].keys() == other[2].keys()
    for name, value in one[0].items():
        assert (value - other[0][name]).norm() <= tolerance * other[0][name].norm(), name
    for gram, others in zip(one[1], other[1], strict=True):
        assert (gram - others).abs().max() <= tolerance * others.abs().max()
    for name, gradient in one[2].items():
        assert (gradient - other[2][name]).norm() <= tolerance * other[2][name].norm().clamp(min=1e-9), name


@pytest.mark.parametrize("arch", FAMILY)
@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize("at_once", [False, True])
def test_they_give_what_the_stock_layers_give(
    arch: str, scope: str, at_once: bool, make_model: Callable[..., SlateModel], batch: SlateBatch
) -> None:
    model = make_model(arch, scope=scope).double()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(exact_norm, module)  # the stock one computes in float32
    plain, fused = step_of(model, batch, False, at_once), step_of(model, batch, True, at_once)
    assert max(float(g.abs().max()) for g in fused[2].values()) > 1e-3
    assert_same(fused, plain, 1e-6)


@pytest.mark.parametrize("scope", ["all", "candidates"])
def test_encoders_are_read_at_the_mean_of_a_candidate_s_tokens(
    scope: str, make_model: Callable[..., SlateModel], batch: SlateBatch
) -> None:
    model = make_model("bert", scope=scope, pooling="mean").double()
    plain, fused = step_of(model, batch, False), step_of(model, batch, True)
    assert_same(fused, plain, 1e-6)
    last = step_of(make_model("bert", scope=scope).double(), batch, True)
    assert (last[0]["ctr"] - fused[0]["ctr"]).norm() > 0.01


@pytest.mark.parametrize("arch", ["llama", "bert"])
def test_texts_of_recall_have_the_vectors_of_the_stock_layers(
    arch: str, make_model: Callable[..., SlateModel], batch: SlateBatch
) -> None:
    model = make_model(arch, retrieval={"recall": 8}).double()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(exact_norm, module)
    texts = {name: value for name, value in batch.model_inputs().items() if name in PACKED}
    found = []
    for way in (model.use_plain, model.use_fused):
        way()
        model.zero_grad()
        vectors, _ = model.encode_texts("recall", texts)
        vectors.square().mul(torch.arange(8)).sum().backward()
        found.append((vectors.detach(), [p.grad for p in model.parameters() if p.grad is not None]))
    (plain, gradients), (fused, others) = found
    assert torch.allclose(plain, fused, atol=1e-9) and len(gradients) == len(others) > 8
    for one, other in zip(gradients, others, strict=True):
        assert (one - other).norm() <= 1e-6 * one.norm().clamp(min=1e-9)


@pytest.mark.parametrize("arch", FAMILY)
def test_in_float32_within_its_rounding(arch: str, make_model: Callable[..., SlateModel], batch: SlateBatch) -> None:
    model = make_model(arch)
    assert_same(step_of(model, batch, True), step_of(model, batch, False), 1e-4)


def test_in_bfloat16_within_its_rounding(make_model: Callable[..., SlateModel], batch: SlateBatch) -> None:
    model = make_model("llama", dtype="bfloat16")
    exact = step_of(make_model("llama"), batch, False)
    with torch.autocast("cpu", torch.bfloat16):
        plain, fused = step_of(model, batch, False), step_of(model, batch, True)
    for name, gradient in exact[2].items():
        ours, theirs = ((found[2][name] - gradient).norm() / gradient.norm() for found in (fused, plain))
        assert ours <= 2 * theirs + 0.02, name


def test_frozen_weights_are_held_once(make_model: Callable[..., SlateModel], batch: SlateBatch) -> None:
    model = make_model("llama")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step_of(model, batch, True)
    attention = model.backbone.upper[0].self_attn
    storages = {getattr(attention, f"{n}_proj").get_base_layer().weight.untyped_storage().data_ptr() for n in "qkv"}
    assert len(storages) == 1
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    scores = model.eval().score(batch.model_inputs())  # the plain path reads the same memory
    assert torch.isfinite(scores["ctr"]).all()


def test_an_objective_that_is_not_finite_stays_alone(make_model: Callable[..., SlateModel], batch: SlateBatch) -> None:
    model = make_model("llama")
    model.use_fused()
    names = list(model.objectives)
    step = StepContext(lambda gradients, context: [1.0, 0.0, 1.0])

    def criterion(name: str, outputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return outputs[name].sum() * (torch.inf if name == names[1] else 1.0)

    outputs = model.losses(batch.model_inputs(), criterion, step)
    outputs["losses"].sum().backward()
    assert step.guard.finite_mask(names, torch.device("cpu")).tolist() == [True, False, True]
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    ("arch", "settings", "reason"),
    [
        ("gpt2", {}, "not gpt2"),
        ("llama", {"checkpointing": True}, "checkpointing must be false"),
        ("llama", {"attention": "sdpa"}, "attention must be split"),
        ("llama", {"partial_last_layer": False}, "under ZeRO-3"),
        ("llama", {"keep_embeddings": True}, "similarity: text"),
    ],
)
def test_what_they_cannot_do_is_said(
    arch: str, settings: dict, reason: str, make_model: Callable[..., SlateModel]
) -> None:
    with pytest.raises(UserError, match=reason):
        make_model(arch, **settings).use_fused()


def test_an_encoder_that_was_made_a_decoder_is_refused(make_model: Callable[..., SlateModel]) -> None:
    model = make_model("bert")
    model.backbone.encoder = False  # as of a config with is_decoder
    with pytest.raises(UserError, match="they compute bert as an encoder alone"):
        model.use_fused()
    model.backbone.encoder, model.backbone.config.is_causal = True, True
    with pytest.raises(UserError, match="they compute bert as an encoder alone"):
        model.use_fused()


def test_another_dtype_than_the_weights_is_refused(make_model: Callable[..., SlateModel], batch: SlateBatch) -> None:
    with pytest.raises(UserError, match=r"backbone\.dtype=bfloat16"), torch.autocast("cpu", torch.bfloat16):
        step_of(make_model("llama"), batch, True)


@pytest.mark.slow
def test_the_same_lines_compiled_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU runs is compiled from what the CPU runs."""
    generator = torch.Generator().manual_seed(0)
    x, residual, grad = (torch.randn(5, 8, generator=generator) for _ in range(3))
    weight = torch.randn(8, generator=generator)
    for written, arguments in (
        (kernels._add_norm, (x, residual, weight, 1e-6)),
        (kernels._swiglu, (x,)),
        (kernels._swiglu_backward, (grad[:, :4], x)),
        (kernels._rotate, (torch.randn(5, 3, 4), torch.randn(5, 4), torch.randn(5, 4), 2, -1)),
    ):
        found = torch.compile(written, dynamic=True, fullgraph=True)(*arguments)
        torch.testing.assert_close(found, written(*arguments))


def test_towers_go_in_groups_where_memory_is_short(
    make_model: Callable[..., SlateModel], batch: SlateBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("llama")
    whole = step_of(model, batch, True)
    backbone = model.fused_backbone()
    assert backbone.groups(100) == [tuple(model.objectives)]
    monkeypatch.setattr(FusedBackbone, "groups", lambda self, tokens: [("ctr", "cvr"), ("diversity",)])
    assert_same(step_of(model, batch, True), whole, 1e-5)


def test_groups_follow_the_free_memory(make_model: Callable[..., SlateModel], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama", pointwise=dict.fromkeys(("a", "b", "c", "d"), 1), listwise=("e",))
    model.use_fused()
    backbone = model.fused_backbone()
    one = backbone.tower_bytes(50)
    assert one == 50 * 2 * (4 * 32 + (4 + 2 * 2) * 8 + 32 + 3 * backbone.upper[0].down.weight.shape[1]) * 4
    backbone.weight = SimpleNamespace(device=torch.device("cuda"), element_size=backbone.weight.element_size)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    sizes = {}
    for room in (0, 1, 2, 3, 4, 9):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, room=room: (int(room * one / 0.6) + 1, 0))
        sizes[room] = [len(group) for group in backbone.groups(50)]
    assert sizes == {0: [1] * 5, 1: [1] * 5, 2: [2, 2, 1], 3: [3, 2], 4: [3, 2], 9: [5]}
