"""Heads as one against the same heads one by one: outputs and gradients, float64."""

from collections.abc import Sequence

import pytest
import torch

from equipoise.modeling.grouped_heads import point_scores, slate_adjustments
from equipoise.modeling.heads import HeadInputs, PointHead, SlateHead

CANDIDATES = torch.tensor([[2, 0, 1], [4, 3, -1]])


def _gradients(
    outputs: Sequence[torch.Tensor], modules: Sequence[torch.nn.Module], x: torch.Tensor
) -> list[torch.Tensor]:
    flat = torch.cat([out.flatten() for out in outputs])
    loss = (flat * torch.arange(1.0, 1 + flat.numel(), dtype=flat.dtype)).sum()
    return list(torch.autograd.grad(loss, [x, *(p for module in modules for p in module.parameters())]))


@pytest.mark.parametrize("outputs", [(1, 1, 1), (1, 2, 1)])
def test_pointwise_heads(outputs: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    heads = [PointHead(6, count, prior=number == 1).double() for number, count in enumerate(outputs)]
    x = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    inputs = [HeadInputs(CANDIDATES, 5, prior=torch.randn(5).double() if n == 1 else None) for n in range(3)]
    wanted = [head(pooled, own) for head, pooled, own in zip(heads, x, inputs, strict=True)]
    found = point_scores(heads, x, inputs)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(_gradients(found, heads, x), _gradients(wanted, heads, x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_slate_heads() -> None:
    torch.manual_seed(0)
    heads = [SlateHead(6, width=8, heads=2).double() for _ in range(3)]
    for head in heads:
        torch.nn.init.normal_(head.out.weight)
        torch.nn.init.normal_(head.norm.weight)
    x, relevance = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True), torch.randn(5).double()
    wanted = [head(pooled, relevance, CANDIDATES) for head, pooled in zip(heads, x, strict=True)]
    found = list(slate_adjustments(heads, x, relevance, CANDIDATES).unbind())
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(_gradients(found, heads, x), _gradients(wanted, heads, x), strict=True):
        torch.testing.assert_close(ours, theirs)
