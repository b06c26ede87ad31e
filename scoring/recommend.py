"""equipoise recommend: ranked candidates for every shopper of a file, streaming (docs/recommender.md)."""

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import duckdb

from equipoise.common.console import new_console
from equipoise.common.errors import UserError
from equipoise.common.progress import ProgressBar
from equipoise.data.requests.field_columns import check_field_columns
from equipoise.data.requests.table import open_requests, open_table, request_connection
from equipoise.scoring.columns import parse_omega
from equipoise.scoring.options import RecommendOptions
from equipoise.scoring.ranking_file import ranking_file
from equipoise.serving.explore import Explorer, make_explorer
from equipoise.serving.first import check_first
from equipoise.serving.frames import RequestRows, candidate_of, prepared_requests, ranking_columns, worth_columns
from equipoise.serving.recommender import PreparedRequest, Recommender
from equipoise.serving.request_error import RequestError

log = logging.getLogger(__name__)
Prepared = list[tuple[PreparedRequest, dict[str, str | None]]]


def recommend_file(export: Path, users: Path, out: Path, options: RecommendOptions) -> None:
    """Rank candidates for all requests of a file and write the rankings to `out`, whole or not at all.

    Raises:
        UserError: the export, a file or a request cannot be read, or `out` exists.
    """
    if out.exists() and not options.overwrite:
        raise UserError(f"{out} exists: name another file or add --overwrite")
    if options.top is not None and options.top < 1:
        raise UserError(f"--top {options.top} leaves nothing: give at least 1")
    explorer = make_explorer(options.explore, options.explore_seed)
    with request_connection() as con:
        table = open_requests(con, users)
        recommender = Recommender.load(
            export,
            device=options.device,
            dtype=options.dtype,
            kernels=options.kernels,
            cache_mb=options.cache_mb,
            max_candidates=options.max_candidates,
            base=options.base,
        )
        check_first(options.first, recommender.prior_columns)
        omega = parse_omega(options.omega, recommender.listwise)
        common = None
        if options.candidates is not None:
            common = common_candidates(con, options.candidates, recommender)
            if "item_id" in table.kinds:
                raise UserError(f"{users} has candidates of its own (item_id): drop the column or --candidates")
        elif "item_id" not in table.kinds:
            raise UserError(f"{users} has no column item_id: add the candidates, or a common list with --candidates")
        maker = RequestRows(recommender.reader, table.kinds, table.per_candidate, common)
        maker.check_names(str(users), table.kinds)
        more = {"omega": omega, "value_weight": options.value_weight, "top": options.top}
        prepare = partial(recommender.prepare, first=options.first)
        ready = prepared_requests(
            table, maker.columns, lambda rows: (maker.prepare(prepare, rows, more), maker.identity(rows))
        )
        started = time.monotonic()
        requests, rows = _write(recommender, ready, maker.names, out, table.count(), explorer)
    seconds = max(time.monotonic() - started, 1e-9)
    speed = f"{requests / seconds:,.1f} requests/s"
    log.info(f"ranked {requests:,} requests in {seconds:,.1f} s ({speed}), {rows:,} rows: {out}")


def common_candidates(con: duckdb.DuckDBPyConnection, path: Path, recommender: Recommender) -> list[dict[str, Any]]:
    """The candidates of every request, from a file with one row per candidate."""
    kinds = open_table(con, path, "candidates")
    if "item_id" not in kinds:
        raise UserError(f"{path} has no column item_id: add it")
    max_candidates = recommender.limits.candidates
    rows = con.cursor().sql(f"SELECT * FROM candidates LIMIT {max_candidates + 1}").to_arrow_table().to_pylist()
    if len(rows) > max_candidates:
        raise UserError(f"{path} has more than {max_candidates:,} candidates: give fewer, or raise --max-candidates")
    texts = [name for name in ("text", "context") if name in kinds]
    fields_read = recommender.fields["context"]
    fields = [name for name in fields_read if name in kinds]
    worth = worth_columns(recommender.reader, kinds)
    keys = [name for name in recommender.reader.rates.keys if name != "item_id"]
    features = [name for name in dict.fromkeys([*recommender.fields["features"], *keys]) if name in kinds]
    attributes = [name for name in recommender.reader.attributes if name in kinds]
    wanted = [] if "context" in kinds else [*fields_read, *recommender.reader.features]
    known = [*texts, *fields, *worth.values(), *features, *attributes, "item_id"]
    check_field_columns(str(path), [name for name in wanted if name not in recommender.reader.rates], kinds, known)
    candidates = [candidate_of(row, texts, fields, worth, features, attributes) for row in rows]
    try:  # what ω reads is checked with the requests, which may ask for another one
        omega = recommender.reader.operating_point.nearest_to_relevance
        recommender.prepare({"candidates": candidates, "value_weight": 0.0, "omega": omega})
    except RequestError as error:
        raise UserError(f"{path}: {error}") from error
    return candidates


def _write(
    recommender: Recommender,
    ready: Iterator[Prepared],
    names: list[str],
    out: Path,
    total: int,
    explorer: Explorer | None = None,
) -> tuple[int, int]:
    """Rank what is ready while a thread prepares the next; returns how many requests and rows were written."""
    more = () if explorer is None else ("propensity",)
    requests = rows = 0
    objectives = (recommender.pointwise, recommender.listwise)
    with (
        ranking_file(out, names, *objectives, more) as write,
        ProgressBar("ranking", total, "requests", console=new_console()) as bar,
        closing(recommender.stream(ready, itemgetter(0))) as ranked,
    ):
        for portion, rankings in ranked:
            rankings = rankings if explorer is None else [explorer(ranking) for ranking in rankings]
            columns = ranking_columns(objectives, rankings, [identity for _, identity in portion])
            columns |= {name: [s.propensity for r in rankings for s in r.candidates] for name in more}
            rows += write(columns)
            requests += len(portion)
            bar.advance(len(portion))
    return requests, rows
