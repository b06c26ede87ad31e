"""Balancing on real data: the demo trained by several methods and levels, beside one objective alone.

    python -m benchmarks.balance_coupons [--quick] [--seeds 5] [--requests 150] [--methods A,B] --json FILE

The Complete Journey as in configs/demo.yaml, one process, the *last* adapters (the best ones are often the priors that
all begin as). METHOD is `weighted` (the demo's weights, summed), `pcgrad`, `tested` (`pcgrad` with significance 0.05),
`upgrad` (l2, gram_ema 0.95), `mgda`, `layers1` and `parameters` (`pcgrad` there), `alone` (ctr with no other objective,
and cvr with the trunk to itself) or `prior` (nothing learned at all). `METHOD_ctr_auc` and so on as in
benchmarks.quality with paired 95 % intervals of the difference to `alone`; `METHOD_delta_m`: mean over NE and 1 − AUC
of both targets of what a method saves of that of `alone`, above 0 where it is better, and `…_over_weighted` the
difference to the plain sum. `METHOD_ndcg_over_weighted` likewise of NDCG@10 of clicks by pCTR. Means over seeds;
finished trainings lie in --work and are not repeated.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.figures import figure, report, show, write
from benchmarks.quality_measure import RESAMPLES, Systems, measures, quality_figures
from benchmarks.quality_runs import FIRST_SEED, trained
from equipoise.common.errors import UserError
from equipoise.common.logs import show_messages
from equipoise.configs.load import as_override, build_config
from equipoise.configs.schema import RunConfig
from equipoise.evaluation.evaluate_run import prior_probabilities
from equipoise.evaluation.metrics.bootstrap import interval
from equipoise.evaluation.metrics.ranking import gains
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.split_scores import SplitScores, table_positions

DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo.yaml"
ALONE, PLAIN = "alone", "weighted"
TINY = 1e-6
"""Weight of clicks where conversions have the trunk to themselves: a weight must be above 0."""
QUICK = {"train.max_steps": 4, "train.eval_every": 4, "train.eval_requests": 4}
FEWER_REQUESTS = 20
Settings = dict[str, Any]


def _balanced(**options: Any) -> Callable[[Settings], None]:
    return lambda settings: settings["balancing"].update(options)


def _ctr_alone(settings: Settings) -> None:
    settings["objectives"] = {"ctr": settings["objectives"]["ctr"]}
    settings["relevance"] = "log(ctr)"
    settings["evaluate"]["omegas"] = [{}]
    settings["balancing"] = {"method": "weighted"}


def _cvr_alone(settings: Settings) -> None:
    objectives = settings["objectives"]
    settings["objectives"] = {"ctr": {**objectives["ctr"], "weight": TINY}, "cvr": objectives["cvr"]}
    settings["evaluate"]["omegas"] = [{}]
    settings["balancing"] = {"method": "weighted"}


METHODS: dict[str, Callable[[Settings], None]] = {
    PLAIN: _balanced(method="weighted"),
    "pcgrad": lambda settings: None,
    "tested": _balanced(significance=0.05),
    "upgrad": _balanced(method="upgrad", normalize="l2", gram_ema=0.95),
    "mgda": _balanced(method="mgda", normalize="l2"),
    "layers1": _balanced(level={"layers": 1}),
    "parameters": _balanced(level="parameters"),
}
SINGLE = {"ctr": _ctr_alone, "ctcvr": _cvr_alone}
"""Target → the run that stands for it alone."""


def coupons_config(work: Path, name: str, seed: int, requests: int, quick: bool) -> RunConfig:
    """The configuration of one training.

    Args:
        work: folder of prepared data and runs.
        name: one of METHODS, or a target of SINGLE with `_alone` behind it.
        seed: of the run.
        requests: test requests that are scored.
        quick: a few steps.
    """
    settings: Settings = yaml.safe_load(DEMO.read_text("utf-8"))
    ({**METHODS, **{f"{target}_{ALONE}": change for target, change in SINGLE.items()}})[name](settings)
    changed = {"seed": seed, "output": str(work / f"{name}-{seed}"), "data.folder": str(work / "prepared")}
    changed |= {"evaluate.max_requests": requests, "evaluate.adapters": "last", **(QUICK if quick else {})}
    return build_config(settings, [as_override(key, value) for key, value in changed.items()], DEMO)


def _probability(table: ScoreTable, target: str) -> np.ndarray:
    return table.pctr if target == "ctr" else table.pctr * table.pcvr


def measured(systems: Systems, requests: int, seeds: int) -> list[dict[str, Any]]:
    """All figures of systems that scored the same rows."""
    figures = quality_figures(systems)
    saved = {name: _saved(systems, name) for name in systems.scores["ctr"] if name != ALONE}
    about = {"requests": requests, "seeds": seeds}
    for name, values in saved.items():
        figures += _with_interval(f"{name}_delta_m", 100 * values, "% of alone", **about)
        if name != PLAIN and PLAIN in saved:
            figures += _with_interval(f"{name}_delta_m_over_weighted", 100 * (values - saved[PLAIN]), "% of alone")
    return figures


def _saved(systems: Systems, name: str) -> np.ndarray:
    """Δm of a system as a share, measured and in every resample, (1 + B,)."""
    shares = []
    for target, systems_scores in systems.scores.items():
        found = measures(systems, systems.labels[target], RESAMPLES)
        for metric, lost in (("ne", lambda value: value), ("auc", lambda value: 1 - value)):
            ours, alone = (
                np.mean([_joined(*found[metric](score)) for score in systems_scores[each]], axis=0)
                for each in (name, ALONE)
            )
            shares.append((lost(alone) - lost(ours)) / lost(alone))
    return np.mean(shares, axis=0)


def _joined(value: float, sampled: np.ndarray | None) -> np.ndarray:
    assert sampled is not None, "NE and AUC are resampled"
    return np.concatenate([[value], sampled])


def _with_interval(name: str, values: np.ndarray, unit: str, **about: Any) -> list[dict[str, Any]]:
    low, high = interval(values[1:])
    return [
        figure(name, values[0], unit, **about),
        figure(f"{name}_low", low, unit),
        figure(f"{name}_high", high, unit),
    ]


def score_methods(
    work: Path, methods: list[str], seeds: int, requests: int, quick: bool
) -> tuple[Systems, list[dict[str, Any]]]:
    """Train what is missing, seed by seed, and score the same test requests with everything.

    Returns:
        What the systems said, and how long each took.
    """
    names = [*methods, *(f"{target}_{ALONE}" for target in SINGLE)]
    tables: dict[str, list[ScoreTable]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    prior: dict[str, np.ndarray] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for name in names:
            config = coupons_config(work, name, seed, requests, quick)
            print(config.output, flush=True)
            run = trained(config)
            scores = SplitScores(config, run)
            table = scores.score("test", reuse=True)
            assert table is not None, "one process gathers all scores itself"
            tables[name].append(table)
            seconds[name].append(json.loads((run / "summary.json").read_text("utf-8"))["seconds"])
            if name == PLAIN and not prior:
                slates, rows = scores.rows("test")
                prior = prior_probabilities(config, slates, table_positions(slates, rows))
    first = tables[names[0]][0]
    assert all(np.array_equal(table.item, first.item) for each in tables.values() for table in each)
    scores_of = {
        target: {name: [_probability(table, target) for table in tables[name]] for name in methods}
        | {ALONE: [_probability(table, target) for table in tables[f"{target}_{ALONE}"]]}
        | ({"prior": [prior[target]]} if prior else {})
        for target in SINGLE
    }
    systems = Systems(
        request=first.request,
        user=first.user,
        labels={"ctr": first.click, "ctcvr": first.clicked_conversion},
        gain=gains(first.click, np.zeros_like(first.click)),
        scores=scores_of,
        reference=ALONE,
    )
    return systems, [
        figure(f"{name}_seconds", float(np.median(each)), "s of training") for name, each in seconds.items()
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Balancing on real data.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="one seed and few steps: whether it runs at all")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each method")
    parser.add_argument("--requests", type=int, default=150, help="test requests that are scored")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"of {', '.join(METHODS)}")
    parser.add_argument("--work", type=Path, default=Path("runs/balance_coupons"), help="prepared data and runs")
    asked = parser.parse_args()
    methods = asked.methods.split(",")
    if unknown := sorted(set(methods) - set(METHODS)):
        parser.exit(2, f"error: --methods names {', '.join(unknown)}: take of {', '.join(METHODS)}\n")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    show_messages()
    seeds, requests = (1, FEWER_REQUESTS) if asked.quick else (asked.seeds, asked.requests)
    work = asked.work / "quick" if asked.quick else asked.work
    try:
        systems, figures = score_methods(work, methods, seeds, requests, asked.quick)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    figures = measured(systems, requests, seeds) + figures
    write(asked.json, report("balance_coupons", figures, quick=asked.quick, seeds=seeds, requests=requests))
    show("Balancing on real data", figures)


if __name__ == "__main__":
    main()
