"""The boundary node against separate backwards, and the guard against what is not finite."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.modeling import boundary
from equipoise.modeling.boundary import (
    BoundaryGradients,
    NonFiniteGuard,
    StepContext,
    combine,
    gram_matrix,
    grouped_grams,
)


def towers(count: int, seed: int = 0) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """Losses of z that differ in direction and, by powers of ten, in scale."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(7, 3, generator=generator, dtype=torch.float64) for _ in range(count)]

    def tower(k: int) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda z: 10.0 ** (k - 1) * torch.tanh(z @ maps[k]).square().sum()

    return [tower(k) for k in range(count)]


def trunk() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    w = torch.randn(4, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    return w, x


@pytest.mark.parametrize("count", [1, 2, 4])
def test_backward_is_the_weighted_sum_of_separate_gradients(count: int) -> None:
    w, x = trunk()
    z = torch.sin(x @ w)
    separate = [torch.autograd.grad(loss(z), z, retain_graph=True)[0] for loss in towers(count)]
    weights = torch.linspace(0.3, 2.0, count, dtype=torch.float64)
    grams = []

    def compute_weights(gradients: BoundaryGradients, context: StepContext) -> list[float]:
        grams.append(gram_matrix(gradients.values))
        return weights.tolist()

    step, names = StepContext(compute_weights), "abcd"[:count]
    z = torch.sin(x @ w)
    z.retain_grad()
    views = step.fan_out(z, names)
    assert all(torch.equal(view, z) for view in views)
    sum(loss(view) for loss, view in zip(towers(count), views, strict=True)).backward()

    assert len(grams) == 1
    expected = sum(weight * g for weight, g in zip(weights, separate, strict=True))
    torch.testing.assert_close(z.grad, expected, rtol=1e-12, atol=1e-12)
    (through,) = torch.autograd.grad(torch.sin(x @ w), w, expected)
    torch.testing.assert_close(w.grad, through, rtol=1e-12, atol=1e-12)
    products = torch.stack([torch.stack([(a * b).sum() for a in separate]) for b in separate])
    torch.testing.assert_close(grams[0], products, rtol=1e-12, atol=1e-12)


def test_an_unused_view_counts_as_a_zero_gradient() -> None:
    w, x = trunk()
    grams = []
    step = StepContext(lambda gradients, context: grams.append(gram_matrix(gradients.values)) or [2.0, 1.0])
    one, _ = step.fan_out(x @ w, "ab")
    one.sum().backward()
    torch.testing.assert_close(w.grad, 2 * x.sum((0, 1))[:, None].expand(4, 7))
    assert grams[0][1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_gradient_of_weight_zero_may_be_anything(poison: float) -> None:
    w, x = trunk()
    grams = []
    step = StepContext(lambda gradients, context: grams.append(gram_matrix(gradients.values)) or [1.5, 0.0])
    one, two = step.fan_out(x @ w, "ab")
    (one.sum() + (two * poison).sum()).backward()
    torch.testing.assert_close(w.grad, 1.5 * x.sum((0, 1))[:, None].expand(4, 7))
    assert not torch.isfinite(grams[0][1, 1])  # the weighting could see it
    assert torch.isfinite(grams[0][0, 0])


def test_no_fan_out_where_nothing_is_to_be_balanced() -> None:
    w, x = trunk()
    z = x @ w
    assert all(view is z for view in StepContext().fan_out(z, "abc"))  # nobody weighs them

    def refuse(gradients: BoundaryGradients, context: StepContext) -> list[float]:
        raise AssertionError("must not be asked")

    step = StepContext(refuse)
    with torch.no_grad():
        z = x @ w
        assert all(view is z for view in step.fan_out(z, "abc"))
    constant = x @ w.detach()
    assert all(view is constant for view in step.fan_out(constant, "abc"))


def test_the_gram_matrix_of_bfloat16_is_multiplied_in_float32() -> None:
    ones = torch.ones(1000, dtype=torch.bfloat16)
    small = torch.full((1000,), 2.0**-20, dtype=torch.bfloat16)
    gram = gram_matrix((ones, small))
    assert gram.dtype == torch.float64
    # In bfloat16 the sum of 1000 ones would stop at 256.
    torch.testing.assert_close(
        gram, torch.tensor([[1000.0, 1000 * 2.0**-20], [1000 * 2.0**-20, 1000 * 2.0**-40]], dtype=torch.float64)
    )


def test_bfloat16_gradients_are_added_up_in_float32() -> None:
    z = torch.ones(8, dtype=torch.bfloat16, requires_grad=True)
    step = StepContext(lambda gradients, context: [256.0, 1.0, 1.0])
    views = step.fan_out(z, "abc")
    sum(view.sum() for view in views).backward()
    assert z.grad.dtype == torch.bfloat16
    assert z.grad.tolist() == [258.0] * 8  # step by step in bfloat16 it would stay at 256


def test_one_tensor_of_all_gradients_is_taken_like_several() -> None:
    stacked = torch.randn(3, 9000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(gram_matrix(stacked), stacked @ stacked.T)
    torch.testing.assert_close(gram_matrix(stacked), gram_matrix(stacked.unbind()))
    stacked[1] = torch.nan  # of no weight
    weights = [0.5, 0.0, 2.0]
    torch.testing.assert_close(combine(weights, stacked), combine(weights, stacked.unbind()))
    assert not combine([0.0] * 3, stacked).any()


def test_rows_that_are_not_finite_are_dropped_alone() -> None:
    guard, x = NonFiniteGuard(), torch.ones(2, 3, requires_grad=True)
    factors = torch.tensor([[1.0, torch.inf, 1.0], [1.0, 2.0, 3.0]])
    (guard.of_rows("ab", x) * factors).sum().backward()
    assert x.grad.tolist() == [[0.0] * 3, [1.0, 2.0, 3.0]]
    assert guard.finite_mask("ab", x.device).tolist() == [False, True]
    assert guard.wanted["b"].tolist() == [1.0, 2.0, 3.0]


def test_a_blocked_objective_gets_no_gradient_and_all_others_do() -> None:
    guard = NonFiniteGuard()
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = torch.tensor([3.0, 4.0], requires_grad=True)
    out = (guard("a", x) * torch.nan).sum() + (guard("b", y) * 2).sum()
    guard.block({"a"})  # after the forward: losses are known only then
    out.backward()
    assert x.grad.tolist() == [0.0, 0.0]
    assert y.grad.tolist() == [2.0, 2.0]
    guard.block(set())
    x.grad = None
    (guard("a", x) * 5).sum().backward()
    assert x.grad.tolist() == [5.0, 5.0]
    assert torch.equal(guard("a", x), x)
    assert guard("a", x.detach()).requires_grad is False


def test_a_reported_loss_that_is_not_finite_blocks_its_objective() -> None:
    step = StepContext(step=7)
    assert step.report_losses("abc", np.array([1.0, np.nan, np.inf])) == {"b", "c"}
    x = torch.ones(2, requires_grad=True)
    (step.guard("a", x).sum() + step.guard("b", 5 * x).sum()).backward()
    assert x.grad.tolist() == [1.0, 1.0]
    assert step.losses is not None and step.losses[0] == 1.0


def test_the_weighting_gets_its_step_and_what_came_back_finite() -> None:
    seen = []
    step = StepContext(lambda gradients, context: seen.append((context, gradients.finite_mask.tolist())) or [1.0, 0.0])
    z = torch.ones(3, requires_grad=True)
    one, two = step.fan_out(z, "ab")
    (step.guard("a", one).sum() + (step.guard("b", two) * torch.nan).sum()).backward()
    assert seen == [(step, [True, False])]
    assert z.grad.tolist() == [1.0] * 3


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 5))
def test_products_within_groups_are_those_of_their_rows(seed: int, count: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = [torch.randn(13, 3, generator=generator) for _ in range(count)]
    group = torch.randint(groups, (13,), generator=generator)
    found = grouped_grams(states, group, groups)
    for number in range(groups):
        rows = torch.stack([state[group == number].double().reshape(-1) for state in states])
        torch.testing.assert_close(found[number], rows @ rows.T, rtol=1e-6, atol=1e-6)


def test_long_stretches_are_multiplied_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    states, group = [torch.randn(50, 4) for _ in range(3)], torch.arange(50) % 7
    whole = grouped_grams(states, group, 7)
    monkeypatch.setitem(boundary.CHUNK, "cpu", 12)
    torch.testing.assert_close(grouped_grams(states, group, 7), whole)
