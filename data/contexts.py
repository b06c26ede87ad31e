"""Renders what is known of each impression, for `prepare` and for scoring alike."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from equipoise.data.prompts import piece_fields, render_pieces

CONTEXT_CACHE = 200_000


class ContextRenderer:
    """Renders the context pieces of impressions; equal field values are rendered once."""

    def __init__(self, pieces: list[str], separator: str) -> None:
        self.pieces, self.separator = pieces, separator
        self.names = piece_fields(pieces)
        self.seen: dict[tuple, str] = {}

    def render(self, table: pa.Table) -> list[str]:
        """One text per row of a table that has the pieces' fields as columns."""
        return self.texts([table.column(name).to_pylist() for name in self.names], table.num_rows)

    def texts(self, columns: Sequence[Sequence[Any]], count: int) -> list[str]:
        """One text for each of `count` impressions, given the values of every field of `names`, in that order."""
        if not self.names:
            return [render_pieces(self.pieces, {}, self.separator)] * count
        return [self._one(values) for values in zip(*columns, strict=True)]

    def _one(self, values: tuple) -> str:
        text = self.seen.get(values)
        if text is None:
            if len(self.seen) >= CONTEXT_CACHE:
                self.seen.clear()
            fields = dict(zip(self.names, values, strict=True))
            text = self.seen[values] = render_pieces(self.pieces, fields, self.separator)
        return text
