"""What candidates are compared with, from the rows of a file: things of prepared slates, or titles of raw requests."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.common.errors import UserError
from equipoise.data.manifest import THINGS
from equipoise.data.prompts import is_missing
from equipoise.data.requests.catalogue import Catalogue
from equipoise.data.things import ThingTexts
from equipoise.data.values import value_text

COMPUTED = "computed_"
"""Start of the names of columns that `prepare` computed for the priors."""


class ThingColumns:
    """Reads the columns of one file.

    Args:
        path: of the file.
        kinds: its columns.
        catalogue: the items, with the column `item`.
        item: column of items that is compared with histories.
        prepared: whether the file holds prepared slates, whose things are numbers in the things.parquet beside them.
    """

    def __init__(self, path: Path, kinds: Mapping[str, Any], catalogue: Catalogue, item: str, prepared: bool) -> None:
        self.path, self.catalogue, self.item, self.prepared = path, catalogue, item, prepared
        self.computed = [name for name in kinds if name.startswith(COMPUTED)] if prepared else []
        taken = "things" if prepared else "recent" if "recent" in kinds else "history"
        self.taken = taken if taken in kinds else None
        self.columns = [*([self.taken] if self.taken else []), *self.computed]

    @cached_property
    def texts(self) -> list[str]:
        """The texts of the things of the folder that the file is in.

        Raises:
            UserError: the folder holds none.
        """
        path = self.path.resolve().parent.parent / THINGS
        try:
            return pq.read_table(path, columns=["text"]).column("text").to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path} is missing or broken: keep prepared slates in their folder") from error

    def read(self, batch: pa.RecordBatch, items: Sequence[Sequence[int]]) -> list[ThingTexts]:
        """What each row's candidates are compared with; `items`: of each row the numbers of its candidates."""
        flat = [number for numbers in items for number in numbers]
        cells = ["" if is_missing(cell) else value_text(cell) or "" for cell in self.catalogue.cells(self.item, flat)]
        ends = list(accumulate(map(len, items)))
        rows = batch.column(self.taken).to_pylist() if self.taken else [None] * len(items)
        columns = {name.removeprefix(COMPUTED): batch.column(name).to_pylist() for name in self.computed}
        found = []
        for row, (numbers, end) in enumerate(zip(items, ends, strict=True)):
            computed = {name: np.array(values[row], np.float32) for name, values in columns.items()}
            found.append(ThingTexts(self._history(rows[row]), cells[end - len(numbers) : end], computed))
        return found

    def _history(self, taken: Any) -> list[str]:
        if taken is None:
            return []
        if self.prepared:
            return [self.texts[number] for number in taken]
        lists = taken.values() if isinstance(taken, Mapping) else [taken]
        return [value_text(title) or "" for titles in lists for title in titles or () if not is_missing(title)]
