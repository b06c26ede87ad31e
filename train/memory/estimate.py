"""What training will take, before a weight is loaded: parameters, gradients, optimizer state, and a step's activations.

The model is built without its weights (weightless.py) and runs one micro-batch, forward and backward as
training does, while every byte that comes alive is counted (live.py).
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from equipoise.common.errors import UserError
from equipoise.configs.balancing import Layers
from equipoise.configs.schema import RunConfig
from equipoise.data.features import FeatureColumns
from equipoise.modeling.boundary import BoundaryGradients, ComputeWeights, StepContext
from equipoise.modeling.model import ModelSpec, SlateModel, build_model
from equipoise.modeling.packed_size import packed_bytes
from equipoise.train.assemble import model_spec
from equipoise.train.memory.live import LiveMemory, storages
from equipoise.train.memory.step_shape import StepShape, worst_step
from equipoise.train.memory.weightless import Weightless
from equipoise.train.objectives.registry import build_objectives
from equipoise.train.parameters import count_by_group, trainable
from equipoise.train.self_check import TRIPS

FULL = 4
"""Bytes of a trained parameter, of its gradient, and of each of AdamW's two moments: float32."""


@dataclass(frozen=True)
class StepPlan:
    """The model of a run, and how a step runs it.

    Attributes:
        spec: of the model; how many texts a category has is known only once the data are prepared.
        bf16: train.precision is bf16.
        accumulate: micro-batches per step; with more than one, gradients are there before the forward.
        level: where gradients are compared, as in `balancing.level`.
    """

    spec: ModelSpec
    bf16: bool = False
    accumulate: int = 1
    level: Any = "boundary"

    @classmethod
    def of(cls, config: RunConfig) -> "StepPlan":
        """The plan of a run."""
        features = FeatureColumns(numbers=tuple(f.name for f in config.data.features if f.heads))
        spec = model_spec(config, build_objectives(config.objectives), {}, features)
        return cls(spec, config.train.precision == "bf16", config.train.accumulate, config.balancing.level)


@dataclass(frozen=True)
class Sizes:
    """What lies in memory between steps.

    Attributes:
        base: elements of the frozen base.
        base_bytes, cast_base_bytes: as it is loaded, and as DeepSpeed holds it (bfloat16 where training is bf16).
        groups: elements of each adapter and head.
        quantized: the base is packed to 4 bits.
    """

    base: int
    base_bytes: int
    cast_base_bytes: int
    groups: dict[str, int]
    quantized: bool

    @property
    def trained(self) -> int:
        """Elements that are trained."""
        return sum(self.groups.values())


@dataclass(frozen=True)
class Estimate:
    """Bytes of a training step.

    Attributes:
        sizes: of the model.
        shape: of the micro-batch.
        bf16: whether it runs in bfloat16.
        peak: most bytes above model and optimizer state, gradients included as far as they are alive then.
        cast_peak: the same under DeepSpeed, which casts the model instead of each operation.
        together_peak: the same under ZeRO-3, where all towers are alive at once.
    """

    sizes: Sizes
    shape: StepShape
    bf16: bool
    peak: int
    cast_peak: int
    together_peak: int


def estimate(config: RunConfig, slates: int | None = None, candidates: int | None = None) -> Estimate:
    """Estimate a run from its config and the backbone's config.json.

    Raises:
        UserError: the backbone's config cannot be loaded, the model cannot be built as configured, or its code cannot
            be run without weights.
    """
    plan, shape = StepPlan.of(config), worst_step(config, slates, candidates)
    sizes = measure_sizes(plan)
    try:
        peak = step_peak(plan, shape)
        cast = step_peak(plan, shape, cast=True) if plan.bf16 else peak
        together = step_peak(plan, shape, cast=plan.bf16, together=True)
    except TRIPS as error:
        reason = next(iter(str(error).strip().splitlines()), "")[:200] or "no text"
        raise UserError(
            f"backbone.path: a step of {config.backbone.path} cannot be run without its weights "
            f"({type(error).__name__}: {reason}), so its memory is not known: "
            "let `equipoise train` measure it, or choose another backbone"
        ) from error
    return Estimate(sizes, shape, plan.bf16, peak, cast, together)


