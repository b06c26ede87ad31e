"""Golden prompts: real prompts of the test split with the scores of the trained model, each scored alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipoise.common.errors import UserError
from equipoise.data.batches import Slate, build_batch
from equipoise.data.features import Scales, standardised
from equipoise.export.serving import TOLERANCE
from equipoise.modeling.model import SlateModel

PROMPTS = "golden.jsonl"
SLATE = "golden_slate.json"


@dataclass(frozen=True)
class Prompt:
    """One candidate of one slate: its texts, their token ids, and its features as cells of a table (None: unknown)."""

    slate: int
    prefix: str
    item: str
    context: str
    prefix_ids: list[int]
    candidate_ids: list[int]
    features: dict[str, float | str | None] = field(default_factory=dict)


def write_golden(
    folder: Path, model: SlateModel, prompts: Sequence[Prompt], slate: Sequence[Prompt], scales: Scales | None = None
) -> None:
    """Score and write golden.jsonl (prompts) and golden_slate.json (one slate, with δ where there are towers for it).

    Args:
        folder: of the export.
        model: the trained model in float32 and evaluation form.
        prompts: at least one.
        slate: candidates of one slate.
        scales: how the model's features are standardised.

    Raises:
        UserError: the packed slate and its single prompts disagree.
    """
    with torch.inference_mode():
        lines = [_line(model, prompt, scales or {}) for prompt in prompts]
        packed = _slate(model, slate, scales or {})
    (folder / PROMPTS).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    (folder / SLATE).write_text(json.dumps(packed, ensure_ascii=False, indent=1) + "\n", "utf-8")


def _score(model: SlateModel, prompts: Sequence[Prompt], scales: Scales) -> dict[str, torch.Tensor]:
    """All outputs (M,) of one slate in one row; pointwise ones with their offset."""
    nothing = np.zeros(len(prompts), dtype=np.int64)
    candidates = [prompt.candidate_ids for prompt in prompts]
    row = len(prompts[0].prefix_ids) + sum(len(ids) for ids in candidates)
    told = [[scale.read(p.features[name]) for name, scale in scales.items()] for p in prompts]
    raw = np.array(told, dtype=np.float64)  # None becomes NaN
    features = standardised(scales, raw) if scales else None
    slate = Slate(0, prompts[0].prefix_ids, candidates, nothing, nothing, nothing, features=features)
    return model(**build_batch([slate], max_row=row, pad_id=0).model_inputs())


def _line(model: SlateModel, prompt: Prompt, scales: Scales) -> dict[str, Any]:
    outputs = _score(model, [prompt], scales)
    return {
        "slate": prompt.slate,
        "prefix": prompt.prefix,
        "item": prompt.item,
        "context": prompt.context,
        "input_ids": [*prompt.prefix_ids, *prompt.candidate_ids],
        "prefix_tokens": len(prompt.prefix_ids),
        **({"features": prompt.features} if scales else {}),
        "logit": {name: outputs[name].item() - model.offsets[name] for name in model.pointwise},
        "probability": {name: outputs[name].sigmoid().item() for name in model.pointwise},
    }


def _slate(model: SlateModel, prompts: Sequence[Prompt], scales: Scales) -> dict[str, Any]:
    packed = _score(model, prompts, scales)
    single = [_score(model, [prompt], scales) for prompt in prompts]
    for name in model.pointwise:
        alone = torch.cat([outputs[name] for outputs in single])
        worst = ((packed[name] - alone).abs() / alone.abs().clamp(min=1)).max().item()
        if not worst <= TOLERANCE:
            raise UserError(
                f"objective '{name}': a packed slate and its single prompts differ by {worst:.1e} (at most "
                f"{TOLERANCE:.0e} is allowed), so this backbone cannot be served as it was trained: choose another"
            )
    return {
        "slate": prompts[0].slate,
        "prefix": prompts[0].prefix,
        "items": [prompt.item for prompt in prompts],
        "contexts": [prompt.context for prompt in prompts],
        "prefix_ids": prompts[0].prefix_ids,
        "candidate_ids": [prompt.candidate_ids for prompt in prompts],
        **({"features": [prompt.features for prompt in prompts]} if scales else {}),
        "logit": {name: (packed[name] - model.offsets[name]).tolist() for name in model.pointwise},
        "delta": {name: packed[name].tolist() for name in model.listwise},
    }
