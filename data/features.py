"""Features that heads read besides the texts: how raw values become numbers of about size 1.

A number is above 0 (a price, a weight; scale `log`), 0 and more (how often, how long; scale `log1p`), between 0 and 1
(a rate; scale `logit`) or any (log-odds, a temperature; scale `none`). It is z = (log v − mean) / std, or the same of
log(1 + v), of log(v / (1 − v)) or of v, mean and std over the train split's impressions; the heads read
x = Σ_k mix_k z_k over it and the numbers before it, which leaves of each number what those before it do not predict
(rows of L⁻¹, where L Lᵀ is the Cholesky decomposition of their correlations): expensive items cost the shop more, so
that the effects of price and cost alone could hardly be separated.

A category is one of the texts that the train split shows most often, and becomes a column for each: 1 − p where it is
that text and −p elsewhere, p being the fraction of impressions that show it. Where a value is unknown all its columns
are 0, so that they add nothing to a logit. A category without slopes (an item's id, say) has a bias for each text and
nothing else; its columns come last.

A feature that no head reads (`heads: false`) is raw values alone: it has no column and is in no mix.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from equipoise.configs.features import FeatureConfig
from equipoise.data.values import MISSING, value_text

RULES = {
    "log": "z = (log(value) - mean) / std; x = sum of mix[k] * z_k over its keys; 0 where the value is unknown",
    "log1p": "z = (log(1 + value) - mean) / std; x = sum of mix[k] * z_k over its keys; 0 where the value is unknown",
    "logit": "z = (log(value / (1 - value)) - mean) / std; x = sum of mix[k] * z_k over its keys; 0 where the value is "
    "unknown",
    "none": "z = (value - mean) / std; x = sum of mix[k] * z_k over its keys; 0 where the value is unknown",
    "category": "a column per text of values: 1 - share where the value is that text, else -share; 0 where unknown; "
    "behind all numbers, those with slopes first",
}
INDEXED_RULE = (
    "a column, behind all others: the index of that text among values, or where hashed is given the first eight bytes "
    "of its md5 (big-endian) modulo hashed; -1 where unknown; the logit gains rate * weight[index], nothing at -1"
)
"""In place of the rule of categories, where levels are looked up by number."""
UNREAD_RULE = "no column: no head reads it"
"""In place of a rule, where `heads` is false."""
KINDS = {
    "log": "number above 0",
    "log1p": "number of 0 or more",
    "logit": "number above 0 and below 1",
    "none": "finite number",
}
"""What the values of a numeric feature must be, in words."""

RIDGE = 0.01
"""Share by which correlations are taken for smaller, so that numbers which nearly repeat others stay small."""


NumberScaleName = Literal["log", "log1p", "logit", "none"]


def _logit(values: np.ndarray) -> np.ndarray:
    return np.log(values) - np.log1p(-values)


SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log": np.log,
    "log1p": np.log1p,
    "logit": _logit,
    "none": np.asarray,
}
"""What is standardised of the values."""


def fits(value: float, scale: NumberScaleName) -> bool:
    """Whether a scale takes a value: finite, above 0 for `log`, 0 or more for `log1p`, inside (0, 1) for `logit`."""
    if scale in ("none", "logit"):
        return math.isfinite(value) and (scale == "none" or 0 < value < 1)
    return (value > 0 or (scale == "log1p" and value == 0)) and value < math.inf


class NumberScale(BaseModel):
    """How a numeric feature is standardised, and between which values it was seen in the train split.

    Attributes:
        scale: log (natural), log1p, logit (log-odds), or none (values as they are).
        mean, std: of known values on that scale.
        least, most: known values.
        heads: whether heads read it.
        mix: by the names of numeric features, this one among them; empty where z stays as it is.
    """

    model_config = ConfigDict(extra="forbid")

    scale: NumberScaleName = "log"
    heads: bool = True
    mean: float
    std: float
    least: float
    most: float
    mix: dict[str, float] = Field(default_factory=dict)

    def standardise(self, values: np.ndarray) -> np.ndarray:
        """z, float64 of the shape of `values` (of this scale's kind, NaN where unknown)."""
        values = np.asarray(values, dtype=np.float64)
        known = np.isfinite(values)
        scaled = SCALES[self.scale](np.where(known, values, 0.5))
        return np.where(known, (scaled - self.mean) / self.std, 0.0)

    def read(self, value: Any) -> float | None:
        """A cell of a table as a value: None where it is missing, or text that spells no number.

        Raises:
            ValueError: it is a number that this scale does not take, as `fits` says.
        """
        try:
            number = math.nan if value is None else float(value)
        except (TypeError, ValueError):
            return None
        if math.isnan(number):
            return None
        if not fits(number, self.scale):
            raise ValueError(f"{number:g} is not a {KINDS[self.scale]}")
        return number

    def to_cell(self, value: float) -> float | None:
        """A value as `read` takes it, None where it is NaN."""
        return None if math.isnan(value) else value


class CategoryScale(BaseModel):
    """The texts of a category, and how often the train split shows each.

    Attributes:
        values: distinct, the most frequent first. A raw value is the index of its text among them.
        shares: fraction of each among the train split's impressions whose value is known.
        heads: whether heads read it.
        slopes: whether each text has its own slopes for the numbers, besides its own bias.
        max_categories: how many texts may have a column.
        levels: how many texts may have a level that is looked up by number; None: each has a column.
        hashed: levels that texts share by a hash; `values` is empty then.
        rate: learning-rate multiplier of such levels.
    """

    model_config = ConfigDict(extra="forbid")

    scale: Literal["category"] = "category"
    heads: bool = True
    values: list[str]
    shares: list[float]
    slopes: bool = True
    max_categories: int = 64
    levels: int | None = None
    hashed: int | None = None
    rate: float = 10.0

    @property
    def indexed(self) -> int:
        """How many levels are looked up by number; 0 where each text has a column."""
        return self.hashed or (len(self.values) if self.levels else 0)

    @cached_property
    def _codes(self) -> dict[str, int]:
        return {text: code for code, text in enumerate(self.values)}

    def standardise(self, values: np.ndarray) -> np.ndarray:
        """(C,) indices, NaN where unknown, as columns, float64 (C, values); of levels by number (C, 1), −1: unknown."""
        values = np.asarray(values, dtype=np.float64)
        if self.indexed:
            return np.where(np.isfinite(values), values, -1.0)[:, None]
        columns = (values[:, None] == np.arange(len(self.values))) - np.array(self.shares)
        return np.where(np.isfinite(values)[:, None], columns, 0.0)

    def read(self, value: Any) -> float | None:
        """A cell of a table as a value: None where it is missing, or a text that the train split does not show."""
        if value is None:
            return None
        text = category_text(value)
        if self.hashed:
            return bucket_of(text, self.hashed) if text else None
        return self._codes.get(text)

    def to_cell(self, value: float) -> str | None:
        """A value as `read` takes it, None where it is NaN; of hashed texts the number of their level."""
        if math.isnan(value):
            return None
        return f"#{int(value)}" if self.hashed else self.values[int(value)]


FeatureScale = NumberScale | CategoryScale
Scales = Mapping[str, FeatureScale]


def category_text(value: Any) -> str:
    """The text of a value of a category, so that 3, 3.0 and '3' are one; "" where it is missing."""
    text = (value_text(value) or "").strip()
    return "" if text in MISSING else text


def bucket_of(text: str, buckets: int) -> int:
    """The number of a text among `buckets`: the first eight bytes of its md5, modulo."""
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8], "big") % buckets


