"""A fused optimizer leaves out, on the device, a step whose gradients are not finite."""

from types import SimpleNamespace

import pytest
import torch

from equipoise.train.parameters import step_if_finite


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_step_that_is_not_finite_is_left_out(fused: bool, bad: float) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    own = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0, fused=fused)
    prepared = SimpleNamespace(optimizer=own, step=own.step)
    values = []
    for gradient in (1.0, bad, 1.0):
        weight.grad = torch.full((3,), gradient)
        step_if_finite(prepared, weight.grad.norm())
        values.append(weight.detach().clone())
    torch.testing.assert_close(values[0], torch.full((3,), 0.9))
    assert torch.equal(values[1], values[0])
    torch.testing.assert_close(values[2], torch.full((3,), 0.8))  # as the second step, not the third
    assert float(own.state[weight]["step"]) == 2
