"""Cuts the tables into slates and writes the prepared folder (docs/slate_format.md), whole or not at all."""

import platform
import shutil
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from equipoise.common.atomic import atomic_dir
from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.common.nearest import did_you_mean
from equipoise.configs.schema import DataConfig
from equipoise.data.features import FeatureScale
from equipoise.data.labels import KEPT, LabelStats, columns_of_labels
from equipoise.data.manifest import FILE_NAME, SPLITS, THINGS, Manifest, SplitCounts
from equipoise.data.prepare.amounts import refuse_ambiguous
from equipoise.data.prepare.engine import open_engine
from equipoise.data.prepare.examination import examine
from equipoise.data.prepare.feature_table import kept_scales, scales_of
from equipoise.data.prepare.files import quote
from equipoise.data.prepare.history import write_bought, write_histories
from equipoise.data.prepare.items import number_items, write_items
from equipoise.data.prepare.labels import (
    check_label_columns,
    fill_absent_labels,
    kept_labels,
    measure_labels,
    refuse_known_labels,
)
from equipoise.data.prepare.new_items import check_new_items, item_behaviour, mark_held_out
from equipoise.data.prepare.parts import Part
from equipoise.data.prepare.rates import check_rates, rate_columns, write_rates
from equipoise.data.prepare.requests import write_requests
from equipoise.data.prepare.shards import WORK, ShardWriter
from equipoise.data.prepare.splits import split_column
from equipoise.data.prepare.tables import (
    Tables,
    clean,
    missing_columns,
    missing_required,
    one,
    open_files,
    refuse_missing,
)
from equipoise.data.prepare.things import number_things, write_slate_things, write_things
from equipoise.data.prepare.weights import COLUMN as WEIGHT
from equipoise.data.prepare.weights import check_weight_columns, drop_weightless, weigh
from equipoise.data.prompts import parse_piece, piece_fields, render_pieces
from equipoise.data.rates import FOLDER as RATES_FOLDER
from equipoise.data.separators import teller_of
from equipoise.data.sources import (
    ali_ccp,
    amazon_reviews,
    complete_journey,
    complete_journey_products,
    criteo_attribution,
    kuairand,
    movielens,
    online_retail,
    rees46,
    retailrocket,
)
from equipoise.data.weights import WeightStats

ITEM_BATCH = 10_000
SOURCES = {
    "complete_journey": complete_journey.load,
    "complete_journey_products": complete_journey_products.load,
}
FILE_SOURCES = {
    "online_retail": online_retail.load,
    "movielens": movielens.load,
    "kuairand": kuairand.load,
    "ali_ccp": ali_ccp.load,
    "amazon_reviews": amazon_reviews.load,
    "rees46": rees46.load,
    "criteo_attribution": criteo_attribution.load,
    "retailrocket": retailrocket.load,
}
"""Loaders of sets that a user downloads, which are told where."""


def prepare(
    config: DataConfig,
    progress: Callable[[str, float], None] | None = None,
    labels: Mapping[str, LabelStats] | None = None,
    read: Collection[str] = KEPT,
    part: Part | None = None,
) -> Manifest:
    """Prepare `config.folder` from its source and return the manifest.

    `labels` are those of the run's objectives (`equipoise.data.labels.labels_of`) besides click and conversion, `read`
    which of these two they read (`labels_read`): the impressions may lack the other.

    `part`: prepares the requests of some days alone, as its only split, after those of other parts.

    `progress(stage, fraction)` is called with the stage's name and the fraction done, 0 to 1. An older prepared folder
    is replaced only when the new one is complete. Raises UserError for everything that a user can correct.
    """
    on_progress = progress or (lambda stage, fraction: None)
    _refuse_foreign_folder(config.folder)
    if part is not None and config.engine != "duckdb":
        raise UserError("a part of some days is prepared by DuckDB alone: set data.engine=duckdb")
    with atomic_dir(config.folder) as folder, open_engine(config, folder / WORK) as con:
        on_progress("reading the tables", 0.0)
        tables = open_source(con, config, folder / WORK)
        labels = dict(labels or {})
        fill_absent_labels(tables, read)
        if part is not None:
            part.restrict(tables, co_purchase=config.comparison is not None and config.comparison.co_purchase)
        check_names(tables, config)
        refuse_known_labels(config, tables.columns("impressions"), labels, read)
        check_label_columns(tables, labels)
        check_rates(tables, config.rates)
        check_new_items(tables, config)
        check_weight_columns(tables, config.weights)
        if part is None or part.before is None:  # one day alone may not show how numbers are written
            refuse_ambiguous(tables, config)
        columns = [*_impression_columns(tables, config), *columns_of_labels(labels)]
        reads_events = config.keeps_items or any(section.max_events for section in config.history_sections)
        reads_events = reads_events or config.comparison is not None
        clean(tables, list(dict.fromkeys(columns)), events=reads_events)
        on_progress("rendering items", 0.0)
        mark_held_out(tables, config)
        write_item_texts(tables, config)
        _drop_impressions(tables)
        drop_weightless(tables, config.weights)
        known_items = part.known_items if part is not None else None
        number_items(tables, known_items)
        if config.comparison is not None:
            known_things = part.known_things if part is not None else None
            number_things(tables, config.comparison, config.history_sections, known_things)
            write_things(tables, folder / THINGS)
        write_items(tables, config, folder / "items.parquet", known_items)
        on_progress("splitting requests", 0.0)
        write_requests(tables, config, splits=part is None)
        weights = weigh(tables, config.weights)
        on_progress("counting rates", 0.0)
        write_rates(tables, config.rates, folder / RATES_FOLDER, part)
        if part is None or part.before is None:
            _refuse_constant_labels(tables, read)
        kept = Manifest.read(config.scales_from) if config.scales_from is not None else None
        labels = kept_labels(labels, kept, config) or measure_labels(
            tables, labels, WEIGHT if weights is not None else None
        )
        on_progress("collecting histories", 0.0)
        write_histories(tables, config.history_sections)
        write_bought(tables, config.history_sections)
        write_slate_things(tables, config.comparison)
        if kept is not None and config.scales_from is not None:
            scales = kept_scales(tables, config.features, kept.features, config.scales_from)
        else:
            scales = scales_of(tables, config.features)
        if config.position is not None:
            on_progress("estimating the effect of places", 0.0)
        position = examine(tables, config, scales, kept)
        names = SPLITS if part is None else SPLITS[:1]
        splits = ShardWriter(tables, config, folder, on_progress, labels, part).write(names)
        con.close()
        shutil.rmtree(folder / WORK)
        manifest = _manifest(tables, config, splits, scales, labels, weights, folder)
        manifest.position = position
        manifest.write(folder)
        on_progress("done", 1.0)
    return manifest


