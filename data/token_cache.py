"""The token ids of a prepared folder, made once and mapped into memory: what training and scoring read slates from.

docs/slate_format.md gives the files. `equipoise.data.token_writer` writes them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from equipoise.common.digest import is_as_written
from equipoise.common.errors import UserError
from equipoise.common.verified import first_changed
from equipoise.configs.schema import TokensConfig
from equipoise.data.features import CategoryScale
from equipoise.data.manifest import Manifest
from equipoise.data.ragged import Ragged, read_array, read_ragged, run_indices
from equipoise.data.sampling import keep_sampled
from equipoise.data.tokens import candidate_cut

FORMAT = 2
FILE_NAME = "cache.json"
WAY_OUT = "run `equipoise tokenize CONFIG` to write it again"
CHUNK_IMPRESSIONS = 2_000_000
"""Impressions that are sampled at once when a whole split is counted: about 100 bytes of memory each."""

_SPECIAL = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "pad_token_id")


def cache_key(tokenizer: Any, limits: TokensConfig, encoder: bool, manifest: Manifest) -> str:
    """16 hexadecimal digits that stand for everything that decides the ids.

    Args:
        tokenizer: a fast Hugging Face tokenizer; its whole serialised form counts, wherever its files lie.
        limits: the token limits; `max_row` decides no id.
        encoder: which layout.
        manifest: of the prepared folder, for the hashes of its files.
    """
    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    # These two change with every call of the tokenizer and are not used here.
    inner = {name: value for name, value in inner.items() if name not in ("truncation", "padding")}
    identity = {
        "format": FORMAT,
        "tokenizer": inner,
        "special": [getattr(tokenizer, name) for name in _SPECIAL],
        "limits": [limits.max_prefix, limits.max_candidate],
        "encoder": encoder,
        "hashes": manifest.hashes,
        "splits": {name: split.model_dump() for name, split in manifest.splits.items()},
    }
    if manifest.keeps_items:
        identity["bought"] = True
    if manifest.features:
        identity["features"] = list(manifest.features)
        categories = {n: s.values for n, s in manifest.features.items() if isinstance(s, CategoryScale)}
        identity |= {"categories": categories} if categories else {}
    if manifest.comparison is not None:
        identity |= {"things": True, "computed": manifest.computed}
    if manifest.weights is not None:
        identity["weights"] = True
    if manifest.position is not None:
        identity["position"] = True
    if manifest.label_columns:
        identity["labels"] = manifest.label_columns
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TextCounts:
    """How many texts of a split there are, and how many of them were cut at their limit."""

    prefixes: int
    cut_prefixes: int
    candidates: int
    cut_candidates: int


class TokenCache:
    """A complete token cache, opened.

    Args:
        folder: PREPARED/tokens/KEY.

    Attributes:
        start: int32, the ids that every prefix begins with, none for some decoders.
        candidate_end: int32, the ids that end every candidate.
        room: how many ids of item and context a candidate holds.
        pad_id: the id that fills short rows.
        counts: per split.
        features: names of the features that are kept beside the ids.
        labels: columns of further labels.
        has_bought: whether what shoppers had bought is kept.
        has_weights: whether impressions are weighed.
        has_position: whether it is kept how likely each impression was looked at.

    Raises:
        UserError: a file is missing, or not as it was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        record = self._read_record()
        try:
            self._check_files(record)
            self._take(record)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{folder / FILE_NAME} is damaged: {WAY_OUT}") from error

    def _check_files(self, record: Mapping[str, Any]) -> None:
        for name, size in record["files"].items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != size:
                raise UserError(f"{path} is missing or cut short: {WAY_OUT}")
        if record.get("key", self.folder.name) != self.folder.name:
            raise UserError(f"{self.folder} holds the tokens of {record['key']}: {WAY_OUT}")
        changed = first_changed(self.folder, record.get("hashes", {}))  # caches of before hold none
        if changed is not None:
            raise UserError(f"{self.folder / changed} is not as it was written: {WAY_OUT}")

    def _take(self, record: Mapping[str, Any]) -> None:
        self.pad_id: int = record["pad_id"]
        self.room: int = record["room"]
        self.start = np.array(record["start"], dtype=np.int32)
        self.candidate_end = np.array(record["candidate_end"], dtype=np.int32)
        self.counts = {split: TextCounts(**counts) for split, counts in record["counts"].items()}
        self.features: list[str] = record.get("features", [])
        self.labels: list[str] = record.get("labels", [])
        self.computed: list[str] = record.get("computed", [])
        self.has_bought: bool = record.get("bought", False)
        self.has_things: bool = record.get("things", False)
        self.has_weights: bool = record.get("weights", False)
        self.has_position: bool = record.get("position", False)

    def _read_record(self) -> dict[str, Any]:
        path = self.folder / FILE_NAME
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is missing or unreadable: {WAY_OUT}") from error
        if not isinstance(record, dict) or not is_as_written(record):
            raise UserError(f"{path} is not as it was written: {WAY_OUT}")
        return record

    def __reduce__(self) -> tuple:
        return TokenCache, (self.folder,)  # another process maps the files itself

    @cached_property
    def items(self) -> Ragged:
        """The ids of every item's text, at most one more than a candidate has room for."""
        return read_ragged(self.folder, "items")

    @cached_property
    def item_things(self) -> np.ndarray | None:
        """Of every item the number of its thing, int32 (items,); None where the folder compares nothing."""
        return read_array(self.folder, "item_things") if self.has_things else None

    @cached_property
    def contexts(self) -> Ragged:
        """The ids of every distinct context, with the separator before it; number 0 is the empty one."""
        return read_ragged(self.folder, "contexts")

    def split(self, name: str) -> "SplitTokens":
        """The tokens and labels of one split, which the manifest must hold."""
        return SplitTokens(self, name)


