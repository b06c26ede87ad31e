"""The YAML at the top of an export's README, by which the Hugging Face Hub shows, finds and compares models."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

TAGS = ["equipoise", "lora", "recommendation", "learning-to-rank", "multi-objective"]
TASK = "text-ranking"
METRICS = {"auc": "roc_auc"}
"""The Hub's names of metrics where they are others than ours."""


def front_matter(name: str, serving: Mapping[str, Any], source: str, report: Mapping[str, Any] | None) -> str:
    """The block between `---` with the base model, library, tags and, of an evaluated run, metrics.

    Args:
        name: of the run.
        serving: the content of serving.json.
        source: of the data, from their manifest.
        report: the run's evaluation of the test split, if there is one.
    """
    results = list(_results(source, report or {}))
    base = hub_id(serving["base"])
    data = ModelCardData(
        base_model=base,
        base_model_relation="adapter" if base else None,
        library_name="peft",
        pipeline_tag=TASK,
        tags=TAGS,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def hub_id(base: Mapping[str, Any]) -> str | None:
    """The id on the Hub of the base in serving.json, or of what it was made from; None where it has none."""
    known = base["configured"]
    if (base["relative"] is not None and not base["inside_export"]) or Path(known).exists():
        return None
    try:
        validate_repo_id(known)
    except HFValidationError:  # a folder, a file or a package
        return None
    return known


def _results(source: str, report: Mapping[str, Any]) -> Iterator[EvalResult]:
    """All finite numbers of the targets, as the Hub's results."""
    for target, values in (report.get("pointwise") or {}).items():
        for metric, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                yield EvalResult(
                    task_type=TASK,
                    task_name=target,
                    dataset_type=source,
                    dataset_name=f"{source}, later requests",
                    dataset_split="test",
                    metric_type=METRICS.get(metric, metric),
                    metric_name=f"{metric} of {target}",
                    metric_value=value,
                )
