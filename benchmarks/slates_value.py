"""Lists that are filled place after place, beside re-ranking and beside adjustments that are added to a score.

    python -m benchmarks.slates_value [--quick] [--seeds 3] [--requests 150] --json FILE

The demo (configs/demo.yaml): front of NDCG@10, ILD@10 and exposure ratio on the test requests that are scored, in one
frame with re-ranking whose boosts and prices come from valid. `hypervolume_SYSTEM` for `ours`, `start` (the rule by
itself, with what was learned set to 0), `learned_parallel` (`form: parallel`, the first seed), and every way of
re-ranking; each but ours with the difference of ours and its paired 95 % interval over requests.
`ndcg_at_equal_ild_diff` (and `…_equal_exposure_…`, `…_both_…`): NDCG@10 of ours less that of the best point of any
re-ranking, at five levels of the other measure, each the largest that a system reaches at that level on the test
requests; mean, interval, and the level where ours is least ahead. `list_ms_20_of_1000`: time to fill 20 places.
Means of several seeds; finished trainings lie in --work and are not repeated.
"""

import argparse
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.figures import figure, report, show, write
from benchmarks.quality_runs import FIRST_SEED, trained
from equipoise.common.errors import UserError
from equipoise.common.lists import ListRule, ListTerm, one_request
from equipoise.common.logs import show_messages
from equipoise.configs.load import as_override, build_config
from equipoise.configs.schema import RunConfig
from equipoise.evaluation.evaluate_run import ranking_attributes
from equipoise.evaluation.front.axes import Measured
from equipoise.evaluation.front.grid import Grid, usual_omegas
from equipoise.evaluation.front.pareto import MARGIN, front_mask, hypervolume
from equipoise.evaluation.front.points import TradeOffScorer
from equipoise.evaluation.front.rerank_baselines import rerank
from equipoise.evaluation.metrics.bootstrap import interval
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.evaluation.split_scores import SplitScores

