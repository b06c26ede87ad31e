"""A prepared folder, opened for training or scoring: slates read through `datasets`, items with attribute codes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from torch.utils.data import Dataset

from configs.errors import UserError
from data.batches import Slate, SlateBatch, build_batch
from data.manifest import Manifest
from data.sampling import BatchOrder, sample_candidates
from data.tokens import SlateTokenizer


class ItemTable:
    """The items of a prepared folder: texts and attributes by item_index."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "items.parquet"
        if not self.path.is_file():
            raise UserError(f"{self.path} is missing: run `equipoise prepare` again")
        self.table = pq.read_table(self.path)

    @property
    def texts(self) -> list[str]:
        """The rendered text of every item."""
        return self.table.column("text").to_pylist()

    @property
    def ids(self) -> list[str]:
        """The item_id of every item."""
        return self.table.column("item_id").to_pylist()

    def values(self, attribute: str) -> np.ndarray:
        """The attribute of every item as strings, `unknown` where it is missing.

        Raises:
            UserError: the items table has no such column.
        """
        if attribute not in self.table.column_names:
            columns = ", ".join(name for name in self.table.column_names if name not in ("item_index", "text"))
            raise UserError(f"{self.path} has no column '{attribute}': name one of {columns} in the config")
        column = self.table.column(attribute).to_pylist()
        return np.array(["unknown" if value is None else str(value) for value in column])

    def codes(self, attribute: str) -> tuple[np.ndarray, list[str]]:
        """The attribute as int64 codes, with the value of each code (sorted)."""
        values, codes = np.unique(self.values(attribute), return_inverse=True)
        return codes.astype(np.int64), values.tolist()


class SlateSet:
    """One split of a prepared folder.

    Args:
        folder: written by `equipoise prepare`.
        split: train, valid or test.

    Raises:
        UserError: the folder or a shard is missing, of another schema version, or unreadable.
    """

    def __init__(self, folder: Path, split: str) -> None:
        from datasets import Dataset as HfDataset
        from datasets.exceptions import DatasetGenerationError

        self.manifest = Manifest.read(folder)
        self.folder, self.split = folder, split
        self.items = ItemTable(folder)
        if split not in self.manifest.splits:
            raise UserError(f"{folder} has no split '{split}': name one of {', '.join(self.manifest.splits)}")
        files = [folder / name for name in self.manifest.splits[split].files]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise UserError(f"{missing[0]} is missing: run `equipoise prepare` again")
        try:
            self.rows = HfDataset.from_parquet([str(file) for file in files], cache_dir=str(folder / ".cache"))
        except (DatasetGenerationError, OSError, ValueError) as error:
            self.manifest.verify(folder)  # names the file that is not as it was written
            raise UserError(f"the {split} shards in {folder} cannot be read ({error}): prepare them again") from error

    def __len__(self) -> int:
        return len(self.rows)

    def slate(self, row: int, tokenizer: SlateTokenizer, negatives: int | None = None, seed: int = 0) -> Slate:
        """Slate `row`, tokenised; with `negatives`, at most that many of its unclicked candidates (seeded)."""
        record: dict[str, Any] = self.rows[int(row)]
        click = np.asarray(record["click"], dtype=np.int8)
        keep, log_keep = sample_candidates(click, negatives, [seed, int(row)])
        item = np.asarray(record["item"], dtype=np.int64)[keep]
        contexts = [record["context"][index] for index in keep]
        return Slate(
            row=int(row),
            prefix=tokenizer.prefix(record["prefix"]),
            candidates=tokenizer.candidates(item.tolist(), contexts),
            item=item,
            click=click[keep],
            conversion=np.asarray(record["conversion"], dtype=np.int8)[keep],
            log_keep=log_keep,
        )


class TrainBatches(Dataset):
    """Global micro-batch number → this process's `SlateBatch`: a plain function, so that any worker may ask."""

    def __init__(
        self,
        slates: SlateSet,
        tokenizer: SlateTokenizer,
        order: BatchOrder,
        negatives: int | None,
        max_row: int,
        attributes: dict[str, np.ndarray],
    ) -> None:
        self.slates, self.tokenizer, self.order = slates, tokenizer, order
        self.negatives, self.max_row, self.attributes = negatives, max_row, attributes

    def __getitem__(self, number: int) -> SlateBatch:
        epoch, rows = self.order.batch(number)
        seed = self.order.seed * 1_000_003 + epoch
        slates = [self.slates.slate(row, self.tokenizer, self.negatives, seed) for row in rows]
        return build_batch(slates, self.max_row, self.tokenizer.pad_id, self.attributes)


def score_batches(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Group consecutive slates (given by their numbers of candidates) into batches of about `most` candidates."""
    groups: list[list[int]] = []
    filled = 0
    for index, size in enumerate(sizes):
        if not groups or filled + size > most:
            groups.append([])
            filled = 0
        groups[-1].append(index)
        filled += size
    return groups