@dataclass(frozen=True)
class IndexedLevels:
    """A category whose levels are looked up by number: its name, how many there are, their learning-rate multiplier."""

    name: str
    count: int
    rate: float


@dataclass(frozen=True)
class FeatureColumns:
    """Names of the columns that `standardised` gives: numbers, then of each category one per text, those with slopes
    first, then those with a level alone, and at last one with the numbers of levels for each category of `indexed`."""

    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    indexed: tuple[IndexedLevels, ...] = ()

    def __len__(self) -> int:
        return len(self.numbers) + len(self.categories) + len(self.levels) + len(self.indexed)

    @property
    def features(self) -> list[str]:
        """Names of the features that the columns are made of."""
        named = (column.partition("=")[0] for column in (*self.categories, *self.levels))
        return [*self.numbers, *dict.fromkeys(named), *(levels.name for levels in self.indexed)]


def rule_of(scale: FeatureScale) -> str:
    """How heads read a feature, in words."""
    if not scale.heads:
        return UNREAD_RULE
    return INDEXED_RULE if isinstance(scale, CategoryScale) and scale.indexed else RULES[scale.scale]


def read_by_heads(scales: Scales) -> Scales:
    """The features that heads read; others are for priors alone."""
    return {name: scale for name, scale in scales.items() if scale.heads}


