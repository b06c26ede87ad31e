"""The items that can be scored: their ids and texts, made only for those that are asked for."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.common.errors import UserError
from equipoise.configs.schema import HistoryConfig, PromptConfig
from equipoise.data.features import FeatureScale
from equipoise.data.prompts import piece_fields, render_pieces
from equipoise.data.requests.identifiers import as_text
from equipoise.data.separators import teller_of
from equipoise.data.values import plain_table


class Catalogue:
    """Items by number: their row in a Parquet table.

    Args:
        path: the table, named in messages.
        rows: a column `item_id` (string), and what `render` reads.
        render: from a row to the item's text.
        numbered: whether the rows are in the order of an `item_index`, by which prepared slates name items.
    """

    def __init__(self, path: Path, rows: pa.Table, render: Callable[[dict], str], numbered: bool) -> None:
        self.path, self.rows, self.numbered = path, plain_table(rows), numbered
        self._render = render

    def __len__(self) -> int:
        return self.rows.num_rows

    def texts(self, numbers: Sequence[int]) -> list[str]:
        """The texts of items.

        Raises:
            UserError: an item has none.
        """
        rows = self.rows.take(pa.array(numbers, pa.int64())).to_pylist()
        texts = [self._render(row) for row in rows]
        for row, text in zip(rows, texts, strict=True):
            if not text:
                raise UserError(
                    f"{self.path} gives item '{row['item_id']}' no text with data.prompt.item: fill its columns or "
                    "leave it out of the requests"
                )
        return texts

    def ids(self, numbers: np.ndarray) -> pa.ChunkedArray:
        """The item_id (string) of each number, int64 (N,)."""
        return self.rows.column("item_id").take(pa.array(numbers, pa.int64()))

    def values(self, name: str, numbers: Sequence[int], scale: FeatureScale) -> list[float | None]:
        """The items' own values of a feature, None where unknown.

        Raises:
            UserError: one is infinite, or not what its scale takes.
        """
        try:
            return [scale.read(value) for value in self.cells(name, numbers)]
        except ValueError as error:
            raise UserError(f"{self.path} has a {name} of which {error}: correct it, or leave it empty") from error

    def cells(self, name: str, numbers: Sequence[int]) -> list[Any]:
        """The items' values in a column as they are, None where the table lacks it."""
        if name not in self.rows.column_names:
            return [None] * len(numbers)
        return self.rows.column(name).take(pa.array(numbers, pa.int64())).to_pylist()

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of every item_id.

        Raises:
            UserError: an item_id is missing or occurs twice.
        """
        ids = self.rows.column("item_id").to_pylist()
        numbers = {name: number for number, name in enumerate(ids)}
        if None in numbers:
            raise UserError(f"{self.path} has no item_id in row {numbers[None]}: fill it or drop the row")
        if len(numbers) < len(ids):
            twice = next(name for number, name in enumerate(ids) if numbers[name] != number)
            raise UserError(f"{self.path} has item_id '{twice}' twice: keep one row per item")
        return numbers


def prepared_catalogue(folder: Path, features: Sequence[str] = ()) -> Catalogue:
    """The items of a prepared folder, with the texts that `prepare` rendered.

    Raises:
        UserError: the folder has no items.parquet.
    """
    path = folder / "items.parquet"
    if not path.is_file():
        raise UserError(f"{path} is missing: run `equipoise prepare` again or name a table of items with --items")
    known = pq.read_schema(path).names
    rows = pq.read_table(path, columns=list(dict.fromkeys(["item_id", "text", *(n for n in features if n in known)])))
    return Catalogue(path, rows, lambda row: row["text"], numbered=True)


def given_catalogue(
    path: Path, prompt: PromptConfig, features: Sequence[str] = (), history: Sequence[HistoryConfig] = ()
) -> Catalogue:
    """A table with `item_id` and fields of `prompt.item`, from which texts are rendered as in `prepare`.

    Raises:
        UserError: the table cannot be read, or lacks `item_id` or every field of `prompt.item`.
    """
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"--items {path} cannot be read as Parquet: name a Parquet file of items") from error
    tell = teller_of(prompt, history)
    fields = piece_fields(prompt.item)
    present = [name for name in fields if name in schema.names]
    if "item_id" not in schema.names or not present:
        missing = "item_id" if "item_id" not in schema.names else " or ".join(fields)
        raise UserError(f"--items {path} has no column {missing}, which data.prompt.item needs: add it")
    numbered = "item_index" in schema.names
    own = [name for name in features if name in schema.names]
    columns = dict.fromkeys(["item_id", *present, *own, *(["item_index"] if numbered else [])])
    rows = pq.read_table(path, columns=list(columns))
    if numbered:
        if not np.array_equal(rows.column("item_index").to_numpy(), np.arange(rows.num_rows)):
            raise UserError(f"--items {path} has an item_index that does not count its rows from 0: drop the column")
        rows = rows.drop_columns(["item_index"])
    column = rows.column_names.index("item_id")
    ids = as_text(rows.column("item_id"), f"--items {path}", "item_id")
    return Catalogue(
        path,
        rows.set_column(column, "item_id", ids),
        lambda row: render_pieces(prompt.item, row, prompt.separator, tell),
        numbered,
    )
