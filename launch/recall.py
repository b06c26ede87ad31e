"""`equipoise recall EXPORT REQUESTS OUT`: the best items of the whole catalogue for every shopper of a file."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from equipoise.common.console import new_console
from equipoise.common.errors import UserError
from equipoise.common.progress import ProgressBar
from equipoise.data.requests.table import RequestTable, open_requests, request_connection
from equipoise.launch.options import RecallOptions
from equipoise.modeling.recall_sources import SOURCES
from equipoise.scoring.ranking_file import table_file
from equipoise.serving.frames import prepared_requests
from equipoise.serving.recommender import Recommender
from equipoise.serving.retrieve import KEYS, PreparedRecall, Recalled

LISTS = ("history", "bought", "exclude")


def recall_items(export: Path, requests: Path, out: Path, options: RecallOptions) -> None:
    """Search for all shoppers of a file, one row each, and write request_id or user_id, rank, item_id, title and score,
    and what each source adds to the score.

    Columns are the fields of the shopper, or `prefix` (ready text), and as lists `history`, `bought` and `exclude`.

    Raises:
        UserError: the export, a file or a request cannot be read, or `out` exists.
    """
    if out.exists() and not options.overwrite:
        raise UserError(f"{out} exists: name another file or add --overwrite")
    with request_connection() as con:
        table = open_requests(con, requests)
        if table.per_candidate:
            raise UserError(f"{requests} has a row per candidate (item_id): give one row per shopper")
        recommender = Recommender.load(export, device=options.device, cache_mb=0, base=options.base)
        names = [name for name in ("request_id", "user_id") if name in table.kinds]
        answers = _answers(table, recommender, options)
        rows, unknown = _write(answers, names, out, table.count())
    console = new_console()
    console.print(f"{rows:,} items for {table_words(unknown)}: {out}", soft_wrap=True)


def table_words(unknown: Mapping[str, int]) -> str:
    """How many shoppers there were, and what of their pasts the catalogue does not hold."""
    shoppers, missing = f"{unknown['requests']:,} shoppers", unknown["unknown"]
    return shoppers + (f" ({missing:,} ids of their pasts are not in the catalogue)" if missing else "")


def _answers(
    table: RequestTable, recommender: Recommender, options: RecallOptions
) -> Iterator[list[tuple[dict[str, Any], Recalled]]]:
    fields = [name for name in recommender.fields["user"] if name in table.kinds]
    beside = [name for name in ("request_id", "user_id", "prefix", *LISTS) if name in table.kinds]

    def prepare(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], PreparedRecall]:
        return rows[0], recommender.prepare_recall(_request(rows[0], fields, options))

    for portion in prepared_requests(table, list(dict.fromkeys([*beside, *fields])), prepare):
        found = recommender.recall_prepared([prepared for _, prepared in portion])
        yield [(row, recalled) for (row, _), recalled in zip(portion, found, strict=True)]


def _request(row: dict[str, Any], fields: list[str], options: RecallOptions) -> dict[str, Any]:
    request: dict[str, Any] = {name: row[name] for name in LISTS if row.get(name) is not None}
    if row.get("prefix") is not None:
        request["prefix"] = row["prefix"]
    else:
        request["user"] = {name: row[name] for name in fields}
    request |= {"top": options.top, "exclude_bought": options.exclude_bought}
    quota = {"never_bought": options.never_bought, "new": options.new}
    request["quota"] = {name: count for name, count in quota.items() if count}
    return {name: request[name] for name in KEYS if name in request}


def _write(
    answers: Iterator[list[tuple[dict[str, Any], Recalled]]], names: Sequence[str], out: Path, total: int
) -> tuple[int, dict[str, int]]:
    columns = [*((name, pa.string()) for name in names), ("rank", pa.int32()), ("item_id", pa.string())]
    parts = [(f"source_{name}", pa.float32()) for name in SOURCES]
    schema = pa.schema([*columns, ("title", pa.string()), ("score", pa.float32()), *parts])
    written, counts = 0, {"requests": 0, "unknown": 0}
    with table_file(out, schema) as write, ProgressBar("recall", total, "requests") as bar:
        for portion in answers:
            rows = [
                {name: None if row[name] is None else str(row[name]) for name in names}
                | item
                | {f"source_{name}": item["sources"].get(name, 0.0) for name in SOURCES}
                for row, recalled in portion
                for item in recalled.to_json()["items"]
            ]
            written += write({name: [row[name] for row in rows] for name in schema.names})
            counts["requests"] += len(portion)
            counts["unknown"] += sum(recalled.unknown for _, recalled in portion)
            bar.advance(len(portion))
    return written, counts
