"""Writes the slates of every split as Parquet shards, a few hundred requests in memory at a time."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from equipoise.common.errors import UserError
from equipoise.configs.features import FeatureConfig
from equipoise.configs.schema import DataConfig
from equipoise.data.labels import LabelStats, columns_of_labels
from equipoise.data.manifest import CO_PURCHASE, SPLITS, SplitCounts
from equipoise.data.prepare.co_purchase import co_purchase_columns, new_things
from equipoise.data.prepare.examination import COLUMN as EXAMINATION
from equipoise.data.prepare.feature_table import feature_joins, feature_sql
from equipoise.data.prepare.files import quote
from equipoise.data.prepare.labels import label_columns
from equipoise.data.prepare.new_items import is_new, item_behaviour
from equipoise.data.prepare.parts import Part
from equipoise.data.prepare.tables import Tables, one
from equipoise.data.prepare.weights import COLUMN as WEIGHT
from equipoise.data.prompts import ContextRenderer, history_text, piece_fields, prefix_text
from equipoise.data.separators import teller_of
from equipoise.data.thing_columns import TOGETHER

WORK = ".work"
"""Folder of what is there while the slates are written."""
BATCH_IMPRESSIONS = 200_000


def slate_schema(
    fields: list[str],
    user_groups: list[str],
    features: Sequence[FeatureConfig] = (),
    bought: bool = False,
    labels: Sequence[str] = (),
    things: bool = False,
    computed: Sequence[str] = (),
    weights: bool = False,
    position: bool = False,
) -> pa.Schema:
    """The Arrow schema of a shard, as docs/slate_format.md gives it."""
    columns = [
        ("request_id", pa.string()),
        ("user_id", pa.string()),
        ("part", pa.int32()),
        ("timestamp", pa.timestamp("us")),
        ("prefix", pa.string()),
        ("item", pa.list_(pa.int32())),
        ("context", pa.list_(pa.string())),
        ("click", pa.list_(pa.int8())),
        ("conversion", pa.list_(pa.int8())),
    ]
    columns += [("weight", pa.list_(pa.float32()))] if weights else []
    columns += [("examination", pa.list_(pa.float32()))] if position else []
    columns += [(f"label_{name}", pa.list_(pa.float32())) for name in labels]
    # In 64 bits: steps of 32 bits are two minutes wide in unix seconds, and would make moments equal.
    columns += [(f"field_{name}", pa.list_(pa.float64())) for name in fields]
    kinds = {"category": pa.string()}
    columns += [(f"feature_{f.name}", pa.list_(kinds.get(f.scale, pa.float64()))) for f in features]
    columns += [(f"computed_{name}", pa.list_(pa.float32())) for name in computed]
    columns += [(name, pa.list_(pa.int32())) for name in (("bought", "times") if bought else ())]
    columns += [("things", pa.list_(pa.int32()))] if things else []
    columns += [(f"user_{name}", pa.string()) for name in user_groups]
    return pa.schema(columns)


def cut_sizes(candidates: int, largest: int) -> list[int]:
    """The sizes of the parts of a request: as few as fit, differing by at most one."""
    parts = -(-candidates // largest)
    return [candidates // parts + (part < candidates % parts) for part in range(parts)]


class ShardWriter:
    """Writes slates/SPLIT-NNNNN.parquet from the tables requests, facts, histories and impressions."""

    def __init__(
        self,
        tables: Tables,
        config: DataConfig,
        folder: Path,
        on_progress: Callable[[str, float], None],
        labels: Mapping[str, LabelStats],
        part: Part | None = None,
    ) -> None:
        self.tables, self.config, self.folder, self.on_progress, self.labels = (
            tables,
            config,
            folder,
            on_progress,
            labels,
        )
        self.label_names, self.part = columns_of_labels(labels), part
        compared = config.comparison
        self.computed = TOGETHER if compared is not None and compared.co_purchase else ()
        self.schema = slate_schema(
            config.fields, config.user_groups, config.features, config.keeps_items, self.label_names,
            things=compared is not None, computed=self.computed, weights=config.weights is not None,
            position=config.position is not None,
        )  # fmt: skip
        self.tell = teller_of(config.prompt, config.history_sections)
        self.contexts = ContextRenderer(config.prompt.context, config.prompt.separator, self.tell)
        self.prefix_fields = piece_fields(config.prompt.prefix)

    def write(self, splits: Sequence[str] = SPLITS) -> dict[str, SplitCounts]:
        """Write the splits that requests have, by the numbers of their places; returns what each holds."""
        self._sort_impressions()
        if self.computed:
            self._count_co_purchases()
        (self.folder / "slates").mkdir()
        return {name: self._write_split(number, name) for number, name in enumerate(splits)}

    def _sort_impressions(self) -> None:
        """Create sorted_impressions in the order of the shards, so that a range of requests is read in one piece."""
        con = self.tables.con
        position = "TRY_CAST(i.position AS DOUBLE), " if "position" in self.tables.columns("impressions") else ""
        new, masked = is_new(self.tables, self.config), item_behaviour(self.config)

        def known(name: str, value: str) -> str:
            return f"CASE WHEN {new} THEN NULL ELSE {value} END" if new != "false" and name in masked else value

        names = self.contexts.names
        context = "".join(f", {known(name, f'i.{quote(name)}')} AS {quote('context_' + name)}" for name in names)
        numbers = "".join(label_columns(self.labels))
        if self.config.weights is not None:
            numbers += f", CAST(i.{quote(WEIGHT)} AS FLOAT) AS weight"
        if self.config.position is not None:
            numbers += f", CAST(i.{quote(EXAMINATION)} AS FLOAT) AS examination"
        for name in self.config.fields:
            self._refuse_text_field(name)
            value = known(name, f"TRY_CAST(i.{quote(name)} AS DOUBLE)")
            numbers += f", {value} AS {quote('field_' + name)}"
        joins = feature_joins(self.tables) if self.config.features else ""
        for feature in self.config.features:
            value = known(feature.name, feature_sql(self.tables, feature)) if feature.included else "NULL"
            kind = "VARCHAR" if feature.scale == "category" else "DOUBLE"
            numbers += f", CAST({value} AS {kind}) AS {quote('feature_' + feature.name)}"
        con.execute(f"""
            CREATE TABLE sorted_impressions AS
            SELECT r.ordinal, row_number() OVER (ORDER BY r.ordinal, {position}i.item_id) AS sort_index,
                   n.item_index AS item, i.click, i.conversion, {new} AS new{context}{numbers}
            FROM impressions i JOIN requests r USING (request_id) JOIN item_numbers n USING (item_id){joins}
            ORDER BY sort_index
        """)

    def _count_co_purchases(self) -> None:
        """Write co_purchase.npz, and keep the columns TOGETHER of all impressions in a file of the work folder."""
        assert self.config.comparison is not None
        con = self.tables.con
        shape = (one(con, "SELECT count(*) FROM sorted_impressions")[0], len(TOGETHER))
        self.together = np.lib.format.open_memmap(self.folder / WORK / "together.npy", "w+", np.float32, shape)
        self.together[:] = np.nan
        if self.config.comparison.max_events:  # of anonymous users, all stay unknown
            before = self.part.counted if self.part is not None else None
            counts = co_purchase_columns(con, self.config.comparison, self.together, self.on_progress, before)
            counts.write(self.folder / CO_PURCHASE)
            index = new_things(con)  # which nobody has taken yet
            self.together[index] = np.where(np.isnan(self.together[index]), np.float32(np.nan), np.float32(0))

    def _refuse_text_field(self, name: str) -> None:
        column = quote(name)
        bad_row = self.tables.con.execute(
            f"SELECT {column} FROM impressions "
            f"WHERE {column} IS NOT NULL AND TRY_CAST({column} AS DOUBLE) IS NULL LIMIT 1"
        ).fetchone()
        if bad_row:
            raise UserError(
                f"{self.tables.labels['impressions']} (data.tables.impressions) has {name} '{bad_row[0]}', "
                f"which is not a number: correct the column, say how its numbers are written "
                f"(data.tables.impressions.formats: {{{name}: german}}), or drop '{name}' from data.fields"
            )

    def _write_split(self, number: int, name: str) -> SplitCounts:
        con = self.tables.con
        start, stop, first, last = one(
            con,
            "SELECT min(ordinal), max(ordinal) + 1, min(timestamp), max(timestamp) FROM requests "
            f"WHERE split = {number}",
        )
        counts = SplitCounts(
            requests=stop - start, slates=0, impressions=0, clicks=0, conversions=0, clicked_conversions=0,
            first=first.isoformat(), last=last.isoformat(), files=[],
        )  # fmt: skip
        for shard, low in enumerate(range(start, stop, self.config.shard_requests)):
            path = self.folder / "slates" / f"{name}-{shard:05d}.parquet"
            high = min(low + self.config.shard_requests, stop)
            with pq.ParquetWriter(path, self.schema, compression="zstd") as writer:
                for batch_low, batch_high in self._batches(low, high):
                    table = self._slates(batch_low, batch_high, counts)
                    writer.write_table(table)
                    self.on_progress(f"writing {name}", (batch_high - start) / (stop - start))
            counts.files.append(f"slates/{path.name}")
        counts.click_rate = counts.clicks / counts.impressions
        counts.conversion_rate = counts.conversions / counts.impressions
        counts.clicked_conversion_rate = counts.clicked_conversions / counts.impressions
        return counts

    def _batches(self, low: int, high: int) -> list[tuple[int, int]]:
        """Ranges of ordinals with about BATCH_IMPRESSIONS impressions each."""
        sizes = self.tables.con.execute(
            f"SELECT ordinal, count(*) FROM sorted_impressions WHERE ordinal >= {low} AND ordinal < {high} "
            "GROUP BY ordinal ORDER BY ordinal"
        ).fetchall()
        ranges, begin, filled = [], low, 0
        for ordinal, size in sizes:
            if filled and filled + size > BATCH_IMPRESSIONS:
                ranges.append((begin, ordinal))
                begin, filled = ordinal, 0
            filled += size
        return [*ranges, (begin, high)]

    def _slates(self, low: int, high: int, counts: SplitCounts) -> pa.Table:
        """The slates of the requests low … high-1 as one Arrow table; adds to the counts."""
        con = self.tables.con
        within = f"ordinal >= {low} AND ordinal < {high}"
        rows = con.sql(f"SELECT * FROM sorted_impressions WHERE {within} ORDER BY ordinal, sort_index").to_arrow_table()
        ordinals = rows.column("ordinal").to_numpy()
        numbers = range(len(self.config.history_sections))
        titles = "".join(f", any_value(titles) FILTER (section = {number}) AS titles_{number}" for number in numbers)
        requests = con.sql(f"""
            SELECT r.request_id, r.user_id, r.timestamp, h.* EXCLUDE (ordinal), coalesce(b.items, []) AS bought,
                   coalesce(b.times, []) AS times, coalesce(s.things, []) AS things, f.* EXCLUDE (ordinal)
            FROM requests r JOIN facts f USING (ordinal)
            LEFT JOIN (SELECT ordinal{titles} FROM histories WHERE {within} GROUP BY ordinal) h USING (ordinal)
            LEFT JOIN bought b USING (ordinal) LEFT JOIN slate_things s USING (ordinal)
            WHERE r.{within.replace(" AND ", " AND r.")} ORDER BY r.ordinal
        """).to_arrow_table()
        sizes = np.bincount(ordinals - low, minlength=high - low)
        cuts = [cut_sizes(int(size), self.config.max_candidates) for size in sizes]
        owner = np.repeat(np.arange(high - low), [len(parts) for parts in cuts])
        offsets = np.cumsum([0, *(size for parts in cuts for size in parts)], dtype=np.int32)
        columns = self._request_columns(requests, owner, [part for parts in cuts for part in range(len(parts))])
        columns |= self._candidate_columns(rows, pa.array(offsets))
        click, conversion = rows.column("click").to_numpy(), rows.column("conversion").to_numpy()
        counts.slates += len(owner)
        counts.impressions += rows.num_rows
        counts.clicks += int(click.sum())
        counts.conversions += int(conversion.sum())
        counts.clicked_conversions += int((click * conversion).sum())
        return pa.table([columns[name] for name in self.schema.names], schema=self.schema)

    def _request_columns(self, requests: pa.Table, owner: np.ndarray, parts: list[int]) -> dict[str, Any]:
        names = {f"prefix_{name}": name for name in self.prefix_fields}
        sections = {f"titles_{number}": section for number, section in enumerate(self.config.history_sections)}
        prompt = self.config.prompt

        def prefix(row: dict[str, Any]) -> str:
            fields = {name: row[column] for column, name in names.items()}
            histories = [history_text(row[name] or (), s.label, s.separator, self.tell) for name, s in sections.items()]
            return prefix_text(prompt.prefix, fields, histories, prompt.separator, self.tell)

        prefixes = pa.array([prefix(row) for row in requests.select([*names, *sections]).to_pylist()], pa.string())
        take = pa.array(owner)
        kept = ["request_id", "user_id", "timestamp", *(f"user_{name}" for name in self.config.user_groups)]
        kept += ["bought", "times"] if self.config.keeps_items else []
        kept += ["things"] if self.config.comparison is not None else []
        columns = {name: pc.take(requests.column(name), take) for name in kept}
        return columns | {"prefix": pc.take(prefixes, take), "part": pa.array(parts, pa.int32())}

    def _candidate_columns(self, rows: pa.Table, offsets: pa.Array) -> dict[str, Any]:
        fields = {f"context_{name}": name for name in self.contexts.names}
        contexts = self.contexts.render(rows.select(list(fields)).rename_columns(list(fields.values())))
        values: dict[str, Any] = {name: rows.column(name) for name in ("item", "click", "conversion")}
        values["context"] = pa.array(contexts, pa.string())
        kept = ["weight"] if self.config.weights is not None else []
        kept += ["examination"] if self.config.position is not None else []
        kept += [f"label_{name}" for name in self.label_names]
        kept += [
            *(f"field_{name}" for name in self.config.fields),
            *(f"feature_{f.name}" for f in self.config.features),
        ]
        for name in kept:
            column = rows.column(name)
            words = pa.types.is_string(self.schema.field(name).type.value_type)
            values[name] = column if words else pc.fill_null(column, float("nan"))
        if self.computed:
            index = rows.column("sort_index").to_numpy() - 1
            values |= {f"computed_{n}": pa.array(self.together[index, k]) for k, n in enumerate(self.computed)}
        lists = {}
        for name, column in values.items():
            flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
            lists[name] = pa.ListArray.from_arrays(offsets, flat.cast(self.schema.field(name).type.value_type))
        return lists
