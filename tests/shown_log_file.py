"""A log of drawn lists as files, whose truth is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from equipoise.common.plackett_luce import place_log_propensities

BASE = np.log([0.3, 0.2, 0.1])
DELTA = [0.0, 0.0, 2.0]


def write_log(folder: Path, requests: int = 3000, **changes: Any) -> tuple[Path, Path]:
    """A log of lists of two of three candidates, drawn at 1.0, and its labels: item i earns a click at BASE[i]."""
    rng = np.random.default_rng(0)
    rows, labels = [], []
    for number in range(requests):
        order = np.argsort(-(BASE + rng.gumbel(size=3)))[:2]
        logs = place_log_propensities(BASE, order, 1.0)
        for index in range(3):
            place = int(np.flatnonzero(order == index)[0]) if index in order else None
            rows.append(
                {
                    "request_id": f"r{number}", "timestamp": pd.Timestamp("2026-01-01"), "user_id": f"u{number % 700}",
                    "item_id": f"i{index}", "position": place,
                    "propensity": None if place is None else float(np.exp(logs[place])), "temperature": 1.0,
                    "slate_log_propensity": float(logs.sum()), "version": "run@1", "index": index,
                    "list_utility": BASE[index], "base": BASE[index], "value": [1.0, 2.0, 5.0][index],
                    "pctr": [0.3, 0.2, 0.1][index], "delta_wide": DELTA[index],
                }
                | changes
            )  # fmt: skip
            if place is not None and rng.random() < np.exp(BASE[index]):
                labels.append(
                    {"request_id": f"r{number}", "item_id": f"i{index}", "click": 1, "conversion": int(number % 2)}
                )
    (folder / "candidates").mkdir(parents=True)
    frame = pd.DataFrame(rows)
    half = len(frame) // 2
    frame[:half].to_parquet(folder / "candidates" / "a.parquet")
    frame[half:].to_parquet(folder / "candidates" / "b.parquet")
    pd.DataFrame(labels).to_csv(folder / "labels.csv", index=False)
    return folder, folder / "labels.csv"
