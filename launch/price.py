"""equipoise price: the best allowed prices for every shopper of a file, streaming (docs/pricing.md)."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
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
from equipoise.serving.pricing import PricedCandidate, PriceQuestion, Pricing
from equipoise.serving.recommender import PreparedRequest, Recommender

REASONS = {
    "response": "the data do not show that demand answers to the price",
    "bounds": "the best prices of the whole request lie at the bounds of the allowed ones",
    "limits": "the limits leave no price",
}
MAX_TOGETHER = 4
"""Requests that pass the model together: each stands for many candidates."""

EXTRA = ("cost", "prices")
EVIDENCE = ("price", "gain", "elasticity")
INTERVALS = [f"{name}_{bound}" for name in EVIDENCE for bound in ("low", "high")]
"""Columns of the 95 % intervals, null where the run resampled no linear prior."""

Prepared = list[tuple[PriceQuestion, PreparedRequest, dict[str, str | None]]]


def choose_prices(export: Path, requests: Path, out: Path, options: PriceOptions) -> None:
    """Choose prices for all requests of a file and write them to `out`, whole or not at all.

    Raises:
        UserError: the export, a file or a request cannot be read, or `out` exists.
    """
    if out.exists() and not options.overwrite:
        raise UserError(f"{out} exists: name another file or add --overwrite")
    asked = options.asked()
    with request_connection() as con:
        table = open_requests(con, requests)
        if "item_id" not in table.kinds:
            raise UserError(f"{requests} has no column item_id: add the candidates")
        recommender = Recommender.load(export, device=options.device, cache_mb=options.cache_mb, base=options.base)
        maker = RequestRows(recommender.reader, table.kinds, table.per_candidate, extra=EXTRA)
        maker.check_names(str(requests), table.kinds)
        ready = prepared_requests(
            table,
            maker.columns,
            lambda rows: (*maker.prepare(recommender.prepare_prices, rows, asked), maker.identity(rows)),
            MAX_TOGETHER,
        )
        counts = _write(recommender, ready, maker.names, out, table.count())
    console = new_console()
    console.print(
        f"priced {counts.rows:,} candidates of {counts.requests:,} requests: {out}; demand rose with the price "
        f"for {counts.rises:,} of them and was made non-increasing; {counts.extrapolated:,} prices lie outside "
        "those of the training data",
        soft_wrap=True,
    )
    if note := counts.note():
        console.print(note, soft_wrap=True)


@dataclass
class _Counts:
    """What is said of a whole file; `withheld`: candidates by reason."""

    requests: int = 0
    rows: int = 0
    rises: int = 0
    extrapolated: int = 0
    withheld: Counter[str] = field(default_factory=Counter)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Count rows of the answer."""
        self.rows += len(rows)
        self.rises += sum(row["rises"] for row in rows)
        self.extrapolated += sum(row["extrapolated"] for row in rows)
        self.withheld.update(row["withheld"] for row in rows if row["withheld"] is not None)

    def note(self) -> str | None:
        """One sentence on the changes that are not advised, None where all are."""
        if not self.withheld:
            return None
        reasons = ", ".join(f"{count:,} because {REASONS[name]}" for name, count in sorted(self.withheld.items()))
        return (
            f"{self.withheld.total():,} of {self.rows:,} candidates keep their present prices: {reasons}; test more "
            "prices, allow a wider range, or add --force"
        )


def _schema(names: list[str]) -> pa.Schema:
    numbers = ("price", "demand", "expected", "current_price", "current_demand", "current_expected", "best_price")
    return pa.schema(
        [
            *((name, pa.string()) for name in names),
            ("position", pa.int32()),
            ("item_id", pa.string()),
            *((name, pa.float64()) for name in (*numbers, *INTERVALS, "largest_change")),
            ("withheld", pa.string()),
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
            "best_price": priced.best,
            **_intervals(priced),
            **{name: getattr(priced, name) for name in ("withheld", "largest_change", "rises", "extrapolated")},
        }


def _intervals(priced: PricedCandidate) -> dict[str, float | None]:
    """The bounds of the intervals of a candidate, None where there are none."""
    found = {name: getattr(priced.evidence, name, None) for name in EVIDENCE}
    return {f"{name}_{bound}": getattr(found[name], bound, None) for name in EVIDENCE for bound in ("low", "high")}


def _write(recommender: Recommender, prepared: Iterator[Prepared], names: list[str], out: Path, total: int) -> _Counts:
    counts = _Counts()
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
                for row in _rows(question.of_ranking(ranking), identity)
            ]
            write({name: [row[name] for row in rows] for name in schema.names})
            counts.requests += len(portion)
            counts.add(rows)
            bar.advance(len(portion))
    return counts
