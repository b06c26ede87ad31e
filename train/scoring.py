"""Scores of whole slates, row by row, from all processes."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from equipoise.data.batches import SlateBatch, build_batch
from equipoise.data.slate_set import SlateSet
from equipoise.data.token_budget import token_groups
from equipoise.modeling.model import ForwardRequest
from equipoise.train.world import World

LABEL = "label:"
"""Before the column of a label in the scores; no objective has such a name."""
WEIGHT, EXAMINATION = "data:weight", "data:examination"
"""How much each candidate counts, in the scores; no objective has such a name."""


def score_batch(model: nn.Module, batch: SlateBatch, chunk_tokens: int | None = None) -> dict[str, np.ndarray]:
    """Logits and adjustments of a batch on the model's device, by name: float64 (N,); for inference mode only.

    At most `chunk_tokens` candidate tokens pass at once.
    """
    outputs = model(request=ForwardRequest(batch.model_inputs(), chunk_tokens=chunk_tokens))
    return {name: value.double().cpu().numpy() for name, value in outputs.items() if value.ndim == 1}


def score_slates(
    model: nn.Module,
    slates: SlateSet,
    rows: Sequence[int],
    *,
    max_tokens: int,
    max_row: int,
    device: torch.device,
    world: World,
    chunk_tokens: int | None = None,
    progress: Callable[[int], None] = lambda slates: None,
) -> dict[str, np.ndarray]:
    """Score the slates `rows` with all their candidates, each process its part, gathered once at the end.

    Args:
        max_tokens: tokens of a batch and process; a longer slate is a batch of its own.
        chunk_tokens: at most so many candidate tokens pass at once; None: all of a batch.

    Returns:
        arrays with one entry per candidate, in the order of `rows`: `row` (int64, the slate), `item` (int64), `click`
        and `conversion` (int8), `label:COLUMN` (float32) of further labels, `data:weight` (float64) where impressions
        are weighed, `data:examination` (float64) where places are read, and float64 outputs and adjustments by
        objective name.
    """
    groups = token_groups(slates.tokens.costs()[list(rows)], max_tokens)
    own_groups = groups[world.rank :: world.size]
    rounds = -(-len(groups) // world.size)
    was_training = model.training
    model.eval()
    parts: list[dict[str, np.ndarray]] = []
    with torch.inference_mode():
        for number in range(rounds):
            # ZeRO-3 gathers weights in every forward, so all processes must make the same number of calls.
            group = own_groups[number] if number < len(own_groups) else groups[-1]
            chosen = [slates.slate(rows[index]) for index in group]
            batch = build_batch(chosen, max_row, slates.pad_id).to(device)
            part = score_batch(model, batch, chunk_tokens)
            if number >= len(own_groups):
                continue
            part["row"] = batch.row[batch.slate].cpu().numpy()
            part["item"] = batch.item.cpu().numpy()
            part["click"] = batch.click.cpu().numpy().astype(np.int8)
            part |= {f"{LABEL}{name}": values.cpu().numpy() for name, values in batch.labels.items()}
            part["conversion"] = batch.conversion.cpu().numpy().astype(np.int8)
            part |= {} if batch.weight is None else {WEIGHT: batch.weight.double().cpu().numpy()}
            part |= {} if batch.examination is None else {EXAMINATION: batch.examination.double().cpu().numpy()}
            parts.append(part)
            progress(sum(map(len, groups[number * world.size : (number + 1) * world.size])))  # of all processes
    model.train(was_training)
    everywhere = [part for process in world.gather(parts) for part in process]
    merged = {name: np.concatenate([part[name] for part in everywhere]) for name in everywhere[0]}
    index_of = {row: index for index, row in enumerate(rows)}
    order = np.argsort([index_of[int(row)] for row in merged["row"]], kind="stable")
    return {name: values[order] for name, values in merged.items()}
