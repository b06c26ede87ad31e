"""What a prepared folder says of its weights: how they were made, and what they are in the train split."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from equipoise.common.errors import UserError
from equipoise.configs.weights import WeightsConfig


class WeightCell(BaseModel):
    """Impressions of one group and label in the train split, and the weight of each."""

    model_config = ConfigDict(extra="forbid")

    group: str
    label: int
    rows: int
    weight: float


class WeightStats(BaseModel):
    """Weights of a prepared folder, whose mean over the train split is 1.

    Attributes:
        settings: of `data.weights` that decided them.
        divided_by: the mean over the train split before they were divided by it.
        least, most: of the train split.
        effective_rows: (Σ w)² / Σ w² of the train split, the number of equal rows that tell as much (Kish 1965).
        clicks, clicked_conversions: sums of weights over clicks, and over conversions among them, of the train split.
        impressions: sum of weights of the train split.
        cells: of reweighing.
    """

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any]
    divided_by: float
    least: float
    most: float
    effective_rows: float
    impressions: float
    clicks: float
    clicked_conversions: float
    cells: list[WeightCell] = []


def check_weights(prepared: WeightStats | None, config: WeightsConfig | None, folder: object) -> None:
    """Refuse a folder that was prepared with other weights.

    Raises:
        UserError: names both.
    """
    here: Mapping[str, Any] | None = config.prepared() if config is not None else None
    there = prepared.settings if prepared is not None else None
    if here != there:
        raise UserError(
            f"{folder} was prepared with data.weights {_words(there)}, the config has {_words(here)}: run `equipoise "
            "prepare` again"
        )


def _words(settings: Mapping[str, Any] | None) -> str:
    if settings is None:
        return "null"
    return "{" + ", ".join(f"{name}: {value}" for name, value in settings.items()) + "}"
