"""Use: shoppers of whom ever less is known, beside popularity and the prior.

The Complete Journey's coupons (configs/demo.yaml, its point-wise objectives): test requests of households that training
never saw, told nothing, their profile, or their latest 1, 2 and 5 purchases without any number of their past. Online
Retail (`retail_…`): customers that training never saw, told nothing or their country; and customers with 1, 2, or 3 to
5 orders so far, as they are. A share of training rows is shown as a new shopper's. Finished trainings lie in the work
folder and are not repeated.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.figures import figure
from benchmarks.quality_runs import FIRST_SEED, trained
from equipoise.configs.load import as_override, build_config
from equipoise.configs.schema import RunConfig
from equipoise.evaluation.cold_start import groups_of, score_group
from equipoise.evaluation.evaluate_run import prior_probabilities, train_counts
from equipoise.evaluation.metrics.bootstrap import interval, resampled_gauc
from equipoise.evaluation.metrics.pointwise import gauc
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.split_scores import SplitScores, table_positions
from equipoise.train.validation import spread_rows

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SETS = {"": "demo.yaml", "retail_": "online_retail.yaml"}
"""What figures begin with → configuration."""
DROPOUT = 0.2
"""Share of training rows that are shown as a new shopper's."""
ORDERS = {"1": (1, 1), "2": (2, 2), "5": (3, 5)}
"""Level → fewest and most orders so far."""
SYSTEMS = ("ours", "prior", "popularity")
REQUESTS, FEWER_REQUESTS = 150, 20
QUICK = {"train.max_steps": 4, "train.eval_every": 4}
RESAMPLES = 500

Level = tuple[str, ScoreTable, np.ndarray]
"""Name, scores, and what the prior says of the same rows, (N,)."""


def newcomers_config(prefix: str, work: Path, seed: int, quick: bool, file: Path | None) -> RunConfig:
    """The configuration of one training.

    Args:
        prefix: of SETS.
        work: folder of prepared data and runs.
        seed: of the run.
        quick: a few steps.
        file: of Online Retail.
    """
    path, folder = CONFIGS / SETS[prefix], work / f"{prefix}newcomers"
    settings: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    settings["objectives"] = {
        name: settings["objectives"][name] for name in ("ctr", "cvr") if name in settings["objectives"]
    }
    settings["evaluate"].pop("omegas", None)
    if prefix:
        settings["data"] |= {"file": str(file), "profile": ["country"]}
        settings["data"]["fields"].append("orders")
    changed = {"seed": seed, "output": str(folder / f"run-{seed}"), "data.folder": str(folder / "prepared")}
    changed |= {"train.feature_dropout": DROPOUT, **(QUICK if quick else {})}
    return build_config(settings, [as_override(key, value) for key, value in changed.items()], path)


def told_less(config: RunConfig, run: Path, most: int, events: bool) -> Iterator[Level]:
    """Requests of shoppers unseen in training, told nothing, their profile, and with `events` their latest ones."""
    counts, model = train_counts(config), None
    *_, profile, nothing = groups_of(())
    groups = {"nothing": nothing, "profile": profile}
    if events:
        groups |= {str(number): groups_of((number,))[2] for number in (1, 2, 5)}
    for level, group in groups.items():
        table, prior, model = score_group(config, run, group, counts, most, model)
        assert table is not None, "one process gathers all scores itself"
        yield level, table, prior["ctr"]


def few_orders(config: RunConfig, run: Path, most: int) -> Iterator[Level]:
    """Requests of customers with few orders so far, told all that there is; levels without any are left out."""
    scores = SplitScores(config, run)
    slates, _ = scores.rows("test")
    orders = np.array([row[0] for row in slates.rows["field_orders"]])
    for level, (least, largest) in ORDERS.items():
        found = np.flatnonzero((orders >= least) & (orders <= largest)).tolist()
        if not found:
            continue
        rows = [found[index] for index in spread_rows(len(found), most)]
        table = scores.score_rows(slates, rows, level)
        assert table is not None, "one process gathers all scores itself"
        yield level, table, prior_probabilities(config, slates, table_positions(slates, rows))["ctr"]


@dataclass
class _Found:
    """GAUC of a level by system, a value and its resamples of each seed."""

    requests: int
    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SYSTEMS})
    samples: dict[str, list[np.ndarray]] = field(default_factory=lambda: {name: [] for name in SYSTEMS})

    def add(self, table: ScoreTable, prior: np.ndarray) -> None:
        """The same requests of another seed."""
        scores = {"ours": table.pctr, "prior": prior, "popularity": table.fields["popularity"]}
        for name, score in scores.items():
            self.values[name].append(gauc(table.click, score, table.request))
            self.samples[name].append(resampled_gauc(table.click, score, table.request, RESAMPLES, 0))

    def figures(self, name: str) -> list[dict[str, Any]]:
        """Means of the seeds, and ours less popularity and prior with paired 95 % intervals over requests."""
        about = {"requests": self.requests, "seeds": len(self.values["ours"])}
        mean = {system: float(np.mean(values)) for system, values in self.values.items()}
        each = [round(value, 4) for value in self.values["ours"]]
        figures = [
            figure(f"{name}_{system}", mean[system], "GAUC", **({"values": each} if system == "ours" else {}), **about)
            for system in SYSTEMS
        ]
        for rival in ("popularity", "prior"):
            apart = np.mean(
                [one - two for one, two in zip(self.samples["ours"], self.samples[rival], strict=True)], axis=0
            )
            low, high = interval(apart)
            figures.append(figure(f"{name}_diff_{rival}", mean["ours"] - mean[rival], "GAUC"))
            figures += [
                figure(f"{name}_diff_{rival}_{end}", value, "GAUC") for end, value in (("low", low), ("high", high))
            ]
        return figures


def measure_newcomers(work: Path, seeds: int, quick: bool, retail: Path | None) -> list[dict[str, Any]]:
    """`new_shopper_gauc_LEVEL_SYSTEM` and differences of ours; `retail_…` where Online Retail's file is there.

    Args:
        work: folder of prepared data and runs.
        seeds: trainings of each set.
        quick: a few steps, and fewer requests of each level.
        retail: Online Retail's file; None leaves that set out.
    """
    figures, most = [], FEWER_REQUESTS if quick else REQUESTS
    for prefix in [prefix for prefix in SETS if not prefix or retail]:
        found: dict[str, _Found] = {}
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            config = newcomers_config(prefix, work, seed, quick, retail)
            print(config.output, flush=True)
            run = trained(config)
            levels = [
                *told_less(config, run, most, events=not prefix),
                *(few_orders(config, run, most) if prefix else []),
            ]
            for level, table, prior in levels:
                found.setdefault(level, _Found(len(np.unique(table.request)))).add(table, prior)
        for level, each in found.items():
            figures += each.figures(f"{prefix}new_shopper_gauc_{level}")
    return figures
