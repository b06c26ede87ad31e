"""Before training: are packed slates, to this backbone, the same as separate prompts are to its stock class?

That is what serving rests on. On the first batch, the vectors of a few candidates are compared, for every objective,
with those of the whole stock model on separate prompts, all in one batch and each alone: a backbone that lets a prompt
depend on what stands beside it is found too. Adapters add a signal meanwhile, for fresh ones add nothing. Under ZeRO-3
the cut model alone is run: packed, and on separate prompts under transformers' own attention.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from equipoise.common.errors import UserError
from equipoise.data.batches import SlateBatch
from equipoise.modeling.backbone import stock_attention
from equipoise.modeling.model import ForwardRequest, SlateModel
from equipoise.modeling.stock import Signal, signalled
from equipoise.train.world import World

CANDIDATES = 4
TRIPS = (AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What an architecture's own code raises where it is called as it does not expect."""
TOLERANCE = {"fp32": 1e-3, "bf16": 8e-2}
"""Largest distance of two vectors over the length of the separate prompt's, by `train.precision`."""


def separate_prompts(batch: SlateBatch, candidates: list[int]) -> dict[str, torch.Tensor]:
    """Some candidates of a batch as model inputs, each a row of its own: its prefix and itself."""
    width = batch.input_ids.shape[1]
    rows = [int(batch.candidate_tokens[n, 0]) // width for n in candidates]
    prefixes = [int((batch.segment_ids[row] == 0).sum()) for row in rows]
    lengths = [int((batch.candidate_tokens[n] >= 0).sum()) for n in candidates]
    longest = max(p + c for p, c in zip(prefixes, lengths, strict=True))
    ids = batch.input_ids.new_zeros(len(candidates), longest)
    segments = torch.full_like(ids, -1)
    tokens = torch.full((len(candidates), max(lengths)), -1, dtype=torch.int64, device=ids.device)
    for line, (n, row, prefix, length) in enumerate(zip(candidates, rows, prefixes, lengths, strict=True)):
        ids[line, :prefix] = batch.input_ids[row, :prefix]
        own = batch.candidate_tokens[n, :length]
        ids[line, prefix : prefix + length] = batch.input_ids.reshape(-1)[own]
        segments[line, :prefix], segments[line, prefix : prefix + length] = 0, 1
        tokens[line, :length] = line * longest + prefix + torch.arange(length, device=ids.device)
    return {
        "input_ids": ids,
        "position_ids": torch.arange(longest, device=ids.device).expand(len(candidates), -1) * (segments >= 0),
        "segment_ids": segments,
        "candidate_tokens": tokens,
        "slate_candidates": torch.arange(len(candidates), device=ids.device)[:, None],
        **batch.head_columns(candidates),
    }


@torch.no_grad()
def self_check(
    model: nn.Module, slate_model: SlateModel, batch: SlateBatch, world: World, precision: str = "fp32"
) -> float:
    """Compare and return the largest relative distance over all processes.

    Args:
        model: as the engine wraps it.
        slate_model: the same, unwrapped.
        batch: of this process, on its device.
        world: the processes of the job; all must call this.
        precision: of the computation, fp32 or bf16 (outputs are widened again, so they do not tell).

    Raises:
        UserError: a packed slate is not the same as its separate prompts, an adapter stands where nothing passes, or
            the backbone cannot be run so at all.
    """
    was_training = model.training
    model.eval()
    try:
        return _compare(model, slate_model, batch, world, TOLERANCE[precision])
    except torch.OutOfMemoryError:
        raise
    except TRIPS as e:
        # Architectures that nobody has tried trip over packed slates in their own ways.
        reason = next(iter(str(e).strip().splitlines()), "")[:200] or "no text"
        raise UserError(
            f"backbone.path: {_name(slate_model)} cannot be run on packed slates ({type(e).__name__}: {reason}): "
            "choose another backbone"
        ) from e
    finally:
        model.train(was_training)


def _compare(model: nn.Module, slate_model: SlateModel, batch: SlateBatch, world: World, tolerance: float) -> float:
    count = batch.candidate_tokens.shape[0]
    # As many on every process, for engines need the same calls on all.
    chosen = [round(k * (count - 1) / (CANDIDATES - 1)) for k in range(CANDIDATES)]
    if not slate_model.upper.partial_last_layer:  # ZeRO-3, whose hooks want the same modules every time
        packed = _vectors(model, ForwardRequest(batch.model_inputs(), keep_vectors=True), chosen)
        with slate_model.backbone.using(stock_attention(slate_model.backbone.config)):
            alone = _vectors(model, ForwardRequest(separate_prompts(batch, chosen), keep_vectors=True))
        largest = _largest(world, packed, alone)
        _refuse(_name(slate_model), 0.0, largest, tolerance, slate_model.backbone.attention == "split")
        return largest
    if slate_model.backbone.apart:
        _refuse_moving_states(slate_model, separate_prompts(batch, [0]), world, tolerance)
    compiled = any(
        hasattr(layer, "_compiled_call_impl") and layer._compiled_call_impl for layer in slate_model.layers()
    )
    with nullcontext() if compiled else signalled(slate_model) as signal:  # compiled code does not see hooks
        packed = _vectors(model, ForwardRequest(batch.model_inputs(), keep_vectors=True), chosen)
        idle = _idle(slate_model, signal) if isinstance(signal, Signal) else None
        with torch.compiler.set_stance("force_eager"):
            batched = _vectors(model, ForwardRequest(separate_prompts(batch, chosen), stock=True))
            each = [_vectors(model, ForwardRequest(separate_prompts(batch, [n]), stock=True)) for n in chosen]
        alone = {name: torch.cat([one[name] for one in each]) for name in batched}
        stock = _largest(world, batched, alone)
        largest = max(_largest(world, packed, alone), _largest(world, packed, batched))
        if stock <= tolerance < largest and slate_model.backbone.attention == "split":
            with slate_model.backbone.using("sdpa"):
                rows = _vectors(model, ForwardRequest(batch.model_inputs(), keep_vectors=True), chosen)
            helps = _largest(world, rows, alone) <= tolerance
        else:
            helps = False
    if idle is not None:
        raise UserError(
            f"lora.targets: {idle} of {_name(slate_model)} is never called as a module, so that its adapter would not "
            "learn: leave it out of lora.targets"
        )
    _refuse(_name(slate_model), stock, largest, tolerance, helps)
    return largest


def _refuse(name: str, stock: float, largest: float, tolerance: float, sdpa_helps: bool) -> None:
    if not stock <= tolerance:
        raise UserError(
            f"backbone.path: {name} gives other vectors for a prompt when others stand in its batch (they differ by "
            f"{stock:.1e}, relative, at most {tolerance:.0e} is allowed), so that no server could give its "
            "scores: choose another backbone"
        )
    if not largest <= tolerance:
        way = "set backbone.attention=sdpa" if sdpa_helps else "choose another backbone"
        raise UserError(
            f"backbone.{'attention' if sdpa_helps else 'path'}: packed slates and separate prompts of the stock {name} "
            f"differ by {largest:.1e} (relative, at most {tolerance:.0e} is allowed): {way}"
        )


def _refuse_moving_states(
    slate_model: SlateModel, prompt: dict[str, torch.Tensor], world: World, tolerance: float
) -> None:
    """What an apart trunk makes of a candidate must be the same behind any prefix, or no server could keep it."""
    cut = max(0, int((prompt["segment_ids"] == 0).sum()) - 1)
    behind_one = {name: prompt[name][:, cut:] for name in ("input_ids", "segment_ids")}
    behind_one["position_ids"] = prompt["position_ids"][:, : behind_one["input_ids"].shape[1]]
    behind_one["candidate_tokens"] = prompt["candidate_tokens"] - cut
    found, wanted = ({"z": slate_model.candidate_states(inputs).double()} for inputs in (behind_one, prompt))
    if not _largest(world, found, wanted) <= tolerance:
        raise UserError(
            f"backbone.trunk: {_name(slate_model)} tells positions in a way that changes what its trunk makes of a "
            "candidate behind other prefixes, so that no server could keep it: set backbone.trunk=joint"
        )


def _name(slate_model: SlateModel) -> str:
    return type(slate_model.backbone.trunk).__name__


def _vectors(model: Any, request: ForwardRequest, chosen: list[int] | None = None) -> dict[str, torch.Tensor]:
    found = {name: each.double() for name, each in model(request=request).items() if name.endswith(".vector")}
    return {name: each if chosen is None else each[chosen] for name, each in found.items()}


def _largest(world: World, found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest relative distance over all candidates, objectives and processes; what is not finite is infinite."""
    worst = 0.0
    for name, other in wanted.items():
        distance = (found[name] - other).norm(dim=1) / other.norm(dim=1).clamp(min=1e-12)
        worst = max(worst, float(distance.nan_to_num(nan=torch.inf).max()))
    return max(float(value) for value in world.gather(worst))


def _idle(slate_model: SlateModel, signal: Signal) -> str | None:
    """A module whose adapter did not take part, by its name in its layer; None where all did."""
    names = {"shared", *slate_model.objectives}
    for number, layer in enumerate(slate_model.layers()):
        for name, module in layer.named_modules():
            ups = getattr(module, "lora_B", None)
            if ups is not None and any(up not in signal.seen for key, up in ups.items() if key in names):
                return f"layer {number}'s {name}"
    return None
