"""What all towers compute alike: queries, keys and values of the first upper layer, before an adapter acts on them.

They are frozen maps of z, and z is the same for every tower. So where no gradient is wanted, and the towers run one
after another over the same z, they are computed for the first tower and remembered for the others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from equipoise.modeling.adapters import ATTENTION_WORDS


class CommonProjections:
    """The frozen projections of one layer, remembered while `of` is open.

    Args:
        layer: the first upper layer, with its adapters injected; projections without an adapter are left alone.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._z: torch.Tensor | None = None
        self._over_z = False
        self._known: dict[str, torch.Tensor] = {}
        layer.register_forward_pre_hook(self._enter)
        for name, module in layer.named_modules():
            if isinstance(module, LoraLayer) and name.rpartition(".")[2].lower() in ATTENTION_WORDS:
                self._remember(name, module.get_base_layer())

    @contextmanager
    def of(self, z_1FH: torch.Tensor) -> Iterator[None]:
        """For a while, whatever the layer projects of exactly this tensor is computed once. Without gradients only."""
        assert not torch.is_grad_enabled(), "a remembered projection has no graph of its own"
        self._z = z_1FH
        try:
            yield
        finally:
            self._z, self._over_z = None, False
            self._known.clear()

    def _enter(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._over_z = self._z is not None and bool(inputs) and inputs[0] is self._z

    def _remember(self, name: str, base: nn.Module) -> None:
        compute: Callable[..., torch.Tensor] = base.forward

        def forward(x: torch.Tensor) -> torch.Tensor:
            if not self._over_z:
                return compute(x)
            if name not in self._known:
                self._known[name] = compute(x)
            # PEFT adds the adapter's part out of place, so what is handed out stays as it is.
            return self._known[name]

        cast(Any, base).forward = forward
