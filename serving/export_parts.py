"""Parts of an export as a recommender needs them: its catalogue, its reader of requests, its examples."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError
from equipoise.common.lists import ListRule
from equipoise.configs.schema import read_sections, trained_prompt
from equipoise.data.features import Scales
from equipoise.data.rates import RateLookup
from equipoise.serving.items import KnownItems
from equipoise.serving.limits import Limits
from equipoise.serving.omega import OperatingPoint
from equipoise.serving.requests import RequestReader
from equipoise.serving.retrieve import RecallCatalogue


def open_catalogue(folder: Path, record: Mapping[str, Any], known: KnownItems) -> RecallCatalogue | None:
    """What recall searches; None where the run had no such objective.

    Args:
        folder: of the export.
        record: its serving.json.
        known: its items, in the order of the index.

    Raises:
        UserError: the index is missing, broken, or of another number of items.
    """
    for name, about in record.get("retrieval", {}).items():
        return RecallCatalogue.load(folder / about["folder"] / "index", name, list(known.texts), known.titles)
    return None


def make_reader(
    record: Mapping[str, Any],
    known: KnownItems,
    point: OperatingPoint,
    scales: Scales,
    max_candidates: int | None = None,
    rates: RateLookup | None = None,
) -> RequestReader:
    """The reader of requests, with the templates and limits of serving.json; `max_candidates`: another limit; `rates`:
    the last state of the rates among the features."""
    limits = Limits(candidates=max_candidates or record["limits"]["candidates"])
    prompt, history = trained_prompt(record["prompt"]), read_sections(record["history"])
    compared = record["comparison"]["item"] if record.get("comparison") else None
    lists = ListRule.of(record.get("lists"))
    return RequestReader(prompt, history, known, point, limits, scales, rates, compared, lists)


def read_examples(path: Path) -> list[dict[str, Any]]:
    """Requests to try, one JSON object per line.

    Raises:
        UserError: the file is missing or broken.
    """
    try:
        examples = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        if not all(isinstance(each, dict) and isinstance(each.get("candidates"), list) for each in examples):
            raise ValueError("it holds something else than requests")
        return examples
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or broken: export the run again") from error
