"""The items that an export knows by id."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.common.errors import UserError
from equipoise.data.features import FeatureScale, Scales
from equipoise.data.rates import key_text
from equipoise.data.values import value_text
from equipoise.export.catalogue import ATTRIBUTE, THING


@dataclass(frozen=True)
class KnownItems:
    """Texts, as `prepare` rendered them, and titles, as histories tell them, by item_id; no titles where unknown.

    `values`: by the name of a feature the items' own raw values of it, where they are known. `keys`: by the name of a
    column that rates count by the items' texts in it. `things`: what items are compared by, where the export compares.
    `attributes`: by the name of an attribute by which lists are made the items' values.
    """

    texts: dict[str, str]
    titles: dict[str, str]
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    keys: dict[str, dict[str, str]] = field(default_factory=dict)
    things: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)


def read_items(
    path: Path, features: Scales | None = None, keys: Iterable[str] = (), attributes: Iterable[str] = ()
) -> KnownItems:
    """Read items.parquet of an export: item_id, text and, where the data had them, title, values of `features`, `keys`.

    `attributes`: those by which lists are made.

    Raises:
        UserError: it is missing or broken.
    """
    try:
        table = pq.read_table(path)
        ids = table.column("item_id").to_pylist()
        texts = table.column("text").to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(f"{path} is missing or broken: export the run again") from error
    titles = table.column("title").to_pylist() if "title" in table.column_names else []
    known_titles = {item: words for item, title in zip(ids, titles, strict=False) if (words := value_text(title))}
    own = {name: scale for name, scale in (features or {}).items() if name in table.column_names}
    values = {name: _values(table, name, ids, scale) for name, scale in own.items()}
    texts_of_keys = {name: _keys(table, f"key_{name}", ids) for name in keys if f"key_{name}" in table.column_names}
    things = table.column(THING).to_pylist() if THING in table.column_names else []
    known_things = {item: thing for item, thing in zip(ids, things, strict=False) if thing}
    known = dict(zip(ids, texts, strict=True)), known_titles, values, texts_of_keys, known_things
    of_lists = {name: _texts(table, f"{ATTRIBUTE}{name}", ids) for name in attributes}
    return KnownItems(*known, of_lists)


def _texts(table: pa.Table, name: str, ids: Sequence[str]) -> dict[str, str]:
    if name not in table.column_names:
        return {}
    return {item: text for item, text in zip(ids, table.column(name).to_pylist(), strict=True) if text is not None}


def _keys(table: pa.Table, name: str, ids: Sequence[str]) -> dict[str, str]:
    column = map(key_text, table.column(name).to_pylist())
    return {item: text for item, text in zip(ids, column, strict=True) if text is not None}


def _values(table: pa.Table, name: str, ids: Sequence[str], scale: FeatureScale) -> dict[str, float]:
    column = [scale.read(value) for value in table.column(name).to_pylist()]
    return {item: value for item, value in zip(ids, column, strict=True) if value is not None}