def measure_sizes(plan: StepPlan) -> Sizes:
    """Elements and bytes of the model that a plan builds."""
    model = _meta_model(plan)
    frozen = {p for p in model.parameters() if not p.requires_grad}
    packed = {m.weight for m in _frozen_linears(model)} if plan.spec.backbone.quantize else set()
    buffers = sum(storage.nbytes() for storage in {id(s): s for s in storages(list(model.buffers()))}.values())
    rest = frozen - packed
    packs = sum(packed_bytes(p.numel()) for p in packed)
    cast = 2 if plan.bf16 else FULL
    return Sizes(
        base=sum(p.numel() for p in frozen),
        base_bytes=packs + buffers + sum(p.nbytes for p in rest),
        cast_base_bytes=packs + buffers + sum(p.numel() * cast for p in rest),
        groups=count_by_group(trainable(model).items()),
        quantized=bool(packed),
    )


def step_peak(plan: StepPlan, shape: StepShape, cast: bool = False, together: bool = False) -> int:
    """Most bytes that one micro-batch has alive at once, above the model; gradients included.

    Args:
        plan, shape: of the model and the micro-batch.
        cast: the whole model is bfloat16, as DeepSpeed makes it, instead of casting each operation.
        together: all towers are alive until the backward, as under ZeRO-3.
    """
    model = _meta_model(plan, sharded=together)
    if cast:
        model.to(torch.bfloat16)
    if plan.spec.backbone.quantize:
        _stand_in_for_packed(model, torch.bfloat16 if plan.bf16 else torch.float32)
    world = Weightless()
    world.convert(model)
    model.train()
    step = StepContext(_weights_of_one(model, plan.level))
    inputs = shape.batch().model_inputs()
    with world.running(), LiveMemory() as memory:
        if plan.accumulate > 1:
            for parameter in trainable(model).values():
                parameter.grad = torch.zeros_like(parameter)
        names = model.objectives + model.retrieval
        with torch.autocast("cpu", torch.bfloat16) if plan.bf16 and not cast else nullcontext():
            outputs = model.score(inputs, step) if together else model.losses(inputs, _mean, step)
        losses = [_mean(name, outputs) for name in names] if together else [outputs["losses"].sum()]
        torch.stack(losses).sum().backward()
    return memory.peak


def _mean(name: str, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Stands for an objective's loss, whose own tensors are small beside a tower's."""
    return outputs[name].mean()


def _weights_of_one(model: SlateModel, level: Any) -> ComputeWeights:
    """Weights of 1, found with the gradients that the level of comparison needs."""
    layers = model.trunk_parameters()
    if isinstance(level, Layers):
        layers = layers[-level.layers :]
    compared = [] if level == "boundary" else [parameter for layer in layers for parameter in layer]

    def compute_weights(gradients: BoundaryGradients, context: StepContext) -> list[float]:
        if compared:
            gradients.gradients(compared)
        return [1.0] * len(gradients.values)

    return compute_weights


def _meta_model(plan: StepPlan, sharded: bool = False) -> SlateModel:
    shapes_only = plan.spec.backbone.model_copy(update={"init": "random", "quantize": None})
    with torch.device("meta"):
        spec = replace(plan.spec, backbone=shapes_only, offsets={}, seed=0)
        return build_model(spec, partial_last_layer=not sharded)


def _frozen_linears(model: SlateModel) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear) and not module.weight.requires_grad]


class _Unpacked(torch.autograd.Function):
    """A product with a packed weight: unpacked for this product alone, once in forward and once more in backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, outputs: int) -> torch.Tensor:
        ctx.inputs = x.shape[-1]
        return x @ x.new_empty(outputs, x.shape[-1]).t()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient @ gradient.new_empty(gradient.shape[-1], ctx.inputs), None


class _PackedLinear(nn.Module):
    """Takes the memory of a 4-bit linear layer in forward and backward; its weight is counted elsewhere."""

    def __init__(self, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.outputs, self.dtype = outputs, dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Unpacked.apply(x.to(self.dtype), self.outputs).to(x.dtype)


def _stand_in_for_packed(model: SlateModel, dtype: torch.dtype) -> None:
    packed = set(_frozen_linears(model))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in packed:
                setattr(parent, name, _PackedLinear(child.out_features, dtype))
