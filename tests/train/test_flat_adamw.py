"""AdamW side by side: the numbers of torch's, its state, and a step that is left out where gradients are not finite."""

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from torch import nn

from equipoise.train.flat_adamw import FlatAdamW

SHAPES = ((4, 8), (1,), (3, 5), (64,), (2, 2, 7))
FAR = 1e9
"""A norm that nothing reaches."""


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def groups(own: list[nn.Parameter]) -> list[dict[str, object]]:
    return [{"params": own[:3], "lr": 1e-2}, {"params": own[3:], "lr": 1e-3}, {"params": [], "lr": 1e-3}]


def give(own: Sequence[nn.Parameter], step: int, none: Sequence[int] = ()) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for number, parameter in enumerate(own):
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if number in none else gradient


def torch_step(optimizer: torch.optim.AdamW, own: Sequence[nn.Parameter], most: float) -> torch.Tensor:
    norm = torch.nn.utils.clip_grad_norm_(own, most)
    optimizer.step()
    return norm


def pair(seed: int = 0) -> tuple[list[nn.Parameter], FlatAdamW, list[nn.Parameter], torch.optim.AdamW]:
    ours, theirs = parameters(seed), parameters(seed)
    return ours, FlatAdamW(groups(ours), 0.1), theirs, torch.optim.AdamW(groups(theirs), weight_decay=0.1, fused=True)


def step_both(
    step: int, ours: list[nn.Parameter], flat: FlatAdamW, theirs: list[nn.Parameter], plain: torch.optim.AdamW
) -> None:
    """A step of either with the same gradients, unclipped."""
    give(ours, step)
    give(theirs, step)
    flat.clipped_step(FAR)
    torch_step(plain, theirs, FAR)


def same(ours: Sequence[nn.Parameter], theirs: Sequence[torch.Tensor]) -> None:
    """Equal but for the last bit: kernels go through the end of a tensor otherwise than through its middle."""
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-6, atol=1e-7)


def storages(own: Sequence[torch.Tensor]) -> int:
    return len({each.untyped_storage().data_ptr() for each in own})


@pytest.mark.parametrize("most", [FAR, 0.5])
def test_the_numbers_are_those_of_torch(most: float) -> None:
    ours, flat, theirs, plain = pair()
    for step in range(6):
        give(ours, step)
        give(theirs, step)
        for optimizer in (flat, plain):
            optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
        torch.testing.assert_close(flat.clipped_step(most), torch_step(plain, theirs, most))
        same(ours, theirs)
        assert storages(ours) == 2 and all(each.data_ptr() % 16 == 0 for each in ours)
    assert storages([state["exp_avg"] for state in flat.state.values()]) == 2
    assert {float(state["step"]) for state in flat.state.values()} == {6.0}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_step_that_is_not_finite_is_left_out(bad: float) -> None:
    ours, flat, theirs, plain = pair()
    for step in range(3):
        give(ours, step)
        give(theirs, step)
        if step == 1:
            before = [each.detach().clone() for each in ours]
            assert ours[1].grad is not None
            ours[1].grad.fill_(bad)
            assert not torch.isfinite(flat.clipped_step(FAR))
            same(ours, before)
        else:
            flat.clipped_step(FAR)
            torch_step(plain, theirs, FAR)
    same(ours, theirs)
    assert {float(state["step"]) for state in flat.state.values()} == {2.0}


@pytest.mark.parametrize("from_torch", [False, True])
def test_the_state_goes_from_one_to_the_other(from_torch: bool) -> None:
    ours, flat, theirs, plain = pair()
    for step in range(2):
        step_both(step, ours, flat, theirs, plain)
    (flat if from_torch else plain).load_state_dict(deepcopy((plain if from_torch else flat).state_dict()))
    for step in range(2, 5):
        step_both(step, ours, flat, theirs, plain)
        same(ours, theirs)


def test_a_group_with_a_gradient_missing_steps_tensor_by_tensor() -> None:
    ours, flat, theirs, plain = pair()
    for step, none in enumerate([(), (0,), (), (4,), ()]):
        give(ours, step, none)
        give(theirs, step, none)
        torch.testing.assert_close(flat.clipped_step(0.5), torch_step(plain, theirs, 0.5))
        same(ours, theirs)
    counts = [[float(of.state[each]["step"]) for each in own] for of, own in ((flat, ours), (plain, theirs))]
    assert counts[0] == counts[1] == [4, 5, 5, 5, 4]
    for each in (*ours, *theirs):
        each.grad = None
    assert flat.clipped_step(1.0) == 0
    same(ours, theirs)


def test_parameters_that_were_moved_are_laid_out_anew() -> None:
    ours, flat, theirs, plain = pair()
    for step in range(4):
        step_both(step, ours, flat, theirs, plain)
        same(ours, theirs)
        if step == 1:  # as `model.to(device)` does
            for each in ours:
                each.data = each.data.clone()
    assert storages(ours) == 2


def test_parameters_of_several_types_step_tensor_by_tensor() -> None:
    own = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, dtype=torch.float64))]
    flat = FlatAdamW([{"params": own, "lr": 0.1}], 0.0)
    for each in own:
        each.grad = torch.ones_like(each)
    flat.clipped_step(FAR)
    torch.testing.assert_close(own[0].detach().double(), own[1].detach())
    torch.testing.assert_close(own[0].detach(), torch.full((3,), 0.9))
