"""Use: why this item. Are the history events that an explanation names first those that the score rests on?

For each case (one shopper and one candidate of the test split, its history of at least MOST_REMOVED + 2 titles) every
title is left out by itself; then the three with the largest effect are left out *together*, and beside it three random
ones. Joint removal is nothing that a single removal is bound to foretell. The score is the utility at pure relevance,
which does not depend on other candidates.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.progress import track
from scipy.stats import wilcoxon

from benchmarks.figures import figure
from configs.errors import UserError
from serving.explain import Variant, prepare_variants
from serving.prompt_parts import CutRequest
from serving.recommender import Recommender

PREPARED = Path("prepared/complete_journey")
MOST_REMOVED = 3
DRAWS = 4
CASES, QUICK_CASES = 400, 200
TOGETHER = 8


def cases(recommender: Recommender, prepared: Path, count: int, seed: int = 0) -> list[CutRequest]:
    """Requests of one candidate each, of different test requests spread over the split.

    Raises:
        UserError: the split has too few requests with long histories.
    """
    files = sorted((prepared / "slates").glob("test-*.parquet"))
    if not files:
        raise UserError(f"{prepared} has no test slates: run `equipoise prepare configs/demo.yaml`")
    rows = [pq.read_table(file, columns=["prefix", "item", "context"]) for file in files]
    items = pq.read_table(prepared / "items.parquet", columns=["item_id"]).column("item_id").to_pylist()
    places = [(part, row) for part, table in enumerate(rows) for row in range(table.num_rows)]
    rng = np.random.default_rng(seed)
    found: list[CutRequest] = []
    for number in rng.permutation(len(places)):
        part, row = places[number]
        table = rows[part].slice(row, 1).to_pylist()[0]
        one = int(rng.integers(len(table["item"])))
        candidate = {"item_id": items[table["item"][one]], "context": table["context"][one]}
        cut = recommender.cut({"prefix": table["prefix"], "candidates": [candidate], "value_weight": 0.0})
        if sum(part.where == "history" for part in cut.shopper) >= MOST_REMOVED + 2:
            found.append(cut)
        if len(found) == count:
            return found
    raise UserError(f"{prepared} has {len(found)} test requests with long histories, {count} are needed")


def _scores(recommender: Recommender, cut: CutRequest, variants: list[Variant]) -> np.ndarray:
    rankings = recommender.score_prepared(prepare_variants(recommender, cut, variants))
    return np.array([ranking.given[0].relevance for ranking in rankings])


def effects(recommender: Recommender, cut: CutRequest, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """|change of r| when the three titles with the largest single effects go, and when random three go (DRAWS,)."""
    history = [number for number, part in enumerate(cut.shopper) if part.where == "history"]
    single = [Variant(0, frozenset([number])) for number in history]
    scores = _scores(recommender, cut, [Variant(0, frozenset()), *single])
    single_effects = np.abs(scores[0] - scores[1:])
    named = np.array(history)[np.argsort(-single_effects, kind="stable")[:MOST_REMOVED]]
    random = [rng.choice(history, MOST_REMOVED, replace=False) for _ in range(DRAWS)]
    joint = [Variant(0, frozenset(map(int, chosen))) for chosen in (named, *random)]
    changes = np.abs(scores[0] - _scores(recommender, cut, joint))
    return float(changes[0]), changes[1:]


def measure(
    export: Path | str = "exports/demo", quick: bool = False, prepared: Path = PREPARED
) -> list[dict[str, Any]]:
    """`explanation_faithfulness`: in which share of cases the named titles matter more than random ones.

    Args:
        export: of the demo's run.
        quick: 200 cases in place of 400.
        prepared: the folder of its data.

    Raises:
        UserError: a folder is missing, or has too few long histories.
    """
    recommender = Recommender.load(export)
    rng = np.random.default_rng(1)
    chosen = cases(recommender, Path(prepared), QUICK_CASES if quick else CASES)
    pairs = [effects(recommender, cut, rng) for cut in track(chosen, "explaining")]
    named = np.array([top for top, _ in pairs])
    random = np.array([others for _, others in pairs])
    p = float(wilcoxon(named, random[:, 0], alternative="greater").pvalue)
    share = float((named[:, None] > random).mean() + 0.5 * (named[:, None] == random).mean())
    return [
        figure(
            "explanation_faithfulness",
            share,
            "share of cases",
            how=f"joint removal of the {MOST_REMOVED} named titles changes r more than of {MOST_REMOVED} random ones",
            cases=len(named),
            wilcoxon_p=p,
        ),
        figure(
            "explanation_effect_ratio",
            float(np.median(named) / np.median(random)),
            "×",
            how="median |change of r|, named over random",
            named=round(float(np.median(named)), 4),
            random=round(float(np.median(random)), 4),
        ),
    ]
