"""How far packed slates are from one candidate at a time: logits and LoRA gradients, float32.

Both sides are our model with the same weights: packed with the prefix-split attention, and each candidate alone behind
its own copy of the prefix under stock SDPA.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from benchmarks.figures import figure
from benchmarks.slates_ours import FAST, OBJECTIVES
from benchmarks.workload import Sizes, Workload, build_workload
from equipoise.data.batches import Slate, SlateBatch, build_batch

Difference = tuple[float, float]
"""The largest absolute difference, and the largest absolute value that it compares with."""


def one_by_one(batch: SlateBatch) -> list[SlateBatch]:
    """The candidates of a batch without padding between tokens, each in a batch of its own behind its prefix."""
    flat, width = batch.input_ids.reshape(-1), batch.input_ids.shape[1]
    batches = []
    for number, tokens in enumerate(batch.candidate_tokens):
        tokens = tokens[tokens >= 0]
        row = int(tokens[0]) // width
        prefix = batch.input_ids[row][batch.segment_ids[row] == 0]
        item = batch.item[number : number + 1].cpu().numpy()
        slate = Slate(0, prefix.tolist(), [flat[tokens].tolist()], item, item * 0, item * 0)
        batches.append(build_batch([slate], len(prefix) + len(tokens), 0).to(batch.input_ids.device))
    return batches


def copy_trained(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the trained parameters of `source`, by name."""
    source_parameters = {name: p for name, p in source.named_parameters() if p.requires_grad}
    target_parameters = {name: p for name, p in target.named_parameters() if p.requires_grad}
    if source_parameters.keys() != target_parameters.keys():
        different = sorted(source_parameters.keys() ^ target_parameters.keys())
        raise ValueError(f"two different models: only one has {different[0]}")
    with torch.no_grad():
        for name, parameter in target_parameters.items():
            parameter.copy_(source_parameters[name])


def _logits_and_gradients(workload: Workload) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits (K, N) and, by name, the gradients that the sum over candidates and objectives leaves."""
    outputs = workload.model.score(workload.batch.model_inputs())
    logits = torch.stack([outputs[name] for name in workload.names])
    nn.functional.binary_cross_entropy_with_logits(logits, workload.labels, reduction="sum").backward()
    named = workload.model.named_parameters()
    return logits.detach(), {name: p.grad for name, p in named if ".lora_" in name and p.grad is not None}


def differences(backbone: str, sizes: Sizes, objectives: int = OBJECTIVES) -> tuple[Difference, Difference]:
    """Of the logits, and of the LoRA gradients of the plain sum of the losses divided by the number of candidates."""
    packed = build_workload(backbone, objectives, sizes, way=FAST)
    alone = build_workload(backbone, objectives, sizes, way=replace(FAST, attention="sdpa"))
    copy_trained(packed.model, alone.model)
    packed.model.eval()
    alone.model.eval()
    logits, gradients = _logits_and_gradients(packed)
    single = []
    for number, batch in enumerate(one_by_one(packed.batch)):
        labels = packed.labels[:, number : number + 1]
        values, single_gradients = _logits_and_gradients(replace(alone, batch=batch, labels=labels))  # gradients add up
        single.append(values)
    if gradients.keys() != single_gradients.keys():
        raise ValueError("packed and single candidates reach different adapters")
    reference, count = torch.cat(single, 1), logits.shape[1]
    gradient_difference = (
        max(float((gradients[name] - single_gradients[name]).abs().max()) for name in gradients) / count
    )
    gradient_scale = max(float(value.abs().max()) for value in single_gradients.values()) / count
    return (
        (float((logits - reference).abs().max()), float(reference.abs().max())),
        (gradient_difference, gradient_scale),
    )


def agreement_figures(backbone: str, sizes: Sizes) -> list[dict[str, Any]]:
    """`packed_max_abs_diff` and `packed_gradient_max_abs_diff`; `largest` is the largest value compared."""
    logits, gradients = differences(backbone, sizes)
    where: dict[str, Any] = {"backbone": backbone, **vars(sizes)}
    unit = "largest |packed − one candidate at a time|"
    return [
        figure("packed_max_abs_diff", logits[0], f"{unit}, logits", largest=logits[1], **where),
        figure("packed_gradient_max_abs_diff", gradients[0], f"{unit}, gradients", largest=gradients[1], **where),
    ]