class SplitTokens:
    """The slates of one split as numbers; everything is mapped and read where it is asked for.

    Attributes:
        prefix: the prefix's ids of every slate, as the model reads them.
        first: int64 (S + 1,), where each slate's candidates begin among those of the split.
        item, context: int32 (I,), item_index, and number in `TokenCache.contexts`.
        length: int32 (I,), tokens of each candidate.
        click, conversion: int8 (I,).
        weight: float32 (I,), how much each counts; None where all count alike.
        features: float32 (I,) each, raw values by name (of categories indices among their texts), NaN where unknown.
        labels: float32 (I,) each, further labels by column, NaN where there is none.
        things: numbers of things, per slate what its shopper took before, the latest first; None where the folder
            compares nothing.
        computed: float32 (I,) each, columns that priors read beside the features, by name, NaN where unknown.
        bought, times: item_index and int32 counts, per slate what its shopper had bought before, items ascending; None
            where the folder does not keep it.
    """

    def __init__(self, cache: TokenCache, name: str) -> None:
        self.cache, self.name = cache, name
        folder = cache.folder
        self.prefix = read_ragged(folder, f"{name}.prefix")
        self.first = read_array(folder, f"{name}.first")
        self.item, self.context = read_array(folder, f"{name}.item"), read_array(folder, f"{name}.context")
        self.length = read_array(folder, f"{name}.length")
        self.click, self.conversion = read_array(folder, f"{name}.click"), read_array(folder, f"{name}.conversion")
        self.weight = read_array(folder, f"{name}.weight") if cache.has_weights else None
        self.examination = read_array(folder, f"{name}.examination") if cache.has_position else None
        self.features = {feature: read_array(folder, f"{name}.feature_{feature}") for feature in cache.features}
        self.labels = {label: read_array(folder, f"{name}.label_{label}") for label in cache.labels}
        self.bought = read_ragged(folder, f"{name}.bought") if cache.has_bought else None
        self.times = read_ragged(folder, f"{name}.times") if cache.has_bought else None
        self.things = read_ragged(folder, f"{name}.things") if cache.has_things else None
        self.computed = {column: read_array(folder, f"{name}.computed_{column}") for column in cache.computed}

    def __reduce__(self) -> tuple:
        return SplitTokens, (self.cache, self.name)

    def __len__(self) -> int:
        return len(self.first) - 1

    @property
    def counts(self) -> TextCounts:
        """How many texts there are, and how many were cut."""
        return self.cache.counts[self.name]

    def impressions(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Positions of the candidates of some slates among those of the split, int64, slate after slate."""
        chosen = np.asarray(rows, np.int64)
        return run_indices(self.first[chosen], self.first[chosen + 1] - self.first[chosen])

    def candidates(self, positions: np.ndarray) -> list[np.ndarray]:
        """The ids of candidates, int32, as `SlateTokenizer.candidates` gives them.

        Args:
            positions: int64, their numbers among the candidates of the split.
        """
        items, contexts = self.cache.items, self.cache.contexts
        item, context, length = self.item[positions], self.context[positions], self.length[positions]
        full_item = items.offsets[item + 1] - items.offsets[item]
        full_context = contexts.offsets[context + 1] - contexts.offsets[context]
        of_item, of_context, _ = candidate_cut(full_item, full_context, self.cache.room)
        end = self.cache.candidate_end
        stops = np.cumsum(length, dtype=np.int64)
        starts = stops - length
        ids = np.empty(int(stops[-1]) if len(stops) else 0, dtype=np.int32)
        ids[run_indices(starts, of_item)] = items.heads(item, of_item)
        ids[run_indices(starts + of_item, of_context)] = contexts.heads(context, of_context)
        ids[(stops[:, None] - len(end) + np.arange(len(end))).ravel()] = np.tile(end, len(positions))
        return [ids[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]

    def costs(self, epoch: int = 0, negatives: int | None = None, seed: int = 0) -> np.ndarray:
        """Tokens of every slate as epoch `epoch` samples it, prefix and kept candidates: int64 (S,)."""
        total = self.prefix.lengths()
        size = len(self)
        low = 0
        while low < size:
            # As many slates as fit into a chunk, or a single longer one.
            high = int(np.searchsorted(self.first, self.first[low] + CHUNK_IMPRESSIONS, side="right")) - 1
            high = min(max(high, low + 1), size)
            begin, stop = int(self.first[low]), int(self.first[high])
            first = self.first[low : high + 1] - begin
            kept = keep_sampled(self.click[begin:stop], first, np.arange(low, high), negatives, seed, epoch)
            ends = np.concatenate([[0], np.cumsum(self.length[begin:stop] * kept, dtype=np.int64)])
            total[low:high] += ends[first[1:]] - ends[first[:-1]]
            low = high
        return total