DEMO = Path(__file__).resolve().parents[1] / "configs" / "demo.yaml"
AXES = ("ndcg", "ild", "exposure_ratio")
OURS, START, PARALLEL = "ours", "start", "learned_parallel"
LISTWISE = ("diversity", "fairness")
RESAMPLES = 200
LEVELS = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Levels of ILD and exposure, as shares of the way from pure relevance to the most that any re-ranking reaches."""
QUICK = {"train.max_steps": 4, "train.eval_every": 4, "train.eval_requests": 4}
FEWER_REQUESTS = 20

Points = np.ndarray
"""Values of points on AXES, and in every resample, float64 (P, A, 1 + B)."""


def slates_config(work: Path, form: str, seed: int, requests: int, quick: bool) -> RunConfig:
    """The configuration of one training.

    Args:
        work: folder of prepared data and runs.
        form: of the list-wise objectives, greedy or parallel.
        seed: of the run.
        requests: that are scored of valid and of test.
        quick: a few steps.
    """
    settings: dict[str, Any] = yaml.safe_load(DEMO.read_text("utf-8"))
    for name in LISTWISE:
        settings["objectives"][name]["form"] = form
    changed = {"seed": seed, "output": str(work / f"{form}-{seed}"), "data.folder": str(work / "prepared")}
    changed |= {"evaluate.max_requests": requests, **(QUICK if quick else {})}
    return build_config(settings, [as_override(key, value) for key, value in changed.items()], DEMO)


def points_of(tables: Mapping[str, ScoreTable], measured: Measured, reranked: bool) -> dict[str, Points]:
    """What a run's trade-offs reach on test, what its lists reach without what was learned, and re-ranking of its r.

    Args:
        tables: of valid and test.
        measured: what the axes read.
        reranked: also re-ranking.
    """
    scorer = TradeOffScorer(tables["test"], measured, RESAMPLES, 0)
    grid = Grid(
        {name: usual_omegas(tables["test"].lists, name) for name in LISTWISE}, formula=tables["test"].exponents
    ).points()

    def reached(table: ScoreTable) -> Points:
        found = TradeOffScorer(table, measured, RESAMPLES, 0)(grid)
        columns = found.columns(AXES)
        return np.concatenate([found.values[:, columns, None], found.samples[:, columns]], axis=2)

    points = {OURS: reached(tables["test"])}
    if not reranked:
        return points
    nothing = {name: np.zeros(len(tables["test"])) for name in LISTWISE}
    points[START] = reached(replace(tables["test"], delta=nothing))
    _, state = rerank(tables["valid"], TradeOffScorer(tables["valid"], measured, 0, 0), AXES)
    for name, each in rerank(tables["test"], scorer, AXES, state)[0].items():
        points[name] = np.concatenate([each.values[:, :, None], each.samples], axis=2)
    return points


def covered(points: Mapping[str, Points]) -> dict[str, np.ndarray]:
    """Hypervolume of each system in the frame of all fronts, measured and in every resample, (1 + B,)."""
    fronts = np.concatenate([each[front_mask(each[:, :, 0]), :, 0] for each in points.values()])
    low, high = fronts.min(axis=0), fronts.max(axis=0)
    span, reference = np.where(high > low, high - low, 1.0), np.full(len(AXES), -MARGIN)

    def volume(values: np.ndarray) -> float:
        return hypervolume(np.minimum((values - low) / span, 1.0), reference) / (1 + MARGIN) ** len(AXES)

    return {
        name: np.array([volume(each[:, :, draw]) for draw in range(each.shape[2])]) for name, each in points.items()
    }


@dataclass(frozen=True)
class Level:
    """Least ILD and exposure ratio that a point must reach; −inf asks for nothing."""

    ild: float = -np.inf
    exposure: float = -np.inf

    def best(self, points: Points) -> np.ndarray:
        """NDCG of the best such point, measured and in every resample, (1 + B,); NaN where there is none."""
        good = np.flatnonzero((points[:, 1, 0] >= self.ild) & (points[:, 2, 0] >= self.exposure))
        if not len(good):
            return np.full(points.shape[2], np.nan)
        return points[good[points[good, 0, 0].argmax()], 0]


def levels_of(points: Mapping[str, Points]) -> dict[str, list[Level]]:
    """Levels of each comparison, between pure relevance and what re-ranking reaches with either measure alone."""
    others = np.concatenate([each[:, :, 0] for name, each in points.items() if name not in (OURS, START)])
    plain = others[others[:, 0].argmax()]
    ild, exposure = ([plain[k] + share * (others[:, k].max() - plain[k]) for share in LEVELS] for k in (1, 2))
    both = [Level(a, b) for a, b in zip(ild, exposure, strict=True)]
    rivals = np.concatenate([each for name, each in points.items() if name not in (OURS, START)])
    reached = [level for level in both if np.isfinite(level.best(rivals)[0])]  # elsewhere there is nothing to compare
    levels = {
        "equal_ild": [Level(ild=value) for value in ild],
        "equal_exposure": [Level(exposure=value) for value in exposure],
    }
    return levels | ({"both": reached} if reached else {})


def ahead(points: Mapping[str, Points]) -> dict[str, np.ndarray]:
    """By comparison, NDCG of ours less the best re-ranking's at each level, (levels, 1 + B)."""
    rivals = np.concatenate([each for name, each in points.items() if name not in (OURS, START)])
    return {
        name: np.stack([level.best(points[OURS]) - level.best(rivals) for level in levels])
        for name, levels in levels_of(points).items()
    }


