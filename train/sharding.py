"""FSDP 2 through Accelerate: the frozen base is cut up among the processes, what trains is whole on each of them.

Adapters and heads are about a hundredth of the weights. Kept whole, their gradients can be taken tower by tower and
compared at every level, and checkpoints are those of DDP: any number of processes can go on from them. Their gradients
are averaged here, once per optimizer step; FSDP gathers each layer of the base when it runs, forwards and backwards.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import convert_outputs_to_fp32
from torch import nn
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from equipoise.modeling.model import SlateModel


def prepare_sharded(accelerator: Accelerator, model: SlateModel, optimizer: Any) -> tuple[SlateModel, Any]:
    """The model with its base cut up, layer by layer, in place, and the optimizer of what trains."""
    plugin: Any = accelerator.state.fsdp_plugin
    whole = [*_modules_that_train(model), model.backbone.norm]  # the norm stands outside of the layers
    plugin.ignored_modules = [module.to(accelerator.device) for module in whole]
    layers = model.layers()
    plugin.auto_wrap_policy = transformer_auto_wrap_policy
    plugin.transformer_cls_names_to_wrap = sorted({type(layer).__name__ for layer in layers})
    plugin.mixed_precision_policy = None  # it would round losses; autocast is what the other engines use
    model, optimizer = accelerator.prepare(model, optimizer)
    for layer in layers:
        _gather_for_backward(layer)
    if accelerator.mixed_precision != "no":
        compute: Any = convert_outputs_to_fp32(torch.autocast(accelerator.device.type, torch.bfloat16)(model.forward))
        model.forward = compute  # type: ignore[method-assign]
    return model, optimizer


def _modules_that_train(model: nn.Module) -> list[nn.Module]:
    """The modules whose own parameters train; none of them has a frozen one."""
    chosen = []
    for module in model.modules():
        own = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
        if any(own):
            assert all(own), "adapters and heads hold nothing that is frozen"
            chosen.append(module)
    return chosen


def _gather_for_backward(layer: nn.Module) -> None:
    """Gather a layer's weights also where gradients enter it by something else than its output.

    Keys and values of prefixes are read by candidates' layers beside it: without this, weights that FSDP has given back
    after one call of the layer would be missing in the backward of another.
    """
    state: Any = layer._get_fsdp_state()  # type: ignore[operator]

    def forward_hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.requires_grad:
            output.register_hook(state._pre_backward)

    for module in layer.modules():
        if module is not layer and any(not p.requires_grad for p in module.parameters(recurse=False)):
            module.register_forward_hook(forward_hook)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their means over all processes, in one exchange per dtype."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for dtype in sorted({parameter.dtype for parameter in trained}, key=str):
        gradients = [parameter.grad for parameter in trained if parameter.dtype == dtype]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients if gradient is not None])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        start = 0
        for gradient in gradients:
            assert gradient is not None
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
