"""A prepared folder, opened for training or scoring: slates as tokens and as texts, items with attribute codes."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import Dataset

from equipoise.common.errors import UserError
from equipoise.common.lists import attribute_text
from equipoise.data.batches import Slate, SlateBatch, SlateRest, build_batch
from equipoise.data.features import read_by_heads, standardised
from equipoise.data.manifest import Manifest, count_slates
from equipoise.data.recall_texts import RecallDraws
from equipoise.data.sampling import BatchOrder, sample_candidates
from equipoise.data.things import SlateThings
from equipoise.data.token_budget import BudgetOrder
from equipoise.data.token_cache import SplitTokens, TokenCache
from equipoise.data.values import plain_table

_FEATURE_DROPOUT = 3
"""Keeps these draws apart from others of the same seed, epoch and row."""


class ItemTable:
    """The items of a prepared folder: texts and attributes by item_index; a column is read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "items.parquet"
        if not self.path.is_file():
            raise UserError(f"{self.path} is missing: run `equipoise prepare` again")

    @cached_property
    def table(self) -> pa.Table:
        """All columns."""
        return plain_table(pq.read_table(self.path))

    def _column(self, name: str) -> pa.ChunkedArray:
        return plain_table(pq.read_table(self.path, columns=[name])).column(0)

    @property
    def texts(self) -> list[str]:
        """The rendered text of every item."""
        return self._column("text").to_pylist()

    def values(self, attribute: str) -> np.ndarray:
        """The attribute of every item as strings, `unknown` where it is missing.

        Raises:
            UserError: the items table has no such column.
        """
        codes, values = self.codes(attribute)
        return np.array(values)[codes]

    def codes(self, attribute: str) -> tuple[np.ndarray, list[str]]:
        """The attribute as int64 codes, with the value of each code (sorted).

        Raises:
            UserError: the items table has no such column.
        """
        known = pq.read_schema(self.path).names
        if attribute not in known:
            columns = ", ".join(name for name in known if name not in ("item_index", "text"))
            raise UserError(f"{self.path} has no column '{attribute}': name one of {columns} in the config")
        # Only the distinct values become Python objects.
        column = self._column(attribute).combine_chunks().dictionary_encode(null_encoding="encode")
        distinct = [attribute_text(value) for value in column.dictionary.to_pylist()]
        values, codes = np.unique(np.array(distinct), return_inverse=True)
        return codes.astype(np.int64)[column.indices.to_numpy(zero_copy_only=False)], values.tolist()


def _read(file: Path, column: str) -> pa.ChunkedArray:
    return pq.read_table(file, columns=[column]).column(0)


