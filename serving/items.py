"""The items that an export knows by id."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import UserError

FILE_NAME = "items.parquet"


@dataclass(frozen=True)
class KnownItems:
    """Texts, as `prepare` rendered them, and titles, as histories tell them, by item_id; no titles where unknown."""

    texts: dict[str, str]
    titles: dict[str, str]


def read_items(path: Path) -> KnownItems:
    """Read items.parquet of an export: item_id, text and, where the data had them, title.

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
    told = {item: title for item, title in zip(ids, titles, strict=False) if title}
    return KnownItems(dict(zip(ids, texts, strict=True)), told)
