"""`examples_SPLIT.json` of an evaluation: a few of its requests with titles, scores and adjustments."""

from typing import Any

import numpy as np
import pyarrow.parquet as pq

from equipoise.configs.schema import RunConfig
from equipoise.data.slate_set import SlateSet
from equipoise.evaluation.example_slates import example_record, example_requests
from equipoise.evaluation.metrics.score_table import ScoreTable
from equipoise.train.validation import spread_rows


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
