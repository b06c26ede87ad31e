"""Time of a step's operations on an H200 by a roofline, at the true shapes of a backbone, without its weights."""

import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.launches_count import VIEWS
from benchmarks.slates_gpu import PEAK_FLOPS
from benchmarks.workload import LORA, Sizes, Way, backbone_config, random_batch, tower_names
from equipoise.modeling.boundary import StepContext
from equipoise.modeling.model import ModelSpec, build_model
from equipoise.train.memory.weightless import Weightless

PEAK, BANDWIDTH = PEAK_FLOPS["H200"], 4.8e12
OF_PEAK, OF_BANDWIDTH, LAUNCH = 0.70, 0.80, 31e-6
"""What matrix products reach of the peak, and other operations of the bandwidth; seconds per launch as measured."""
SLATES = {"1b": 8, "8b": 4}
SHAPES = {"1b": "llama1b", "8b": "llama8b"}


@dataclass
class _Sums:
    flops: float = 0.0
    seconds: float = 0.0


class _Roofline(TorchDispatchMode):
    """Adds up FLOPs and seconds of what runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = _Sums()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if func.overloadpacket.__name__ in VIEWS:
            return found
        flops = 0
        if func.overloadpacket in flop_registry:
            flops = flop_registry[func.overloadpacket](*args, **kwargs, out_val=found)
        tensors = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, torch.Tensor)]
        moved = sum(leaf.numel() * leaf.element_size() for leaf in tensors)
        self.sums.flops += flops
        self.sums.seconds += max(flops / (OF_PEAK * PEAK), moved / (OF_BANDWIDTH * BANDWIDTH))
        return found


def modelled(name: str, launches: int, kernels: str) -> dict[str, Any]:
    """The share of the dense peak that a step reaches, with what it rests on.

    Args:
        name: 1b or 8b.
        launches: of a step.
        kernels: fused or plain.
    """
    with tempfile.TemporaryDirectory() as folder:
        base = backbone_config(SHAPES[name], folder, Way(dtype="bfloat16"))
        with torch.device("meta"):
            model = build_model(ModelSpec(base, LORA, tower_names(4)))
    batch = random_batch(Sizes(SLATES[name], 20, 256, 16), 1000, 0)
    world = Weightless()
    world.convert(model)
    if kernels == "fused":
        model.use_fused()
    roofline = _Roofline()
    with world.running(), roofline, torch.autocast("cpu", torch.bfloat16):
        step = StepContext(lambda gradients, context: [1.0] * 4)
        outputs = model.losses(batch.model_inputs(), lambda name, outputs: outputs[name].mean(), step)
        outputs["losses"].sum().backward()
    sums = roofline.sums
    seconds = max(sums.seconds, launches * LAUNCH)
    return {
        "value": sums.flops / PEAK / seconds,
        "tflop": round(sums.flops / 1e12, 1),
        "roofline_ms": round(sums.seconds * 1e3, 1),
        "launches_ms": round(launches * LAUNCH * 1e3, 1),
    }
