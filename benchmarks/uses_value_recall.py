"""Use: recall over a whole catalogue beside what a shop would use instead, on two real sets.

The Complete Journey's products (configs/recall_demo.yaml), and Online Retail, whose items are the gift shop's
(configs/online_retail.yaml, with recall in place of priors). `…_new`: items never bought before by the shopper, those
bought left out. Finished trainings lie in the work folder and are not repeated.
"""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.figures import figure
from benchmarks.quality_runs import FIRST_SEED, trained
from equipoise.configs.load import as_override, build_config
from equipoise.configs.schema import RunConfig
from equipoise.data.slate_set import SlateSet
from equipoise.evaluation.metrics.bootstrap import interval
from equipoise.evaluation.recall.recall_of_run import CUTOFFS, OURS, SOURCES, Recalls, measure_recall
from equipoise.evaluation.split_scores import SplitScores

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RIVALS = {
    "bought before": "bought_before",
    "co-visitation": "copurchase",
    "popularity": "popularity",
    "BM25": "bm25",
    "union": "union",
}
"""Name in a report → name of a figure."""
PRODUCTS = "recall_demo.yaml"
SETS = {"": PRODUCTS, "retail_": "online_retail.yaml"}
"""What figures begin with → configuration."""
SUFFIXES = {"all": "", "new": "_new"}
QUICK = {"train.max_steps": 4, "evaluate.max_requests": 60}
RESAMPLES = 1000


def recall_config(prefix: str, work: Path, seed: int, quick: bool, file: Path | None) -> RunConfig:
    """The configuration of one training.

    Args:
        prefix: of SETS.
        work: folder of prepared data and runs.
        seed: of the run.
        quick: a few steps, and 60 of the test requests.
        file: of Online Retail.
    """
    path, folder = CONFIGS / SETS[prefix], work / f"{prefix}recall"
    settings: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    if prefix:
        demo: dict[str, Any] = yaml.safe_load((CONFIGS / PRODUCTS).read_text("utf-8"))
        for name in ("comparison", "rates"):
            del settings["data"][name]
        settings["data"]["history"]["items"] = True
        settings["data"]["file"] = str(file)
        settings |= {name: demo[name] for name in ("objectives", "balancing", "train")}
    changed = {"seed": seed, "output": str(folder / f"run-{seed}"), "data.folder": str(folder / "prepared")}
    changed |= {"evaluate.max_requests": None, **(QUICK if quick else {})}
    return build_config(settings, [as_override(key, value) for key, value in changed.items()], path)


def recall_figures(found: list[Recalls], users: np.ndarray, prefix: str) -> list[dict[str, Any]]:
    """Recalls of ours, its sources and the rivals, and ours less the best rival of each cutoff.

    Args:
        found: of each seed, of the same requests.
        users: of the requests, (S,), which are resampled as wholes.
        prefix: of the figures.
    """
    number = np.unique(users, return_inverse=True)[1]
    draws = np.random.default_rng(0).multinomial(
        number.max() + 1, np.ones(number.max() + 1) / (number.max() + 1), RESAMPLES
    )
    about = {"requests": len(users), "users": int(number.max()) + 1, "items": found[0].items, "seeds": len(found)}
    figures = []
    for which, suffix in SUFFIXES.items():
        for place, cutoff in enumerate(CUTOFFS):
            name = f"{prefix}recall{cutoff}{suffix}"
            recalls = {
                key: np.mean([each.of[which].get(key, each.of[which][OURS])[place] for each in found], axis=0)
                for key in (OURS, SOURCES, *RIVALS)
            }
            means = {key: float(np.nanmean(values)) for key, values in recalls.items()}
            seeds = [round(float(np.nanmean(each.of[which][OURS][place])), 4) for each in found]
            figures.append(figure(f"{name}_ours", means[OURS], "recall", values=seeds, **about))
            figures.append(figure(f"{name}_sources", means[SOURCES], "recall"))
            figures += [figure(f"{name}_{short}", means[key], "recall") for key, short in RIVALS.items()]
            best = max(RIVALS, key=lambda key: means[key])
            low, high = _paired(recalls[OURS] - recalls[best], number, draws)
            figures.append(figure(f"{name}_diff_best", means[OURS] - means[best], "recall", best=RIVALS[best]))
            figures += [
                figure(f"{name}_diff_best_{end}", value, "recall") for end, value in (("low", low), ("high", high))
            ]
    kept = [each.vectors for each in found]
    return [*figures, figure(f"{prefix}recall_vectors_kept", float(np.mean(kept)), "share of seeds")]


def _paired(apart: np.ndarray, number: np.ndarray, draws: np.ndarray) -> list[float]:
    """95 % interval of the mean of what is finite, over resampled users."""
    has = np.isfinite(apart)
    sums, counts = (np.bincount(number[has], values, draws.shape[1]) for values in (apart[has], np.ones(has.sum())))
    return interval((draws @ sums) / (draws @ counts))


def measure_recalls(work: Path, seeds: int, quick: bool, retail: Path | None) -> list[dict[str, Any]]:
    """`recallK[_new]_SYSTEM` and `…_diff_best` with paired intervals; `retail_…` where Online Retail's file is there.

    Args:
        work: folder of prepared data and runs.
        seeds: trainings of each set.
        quick: see `recall_config`.
        retail: Online Retail's file; None leaves that set out.
    """
    figures = []
    for prefix in [prefix for prefix in SETS if not prefix or retail]:
        found, users = [], np.empty(0)
        for seed in range(FIRST_SEED, FIRST_SEED + seeds):
            config = recall_config(prefix, work, seed, quick, retail)
            print(config.output, flush=True)
            scores = SplitScores(config, trained(config))
            found.append(measure_recall(scores, "test"))
            users = SlateSet(config.data.folder, "test", scores.tokens).users()[found[-1].rows]
        figures += recall_figures(found, users, prefix)
    return figures
