"""Which columns a prior is better without in later periods, told by training rows alone.

    python -m benchmarks.prior_columns [--quick] [CONFIG] [KEY=VALUE …] --json FILE

Boosted trees on all columns of a prepared configuration (default configs/demo.yaml), and without some kinds of them:
`similarity` and `co_purchase` with the history, `compared` (both), `counts` of rates, and `rates` with their counts.
Each is fitted on what came before a date and judged on what came next, three times within the train split (rolling
origin; Tashman 2000), so that neither valid nor test has a say: `ctr_all_log_loss`, `ctr_without_compared_auc`,
`ctcvr_…_gauc` and so on are means over the three, which stand beside them. Weights of impressions count
in fits and in the log loss (`data.weights`). `--quick` grows few trees once, to see that it runs.
"""

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import figure, report, show, write
from equipoise.common.errors import UserError
from equipoise.configs.load import load_config
from equipoise.data.features import CategoryScale
from equipoise.data.slate_set import SlateSet
from equipoise.data.thing_columns import SIMILAR, TOGETHER
from equipoise.evaluation.fitted_baselines import target_label
from equipoise.evaluation.metrics.pointwise import auc, gauc
from equipoise.modeling.boosted_trees import TREE_SETTINGS, boost
from equipoise.modeling.simple_models import cross_entropy, log_odds
from equipoise.train.prepare_run import prepare_data
from equipoise.train.prior_columns import chosen_weights, columns_to_read, read_columns, split_columns
from equipoise.train.thing_vectors import find_vectors
from equipoise.train.token_caches import find_tokens

CUTS = (0.35, 0.7, 0.85)
"""Shares of the training requests from which on a later period is judged, rounded up to whole dates."""
WHOLE, QUICK = (150, 2), (20, 1)
"""Trees, and fits that are averaged."""
ROOT = Path(__file__).resolve().parents[1]


def periods(times: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions of requests to fit on and to judge by, three times; requests of one moment stay together."""
    moments, place = np.unique(times, return_inverse=True)
    shares = np.cumsum(np.bincount(place)) / len(times)
    ends = [int(np.searchsorted(shares, cut)) for cut in CUTS] + [len(moments) - 1]
    if len(set(ends)) < len(ends):
        raise UserError(f"{len(moments)} moments of requests in the train split are too few for three later periods")
    return [(np.flatnonzero(place <= a), np.flatnonzero((place > a) & (place <= b))) for a, b in pairwise(ends)]


def measure(config: Any, grown: tuple[int, int] = WHOLE) -> list[dict[str, Any]]:
    """All figures of a configuration; `grown`: trees, and fits that are averaged."""
    if not (config.data.folder / "manifest.json").is_file():
        prepare_data(config)
    tokens = find_tokens(config)
    vectors = find_vectors(config) if config.data.comparison is not None else None
    train = SlateSet(config.data.folder, "train", tokens)
    columns = split_columns(train.manifest, tokens, "train", vectors)
    every = columns_to_read(train.manifest, columns)
    counts = [rate.shown for rate in config.data.rates]
    kinds = {
        "all": [],
        "without_similarity": SIMILAR,
        "without_co_purchase": TOGETHER,
        "without_compared": [*SIMILAR, *TOGETHER],
        "without_counts": counts,
        "without_rates": [*counts, *(rate.rate for rate in config.data.rates)],
    }
    targets = ["ctr", "ctcvr"] if config.objectives.active().get("cvr") else ["ctr"]
    requests = periods(np.array([str(time) for time in train.rows["timestamp"]]))
    figures = []
    for target in targets:
        label = np.asarray(target_label(train.tokens, target), np.float64)
        for kind, left_out in kinds.items():
            names = [name for name in every if name not in left_out]
            if left_out and len(names) == len(every):
                continue
            categories = [
                n for n, name in enumerate(names) if isinstance(train.manifest.features.get(name), CategoryScale)
            ]
            parts = [_judged(train, columns, names, categories, label, *each, grown) for each in requests]
            for number, (metric, unit) in enumerate((("log_loss", "nats"), ("auc", ""), ("gauc", ""))):
                each = [part[number] for part in parts]
                figures.append(figure(f"{target}_{kind}_{metric}", float(np.mean(each)), unit, periods=each))
    return figures


def _judged(
    train: SlateSet,
    columns: dict[str, np.ndarray],
    names: list[str],
    categories: list[int],
    label: np.ndarray,
    earlier: np.ndarray,
    later: np.ndarray,
    grown: tuple[int, int],
) -> tuple[float, float, float]:
    """Log loss, AUC and GAUC on later requests of trees that were fitted on earlier ones."""
    fitted, judged = (train.tokens.impressions(requests) for requests in (earlier, later))
    base = {"objective": "binary", "verbosity": -1, "deterministic": True, "force_col_wise": True, **TREE_SETTINGS[-1]}
    table, weight = read_columns(columns, names, judged), chosen_weights(train.tokens, fitted)
    rows = (read_columns(columns, names, fitted), label[fitted], weight)
    trees, seeds = grown
    boosters = [boost({**base, "seed": seed, "categorical_column": categories}, trees, rows) for seed in range(seeds)]
    found = np.mean([log_odds(each, table) for each in boosters], axis=0)
    request = np.repeat(np.arange(len(later)), np.diff(train.tokens.first)[later])
    loss = cross_entropy(label[judged], found, chosen_weights(train.tokens, judged))
    return loss, auc(label[judged], found), gauc(label[judged], found, request)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Which columns a prior is better without in later periods.")
    parser.add_argument("config", nargs="?", type=Path, default=ROOT / "configs" / "demo.yaml")
    parser.add_argument("overrides", nargs="*", help="settings of the configuration, as KEY=VALUE")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="few trees once, to see that it runs")
    asked = parser.parse_args()
    try:
        figures = measure(load_config(asked.config, asked.overrides), QUICK if asked.quick else WHOLE)
    except UserError as error:
        parser.error(str(error))
    write(asked.json, report("prior_columns", figures, quick=asked.quick, config=str(asked.config)))
    show("Which columns a prior is better without in later periods", figures)


if __name__ == "__main__":
    main()
