"""An objective of retrieval in an export: its PEFT folder, its head beside it, and what serving.json says of it."""

from pathlib import Path
from typing import Any, cast

from equipoise.configs.schema import LoraConfig
from equipoise.export.adapter_folder import VECTOR_HEAD, write_adapter
from equipoise.export.served import ServedClass
from equipoise.modeling.heads import VectorHead
from equipoise.modeling.model import SlateModel
from equipoise.modeling.text_vectors import score_weights

SCORE = "scale * dot(u, v_i) + prior * log p_i + repeat * log(1 + times bought); u, v unit vectors"


def write_retrieval(
    folder: Path, model: SlateModel, name: str, served: ServedClass, lora: LoraConfig, base: tuple[str, str | None]
) -> dict[str, Any]:
    """Write adapter_config.json, adapter_model.safetensors and the head into `folder`; its part of serving.json.

    Args:
        folder: the objective's folder, made here.
        model: the trained model.
        name: of the objective.
        served: the stock class without a head.
        lora: the adapters' settings in the run.
        base: path and revision of the base for adapter_config.json.
    """
    write_adapter(folder, model, name, served, lora, *base)
    head = cast(VectorHead, model.heads[name])
    return {
        "kind": "retrieval",
        "folder": folder.name,
        "head": VECTOR_HEAD,
        "dimension": head.project.out_features,
        "pooling": "mean" if model.backbone.encoder else "last",
        "score": SCORE,
        "weights": score_weights(model, name),
    }
