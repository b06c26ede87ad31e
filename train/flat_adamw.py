"""AdamW over few long tensors: adapters are hundreds of small matrices, and going through them costs the host time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors
from torch.nn.utils import get_total_norm
from torch.optim.adam import adam

ALIGNED = 64
"""Elements at a multiple of which a parameter begins, so that kernels may read it in whole vectors."""
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class _Side:
    """The parameters of a group side by side; those of the model, and the optimizer's state, are views of these.

    Attributes:
        values, moments: (E,) each.
        steps: one number per parameter, all equal.
        places: address of each parameter within `values`.
        gaps: zeros behind each parameter, up to the next one's place.
    """

    values: Tensor
    moments: tuple[Tensor, ...]
    steps: Tensor
    places: list[int]
    gaps: list[Tensor]

    def holds(self, parameters: list[nn.Parameter]) -> bool:
        """Whether the parameters still lie here: a model may have been moved since."""
        return all(parameter.data_ptr() == place for parameter, place in zip(parameters, self.places, strict=True))

    def gradient(self, gradients: list[Tensor]) -> Tensor:
        """Gradients side by side, (E,)."""
        pairs = zip(gradients, self.gaps, strict=True)
        return _flatten_dense_tensors([each for pair in pairs for each in pair if each.numel()])


class FlatAdamW(torch.optim.AdamW):
    """torch's fused AdamW with the same numbers and `state_dict`, a few operations a step however many parameters.

    A group in which a parameter had no gradient once steps tensor by tensor from then on, as their counts of steps
    differ; so does one whose parameters are of several types or devices.

    Args:
        params: groups, as of torch's.
        weight_decay: decoupled.
    """

    def __init__(self, params: Any, weight_decay: float) -> None:
        super().__init__(params, weight_decay=weight_decay, fused=True)
        self._sides: dict[int, _Side | None] = {}  # by group; None: it steps tensor by tensor from then on

    def load_state_dict(self, state_dict: Any) -> None:
        """As torch's; the tensors are laid side by side anew at the next step."""
        super().load_state_dict(state_dict)
        self._sides = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's, without what that asks of each parameter."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def clipped_step(self, max_norm: float) -> Tensor:
        """Clip the norm of all gradients together, and step where it is finite; on the device, without waiting.

        Returns the norm before clipping, a scalar on the gradients' device; nothing moves where it is not finite.
        """
        prepared = [(group, self._tensors(number, group)) for number, group in enumerate(self.param_groups)]
        prepared = [(group, tensors) for group, tensors in prepared if tensors[0]]
        gradients = [gradient for _, tensors in prepared for gradient in tensors[1]]
        norm = get_total_norm(gradients)
        if not gradients:
            return norm
        torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
        found_inf = (~torch.isfinite(norm)).float()
        for group, (parameters, own, first, second, steps) in prepared:
            adam(
                parameters, own, first, second, [], steps, fused=True, found_inf=found_inf, amsgrad=False,
                beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"],
                eps=group["eps"], maximize=False, decoupled_weight_decay=True,
            )  # fmt: skip
        for side in filter(None, self._sides.values()):
            side.steps.fill_(side.steps[0])  # the one that has been counted is that of all
        return norm

    def _tensors(self, number: int, group: Mapping[str, Any]) -> tuple[list[Tensor], ...]:
        """Values, gradients, both moments and steps of a group: one tensor each where it lies side by side."""
        parameters = group["params"]
        gradients = [parameter.grad for parameter in parameters]
        side = self._side(number, parameters, whole=all(gradient is not None for gradient in gradients))
        if side is not None:
            return [side.values], [side.gradient(gradients)], *([each] for each in side.moments), [side.steps[0]]
        found: tuple[list[Tensor], ...] = ([], [], [], [], [], [])
        self._init_group(group, *found)
        return (*found[:4], found[5])

    def _side(self, number: int, parameters: list[nn.Parameter], whole: bool) -> _Side | None:
        """A group side by side, where all its parameters have gradients (`whole`) and always had."""
        side = self._sides.get(number)
        if number in self._sides and side is None:
            return None
        if not whole:
            side = None
        elif side is None or not side.holds(parameters):
            side = self._laid_out(parameters)
        self._sides[number] = side
        return side

    def _laid_out(self, parameters: list[nn.Parameter]) -> _Side | None:
        """Move parameters and state side by side; None where they cannot step as one."""
        states = [self.state[parameter] for parameter in parameters]
        kinds = {(parameter.dtype, parameter.device) for parameter in parameters}
        if len(kinds) != 1 or len({bool(state) for state in states}) > 1:
            return None
        first = parameters[0]
        steps = torch.zeros(len(parameters), dtype=torch.float32, device=first.device)
        if states[0]:
            steps = torch.stack([state["step"].to(steps) for state in states])
            if len(steps.unique()) > 1:
                return None
        sizes = [-(-parameter.numel() // ALIGNED) * ALIGNED for parameter in parameters]
        values, *moments = (torch.zeros(sum(sizes), dtype=first.dtype, device=first.device) for _ in range(3))
        gaps = [values.new_zeros(size - p.numel()) for size, p in zip(sizes, parameters, strict=True)]
        for parameter, view in _views(values, parameters, sizes):
            parameter.data = view.copy_(parameter)
        for state, step in zip(states, steps, strict=True):
            state["step"] = step
        for name, moment in zip(MOMENTS, moments, strict=True):
            for state, (_, view) in zip(states, _views(moment, parameters, sizes), strict=True):
                state[name] = view.copy_(state[name]) if name in state else view
        return _Side(values, tuple(moments), steps, [parameter.data_ptr() for parameter in parameters], gaps)


def _views(side: Tensor, parameters: list[nn.Parameter], sizes: list[int]) -> Iterator[tuple[nn.Parameter, Tensor]]:
    for parameter, piece in zip(parameters, side.split(sizes), strict=True):
        yield parameter, piece[: parameter.numel()].view_as(parameter)
