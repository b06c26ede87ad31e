"""Time of a step's operations on an H200 by a roofline, at the true shapes of a backbone, without its weights."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import AutoModelForSequenceClassification
from transformers.models.llama import modeling_llama

from benchmarks.launches_count import VIEWS
from benchmarks.peer_prompts import adapted, classifier_config
from benchmarks.slates_gpu import PEAK_FLOPS
from benchmarks.workload import LORA, Sizes, Way, backbone_config, random_batch, tower_names
from equipoise.modeling.boundary import StepContext
from equipoise.modeling.model import ModelSpec, build_model
from equipoise.train.memory.weightless import Weightless

PEAK, BANDWIDTH = PEAK_FLOPS["H200"], 4.8e12
OF_PEAK, OF_BANDWIDTH, LAUNCH = 0.70, 0.80, 31e-6
"""What matrix products reach of the peak, and other operations of the bandwidth; seconds per launch as measured."""
OURS, PROMPTS = Sizes(14, 20, 256, 16), Sizes(28, 1, 256, 16)
"""A micro-step of 8,064 tokens, and one of 7,616 on separate prompts."""
SHAPES = {"1b": "llama1b", "8b": "llama8b"}


@dataclass
class Sums:
    """What operations come to: FLOPs, seconds by the roofline, and how many of them a GPU starts."""

    flops: float = 0.0
    seconds: float = 0.0
    launches: int = 0


class Roofline(TorchDispatchMode):
    """Adds up what runs inside; views, and questions to a tensor such as that for its device, cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = Sums()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if func.namespace == "prim" or func.overloadpacket.__name__ in VIEWS:
            return found
        flops = 0
        if func.overloadpacket in flop_registry:
            flops = flop_registry[func.overloadpacket](*args, **kwargs, out_val=found)
        tensors = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, torch.Tensor)]
        moved = sum(leaf.numel() * leaf.element_size() for leaf in tensors)
        self.sums.flops += flops
        self.sums.seconds += max(flops / (OF_PEAK * PEAK), moved / (OF_BANDWIDTH * BANDWIDTH))
        self.sums.launches += 1
        return found


def _sums_of(model: Any, step: Callable[[], torch.Tensor]) -> Sums:
    """Forward and backward of the loss that a step gives, after a first one that lays things out."""
    world = Weightless()
    world.convert(model)
    roofline = Roofline()
    with world.running(), torch.autocast("cpu", torch.bfloat16):
        step().backward()
        with roofline:
            step().backward()
    return roofline.sums


def _ours(name: str, kernels: str) -> Sums:
    batch = random_batch(OURS, 1000, 0)
    with tempfile.TemporaryDirectory() as folder, torch.device("meta"):
        base = backbone_config(SHAPES[name], folder, Way(dtype="bfloat16"))
        model = build_model(ModelSpec(base, LORA, tower_names(4)))

    def step() -> torch.Tensor:
        if kernels == "fused" and model.kernels == "plain":
            model.use_fused()
        context = StepContext(lambda gradients, context: [1.0] * 4)
        outputs = model.losses(batch.model_inputs(), lambda name, outputs: outputs[name].mean(), context)
        return outputs["losses"].sum()

    return _sums_of(model, step)


def _peft(name: str) -> Sums:
    batch = random_batch(PROMPTS, 1000, 0)
    with tempfile.TemporaryDirectory() as folder, torch.device("meta"):
        config = classifier_config(backbone_config(SHAPES[name], folder, Way(dtype="bfloat16")))
        kind: Any = AutoModelForSequenceClassification
        model = adapted(kind.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa"))
    return _sums_of(model, lambda: model(input_ids=batch.input_ids, labels=torch.ones(PROMPTS.slates, 1)).loss)


@contextmanager
def _in_one_kernel() -> Iterator[None]:
    """Llama's element-wise parts as one operation each, forward and, where one will do, backward, as Liger has them."""

    def normed(norm: Any, x: torch.Tensor) -> torch.Tensor:
        return norm.weight * x

    def rotated(q: torch.Tensor, k: torch.Tensor, *rest: Any, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return q * 1.0, k * 1.0

    def gated(mlp: Any, x: torch.Tensor) -> torch.Tensor:
        return mlp.down_proj(mlp.gate_proj(x) * mlp.up_proj(x))

    parts: list[tuple[Any, str, Any]] = [
        (modeling_llama.LlamaRMSNorm, "forward", normed),
        (modeling_llama, "apply_rotary_pos_emb", rotated),
        (modeling_llama.LlamaMLP, "forward", gated),
    ]
    with ExitStack() as stack:
        for owner, what, part in parts:
            stack.enter_context(patch.object(owner, what, part))
        yield


def modelled(name: str, launches: int, kernels: str) -> dict[str, Any]:
    """The share of the dense peak that a step with four objectives reaches, with what it rests on.

    Args:
        name: 1b or 8b.
        launches: of a step.
        kernels: fused or plain.
    """
    sums = _ours(name, kernels)
    seconds = max(sums.seconds, launches * LAUNCH)
    return {
        "value": sums.flops / PEAK / seconds,
        "tflop": round(sums.flops / 1e12, 1),
        "roofline_ms": round(sums.seconds * 1e3, 1),
        "launches_ms": round(launches * LAUNCH * 1e3, 1),
        "ms_per_impression": seconds * 1e3 / (OURS.slates * OURS.candidates),
    }


def modelled_peft(name: str, fast: bool) -> dict[str, Any]:
    """Milliseconds per impression of plain PEFT with one objective on separate prompts, with what it rests on.

    Args:
        name: 1b or 8b.
        fast: with element-wise parts as one operation each, as Liger's kernels are; the attention is one either way.
    """
    with _in_one_kernel() if fast else nullcontext():
        sums = _peft(name)
    seconds = max(sums.seconds, sums.launches * LAUNCH)
    return {
        "value": seconds * 1e3 / PROMPTS.slates,
        "launches": sums.launches,
        "roofline_ms": round(sums.seconds * 1e3, 1),
        "launches_ms": round(sums.launches * LAUNCH * 1e3, 1),
    }
