"""Towers differentiated one after another against all of them at once."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from equipoise.data.batches import Slate, build_batch
from equipoise.modeling.boundary import BoundaryGradients, StepContext, gram_matrix
from equipoise.modeling.model import ForwardRequest, SlateModel
from equipoise.modeling.packing import Packing

FACTORS = {"ctr": 1.0, "cvr": 0.5, "diversity": 2.0}


@pytest.fixture
def inputs(make_slate: Callable[..., Slate]) -> dict[str, torch.Tensor]:
    return build_batch([make_slate(3, [3, 5, 4, 2]), make_slate(4, [2, 6, 3], row=1)], 96, 0).model_inputs()


def criterion(name: str, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    loss = (outputs[name] + 1).square().mean()
    # As the entire-space loss does, one objective reads another without gradient.
    return loss * outputs["ctr"].detach().sigmoid().mean() if name == "cvr" else loss


def gradients(model: SlateModel, inputs: dict[str, torch.Tensor], one_by_one: bool) -> tuple[dict[str, Any], Any]:
    grams = []

    def compute_weights(gradients: BoundaryGradients, context: StepContext) -> list[float]:
        grams.append(gram_matrix(gradients.values))
        return [2.0, 0.25, 1.5]

    step = StepContext(compute_weights)
    model.zero_grad()
    if one_by_one:
        losses = model.losses(inputs, criterion, step)["losses"]
    else:
        outputs = model.score(inputs, step)
        losses = torch.stack([criterion(name, outputs) for name in model.objectives])
    (losses * torch.tensor([FACTORS[name] for name in model.objectives])).sum().backward()
    assert len(grams) == 1
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    return found, (losses.detach(), grams[0])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("arch", ["llama", "bert"])
def test_one_by_one_is_all_at_once(
    arch: str, checkpointing: bool, make_model: Callable[..., SlateModel], inputs: dict[str, torch.Tensor]
) -> None:
    model = make_model(arch, checkpointing=checkpointing, pointwise={"ctr": 1, "cvr": 2}).train(checkpointing)
    expected, (losses, gram) = gradients(model, inputs, one_by_one=False)
    found, (same_losses, same_gram) = gradients(model, inputs, one_by_one=True)
    torch.testing.assert_close(same_losses, losses, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(same_gram, gram, rtol=1e-5, atol=1e-12)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert found.keys() == trained
    for name, gradient in found.items():
        wanted = expected.get(name, torch.zeros_like(gradient))  # an output that no loss reads
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_scores_are_the_same_and_carry_no_gradient(
    make_model: Callable[..., SlateModel], inputs: dict[str, torch.Tensor]
) -> None:
    model = make_model("llama")
    plain, judged = model.score(inputs), model.losses(inputs, criterion)
    for name in model.objectives:
        assert torch.equal(plain[name], judged[name])
        assert plain[name].requires_grad and not judged[name].requires_grad
    with torch.no_grad():
        quiet = model.losses(inputs, criterion)
    assert torch.equal(quiet["losses"], judged["losses"])


def test_only_one_tower_is_alive_at_a_time(
    make_model: Callable[..., SlateModel], inputs: dict[str, torch.Tensor]
) -> None:
    model = make_model("llama")

    def saved_by(forward: Callable[[], Any]) -> tuple[int, int]:
        alive = peak = 0

        class Kept:
            def __init__(self, tensor: torch.Tensor) -> None:
                nonlocal alive, peak
                self.tensor = tensor
                alive += 1
                peak = max(peak, alive)

            def __del__(self) -> None:
                nonlocal alive
                alive -= 1

        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            result = forward()
        left = alive
        del result
        return peak, left

    together, left_together = saved_by(lambda: model.score(inputs))
    one, left = saved_by(lambda: model.losses(inputs, criterion)["losses"])
    assert left_together == together
    assert one < 0.7 * together  # a trunk and one tower of two layers instead of a trunk and three
    assert left < 0.45 * together  # the trunk alone waits for the backward


def test_a_blocked_objective_and_a_broken_gradient_stay_alone(
    make_model: Callable[..., SlateModel], inputs: dict[str, torch.Tensor]
) -> None:
    model = make_model("llama")
    seen: list[BoundaryGradients] = []
    step = StepContext(lambda gradients, context: seen.append(gradients) or [1.0, 0.0, 0.0])

    def broken(name: str, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        x = outputs[name]
        if name == "cvr":
            return (x * torch.nan).sum()
        return (x - x.detach()).abs().sqrt().sum() if name == "diversity" else x.square().mean()

    losses = model.losses(inputs, broken, step)["losses"]
    assert torch.isfinite(losses).tolist() == [True, False, True]
    step.guard.block({"cvr"})
    torch.where(torch.isfinite(losses), losses, 0.0).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert seen[0].finite_mask.tolist() == [True, False, False]
    assert seen[0].values[0].abs().sum() > 0
    assert not seen[0].values[1].any() and not seen[0].values[2].any()


def test_a_second_backward_is_refused(make_model: Callable[..., SlateModel], inputs: dict[str, torch.Tensor]) -> None:
    losses = make_model("llama").losses(inputs, criterion)["losses"]
    losses.sum().backward(retain_graph=True)
    with pytest.raises(AssertionError, match="one backward per forward"):
        losses.sum().backward()


def test_what_an_engine_calls_is_what_the_methods_give(
    make_model: Callable[..., SlateModel], inputs: dict[str, torch.Tensor]
) -> None:
    model = make_model("llama")
    scored, judged = model(ForwardRequest(inputs, keep_vectors=True)), model(ForwardRequest(inputs, criterion))
    assert scored.keys() == {*model.objectives, *(f"{name}.vector" for name in model.objectives)}
    assert torch.equal(scored["ctr"], model.score(inputs)["ctr"])
    assert torch.equal(judged["losses"], model.losses(inputs, criterion)["losses"])


def test_a_packing_may_run_all_towers_in_its_own_way(
    make_model: Callable[..., SlateModel], inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = make_model("llama"), []
    one_after_another = Packing.run_towers

    def run_towers(self: Packing, parts: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        asked.append(tuple(parts))
        return one_after_another(self, parts)

    monkeypatch.setattr(Packing, "run_towers", run_towers)
    model.score(inputs)
    assert asked == [model.objectives]


def _gradients(model: SlateModel, inputs: dict[str, torch.Tensor], at_once: bool) -> tuple[dict, dict, list]:
    """Outputs, gradients and Gram matrices of a weighted step."""
    grams: list[torch.Tensor] = []

    def weigh(gradients: BoundaryGradients, context: StepContext) -> list[float]:
        grams.append(gradients.gram())
        return [0.5, 2.0, 1.5][: len(gradients.values)]

    def criterion(name: str, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return (outputs[name] * torch.arange(1.0, 1 + len(outputs[name]))).mean()

    model.zero_grad()
    step = StepContext(weigh)
    if at_once:
        outputs = model.score(inputs, step)
        torch.stack([criterion(name, outputs) for name in model.objectives]).sum().backward()
    else:
        outputs = model.losses(inputs, criterion, step)
        outputs["losses"].sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: each.detach() for name, each in outputs.items()}, gradients, grams


@pytest.mark.parametrize("arch", ["llama", "bert"])
@pytest.mark.parametrize("scope", ["all", "candidates"])
@pytest.mark.parametrize("at_once", [True, False])
def test_where_weights_are_gathered_towers_pass_a_layer_together(
    arch: str, scope: str, at_once: bool, make_model: Callable[..., SlateModel], inputs: dict[str, torch.Tensor]
) -> None:
    """The same numbers as one by one; a weight is read once in forward, recomputation and backward each."""
    model, calls = make_model(arch, scope=scope, checkpointing=True, partial_last_layer=False), []
    assert model.upper.together
    model.upper.together = False
    wanted = _gradients(model, inputs, at_once)
    model.upper.together = True
    linear = next(m for m in model.backbone.upper[0].modules() if isinstance(m, LoraLayer)).get_base_layer()
    linear.register_forward_pre_hook(lambda *_: calls.append("forward"))
    linear.register_full_backward_pre_hook(lambda *_: calls.append("backward"))
    found = _gradients(model, inputs, at_once)
    assert len(calls) == (3 if scope == "all" else 6), calls  # prefixes apart where adapters leave them alone
    for ours, theirs in zip(found[:2], wanted[:2], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            # Rounding follows the largest numbers of a tensor, up to 24 here, not an element near 0.
            atol = 1e-6 * max(1.0, float(theirs[name].abs().max()))
            torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=atol, msg=name)
    torch.testing.assert_close(found[2], wanted[2], rtol=1e-4, atol=1e-9)