def columns_of(scales: Scales) -> FeatureColumns:
    """The columns of these features, as far as heads read them."""
    scales = read_by_heads(scales)
    numbers = tuple(name for name, scale in scales.items() if isinstance(scale, NumberScale))
    texts = {
        slopes: tuple(
            f"{name}={text}"
            for name, scale in scales.items()
            if isinstance(scale, CategoryScale) and not scale.indexed and scale.slopes == slopes
            for text in scale.values
        )
        for slopes in (True, False)
    }
    categories = {name: scale for name, scale in scales.items() if isinstance(scale, CategoryScale)}
    indexed = tuple(IndexedLevels(name, s.indexed, s.rate) for name, s in categories.items() if s.indexed)
    return FeatureColumns(numbers, texts[True], texts[False], indexed)


def read_scales(record: Mapping[str, Any]) -> dict[str, FeatureScale]:
    """Scales by the names of their features, from JSON; keys that do not belong to a scale are left out."""
    scales: dict[str, FeatureScale] = {}
    for name, about in record.items():
        kind = CategoryScale if about.get("scale") == "category" else NumberScale
        scales[name] = kind(**{key: about[key] for key in kind.model_fields if key in about})
    return scales


def features_of(scales: Scales) -> list[FeatureConfig]:
    """The features as the config named them when their scales were made; not whether prompts include them."""
    same = ("scale", "heads", "max_categories", "levels", "hashed", "rate")
    kept = {"slopes": "interactions", **{name: name for name in same}}
    return [
        FeatureConfig(name=name, **{new: getattr(scale, key) for key, new in kept.items() if hasattr(scale, key)})
        for name, scale in scales.items()
    ]


def same_features(scales: Scales, features: Sequence[FeatureConfig]) -> bool:
    """Whether the scales are those of these features."""
    return features_of(scales) == [feature.model_copy(update={"included": True}) for feature in features]


def decorrelating(correlations: np.ndarray) -> np.ndarray:
    """L⁻¹, float64 lower triangular, of numbers with these correlations, float64 (F, F)."""
    damped = (1 - RIDGE) * correlations + RIDGE * np.eye(len(correlations))
    return np.linalg.inv(np.linalg.cholesky(damped))


def standardised(scales: Scales, values: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Raw values of candidates, (C, features) in the order of `scales`, as float32 (C, F), columns as `columns_of`."""
    raw = np.asarray(values, dtype=np.float64).reshape(len(values), len(scales))
    read = {column: name for column, name in enumerate(scales) if scales[name].heads}
    columns = {name: scales[name].standardise(raw[:, column]) for column, name in read.items()}
    numbers, categories, levels, indexed = ([np.zeros((len(raw), 0))] for _ in range(4))
    for column, name in read.items():
        scale = scales[name]
        if isinstance(scale, CategoryScale):
            (indexed if scale.indexed else categories if scale.slopes else levels).append(columns[name])
            continue
        mixed = sum((part * columns[other] for other, part in scale.mix.items()), np.zeros(len(raw)))
        number = np.where(np.isfinite(raw[:, column]), mixed, 0.0) if scale.mix else columns[name]
        numbers.append(number[:, None])
    return np.concatenate([*numbers, *categories, *levels, *indexed], axis=1).astype(np.float32)