def open_source(con: duckdb.DuckDBPyConnection, config: DataConfig, work: Path) -> Tables:
    """Open the tables of a configuration as raw relations; `work`: a folder that lasts as long as the connection."""
    if config.tables is not None:
        return open_files(con, config.tables, work)
    if config.file is not None:
        if not config.file.exists():
            raise UserError(
                f"data.file is set to {config.file}, which does not exist: download it, or correct the path"
            )
        return FILE_SOURCES[config.source](con, config.file)
    return SOURCES[config.source](con)


def _refuse_foreign_folder(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FILE_NAME).is_file():
        raise UserError(f"data.folder {folder} holds other files than prepared data: name another folder or empty it")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"data.folder {folder} is a file: name another folder")


def check_names(tables: Tables, config: DataConfig) -> None:
    """Refuse malformed pieces and names that no table has, before any work is done."""
    prompt = config.prompt
    for piece in (*prompt.prefix, *prompt.item, *prompt.context):
        parse_piece(piece)
    missing = missing_required(tables)
    column, compared = split_column(tables, config.split), config.comparison
    named = (
        ("items", piece_fields(prompt.item), "data.prompt.item reads"),
        ("impressions", piece_fields(prompt.context), "data.prompt.context reads"),
        ("impressions", config.fields, "data.fields names"),
        ("items", [compared.item] if compared is not None else [], "data.comparison.item names"),
        ("impressions", [column] if column else [], "data.split.column names"),
        ("impressions", [config.position] if config.position is not None else [], "data.position names"),
    )
    for table, names, reader in named:
        missing += missing_columns(tables, table, names, f", which {reader}")
    known = {name for table in tables.labels if table != "events" for name in tables.columns(table)}
    known |= {name for rate in config.rates for name in rate.names}
    missing += [
        f"neither {tables.labels['impressions']} nor {tables.labels['items']} nor a table of users has a column "
        f"'{name}', which data.features names{did_you_mean(name, known)}"
        for name in config.feature_names
        if name not in known
    ]
    users, impressions = tables.columns("users"), tables.columns("impressions")
    missing += [
        f"data.prompt.prefix reads '{name}', which neither {tables.labels['impressions']} nor the users table "
        f"has{did_you_mean(name, [*users, *impressions])}"
        for name in piece_fields(prompt.prefix)
        if name not in users and name not in impressions
    ]
    if config.user_groups and not tables.has("users"):
        raise UserError("data.user_groups needs a users table: set data.tables.users or drop data.user_groups")
    missing += missing_columns(tables, "users", config.user_groups, ", which data.user_groups names")
    refuse_missing(missing)


def _impression_columns(tables: Tables, config: DataConfig) -> list[str]:
    """The columns of impressions that anything reads."""
    column = split_column(tables, config.split)
    names = [*piece_fields(config.prompt.prefix), *piece_fields(config.prompt.context), *config.fields]
    names += [*config.feature_names, *rate_columns(config.rates), "position"]
    names += config.weights.columns if config.weights is not None else []
    names += [config.position] if config.position is not None else []
    known = tables.columns("impressions")
    return [name for name in dict.fromkeys([*names, *([column] if column else [])]) if name in known]