class SlateSet:
    """One split of a prepared folder.

    Args:
        folder: written by `equipoise prepare`.
        split: train, valid or test.
        tokens: the folder's token cache; without it, texts and labels can be read, but no tokenised slate.
        prior: log-odds of the objectives' priors, float32 (I, priors) over the split's impressions; None without any.
        vectors: of things, float (T, D); None where nothing is compared.

    Raises:
        UserError: the folder or a shard is missing, of another schema version, or unreadable.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        tokens: TokenCache | None = None,
        prior: np.ndarray | None = None,
        vectors: np.ndarray | None = None,
    ) -> None:
        self.manifest = Manifest.read(folder)
        self.prior, self.vectors = prior, vectors
        self.folder, self.split, self._tokens = folder, split, tokens
        self.items = ItemTable(folder)
        if split not in self.manifest.splits:
            raise UserError(f"{folder} has no split '{split}': name one of {', '.join(self.manifest.splits)}")
        self.manifest.verify(folder, split)
        self._length = count_slates(folder, self.manifest, split)

    @cached_property
    def tokens(self) -> SplitTokens:
        """The slates as numbers.

        Raises:
            UserError: the shards were changed after they had been tokenised.
        """
        if self._tokens is None:
            raise RuntimeError("this split was opened without its token cache")
        tokens = self._tokens.split(self.split)
        if len(tokens) != len(self):
            raise UserError(
                f"{self.folder} has {len(self)} {self.split} slates, but {len(tokens)} in {self._tokens.folder}: "
                "run `equipoise prepare` again"
            )
        return tokens

    @property
    def pad_id(self) -> int:
        """The id that fills short rows."""
        return self.tokens.cache.pad_id

    def seconds(self) -> np.ndarray:
        """When each slate was shown, float64 (S,), seconds since 1970.

        Raises:
            UserError: a shard is damaged.
        """
        moments = self._column("timestamp").cast(pa.timestamp("us")).to_numpy()
        return moments.astype("datetime64[us]").astype(np.float64) / 1e6

    def users(self) -> np.ndarray:
        """user_id of each slate, str (S,); raises as `seconds`."""
        return np.array(self._column("user_id").to_pylist(), dtype=str)

    def user_codes(self, attribute: str) -> tuple[np.ndarray, list[str]]:
        """A user attribute of each slate as int64 codes (S,), and the value of each code; `unknown` where missing.

        Raises:
            UserError: the folder was prepared without it, or a shard is damaged.
        """
        if attribute not in self.manifest.user_groups:
            raise UserError(
                f"{self.folder} was prepared without user group '{attribute}': run `equipoise prepare` again"
            )
        values = ["unknown" if value is None else value for value in self._column(f"user_{attribute}").to_pylist()]
        names, codes = np.unique(np.array(values, dtype=str), return_inverse=True)
        return codes.astype(np.int64), names.tolist()

    def _column(self, name: str) -> pa.ChunkedArray:
        files = [self.folder / file for file in self.manifest.splits[self.split].files]
        try:
            return pa.chunked_array([chunk for file in files for chunk in _read(file, name).chunks])
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"a shard of {self.folder} is damaged ({error}): run `equipoise prepare` again") from error

    @cached_property
    def rows(self) -> Any:
        """Texts, labels and fields of every slate as a `datasets.Dataset`, converted at the first use.

        Raises:
            UserError: a shard is damaged.
        """
        from datasets import Dataset as HfDataset
        from datasets.exceptions import DatasetGenerationError
        from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        files = [str(self.folder / name) for name in self.manifest.splits[self.split].files]
        shown = not are_progress_bars_disabled()
        disable_progress_bars()  # it would count rows that prepare has counted
        try:
            return HfDataset.from_parquet(files, cache_dir=str(self.folder / ".cache"))
        except (DatasetGenerationError, OSError, ValueError) as error:
            self.manifest.verify(self.folder)  # names the file that is not as it was written
            raise UserError(
                f"the {self.split} shards in {self.folder} cannot be read ({error}): prepare them again"
            ) from error
        finally:
            if shown:
                enable_progress_bars()

    def __len__(self) -> int:
        return self._length

    def slate(
        self, row: int, negatives: int | None = None, seed: int = 0, epoch: int = 0, whole: bool = False
    ) -> Slate:
        """Slate `row`, tokenised.

        Args:
            row: its number.
            negatives: at most that many of its unclicked candidates (seeded); None takes all.
            seed, epoch: of the draw.
            whole: tell of the others, too, what priors say of them.
        """
        row, tokens = int(row), self.tokens
        first, stop = int(tokens.first[row]), int(tokens.first[row + 1])
        keep, log_sampling_rate = sample_candidates(tokens.click[first:stop], negatives, seed, epoch, row)
        positions = first + keep
        slate = self._slate(row, positions, tokens.prefix[row], tokens.candidates(positions), log_sampling_rate)
        if not whole:
            return slate
        assert self.prior is not None, "whole slates are asked for beside priors"
        others = np.setdiff1d(np.arange(first, stop), positions, assume_unique=True)
        prior = np.asarray(self.prior[others], dtype=np.float32)
        return replace(slate, rest=SlateRest(tokens.item[others].astype(np.int64), prior))

    def columns(self, row: int) -> Slate:
        """Slate `row` with all its candidates, but without token ids."""
        tokens = self.tokens
        positions = np.arange(int(tokens.first[row]), int(tokens.first[row + 1]))
        return self._slate(int(row), positions, [], [])

    def _slate(
        self, row: int, positions: np.ndarray, prefix: Any, candidates: list[np.ndarray], log_sampling_rate: float = 0.0
    ) -> Slate:
        tokens = self.tokens
        return Slate(
            row=row,
            prefix=prefix,
            candidates=candidates,
            item=tokens.item[positions].astype(np.int64),
            click=tokens.click[positions],
            conversion=tokens.conversion[positions],
            log_sampling_rate=log_sampling_rate,
            features=self._features(positions),
            weight=None if tokens.weight is None else np.asarray(tokens.weight[positions]),
            examination=None if tokens.examination is None else np.asarray(tokens.examination[positions]),
            labels={name: values[positions] for name, values in tokens.labels.items()},
            prior=None if self.prior is None else np.asarray(self.prior[positions], dtype=np.float32),
            things=self._things(row, positions),
        )

    def _things(self, row: int, positions: np.ndarray) -> SlateThings | None:
        if self.vectors is None:
            return None
        tokens = self.tokens
        assert tokens.things is not None and tokens.cache.item_things is not None, "vectors come with their things"
        history = np.asarray(tokens.things[row], dtype=np.int64)
        return SlateThings(history, tokens.cache.item_things[tokens.item[positions]].astype(np.int64), self.vectors)

    def _features(self, positions: np.ndarray) -> np.ndarray | None:
        """The standardised features of candidates, float32 (C, F); None where the heads read none."""
        scales, kept = read_by_heads(self.manifest.features), self.tokens.features
        if not scales:
            return None
        return standardised(scales, np.stack([kept[name][positions] for name in scales], axis=1))


class TrainBatches(Dataset):
    """Global micro-batch number → this process's `SlateBatch`: a plain function, so that any worker may ask.

    Args:
        masked_slates: the same slates, as of anonymous users: with all fields of the user masked.
        feature_dropout: fraction of the slates that are taken from there, drawn again in every epoch.
        recall: draws the texts of the recall objective, where the run has it.
        whole: tell of the candidates that are left out what priors say of them.
        user_groups: per user attribute that losses read the code of each slate, int64 (S,).
    """

    def __init__(
        self,
        slates: SlateSet,
        order: BatchOrder | BudgetOrder,
        negatives: int | None,
        max_row: int,
        attributes: dict[str, np.ndarray],
        masked_slates: SlateSet | None = None,
        feature_dropout: float = 0.0,
        recall: RecallDraws | None = None,
        whole: bool = False,
        user_groups: dict[str, np.ndarray] | None = None,
    ) -> None:
        self.slates, self.order, self.recall, self.whole = slates, order, recall, whole
        self.user_groups = user_groups or {}
        self.negatives, self.max_row, self.attributes = negatives, max_row, attributes
        self.masked_slates, self.feature_dropout = masked_slates, feature_dropout

    def _source(self, row: int, epoch: int) -> SlateSet:
        if self.masked_slates is None:
            return self.slates
        draw = np.random.default_rng([self.order.seed, epoch, row, _FEATURE_DROPOUT]).random()
        return self.masked_slates if draw < self.feature_dropout else self.slates

    def __getitem__(self, number: int) -> SlateBatch:
        epoch, rows = self.order.batch(number)
        seed = self.order.seed
        slates = [self._source(int(row), epoch).slate(row, self.negatives, seed, epoch, self.whole) for row in rows]
        batch = build_batch(slates, self.max_row, self.slates.pad_id, self.attributes)
        if self.user_groups:
            codes = {name: torch.from_numpy(each[rows]) for name, each in self.user_groups.items()}
            batch = replace(batch, user_groups=codes)
        if self.recall is None:
            return batch
        drawn = self.recall.draw(number, lambda row: self._source(row, epoch).tokens)
        return replace(batch, recall=drawn)
