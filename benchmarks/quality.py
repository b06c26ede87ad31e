"""How well a run ranks and how true its probabilities are, beside what a shop would use instead, on two real sets.

    python -m benchmarks.quality [--quick] [--seeds 3] [--only coupons|retail] [--retail FOLDER] --json FILE

The Complete Journey's coupons as in configs/demo.yaml, and Online Retail as in configs/online_retail.yaml (figures
`retail_…`), all test requests of each. SYSTEM is `ours`, `text_only` (the same without prior, features and comparison),
`prior`, `trees`, `linear`, `popularity`, `bought_before`; those but `trees` have paired 95 % intervals of their
difference to `trees`. Finished trainings lie in --work and are not repeated.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.figures import figure, report, show, write
from benchmarks.quality_measure import Systems, quality_figures
from equipoise.common.errors import UserError
from equipoise.common.logs import show_messages
from equipoise.configs.load import as_override, build_config
from equipoise.configs.schema import RunConfig

ROOT = Path(__file__).resolve().parents[1]
RETAIL = ROOT / ".." / "shared" / "data" / "online_retail"
SETS = {"coupons": ("demo.yaml", ""), "retail": ("online_retail.yaml", "retail_")}
"""Name → config, and what figures begin with."""
QUICK = {"train.max_steps": 20, "train.eval_every": 20, "evaluate.max_requests": 100}
FEW = 3
"""Purchases up to which an item is bought a few times, in slices."""


def find_retail(folder: Path) -> Path | None:
    """Online Retail's file in a folder; None where there is none."""
    names = [f"online_retail.{ending}" for ending in ("parquet", "csv", "xlsx")] + ["Online Retail.xlsx"]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def settings_of(name: str, work: Path, seed: int, quick: bool, file: Path | None, text_only: bool) -> RunConfig:
    """The configuration of one training.

    Args:
        name: of the set.
        work: folder of prepared data and runs.
        seed: of the run.
        quick: few steps and requests.
        file: of Online Retail.
        text_only: without prior, features and comparison.
    """
    path = ROOT / "configs" / SETS[name][0]
    settings: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    data, system = settings["data"], "text_only" if text_only else "ours"
    if text_only:
        for key in ("features", "rates", "comparison", "behaviour", "profile"):
            data.pop(key, None)
        for options in settings["objectives"].values():
            if options:
                options.pop("prior", None)
    changed: dict[str, Any] = {"seed": seed, "output": str(work / name / f"{system}-{seed}")}
    changed["data.folder"] = str(work / name / ("prepared_text" if text_only else "prepared"))
    changed["evaluate.max_requests"] = None
    changed |= {"data.file": str(file)} if file is not None else {}
    changed |= QUICK if quick else {}
    return build_config(settings, [as_override(key, value) for key, value in changed.items()], path)


def trained(config: RunConfig) -> Path:
    """The folder of a finished run of this configuration, trained now or before."""
    from equipoise.configs.load import read_run_config
    from equipoise.train.job import train
    from equipoise.train.prepare_run import prepare_data

    run = config.output
    summary = run / "summary.json"
    finished = summary.is_file() and json.loads(summary.read_text("utf-8")).get("finished")
    if finished and read_run_config(run) == config:
        return run
    if not (config.data.folder / "manifest.json").is_file():
        prepare_data(config)
    train(config, overwrite=True)
    return run


def measure_set(name: str, work: Path, seeds: int, quick: bool, file: Path | None) -> list[dict[str, Any]]:
    """Train what is missing, score all test requests, and measure every system on them."""
    from equipoise.evaluation.baselines import field_ranking, popularity
    from equipoise.evaluation.evaluate_run import fitted_rivals, train_counts
    from equipoise.evaluation.metrics.ranking import gains
    from equipoise.evaluation.metrics.score_table import ScoreTable
    from equipoise.evaluation.split_scores import SplitScores

    scored: dict[str, list[ScoreTable]] = {"ours": [], "text_only": []}
    seconds: dict[str, list[float]] = {system: [] for system in scored}
    rivals: dict[str, dict[str, np.ndarray]] = {}
    for seed in range(17, 17 + seeds):
        for system, tables in scored.items():
            config = settings_of(name, work, seed, quick, file, text_only=system == "text_only")
            run = trained(config)
            seconds[system].append(json.loads((run / "summary.json").read_text("utf-8"))["seconds"])
            scores = SplitScores(config, run)
            table = scores.score("test", reuse=True)
            assert table is not None, "one process gathers all scores itself"
            tables.append(table)
            if system == "ours" and not rivals:
                rivals, whole = fitted_rivals(scores, "test", table), config
    first = scored["ours"][0]
    for tables in scored.values():
        assert all(np.array_equal(table.item, first.item) for table in tables), "systems score the same rows"
    counts = train_counts(whole)
    bought = first.fields[str(whole.evaluate.bought_before)]
    item_rows = np.append(counts.item_rows, 0)[np.minimum(first.item, len(counts.item_rows))]
    systems = Systems(
        request=first.request,
        user=first.user,
        labels={"ctr": first.click, "ctcvr": first.clicked_conversion},
        gain=gains(first.click, first.conversion),
        scores={target: {} for target in rivals},
        slices={
            "never": ~(bought > 0),
            "few": (bought > 0) & (bought <= FEW),
            "more": bought > FEW,
            "unseen": item_rows == 0,
        },
    )
    simple = {"popularity": popularity(counts, first.item)}
    simple["bought_before"] = field_ranking(first, str(whole.evaluate.bought_before))
    for target, found in systems.scores.items():
        found |= {system: [_probability(table, target) for table in tables] for system, tables in scored.items()}
        found |= {system: [values] for system, values in (rivals[target] | simple).items()}
    prefix = SETS[name][1]
    figures = quality_figures(systems, prefix)
    figures += [
        figure(f"{prefix}{system}_seconds", float(np.mean(each)), "s of training") for system, each in seconds.items()
    ]
    return [*figures, figure(f"{prefix}requests", len(np.unique(first.request)), "test requests", rows=len(first))]


def _probability(table: Any, target: str) -> np.ndarray:
    return table.pctr if target == "ctr" else table.pctr * table.pcvr


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Quality beside what a shop would use instead, on two real sets.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps and requests: whether it runs at all")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each system")
    parser.add_argument("--only", choices=list(SETS), help="one of the sets")
    parser.add_argument("--retail", type=Path, default=RETAIL, help="folder with Online Retail's file")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="prepared data and runs")
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    show_messages()
    seeds, file = 1 if asked.quick else asked.seeds, find_retail(asked.retail)
    work = asked.work / "quick" if asked.quick else asked.work
    figures: list[dict[str, Any]] = []
    try:
        for name in [asked.only] if asked.only else SETS:
            if name == "retail" and file is None:
                print(f"{asked.retail} holds no Online Retail (online_retail.parquet, .csv or .xlsx): left out")
                continue
            figures += measure_set(name, work, seeds, asked.quick, file if name == "retail" else None)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    write(asked.json, report("quality", figures, quick=asked.quick, seeds=seeds, only=asked.only))
    show("Quality beside what a shop would use instead", figures)


if __name__ == "__main__":
    main()
