"""Use: why this item. Are the history events that an explanation names first those that the score rests on?

For each case (one shopper and one candidate of the test split, its history of at least MOST_REMOVED + 2 titles) every
part is left out by itself, as an explanation does. Then the three titles that speak most for the candidate are left out
*together*, and beside it three random ones: joint removal is nothing that single removals are bound to foretell. The
score is r, which does not depend on other candidates; what counts is how far it falls. Beside it stands how far it
moves, up or down, without the three titles of the largest effects of either sign, which may cancel.

What part of a score lies in histories at all is told by how far r moves without one part of each place of the prompts.
"""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.progress import track
from scipy.stats import wilcoxon

from benchmarks.figures import figure
from equipoise.common.errors import UserError
from equipoise.serving.explain import Variant, variants_of, without_parts
from equipoise.serving.prompt_parts import CutRequest, Part
from equipoise.serving.recommender import Recommender

PREPARED = Path("prepared/complete_journey")
MOST_REMOVED = 3
DRAWS = 4
CASES, QUICK_CASES = 400, 200


def cases(recommender: Recommender, prepared: Path, count: int, seed: int = 0) -> list[CutRequest]:
    """Requests of one candidate each, of different test requests spread over the split.

    Raises:
        UserError: the split has too few requests with long histories.
    """
    files = sorted((prepared / "slates").glob("test-*.parquet"))
    if not files:
        raise UserError(f"{prepared} has no test slates: run `equipoise prepare configs/demo.yaml`")
    numbers = {name: f"feature_{name}" for name in recommender.fields["features"]}
    rows = [pq.read_table(file, columns=["prefix", "item", "context", *numbers.values()]) for file in files]
    items = pq.read_table(prepared / "items.parquet", columns=["item_id"]).column("item_id").to_pylist()
    places = [(part, row) for part, table in enumerate(rows) for row in range(table.num_rows)]
    rng = np.random.default_rng(seed)
    cut_requests: list[CutRequest] = []
    for number in rng.permutation(len(places)):
        part, row = places[number]
        table = rows[part].slice(row, 1).to_pylist()[0]
        one = int(rng.integers(len(table["item"])))
        features = {name: table[column][one] for name, column in numbers.items() if math.isfinite(table[column][one])}
        candidate = {"item_id": items[table["item"][one]], "context": table["context"][one], "features": features}
        cut = recommender.cut({"prefix": table["prefix"], "candidates": [candidate], "value_weight": 0.0})
        if sum(part.where == "history" for part in cut.shopper) >= MOST_REMOVED + 2:
            cut_requests.append(cut)
        if len(cut_requests) == count:
            return cut_requests
    raise UserError(f"{prepared} has {len(cut_requests)} test requests with long histories, {count} are needed")


def _scores(recommender: Recommender, cut: CutRequest, variants: list[Variant]) -> np.ndarray:
    rankings = recommender.score_prepared([recommender.tokenized(read) for read in without_parts(cut, variants)])
    return np.array([ranking.given[0].relevance for ranking in rankings])


def alone(recommender: Recommender, cut: CutRequest) -> tuple[float, list[Part], np.ndarray]:
    """r, the parts that can be left out (the shopper's first), and r minus r without each alone, float64 (parts,)."""
    variants = variants_of(cut, [0])
    scores = _scores(recommender, cut, [Variant(0, frozenset()), *variants])
    parts = cut.parts(0)
    return (
        float(scores[0]),
        [parts[number] for variant in variants for number in variant.left_out],
        scores[0] - scores[1:],
    )


def effects(
    recommender: Recommender, cut: CutRequest, relevance: float, single: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """r minus r without three titles, float64 (2 + DRAWS,): those most for it, those of most effect, random ones.

    Args:
        recommender, cut: model and request.
        whole, single: r and the changes of `alone`.
        rng: draws the random titles.
    """
    history = [number for number, part in enumerate(cut.shopper) if part.where == "history"]
    changes = single[history]
    named = [np.argsort(-key, kind="stable")[:MOST_REMOVED] for key in (changes, np.abs(changes))]
    random = [rng.choice(len(history), MOST_REMOVED, replace=False) for _ in range(DRAWS)]
    joint = [Variant(0, frozenset(history[index] for index in places)) for places in (*named, *random)]
    return relevance - _scores(recommender, cut, joint)


def measure(
    export: Path | str = "exports/demo", quick: bool = False, prepared: Path = PREPARED
) -> list[dict[str, Any]]:
    """`explanation_faithfulness`: in which share of cases the named titles matter more than random ones.

    And `explanation_movement`, the same for effects of either sign, and `explanation_effect_PLACE`, of single parts.

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
    joint: list[np.ndarray] = []
    moved: dict[str, list[float]] = defaultdict(list)
    for cut in track(chosen, "explaining"):
        relevance, parts, single = alone(recommender, cut)
        for part, change in zip(parts, np.abs(single), strict=True):
            moved[part.where].append(change)
        joint.append(effects(recommender, cut, relevance, single, rng))
    changes = np.array(joint)
    return [
        _figure("explanation_faithfulness", changes[:, 0], changes[:, 2:], "falls", "most for it"),
        _figure("explanation_movement", np.abs(changes[:, 1]), np.abs(changes[:, 2:]), "moves", "of most effect"),
        *(_effect(where, changed) for where, changed in sorted(moved.items())),
    ]


def _effect(where: str, moved: list[float]) -> dict[str, Any]:
    how = f"mean of |r − r without one part of {where}|"
    return figure(f"explanation_effect_{where}", float(np.mean(moved)), "r", how=how, parts=len(moved))


def _figure(name: str, named: np.ndarray, random: np.ndarray, does: str, which: str) -> dict[str, Any]:
    """The share of pairs in which the named titles do more, ties as half, and how much more; (N,) and (N, DRAWS)."""
    return figure(
        name,
        float((named[:, None] > random).mean() + 0.5 * (named[:, None] == random).mean()),
        "share of cases",
        how=f"r {does} more without the {MOST_REMOVED} titles {which} than without {MOST_REMOVED} random ones",
        cases=len(named),
        wilcoxon_p=float(wilcoxon(named, random[:, 0], alternative="greater").pvalue),
        mean_named=round(float(named.mean()), 4),
        mean_random=round(float(random.mean()), 4),
    )
