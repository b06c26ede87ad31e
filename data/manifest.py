"""The manifest of a prepared folder: what is in it, where it came from, and the hashes that prove it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from equipoise.common.digest import record_digest
from equipoise.common.errors import UserError
from equipoise.common.verified import first_changed
from equipoise.configs.rates import RateConfig
from equipoise.data.examination import PositionStats
from equipoise.data.features import FeatureScale
from equipoise.data.labels import LabelStats, columns_of_labels
from equipoise.data.thing_columns import TOGETHER
from equipoise.data.weights import WeightStats

SCHEMA_VERSION = 1
FILE_NAME = "manifest.json"
SPLITS = ("train", "valid", "test")
THINGS = "things.parquet"
CO_PURCHASE = "co_purchase.npz"


def as_list(history: dict[str, Any] | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sections of a history; a single one is a mapping."""
    return [history] if isinstance(history, dict) else history


class SplitCounts(BaseModel):
    """What one split holds: counts, rates per impression, and the ISO timestamps of its first and last request."""

    model_config = ConfigDict(extra="forbid")

    requests: int
    slates: int
    impressions: int
    clicks: int
    conversions: int
    clicked_conversions: int
    click_rate: float = 0.0
    conversion_rate: float = 0.0
    clicked_conversion_rate: float = 0.0
    first: str
    last: str
    files: list[str]


class Manifest(BaseModel):
    """manifest.json as an object; docs/slate_format.md gives the meaning of every key."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    source: str
    created: str
    versions: dict[str, str]
    prompt: dict[str, Any]
    history: dict[str, Any] | list[dict[str, Any]]
    counts: dict[str, int]
    splits: dict[str, SplitCounts]
    dropped: dict[str, int] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    fields: list[str] = Field(default_factory=list)
    features: dict[str, FeatureScale] = Field(default_factory=dict)
    labels: dict[str, LabelStats] = Field(default_factory=dict)
    rates: list[RateConfig] = Field(default_factory=list)
    absent_labels: list[str] = Field(default_factory=list)
    untold: list[str] = Field(default_factory=list)
    item_behaviour: list[str] = Field(default_factory=list)
    item_dropout: float = 0.0
    user_groups: list[str] = Field(default_factory=list)
    comparison: dict[str, Any] | None = None
    weights: WeightStats | None = None
    position: PositionStats | None = None
    hashes: dict[str, str] = Field(default_factory=dict)
    sha256: str | None = None

    @property
    def keeps_items(self) -> bool:
        """Whether the slates say of which catalogue items earlier events were."""
        return any(section.get("items") for section in as_list(self.history))

    @property
    def label_columns(self) -> list[str]:
        """The label columns besides click and conversion."""
        return columns_of_labels(self.labels)

    @property
    def computed(self) -> list[str]:
        """The columns of the shards that priors read beside the features."""
        return list(TOGETHER) if self.comparison and self.comparison["co_purchase"] else []

    @classmethod
    def read(cls, folder: Path | str, verify: bool = False) -> "Manifest":
        """Read the manifest of a prepared folder; `verify` also compares every file with its sha256.

        Raises UserError for a missing folder, a broken manifest, another schema version, and (with `verify`) a file
        that is missing or not the one that was prepared.
        """
        folder = Path(folder)
        path = folder / FILE_NAME
        if not path.is_file():
            raise UserError(f"{folder} holds no prepared data ({FILE_NAME} is missing): run equipoise prepare first")
        manifest = cls._parse(path)
        if verify:
            manifest.verify(folder)
        return manifest

    @classmethod
    def _parse(cls, path: Path) -> "Manifest":
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not readable as JSON: run equipoise prepare again") from error
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema version {version}, but this equipoise reads {SCHEMA_VERSION}: "
                "run equipoise prepare again"
            )
        try:
            manifest = cls.model_validate(raw)
        except ValidationError as error:
            key = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise UserError(f"{path} is damaged at key '{key}': run equipoise prepare again") from error
        if manifest.sha256 is not None and manifest.sha256 != manifest.digest():
            raise UserError(f"{path} is not as it was written: restore it, or run equipoise prepare again")
        return manifest

    def digest(self) -> str:
        """The sha256 of all that it says; what is left to a default says nothing."""
        return record_digest(self.model_dump(mode="json", exclude={"sha256"}, exclude_defaults=True))

    def verify(self, folder: Path | str, split: str | None = None) -> None:
        """Compare the files of the folder with their recorded sha256; those not touched since are not read again.

        Args:
            folder: where they lie.
            split: whose shards are compared, next to what all splits share; None compares all.

        Raises:
            UserError: names the first that differs.
        """
        others = {name for key, counts in self.splits.items() if split not in (None, key) for name in counts.files}
        hashes = {name: sha for name, sha in self.hashes.items() if name not in others}
        name = first_changed(Path(folder), hashes)
        if name is None:
            return
        path = Path(folder) / name
        if not path.is_file():
            raise UserError(f"{path} is missing: run equipoise prepare again")
        raise UserError(f"{path} does not match its hash in {FILE_NAME}: run equipoise prepare again")

    def write(self, folder: Path | str) -> None:
        """Write manifest.json into the folder, last of all files, so that its presence means completeness."""
        text = self.model_copy(update={"sha256": self.digest()}).model_dump_json(indent=2) + "\n"
        (Path(folder) / FILE_NAME).write_text(text, encoding="utf-8")


def open_shards(folder: Path, manifest: Manifest, split: str) -> Iterator[tuple[Path, pq.ParquetFile]]:
    """Path and opened file of every shard of a split, in order.

    Raises:
        UserError: a shard is missing, or its footer is unreadable.
    """
    for name in manifest.splits[split].files:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing: run `equipoise prepare` again")
        try:
            shard = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            manifest.verify(folder)  # names the file that is not as it was written
            raise UserError(f"{path} cannot be read ({error}): run `equipoise prepare` again") from error
        with shard:
            yield path, shard


def count_slates(folder: Path, manifest: Manifest, split: str) -> int:
    """How many slates the shards of a split hold.

    Raises:
        UserError: a shard is missing, or its footer is unreadable.
    """
    return sum(shard.metadata.num_rows for _, shard in open_shards(folder, manifest, split))
