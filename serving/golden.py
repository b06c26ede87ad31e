"""An export's own golden requests, asked of the recommender that was loaded from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.data.thing_columns import TOGETHER
from equipoise.serving.recommender import PreparedRequest, Recommender
from equipoise.serving.requests import ReadCandidate, ReadRequest

FILE = "golden.jsonl"
TOLERANCE = {"fp32": 1e-3, "bf16": 0.05}
"""Largest difference of a probability, by what the recommender computes in."""
BATCH = 16


def refuse_wrong_answers(recommender: Recommender, precision: str = "fp32") -> int:
    """Ask the golden prompts of an export and compare the probabilities; returns how many were asked.

    Args:
        recommender: loaded from the export; nothing else uses it meanwhile.
        precision: in which it computes, fp32 or bf16.

    Raises:
        UserError: the file is missing or broken, or a probability is not what the trained model gave.
    """
    path = recommender.export / FILE
    try:
        prompts = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        requests = [_request(recommender, prompt) for prompt in prompts]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is missing or broken: export the run again") from error
    for start in range(0, len(requests), BATCH):
        rankings = recommender.score_prepared(requests[start : start + BATCH])
        for prompt, ranking in zip(prompts[start:], rankings, strict=False):
            expected = {**prompt["probability"], **prompt.get("calibrated", {})}
            _compare(path, expected, ranking.given[0].probabilities, TOLERANCE[precision])
    recommender.cache.clear()
    return len(prompts)


def _compare(path: Path, expected: Mapping[str, float], found: Mapping[str, float], tolerance: float) -> None:
    for name, value in expected.items():
        if not abs(found[name] - value) <= tolerance:
            raise UserError(
                f"{path.parent} does not answer its golden requests: a probability of {name} is {found[name]:.4f}, "
                f"where the trained model gave {value:.4f}"
            )


def _request(recommender: Recommender, prompt: Mapping[str, Any]) -> PreparedRequest:
    """A golden prompt as a request of one candidate."""
    cells = [scale.read(prompt["features"][name]) for name, scale in recommender.scales.items()]
    features = tuple(float("nan") if cell is None else float(cell) for cell in cells)
    thing = prompt.get("things", [""])[0]
    unknown = (None,) * len(recommender.reader.attributes)  # lists are not judged here
    candidate = ReadCandidate(
        None, prompt["item"], prompt["context"], features=features, thing=thing, attributes=unknown
    )
    computed: dict[str, np.ndarray] = {}
    names = recommender.prior_columns
    if "columns" in prompt:
        row = dict(zip(names, prompt["columns"][0], strict=True))
        known = {name: np.nan if row[name] is None else row[name] for name in names if name in TOGETHER}
        computed = {name: np.array([value], np.float32) for name, value in known.items()}
    recent = tuple(prompt.get("history", ()))
    read = ReadRequest(None, prompt["prefix"], [candidate], {}, None, recent=recent, computed=computed)
    return recommender.tokenized(read)