def slates_figures(found: list[dict[str, Points]], parallel: list[dict[str, Points]], requests: int) -> list[dict]:
    """All figures from the points of every seed."""
    about = {"requests": requests, "seeds": len(found)}
    volumes, apart = [], []
    for number, points in enumerate(found):
        more = {PARALLEL: parallel[number][OURS]} if number < len(parallel) else {}
        volumes.append(covered({**points, **more}))
        apart.append(ahead(points))
    figures = []
    for name in volumes[0]:
        of_seeds = [each[name] for each in volumes if name in each]
        key = f"hypervolume_{name.replace(' + ', '_').replace(' ', '_').replace('-', '_').lower()}"
        seeds = [round(float(each[0]), 4) for each in of_seeds]
        figures.append(figure(key, float(np.mean(seeds)), "share of the frame", values=seeds, **about))
        if name != OURS:
            difference = np.mean([each[OURS] - each[name] for each in volumes if name in each], axis=0)
            figures += _difference(key, difference, "share of the frame")
    for name in [name for name in apart[0] if all(name in each for each in apart)]:
        shared = min(len(each[name]) for each in apart)
        every = np.mean([each[name][:shared] for each in apart], axis=0)
        each_level = [round(float(value), 4) for value in every[:, 0]]
        figures += _difference(f"ndcg_at_{name}", np.nanmean(every, axis=0), "NDCG@10", levels=each_level, **about)
        figures += _difference(f"ndcg_at_{name}_least", every[np.nanargmin(every[:, 0])], "NDCG@10")
    return figures


def _difference(name: str, values: np.ndarray, unit: str, **about: Any) -> list[dict[str, Any]]:
    low, high = interval(values[1:])
    figures = [figure(f"{name}_diff", values[0], unit, **about)]
    return figures + [figure(f"{name}_diff_{end}", value, unit) for end, value in (("low", low), ("high", high))]


def list_time() -> dict[str, Any]:
    """Median milliseconds to make a list of 20 of 1,000 candidates, from scores and attributes."""
    rng, count = np.random.default_rng(0), 1000
    terms = {
        "diversity": ListTerm("spread", ("department", "category")),
        "fairness": ListTerm("price", ("provider",), {"a": 0.5}),
    }
    delta = {name: rng.normal(size=count).tolist() for name in terms}
    values = {
        "department": [f"d{n}" for n in rng.integers(0, 8, count)],
        "category": [f"c{n}" for n in rng.integers(0, 80, count)],
        "provider": [("a", "b")[n] for n in rng.integers(0, 2, count)],
    }
    utility, omega, times = rng.normal(size=(1, count)), dict.fromkeys(terms, 0.5), []
    for _ in range(100):
        begun = time.perf_counter()
        one_request(ListRule(10, terms), delta, values)(utility, omega, 20).order(0)
        times.append(1000 * (time.perf_counter() - begun))
    return figure("list_ms_20_of_1000", float(np.median(times)), "ms")


def measure_slates(work: Path, seeds: int, requests: int, quick: bool) -> list[dict[str, Any]]:
    """Train what is missing, score, and give all figures; see the head of this file."""
    found: dict[str, list[dict[str, Points]]] = {"greedy": [], "parallel": []}
    shown = 0
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for form, each in found.items():
            if form == "parallel" and seed > FIRST_SEED:
                continue
            config = slates_config(work, form, seed, requests, quick)
            print(config.output, flush=True)
            scores = SplitScores(config, trained(config))
            attributes = ranking_attributes(config)
            measured = Measured(10, attributes.diversity, attributes.category, attributes.provider)
            tables = {}
            for split in ("valid", "test"):
                table = scores.score(split, reuse=True)
                assert table is not None, "one process gathers all scores itself"
                tables[split] = table
            shown = len(np.unique(tables["test"].request))
            each.append(points_of(tables, measured, reranked=form == "greedy"))
    return [*slates_figures(found["greedy"], found["parallel"], shown), list_time()]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Lists beside re-ranking.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps and requests: whether it runs at all")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each form")
    parser.add_argument("--requests", type=int, default=150, help="requests of valid and of test that are scored")
    parser.add_argument("--work", type=Path, default=Path("runs/slates_value"), help="prepared data and runs")
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    show_messages()
    seeds, requests = (1, FEWER_REQUESTS) if asked.quick else (asked.seeds, asked.requests)
    try:
        figures = measure_slates(asked.work / "quick" if asked.quick else asked.work, seeds, requests, asked.quick)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    write(asked.json, report("slates_value", figures, quick=asked.quick, seeds=seeds, requests=requests))
    show("Lists beside re-ranking", figures)


if __name__ == "__main__":
    main()
