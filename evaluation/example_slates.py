"""A few requests of an evaluation with all their candidates (`examples_SPLIT.json`): what an operating point moves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from equipoise.common.lists import ListRule, attribute_text, list_order
from equipoise.configs.schema import RunConfig
from equipoise.data.slate_set import SlateSet
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.train.validation import spread_rows

EXAMPLES = 4
"""How many requests are shown."""


def example_requests(table: ScoreTable, most: int = EXAMPLES) -> list[int]:
    """Numbers of the shown requests: with two candidates or more and a click where there are such, evenly spread."""
    numbers, request_index, sizes = np.unique(table.request, return_inverse=True, return_counts=True)
    clicks = np.bincount(request_index, table.click, len(numbers))
    able = numbers[sizes > 1]
    clicked = numbers[(sizes > 1) & (clicks > 0)]
    chosen = clicked if len(clicked) else able
    places = np.linspace(0, len(chosen) - 1, num=min(most, len(chosen))).round().astype(int)
    return chosen[places].tolist()


def example_record(
    table: ScoreTable,
    requests: Mapping[int, Mapping[str, Any]],
    titles: Sequence[str] | np.ndarray,
    attributes: Sequence[str] = (),
) -> dict[str, Any]:
    """What `examples_SPLIT.json` holds.

    Args:
        table: the scored split.
        requests: number of a request in the table → what is told of it (request_id, prefix).
        titles: of all items, by item_index.
        attributes: item attributes that are shown beside a title.

    Returns:
        objectives, the names of the adjustments; attributes; examples, each with what is told of it, its user, and its
        candidates in the order of the table: title, attributes, click, conversion, pctr, pcvr (null without one),
        relevance, and delta by objective.
    """
    relevance = table.relevance
    examples = []
    for number, about in requests.items():
        rows = np.flatnonzero(table.request == number)
        candidates = [
            {
                "title": str(titles[table.item[row]]),
                "attributes": {name: table.item_values(name)[table.item[row]] for name in attributes},
                "click": int(table.click[row]),
                "conversion": int(table.conversion[row]),
                "pctr": float(table.pctr[row]),
                "pcvr": None if table.pcvr is None else float(table.pcvr[row]),
                "relevance": float(relevance[row]),
                "delta": {name: float(values[row]) for name, values in table.delta.items()},
            }
            for row in rows
        ]
        examples.append({**about, "user": str(table.user[rows[0]]), "candidates": candidates})
    lists = {"lists": table.lists.to_json()} if table.lists else {}
    return {"objectives": list(table.delta), "attributes": list(attributes), **lists, "examples": examples}


def reranked(
    candidates: Sequence[Mapping[str, Any]], omega: Mapping[str, float], top: int, lists: ListRule | None = None
) -> list[dict[str, Any]]:
    """The best `top` candidates of the list under ω, each with its utility and its place under r alone.

    Equal utilities keep the order of the candidates, as all rankings here do.

    Args:
        candidates: of one example.
        omega: list-wise objective → ω.
        top: how many.
        lists: how lists are made; None sorts by u = r + Σ ω_k δ_k.

    Returns:
        from the best on: candidate (its number), rank (from 1), utility, and before (its rank with ω = {}).
    """
    relevance = np.array([candidate["relevance"] for candidate in candidates])
    utility = relevance.copy()
    for name, weight in (omega if lists is None else lists.adjusts(omega)).items():
        utility = utility + weight * np.array([candidate["delta"][name] for candidate in candidates])
    before = np.empty(len(candidates), np.int64)
    before[np.argsort(-relevance, kind="stable")] = np.arange(1, len(candidates) + 1)
    if lists is None:
        order = np.argsort(-utility, kind="stable").tolist()
    else:
        deltas = {name: [candidate["delta"][name] for candidate in candidates] for name in lists.terms}
        values = {
            name: [attribute_text(candidate["attributes"].get(name)) for candidate in candidates]
            for name in lists.attributes(omega)
        }
        order = list_order(lists, utility, deltas, values, omega)
    return [
        {"candidate": row, "rank": rank, "utility": float(utility[row]), "before": int(before[row])}
        for rank, row in enumerate(order[:top], 1)
    ]


def examples_of(config: RunConfig, split: str, table: ScoreTable) -> dict[str, Any]:
    """The example requests of a scored split, with what its slates tell of them.

    Args:
        config: of the run.
        split: that was scored, as `SplitScores.score` chooses its rows.
        table: its scores.
    """
    slates = SlateSet(config.data.folder, split)
    records = slates.rows.select(spread_rows(len(slates), config.evaluate.max_requests))
    names, row = np.unique(np.array(records["request_id"]), return_index=True)  # as the table numbers them
    requests = {}
    for number in example_requests(table):
        record = records[int(row[number])]
        requests[number] = {"request_id": str(names[number]), "prefix": record["prefix"]}
    column = "title" if "title" in pq.read_schema(slates.items.path).names else "text"
    return example_record(table, requests, slates.items.values(column), list(table.items))
