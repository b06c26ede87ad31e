"""Priors and things in an export: what `modeling.beside_text` reads there."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq

from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.configs.schema import RunConfig
from equipoise.data.thing_columns import RIVAL, Rivals
from equipoise.data.things import ThingTexts
from equipoise.modeling.beside_text import CO_PURCHASE, RIVALS, TEXTS, VECTORS, Things, read_texts
from equipoise.modeling.frozen_text import MAX_TOKENS
from equipoise.modeling.heads import PointHead
from equipoise.modeling.model import SlateModel
from equipoise.modeling.priors import FALLBACK, FILE, Priors

THING, COMPUTED = "thing_index", "computed_"
"""Columns of prepared items, and the start of the names of those of prepared slates."""
PRIORS = "priors"
"""Folder of the models in runs and exports."""
MOST_VECTORS = 1_000_000
"""Things up to which an export holds the vectors of all; of more, servers make those that they need."""
PRIOR_RULE = (
    "the raw logit holds a * log_odds(columns) + b, a = 1 + moved[0], b = moved[1] of the head; columns are the raw "
    "features (a category as the index of its text, null unknown) and what is computed of things"
)
THINGS_RULE = (
    "a thing's vector: mean of the frozen base's last hidden states over the tokens of its text with special tokens, "
    f"at most {MAX_TOKENS}, of unit length; a history's blank and repeated texts and the candidate's own are left out"
)


def write_beside_text(
    folder: Path, run: Path, config: RunConfig, model: SlateModel, vectors: np.ndarray | None
) -> dict[str, Any]:
    """Write priors/, things and counts into an export; returns their part of serving.json.

    Args:
        folder: of the export.
        run: whose priors they are.
        config: of the run.
        model: the trained model.
        vectors: of things, float (T, D), where the model compares.

    Raises:
        UserError: the run lacks its priors.
    """
    record: dict[str, Any] = {}
    if model.priors:
        record["priors"] = _write_priors(folder, run, model)
    compared = config.data.comparison
    if not model.compares or compared is None or vectors is None:
        return record
    prepared = config.data.folder
    counted = compared.co_purchase and (prepared / CO_PURCHASE).is_file()
    for name in (TEXTS, *([CO_PURCHASE] if counted else [])):
        shutil.copyfile(prepared / name, folder / name)
    if compared.rivals is not None:
        Rivals.of(compared.rivals.model_dump(), vectors).write(folder / RIVALS)
    held = len(vectors) <= MOST_VECTORS
    if held:  # in full: rounded ones could fall on the other side of a tree's threshold
        np.save(folder / VECTORS, np.asarray(vectors))
    comparison = cast(PointHead, model.heads[model.pointwise[0]]).comparison
    assert comparison is not None, "all pointwise heads of a model that compares do"
    width, size = comparison.of_candidate.weight.shape
    record["comparison"] = {
        "item": compared.item,
        "max_events": compared.max_events,
        "vectors": size,
        "width": width,
        "texts": TEXTS,
        "vectors_file": VECTORS if held else None,
        "co_purchase": CO_PURCHASE if counted else None,
        "max_tokens": MAX_TOKENS,
        "rule": THINGS_RULE,
        "rivals": RIVALS if compared.rivals is not None else None,
    }
    return record


def _write_priors(folder: Path, run: Path, model: SlateModel) -> dict[str, Any]:
    priors = Priors.read(run / PRIORS)
    if priors.names != list(model.priors):
        raise UserError(f"{run / PRIORS} holds priors of {priors.names}, the model begins as {list(model.priors)}")
    priors.write(folder / PRIORS)
    objectives = {}
    for name, spec in priors.specs.items():
        file = None if spec.method == "column" else f"{PRIORS}/{name}.txt"
        moved = cast(PointHead, model.heads[name]).moved
        assert moved is not None, "an objective with a prior moves it"
        fallback = f"{PRIORS}/{name}{FALLBACK}" if spec.fallback else None
        objectives[name] = {
            **asdict(spec),
            "file": file,
            "sha256": file_hash(folder / file) if file else None,
            "fallback_file": fallback,
            "fallback_sha256": file_hash(folder / fallback) if fallback else None,
            "weight": 1.0 + float(moved.detach()[0]),
            "bias": float(moved.detach()[1]),
        }
    return {
        "folder": PRIORS,
        "record": f"{PRIORS}/{FILE}",
        "columns": priors.columns,
        "objectives": objectives,
        "rule": PRIOR_RULE,
    }


class PreparedThings:
    """What the candidates of prepared slates are compared with, as texts.

    Args:
        folder: prepared with data.comparison.
        things: those of the export, where prices are held against rivals in the slate.

    Raises:
        UserError: a file is missing or broken.
    """

    def __init__(self, folder: Path, things: Things | None = None) -> None:
        self.rivals = things if things is not None and things.rivals is not None else None
        self.texts = read_texts(folder / TEXTS)
        self.of_items = pq.read_table(folder / "items.parquet", columns=[THING]).column(0).to_pylist()

    def of(self, row: Mapping[str, Any], positions: Sequence[int]) -> ThingTexts:
        """Those of some candidates of a slate, by its row of the shards."""
        computed = {
            name.removeprefix(COMPUTED): np.array([values[position] for position in positions], np.float32)
            for name, values in row.items()
            if name.startswith(COMPUTED)
        }
        if self.rivals is not None and self.rivals.rivals is not None:  # of the whole slate, however few are asked for
            prices = np.array(row[f"feature_{self.rivals.rivals.price}"], np.float64)
            all_items = [self.item(item) for item in row["item"]]
            computed[RIVAL] = self.rivals.gaps(all_items, prices, np.arange(len(prices)), prices)[list(positions)]
        items = [self.item(row["item"][position]) for position in positions]
        return ThingTexts([self.texts[number] for number in row["things"]], items, computed)

    def item(self, number: int) -> str:
        """The text that an item is compared by, "" where it has none."""
        thing = self.of_items[number]
        return "" if thing is None or thing < 0 else self.texts[thing]
