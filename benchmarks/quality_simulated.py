"""A simulated shop whose clicks follow from items and shoppers themselves, of which no text tells, and are known.

The log-odds of a click are a constant, an effect of the item and one of the shopper, both normal. Titles are random
words. Rates by item and by shopper are all that can be known, and the probabilities themselves are the measure.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.figures import figure
from benchmarks.quality_measure import Systems, quality_figures
from benchmarks.quality_runs import FIRST_SEED, score_variants
from equipoise.common.atomic import atomic_dir
from equipoise.configs.load import as_override, build_config
from equipoise.configs.schema import RunConfig
from equipoise.evaluation.metrics.ranking import gains

PREFIX = "simulated_"
ITEMS, USERS, REQUESTS, CANDIDATES = 100, 120, 18_000, 16
ITEM_SPREAD, USER_SPREAD, BASE = 1.0, 0.7, -1.6
WORDS = ("amber", "basil", "cedar", "delta", "frost", "grove", "ivory", "jasper", "kelp", "linen", "maple", "ocean")
TRUTH = "truth"
"""The field that carries each impression's probability."""
FEWER = {"train.max_steps": 10, "train.eval_every": 10, "evaluate.max_requests": 60}
TESTED = 2400
"""Test requests that are scored."""


def simulate(folder: Path, seed: int = 0) -> None:
    """Write impressions, items and users: a request every half minute, each click beside its probability."""
    draw = np.random.default_rng(seed)
    item_effect, user_effect = ITEM_SPREAD * draw.normal(size=ITEMS), USER_SPREAD * draw.normal(size=USERS)
    user = draw.integers(USERS, size=REQUESTS)
    item = np.argsort(draw.random((REQUESTS, ITEMS)), axis=1)[:, :CANDIDATES]
    probability = 1 / (1 + np.exp(-(BASE + item_effect[item] + user_effect[user][:, None])))
    moment = np.datetime64("2026-01-01T00:00:00", "us") + np.arange(REQUESTS) * np.timedelta64(30, "s")
    with atomic_dir(folder) as building:
        impressions = {
            "request_id": [f"r{number}" for number in np.repeat(np.arange(REQUESTS), CANDIDATES)],
            "timestamp": np.repeat(moment, CANDIDATES),
            "user_id": [f"u{number}" for number in np.repeat(user, CANDIDATES)],
            "item_id": [f"i{number}" for number in item.ravel()],
            "click": (draw.random(item.size) < probability.ravel()).astype(np.int8),
            TRUTH: probability.ravel(),
        }
        pq.write_table(pa.table(impressions), building / "impressions.parquet")
        titles = [" ".join(draw.choice(WORDS, 3)) for _ in range(ITEMS)]
        pq.write_table(
            pa.table({"item_id": [f"i{n}" for n in range(ITEMS)], "title": titles}), building / "items.parquet"
        )
        pq.write_table(pa.table({"user_id": [f"u{n}" for n in range(USERS)]}), building / "users.parquet")


def simulated_config(path: Path, work: Path, seed: int, quick: bool, text_only: bool) -> RunConfig:
    """The configuration of one training: the settings of `path`, with this shop's tables and rates as its data.

    Args:
        path: a run configuration, of which backbone, tokens, adapters and training are taken.
        work: folder of tables, prepared data and runs.
        seed: of the run.
        quick: few steps and requests.
        text_only: without rates and prior.
    """
    settings: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    tables = {name: str(work / "tables" / f"{name}.parquet") for name in ("impressions", "items", "users")}
    rates = [{"of": "click", "by": "item_id"}, {"of": "click", "by": "user_id"}]
    system = "text_only" if text_only else "ours"
    settings["data"] = {"source": "tables", "tables": tables, "prompt": {"prefix": ["a shopper"], "item": ["{title}"]}}
    settings["data"] |= {"folder": str(work / ("prepared_text" if text_only else "prepared")), "fields": [TRUTH]}
    settings["data"] |= {} if text_only else {"rates": rates}
    settings["objectives"] = {"ctr": {} if text_only else {"prior": "best"}}
    settings["evaluate"] = {"max_requests": TESTED}
    settings.pop("relevance", None)
    changed = {"seed": seed, "output": str(work / f"{system}-{seed}"), **(FEWER if quick else {})}
    return build_config(settings, [as_override(key, value) for key, value in changed.items()], path)


def measure_simulated(path: Path, work: Path, seeds: int, quick: bool) -> list[dict[str, Any]]:
    """Figures of ours, text alone, the prior and the true probabilities on the same rows, differences to the truth.

    Args:
        path, work, quick: as of `simulated_config`.
        seeds: trainings of ours, whose prior is the same; text alone has one.
    """
    if not (work / "tables").is_dir():
        simulate(work / "tables")

    def settings(variant: str, seed: int) -> RunConfig:
        return simulated_config(path, work, seed, quick, variant == "text_only")

    found = score_variants(
        settings, {"ours": seeds, "text_only": 1}, settings("ours", FIRST_SEED).evaluate.max_requests
    )
    first = found.tables["ours"][0]
    scores = {variant: [table.pctr for table in tables] for variant, tables in found.tables.items()}
    scores |= {"prior": [found.rivals["ctr"]["prior"]], "truth": [first.fields[TRUTH]]}
    systems = Systems(
        request=first.request,
        user=first.user,
        labels={"ctr": first.click},
        gain=gains(first.click, first.conversion),
        scores={"ctr": scores},
        reference="truth",
    )
    return [
        *quality_figures(systems, PREFIX),
        figure(f"{PREFIX}ours_seconds", float(np.mean(found.seconds["ours"])), "s of training"),
        figure(f"{PREFIX}requests", len(np.unique(first.request)), "test requests", rows=len(first)),
    ]