def write_item_texts(tables: Tables, config: DataConfig) -> None:
    """Create item_texts (item_id, text) with the rendered text of every item; "" where no piece could be rendered."""
    pieces, separator = config.prompt.item, config.prompt.separator
    tell = teller_of(config.prompt, config.history_sections)
    columns = ["item_id", *(name for name in piece_fields(pieces) if name != "item_id")]
    tables.con.execute("CREATE TABLE item_texts (item_id VARCHAR, text VARCHAR)")
    reader_con = tables.con.cursor()
    query = f"SELECT {', '.join(map(quote, columns))} FROM items"
    for batch in reader_con.sql(query).to_arrow_reader(ITEM_BATCH):
        rows = batch.to_pylist()
        texts = pa.table(
            {
                "item_id": [row["item_id"] for row in rows],
                "text": [render_pieces(pieces, row, separator, tell) for row in rows],
            }
        )
        tables.con.register("item_batch", texts)
        tables.con.execute("INSERT INTO item_texts SELECT item_id, text FROM item_batch")
        tables.con.unregister("item_batch")
    if not one(tables.con, "SELECT count(*) FILTER (text <> '') FROM item_texts")[0]:
        raise UserError(
            f"{tables.labels['items']} (data.tables.items) gives no item a text with data.prompt.item: fill its columns"
        )


def _drop_impressions(tables: Tables) -> None:
    """Leave out, and count, impressions of unknown items and of items without a text."""
    con = tables.con
    reasons = {
        "impressions of an item_id that items lacks": "SELECT item_id FROM item_texts",
        "impressions of an item without text": "SELECT item_id FROM item_texts WHERE text <> ''",
    }
    for reason, known in reasons.items():
        before = one(con, "SELECT count(*) FROM impressions")[0]
        con.execute(f"DELETE FROM impressions WHERE item_id NOT IN ({known})")
        tables.drop(reason, before - one(con, "SELECT count(*) FROM impressions")[0])
    if not one(con, "SELECT count(*) FROM impressions")[0]:
        raise UserError(
            f"{tables.labels['impressions']} and {tables.labels['items']} share no item_id with a text: "
            "check that both write item_id the same way"
        )


def _refuse_constant_labels(tables: Tables, read: Collection[str]) -> None:
    """Refuse a train split in which every click, or every conversion, is the same, where an objective reads it."""
    rates = one(
        tables.con,
        """
        SELECT avg(i.click), avg(i.conversion) FROM impressions i JOIN requests r USING (request_id) WHERE r.split = 0
        """,
    )
    for name, rate in zip(("click", "conversion"), rates, strict=True):
        if name in read and rate in (0.0, 1.0):
            raise UserError(
                f"{tables.labels['impressions']} (data.tables.impressions) has {name} = {int(rate)} in every row of "
                "the train split, constant labels that teach nothing: check the column or move data.split"
            )


def _manifest(
    tables: Tables,
    config: DataConfig,
    splits: dict[str, SplitCounts],
    scales: dict[str, FeatureScale],
    labels: dict[str, LabelStats],
    weights: WeightStats | None,
    folder: Path,
) -> Manifest:
    items = pq.read_metadata(folder / "items.parquet").num_rows
    sums = ("requests", "impressions", "clicks", "conversions", "clicked_conversions")
    counts = {name: sum(getattr(split, name) for split in splits.values()) for name in sums}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    _add_notes(tables, counts, splits)
    return Manifest(
        source=tables.source,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"equipoise": _own_version(), "duckdb": duckdb.__version__, "python": platform.python_version()},
        prompt=config.prompt.model_dump(mode="json"),
        history=config.model_dump(mode="json")["history"],
        counts={**counts, "items": items, "users": tables.users_seen},
        splits=splits,
        dropped=tables.dropped,
        notes=tables.notes,
        fields=config.fields,
        features=scales,
        labels=labels,
        rates=config.rates,
        absent_labels=tables.absent_labels,
        untold=[feature.name for feature in config.features if not feature.included],
        item_behaviour=item_behaviour(config),
        item_dropout=config.item_dropout,
        user_groups=config.user_groups,
        comparison=config.comparison.prepared() if config.comparison is not None else None,
        weights=weights,
        hashes={path.relative_to(folder).as_posix(): file_hash(path) for path in files},
    )


def _add_notes(tables: Tables, counts: dict[str, int], splits: dict[str, SplitCounts]) -> None:
    unclicked = counts["conversions"] - counts["clicked_conversions"]
    if unclicked:
        tables.notes.append(f"{unclicked} conversions came without a click: they are kept as they are.")
    cut = sum(split.slates for split in splits.values()) - counts["requests"]
    if cut:
        tables.notes.append(f"Long requests were cut at data.max_candidates, which added {cut} slates.")


def _own_version() -> str:
    try:
        return version("equipoise")
    except PackageNotFoundError:
        return "unknown"
