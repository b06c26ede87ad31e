"""A training that serves groups of users alike: the groups reach the loss, and a folder without them is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import RunConfig
from equipoise.train.job import train
from equipoise.train.prepare_run import prepare_data
from tests.tiny_run import run_settings


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [line["train/loss/ctr"] for line in lines if "train/loss/ctr" in line]


def test_groups_of_users_weigh_in_the_loss(tmp_path: Path) -> None:
    settings: dict[str, Any] = run_settings(tmp_path, max_steps=3)
    settings["objectives"] = {"ctr": {}, "cvr": {}}
    found = {}
    for name, fair in (("plain", None), ("fair", {"field": "age", "strength": 8.0})):
        ctr = {} if fair is None else {"user_fairness": fair}
        own = {**settings, "output": str(tmp_path / name), "objectives": {"ctr": ctr, "cvr": {}}}
        config = RunConfig.model_validate(own)
        prepare_data(config)
        assert train(config) is not None
        found[name] = losses(config.output)
    assert len(found["fair"]) == len(found["plain"]) == 3
    # The first step is at the base rate, where all groups are foretold about as well.
    assert all(abs(one - other) > 1e-2 for one, other in zip(found["fair"][1:], found["plain"][1:], strict=True))
    data = {**settings["data"], "folder": str(tmp_path / "without"), "user_groups": []}
    without = RunConfig.model_validate({**settings, "data": data, "output": str(tmp_path / "first")})
    prepare_data(without)
    asked = {"ctr": {"user_fairness": {"field": "age"}}}
    late = {**settings, "data": {**data, "user_groups": ["age"]}, "output": str(tmp_path / "late"), "objectives": asked}
    with pytest.raises(UserError, match="prepared without user group 'age'"):
        train(RunConfig.model_validate(late))
