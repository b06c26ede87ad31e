"""Live bytes against tensors counted by hand."""

import pytest
import torch
from torch import nn

from equipoise.train.memory.live import LiveMemory
from equipoise.train.memory.weightless import Weightless


def test_counts_what_is_made_and_forgets_what_is_freed() -> None:
    before = torch.ones(1000)
    with LiveMemory() as memory:
        first = before * 2  # 4000 bytes
        assert (memory.now, memory.peak) == (4000, 4000)
        second = torch.zeros(500, dtype=torch.float64)  # 4000 more
        assert memory.now == 8000
        del first
        assert (memory.now, memory.peak) == (4000, 8000)
        third = second.to(torch.bfloat16)  # 1000 more
        assert memory.now == 5000
    del second, third
    assert (memory.now, memory.peak) == (0, 8000)


def test_views_and_changes_in_place_take_nothing() -> None:
    before = torch.zeros(10, 10)
    with LiveMemory() as memory:
        view = before.t()[2:].reshape(-1, 1)[:0]
        before.add_(1)
        assert memory.now == 8 * 10 * 4  # the reshape of a transposed tensor copies
        del view
        kept = before.view(100)[3:]
        assert memory.now == 0
        del kept


def test_what_autograd_keeps_is_alive_until_backward() -> None:
    weight = torch.randn(20, 30, requires_grad=True)
    x = torch.randn(5, 30)
    with LiveMemory() as memory:
        hidden = torch.nn.functional.linear(x, weight).exp()  # exp keeps its result; linear's own is freed
        assert memory.now == 5 * 20 * 4
        total = hidden.sum()
        del hidden
        assert memory.now == 5 * 20 * 4 + 4
        total.backward()
        del total
        assert memory.now == 20 * 30 * 4  # the gradient
    # At the most: exp's result, the loss, the gradient that arrives at linear, and that of the weight.
    assert memory.peak >= 20 * 30 * 4 + 5 * 20 * 4


@pytest.mark.parametrize("bf16", [False, True])
def test_fake_tensors_count_as_real_ones(bf16: bool) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 8))

    def peak(model: nn.Module, x: torch.Tensor) -> int:
        with LiveMemory() as memory:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(x).float().square().mean()
            loss.backward()
        return memory.peak

    real = peak(make(), torch.randn(16, 32))
    with torch.device("meta"):
        model = make()
    world = Weightless()
    world.convert(model)
    with world.running():
        fake = peak(model, torch.randn(16, 32))
    assert fake == real > 64 * 32 * 4


def test_layouts_keep_their_values_beside_fake_tensors() -> None:
    with torch.device("meta"):
        model = nn.Embedding(7, 4)
    world = Weightless()
    world.convert(model)
    assert all(parameter.untyped_storage().device.type == "meta" for parameter in model.parameters())
    with world.running():
        ids = torch.tensor([1, 2, -1, 3])
        hidden = model(ids.clamp(min=0))
        chosen = hidden[ids >= 0]
        assert chosen.shape == (3, 4)  # known from values
        assert (ids >= 0).sum().item() == 3
        chosen.sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.shape == (7, 4)
