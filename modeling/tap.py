"""What stands in a base model where its upper layers and its final normalisation stood.

Shape suffixes: R rows, T tokens of a row, H hidden size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from equipoise.common.errors import UserError
from equipoise.modeling.attention import prefix_split


@dataclass(frozen=True)
class LayerCall:
    """The positional and the keyword arguments of a layer, without the hidden states."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def with_forward(self, slate_forward: prefix_split.SlateForward) -> "LayerCall":
        """The same call for another forward of the prefix-split attention."""
        return LayerCall(self.args, {**self.kwargs, prefix_split.ARGUMENT: slate_forward})

    def with_mask(self, given: Any, mask: Any) -> "LayerCall":
        """The same call with another mask in the place of the one that was `given` to the model."""
        if mask is given:
            return self
        swapped = LayerCall(
            tuple(mask if value is given else value for value in self.args),
            {name: mask if value is given else value for name, value in self.kwargs.items()},
        )
        if not any(value is mask for value in (*swapped.args, *swapped.kwargs.values())):
            raise UserError("backbone.trunk: this backbone makes masks of its own: set backbone.trunk=joint")
        return swapped

    def at(self, index: torch.Tensor, tokens: int) -> "LayerCall":
        """The call for some of its `tokens` tokens: every tensor with one entry per token along dimension 1 is cut."""
        return LayerCall(_cut(self.args, index, tokens), _cut(dict(self.kwargs), index, tokens))


# Not nested in `at`: a function that calls itself from its own closure keeps what it cut until the collector runs.
def _cut(value: Any, index: torch.Tensor, tokens: int) -> Any:
    if isinstance(value, torch.Tensor):
        return value.index_select(1, index) if value.ndim > 1 and value.shape[1] == tokens else value
    if isinstance(value, tuple | list):
        return type(value)(_cut(part, index, tokens) for part in value)
    return {key: _cut(part, index, tokens) for key, part in value.items()} if isinstance(value, dict) else value


class LayerForm:
    """Whether the layers of a model give a tensor, or a tuple that begins with one; learned from one that runs."""

    def __init__(self, layer: nn.Module) -> None:
        self.tail: tuple[Any, ...] | None = None
        layer.register_forward_hook(self._look)

    def _look(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.tail = (None,) * (len(output) - 1) if isinstance(output, tuple) else None

    def of(self, hidden_states: torch.Tensor) -> Any:
        """Hidden states in that form."""
        return hidden_states if self.tail is None else (hidden_states, *self.tail)


class Tap(nn.Module):
    """Stands where an upper layer stood: hands the hidden states on and keeps the other arguments of the call.

    What a model reads of its layers beside calling them, such as `attention_type`, is that of the layer itself.
    """

    def __init__(self, layer: nn.Module | None = None, form: LayerForm | None = None) -> None:
        super().__init__()
        self.hidden: torch.Tensor | None = None
        self.call = LayerCall()
        self._stood_here = (layer,)  # in a tuple, so that its weights are not counted here
        self._form = form

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            (layer,) = self.__dict__.get("_stood_here", (None,))
            if layer is None or name.startswith("_"):
                raise
            return getattr(layer, name)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.hidden, self.call = hidden_states, LayerCall(args, kwargs)
        return hidden_states if self._form is None else self._form.of(hidden_states)

    def clear(self) -> None:
        """Forget the call, so that its tensors can be freed."""
        self.hidden, self.call = None, LayerCall()


class LeftOut(nn.Module):
    """Stands where the final normalisation stood: leaves what the last tap has handed on as it is.

    Some models normalise by the same module in other places too; there it acts as before.
    """

    def __init__(self, norm: nn.Module, last: Tap) -> None:
        super().__init__()
        self._held = (norm, last)  # in a tuple: both have their place elsewhere

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        norm, last = self._held
        return hidden_states if _same(hidden_states, last.hidden) else norm(hidden_states)


def _same(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    """Whether two are one tensor; ZeRO-3's hooks hand on a new one of the same memory."""
    if other is None or one is other:
        return one is other
    return one.shape == other.shape and one.untyped_storage()._cdata == other.untyped_storage()._cdata
