"""A promise of exposure kept while the shop drifts, beside the best fixed ω in hindsight.

    python -m benchmarks.promise_drift [--quick] [--seeds 3] --json FILE

A stream of lists whose clicks follow the chances that the server knows: two groups of providers, the weaker one's items
less wanted by a deficit that swings, and once jumps, as its share of the candidates does. `promise_broken_windows`:
share of windows of 100 lists, after the first five, below the bound; `promise_ndcg`: of what was shown;
`promise_ndcg_fixed`: of the one ω, known in hindsight, that has the largest NDCG of those that break at most 5 % of the
windows (or, where none does, of the one that breaks the fewest, `promise_broken_windows_fixed`); `promise_ndcg_ratio`
of the two.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import figure, report, show, write
from equipoise.common.lists import ListRule, ListTerm, discounts
from equipoise.serving.promise import BROKEN, WINDOW, Keeper, Promise
from equipoise.serving.ranking import Ranking

RULE = ListRule(10, {"fairness": ListTerm("price", ("provider",), {"strong": 0.0, "weak": 1.0})})
BOUND, MOST = 0.8, 4.0
LISTS, FEWER_LISTS, CANDIDATES = 20_000, 3_000, 60
WARM_UP = 5
FIXED = np.linspace(0.0, MOST, 81)


def stream(seed: int, lists: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Chances of a click, bool weak, and clicks of each list, (C,) each."""
    rng = np.random.default_rng(seed)
    for number in range(lists):
        phase = 2 * math.pi * 3 * number / lists
        deficit = 0.6 + 0.15 * math.sin(phase) + (0.2 if number > 0.6 * lists else 0.0)
        weak = rng.random(CANDIDATES) < 0.3 + 0.05 * math.sin(phase / 2)
        logit = rng.normal(-3.0, 1.0, CANDIDATES) - deficit * weak
        chance = 1 / (1 + np.exp(-logit))
        yield chance, weak, rng.random(CANDIDATES) < chance


def ranked(chance: np.ndarray, weak: np.ndarray, omega: float) -> Ranking:
    """The list that a server with this ω shows."""
    logits = {"ctr": (np.log(chance) - np.log1p(-chance)).tolist()}
    values = {"provider": np.where(weak, "weak", "strong").tolist()}
    ids: list[str | None] = [None] * len(chance)
    nothing = {"fairness": [0.0] * len(chance)}
    return Ranking.of(None, ids, logits, nothing, {"fairness": omega}, 10, lists=RULE, attributes=values)


def ndcg(order: np.ndarray, click: np.ndarray) -> float:
    """NDCG@10 of a list; NaN without a click."""
    ideal = discounts(min(int(click.sum()), RULE.places)).sum()
    return float(discounts(len(order)) @ click[order] / ideal) if ideal else math.nan


class Windows:
    """NDCG of a stream, and the exposure ratio of each of its windows."""

    def __init__(self) -> None:
        self.gains: list[float] = []
        self.ratios: list[float] = []
        self._exposed, self._present, self._lists = np.zeros(2), np.zeros(2), 0

    def add(self, order: np.ndarray, weak: np.ndarray, click: np.ndarray) -> None:
        """A list that was shown."""
        self.gains.append(ndcg(order, click))
        share = discounts(len(order)) / discounts(len(order)).sum()
        self._exposed += np.bincount(weak[order].astype(int), share, 2)
        self._present += np.bincount(weak.astype(int), minlength=2) / len(weak)
        self._lists += 1
        if self._lists == WINDOW:
            ratio = self._exposed / self._present
            self.ratios.append(float(ratio.min() / ratio.max()))
            self._exposed, self._present, self._lists = np.zeros(2), np.zeros(2), 0

    @property
    def broken(self) -> float:
        """Share of the windows below the bound, without the first ones."""
        return float(np.mean(np.array(self.ratios[WARM_UP:]) < BOUND))

    @property
    def ndcg(self) -> float:
        """Mean over lists with a click, without those of the first windows."""
        return float(np.nanmean(self.gains[WARM_UP * WINDOW :]))


def fixed_orders(chance: np.ndarray, weak: np.ndarray) -> Iterator[np.ndarray]:
    """The list of each of FIXED: with prices alone it is sorted by worth and price."""
    worth = chance / (np.sort(chance)[::-1][: RULE.places] @ discounts(RULE.places))
    for omega in FIXED:
        yield np.argsort(-(worth + omega * weak / discounts(RULE.places).sum()), kind="stable")[: RULE.places]


def one_stream(seed: int, lists: int) -> dict[str, float]:
    """Figures of one stream."""
    keeper = Keeper([Promise("exposure_ratio", BOUND, "fairness", MOST)], RULE, {"fairness": 0.0})
    kept, fixed = Windows(), [Windows() for _ in FIXED]
    for chance, weak, click in stream(seed, lists):
        ranking = ranked(chance, weak, keeper.omega()["fairness"])
        keeper.observe(ranking)
        kept.add(np.array([scored.position for scored in ranking.candidates]), weak, click)
        for windows, order in zip(fixed, fixed_orders(chance, weak), strict=True):
            windows.add(order, weak, click)
    able = [windows for windows in fixed if windows.broken <= BROKEN]
    best = max(able, key=lambda windows: windows.ndcg) if able else min(fixed, key=lambda windows: windows.broken)
    return {
        "promise_broken_windows": kept.broken,
        "promise_ndcg": kept.ndcg,
        "promise_ndcg_fixed": best.ndcg,
        "promise_broken_windows_fixed": best.broken,
        "promise_ndcg_ratio": kept.ndcg / best.ndcg,
        "promise_ndcg_relevance": fixed[0].ndcg,
    }


def measure_promise(seeds: int, quick: bool) -> list[dict[str, Any]]:
    """All figures: means over streams."""
    found = [one_stream(seed, FEWER_LISTS if quick else LISTS) for seed in range(seeds)]
    return [
        figure(
            name,
            float(np.mean([each[name] for each in found])),
            "share of windows" if "windows" in name else "NDCG@10" if "ratio" not in name else "ratio",
            values=[round(each[name], 4) for each in found],
            lists=FEWER_LISTS if quick else LISTS,
        )
        for name in found[0]
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="A promise kept while the shop drifts.")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="one short stream: whether it runs at all")
    parser.add_argument("--seeds", type=int, default=3, help="streams")
    asked = parser.parse_args()
    seeds = 1 if asked.quick else asked.seeds
    figures = measure_promise(seeds, asked.quick)
    write(asked.json, report("promise_drift", figures, quick=asked.quick, seeds=seeds))
    show("A promise kept while the shop drifts", figures)


if __name__ == "__main__":
    main()
