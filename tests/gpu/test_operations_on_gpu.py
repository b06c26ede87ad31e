"""What the CPU writes out and a GPU compiles gives the same: losses of objectives with their gradients, averages."""

from typing import Any

import pytest
import torch

from equipoise.common.lists import discounts
from equipoise.modeling.boundary import combine, finite_rows, gram_matrix
from equipoise.train.objectives.base import averaged
from equipoise.train.objectives.diversity import path_distance
from equipoise.train.objectives.drawn_lists import drawn_lists, slate_marks
from equipoise.train.objectives.grouped import group_prices
from equipoise.train.objectives.pointwise import entire_space_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def cases() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Operation and arguments by name, on the CPU."""
    g = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=g)

    at = torch.tensor([[2, 0, 1, -1, -1], [4, 3, -1, -1, -1]])
    filled = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], dtype=torch.bool)
    discount = torch.from_numpy(discounts(3)).float()
    slates = (8 * random(5) - 4, at, filled, random(2, 5), random(2, 5) * filled, random(2), torch.tensor([3, 8]))
    lists = (*slates, torch.tensor([1.0, 0.5]), discount, torch.from_numpy(discounts(4)).float())
    options = (torch.tensor(4.0), 0.4, 0.3, 6, 3, 2)
    label, rate = (random(5) < 0.5).float(), random(5)
    missing = torch.where(torch.arange(5) == 2, torch.nan, label)
    return {
        "prices": (drawn_lists, (*lists, random(2, 5), None, *options)),
        "distances": (drawn_lists, (*lists, None, random(2, 5, 5), *options)),
        "marks": (slate_marks, (label, missing, torch.arange(5), torch.tensor([3, 8]), at, 2)),
        "chain": (entire_space_loss, ([random(5), random(5)], [label, missing], rate, rate, torch.tensor(9.0), 2)),
        "alone": (entire_space_loss, ([9 * random(5)], [missing], None, None, torch.tensor(9.0), 1)),
        "rows": (finite_rows, (torch.tensor([[1.0, torch.nan], [2.0, 3.0]]),)),
        "average": (averaged, (torch.tensor([torch.nan, 1.0]), random(2), 0.9)),
        "first": (averaged, (None, random(2), 0.9)),
        "group prices": (group_prices, ([random(4), torch.tensor([0.5, 0.3, 0.0, 0.2])],)),
        "path": (path_distance, ([at, torch.zeros_like(at)],)),
        "gram": (gram_matrix, (random(3, 9000),)),
        "combined": (combine, ([0.5, 0.0, 2.0], random(3, 9000))),
    }


def _moved(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cuda()
    return [_moved(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", cases())
def test_a_gpu_gives_what_the_cpu_gives(name: str) -> None:
    operation, arguments = cases()[name]
    wanted, found = operation(*arguments), operation(*map(_moved, arguments))
    for theirs, ours in zip(_all(wanted), _all(found), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-5, equal_nan=True)


def _all(value: Any) -> tuple[torch.Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)
