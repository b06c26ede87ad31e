"""equipoise price: the best allowed prices for every shopper of a file, streaming (docs/pricing.md)."""

from collections.abc import Iterator
from contextlib import closing
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from equipoise.common.console import new_console
from equipoise.common.errors import UserError
from equipoise.common.progress import ProgressBar
from equipoise.data.requests.table import open_requests, request_connection
from equipoise.launch.options import PriceOptions
from equipoise.scoring.ranking_file import table_file
from equipoise.serving.frames import RequestRows, prepared_requests
from equipoise.serving.pricing import PriceQuestion, Pricing
from equipoise.serving.ranking import demand_of
from equipoise.serving.recommender import PreparedRequest, Recommender

MAX_TOGETHER = 4
"""Requests that pass the model together: each stands for many candidates."""

EXTRA = ("cost", "prices")


Prepared = list[tuple[PriceQuestion, PreparedRequest, dict[str, str | None]]]


def choose_prices(export: Path, requests: Path, out: Path, options: PriceOptions) -> None:
    """Choose prices for all requests of a file and write them to `out`, whole or not at all.

    Raises:
        UserError: the export, a file or a request cannot be read, or `out` exists.
    """
    if out.exists() and not options.overwrite:
        raise UserError(f"{out} exists: name another file or add --overwrite")
    allowed = options.allowed()
    with request_connection() as con:
        table = open_requests(con, requests)
        if "item_id" not in table.kinds:
            raise UserError(f"{requests} has no column item_id: add the candidates")
        recommender = Recommender.load(export, device=options.device, cache_mb=options.cache_mb)
        maker = RequestRows(recommender.reader, table.kinds, table.per_candidate, extra=EXTRA)
        more = {"prices": allowed, "goal": options.goal, "field": options.field}
        ready = prepared_requests(
            table,
            maker.columns,
            lambda rows: (*maker.prepare(recommender.prepare_prices, rows, more), maker.identity(rows)),
            MAX_TOGETHER,
        )
        counts = _write(recommender, ready, maker.names, out, table.count())
    console = new_console()
    console.print(
        f"priced {counts['rows']:,} candidates of {counts['requests']:,} requests: {out}; demand rose with the price "
        f"for {counts['rises']:,} of them and was made non-increasing; {counts['extrapolated']:,} prices lie outside "
        "those of the training data",
        soft_wrap=True,
    )


def _schema(names: list[str]) -> pa.Schema:
    numbers = ("price", "demand", "expected", "current_price", "current_demand", "current_expected", "largest_change")
    return pa.schema(
        [
            *((name, pa.string()) for name in names),
            ("position", pa.int32()),
            ("item_id", pa.string()),
            *((name, pa.float64()) for name in numbers),
            ("rises", pa.bool_()),
            ("extrapolated", pa.bool_()),
        ]
    )


def _rows(pricing: Pricing, identity: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    for priced in pricing.candidates:
        current = priced.current
        yield {
            **identity,
            **{name: getattr(priced, name) for name in ("position", "item_id", "price", "demand", "expected")},
            "current_price": current and current.price,
            "current_demand": current and current.demand,
            "current_expected": current and current.expected,
            **{name: getattr(priced, name) for name in ("largest_change", "rises", "extrapolated")},
        }


def _write(
    recommender: Recommender, prepared: Iterator[Prepared], names: list[str], out: Path, total: int
) -> dict[str, int]:
    counts = dict.fromkeys(("requests", "rows", "rises", "extrapolated"), 0)
    schema = _schema(names)
    with (
        table_file(out, schema) as write,
        closing(recommender.stream(prepared, itemgetter(1), pointwise=True)) as priced,
        ProgressBar("pricing", total, "requests") as bar,
    ):
        for portion, rankings in priced:
            rows = [
                row
                for (question, _, identity), ranking in zip(portion, rankings, strict=True)
                for row in _rows(question.answer(demand_of(ranking)), identity)
            ]
            counts["rows"] += write({name: [row[name] for row in rows] for name in schema.names})
            counts["requests"] += len(portion)
            for name in ("rises", "extrapolated"):
                counts[name] += sum(row[name] for row in rows)
            bar.advance(len(portion))
    return counts
