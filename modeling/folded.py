"""The shared adapter folded into the trunk's weights: for serving, where it never changes again.

A trunk layer then costs what the base model's layer costs. The towers' adapters stay apart, for all objectives run
over the same upper layers.
"""

from typing import Any, cast

from peft.tuners.lora import LoraLayer

from equipoise.modeling.adapters import SHARED
from equipoise.modeling.model import SlateModel


def fold_shared(model: SlateModel) -> int:
    """Put W + (α/r)·B·A in the place of W and of the shared adapter, in every trunk layer; returns how many were put.

    Scores stay the same to the last digits of float32. Packed weights cannot hold the sum: such layers are left as
    they are.
    """
    trunk = model.backbone.trunk
    adapted = [(name, m) for name, m in trunk.named_modules() if isinstance(m, LoraLayer) and SHARED in m.lora_A]
    layers = [(name, m) for name, m in adapted if cast(Any, m.get_base_layer()).weight.is_floating_point()]
    for name, module in layers:
        module.merge(adapter_names=[SHARED])
        parent, _, own = name.rpartition(".")
        setattr(trunk.get_submodule(parent), own, module.get_base_layer())
    return len(layers)
