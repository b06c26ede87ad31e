"""A prepared folder put together from chosen slates of parts: their rows and token ids are copied, none is made anew.

The parts number items alike (data/prepare/parts.py); the last one has the table of all of them.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from equipoise.common.atomic import atomic_dir
from equipoise.common.digest import with_digest
from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.data.manifest import CO_PURCHASE, SPLITS, THINGS, Manifest, SplitCounts
from equipoise.data.ragged import GrowingArray, Ragged, RaggedWriter
from equipoise.data.rates import FOLDER as RATES
from equipoise.data.token_cache import FILE_NAME, FORMAT, SplitTokens, TokenCache
from equipoise.data.tokens import candidate_cut

KINDS = {"item": np.int32, "context": np.int32, "length": np.int32, "click": np.int8, "conversion": np.int8}


@dataclass(frozen=True)
class Chosen:
    """Slates of a part, which a `prepare` of some days has written.

    Attributes:
        folder: of the part.
        tokens: its token cache.
        rows: split of the new folder → numbers of slates, int64, ascending.
    """

    folder: Path
    tokens: TokenCache
    rows: Mapping[str, np.ndarray]


def compose(folder: Path, chosen: Sequence[Chosen], tokens_at: Callable[[Manifest], str]) -> Manifest:
    """Write a prepared folder with its token cache, whole or not at all.

    Args:
        folder: that appears.
        chosen: slates of parts, oldest first; the last part's items, things, rates and scales are those of the folder.
        tokens_at: the place of the token cache in a folder with such a manifest.

    Raises:
        UserError: a split stays empty, or a part is damaged.
    """
    last = Manifest.read(chosen[-1].folder, verify=True)
    with atomic_dir(folder) as building:
        (building / "slates").mkdir()
        splits = {name: _write_split(building, chosen, name) for name in SPLITS}
        for file in ("items.parquet", THINGS, CO_PURCHASE):
            if (chosen[-1].folder / file).is_file():
                shutil.copyfile(chosen[-1].folder / file, building / file)
        if (chosen[-1].folder / RATES).is_dir():
            shutil.copytree(chosen[-1].folder / RATES, building / RATES)
        sums = ("requests", "impressions", "clicks", "conversions", "clicked_conversions")
        counts = {name: sum(getattr(split, name) for split in splits.values()) for name in sums}
        paths = sorted(path for path in building.rglob("*") if path.is_file())
        manifest = last.model_copy(
            update={
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "counts": {**last.counts, **counts},
                "splits": splits,
                "notes": [],
                "dropped": {},
                "hashes": {path.relative_to(building).as_posix(): file_hash(path) for path in paths},
            }
        )
        manifest.write(building)
        _write_tokens(building / tokens_at(manifest), chosen, manifest)
    return Manifest.read(folder)


def _write_split(folder: Path, chosen: Sequence[Chosen], name: str) -> SplitCounts:
    """A shard per part of which slates were chosen."""
    counts = SplitCounts(
        requests=0, slates=0, impressions=0, clicks=0, conversions=0, clicked_conversions=0,
        first="", last="", files=[],
    )  # fmt: skip
    for part in chosen:
        rows = part.rows.get(name, np.zeros(0, np.int64))
        if not len(rows):
            continue
        path = folder / "slates" / f"{name}-{len(counts.files):05d}.parquet"
        _copy_rows(part.folder, rows, path, counts)
        counts.files.append(f"slates/{path.name}")
    if not counts.files:
        raise UserError(f"no request is left for the {name} split: give it more days, or change nightly.valid_fraction")
    for rate in ("click", "conversion", "clicked_conversion"):
        setattr(counts, f"{rate}_rate", getattr(counts, f"{rate}s") / counts.impressions)
    return counts


def _copy_rows(part: Path, rows: np.ndarray, path: Path, counts: SplitCounts) -> None:
    """Copy slates of a part, shard after shard, and count them."""
    manifest, start, writer = Manifest.read(part), 0, None
    with ExitStack() as stack:
        for name in manifest.splits["train"].files:
            table = pq.read_table(part / name)
            inside = rows[(rows >= start) & (rows < start + table.num_rows)] - start
            start += table.num_rows
            if not len(inside):
                continue
            table = table.take(pa.array(inside))
            writer = writer or stack.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
            writer.write_table(table)
            _count(table, counts)


def _count(table: pa.Table, counts: SplitCounts) -> None:
    flat = {name: pc.list_flatten(table.column(name)).to_numpy() for name in ("click", "conversion")}
    counts.requests += pc.count_distinct(table.column("request_id")).as_py()
    counts.slates += table.num_rows
    counts.impressions += len(flat["click"])
    counts.clicks += int(flat["click"].sum())
    counts.conversions += int(flat["conversion"].sum())
    counts.clicked_conversions += int((flat["click"] & flat["conversion"]).sum())
    moments = pc.min_max(table.column("timestamp")).as_py()
    first, last = moments["min"].isoformat(), moments["max"].isoformat()
    counts.first = min(counts.first or first, first)
    counts.last = max(counts.last, last)


def _write_tokens(folder: Path, chosen: Sequence[Chosen], manifest: Manifest) -> None:
    """The token cache of the chosen slates; lengths of candidates are counted again, as texts of items may be new."""
    folder.mkdir(parents=True)
    last = chosen[-1].tokens
    for file in ("items.ids.npy", "items.offsets.npy", *(["item_things.npy"] if last.has_things else [])):
        shutil.copyfile(last.folder / file, folder / file)
    with RaggedWriter(folder, "contexts") as contexts:
        contexts.append([last.contexts[0]])
        counts = {name: _write_token_split(folder, name, chosen, contexts) for name in SPLITS}
    paths = sorted(folder.iterdir())
    record = {
        "format": FORMAT,
        "room": last.room,
        "start": last.start.tolist(),
        "candidate_end": last.candidate_end.tolist(),
        "pad_id": last.pad_id,
        "counts": counts,
        "features": last.features,
        "labels": last.labels,
        "bought": last.has_bought,
        "things": last.has_things,
        "computed": last.computed,
        "weights": last.has_weights,
        "position": last.has_position,
        "key": folder.name,
        "files": {path.name: path.stat().st_size for path in paths},
        "hashes": {path.name: file_hash(path) for path in paths},
    }
    (folder / FILE_NAME).write_text(json.dumps(with_digest(record), indent=2) + "\n", encoding="utf-8")


def _write_token_split(folder: Path, name: str, chosen: Sequence[Chosen], contexts: RaggedWriter) -> dict[str, int]:
    last = chosen[-1].tokens
    numbers = dict.fromkeys(_numbers(last.split("train")), np.float32)
    prefixes = cut_prefixes = cut_candidates = 0
    with ExitStack() as stack:
        prefix = stack.enter_context(RaggedWriter(folder, f"{name}.prefix"))
        lists = {
            key: stack.enter_context(RaggedWriter(folder, f"{name}.{key}"))
            for key in (*(("bought", "times") if last.has_bought else ()), *(["things"] if last.has_things else []))
        }
        arrays = {
            key: stack.enter_context(GrowingArray(folder / f"{name}.{key}.npy", kind))
            for key, kind in {"first": np.int64, **KINDS, **numbers}.items()
        }
        arrays["first"].append([0])
        for part in chosen:
            rows = part.rows.get(name, np.zeros(0, np.int64))
            if not len(rows):
                continue
            own = part.tokens.split("train")
            _copy_parts(own.prefix, rows, prefix)
            for key, writer in lists.items():
                source: Ragged = getattr(own, key)
                _copy_parts(source, rows, writer)
            positions, sizes = own.impressions(rows), np.diff(own.first)[rows]
            arrays["first"].append(arrays["item"].length + np.cumsum(sizes, dtype=np.int64))
            item, context = own.item[positions], _copy_contexts(part.tokens, own.context[positions], contexts)
            of_item, of_context, over = candidate_cut(
                last.items.lengths()[item], part.tokens.contexts.lengths()[own.context[positions]], last.room
            )
            values = {"item": item, "context": context, "length": of_item + of_context + len(last.candidate_end)}
            values |= {"click": own.click[positions], "conversion": own.conversion[positions]}
            values |= {key: column[positions] for key, column in _numbers(own).items()}
            for key, column in values.items():
                arrays[key].append(column)
            prefixes += len(rows)
            # Which prefixes were cut is not kept: of some slates the share of all.
            cut_prefixes += round(own.counts.cut_prefixes * len(rows) / max(len(own), 1))
            cut_candidates += int(over.sum())
    return {
        "prefixes": prefixes,
        "cut_prefixes": cut_prefixes,
        "candidates": arrays["item"].length,
        "cut_candidates": cut_candidates,
    }


def _numbers(tokens: SplitTokens) -> dict[str, np.ndarray]:
    """All columns of numbers that are kept beside the ids, float32 (I,) each, by the names of their files."""
    named = {"feature": tokens.features, "label": tokens.labels, "computed": tokens.computed}
    found = {f"{kind}_{name}": column for kind, columns in named.items() for name, column in columns.items()}
    single = {"weight": tokens.weight, "examination": tokens.examination}
    return found | {name: column for name, column in single.items() if column is not None}


def _copy_parts(source: Ragged, rows: np.ndarray, writer: RaggedWriter) -> None:
    lengths = source.lengths()[rows]
    writer.append_flat(source.heads(rows, lengths), lengths)


def _copy_contexts(cache: TokenCache, numbers: np.ndarray, contexts: RaggedWriter) -> np.ndarray:
    """Copy the contexts that are read; returns their new numbers, in which 0 stays the empty one."""
    used = np.unique(numbers)
    used = used[used > 0]
    before = contexts.parts
    _copy_parts(cache.contexts, used, contexts)
    return np.where(numbers == 0, 0, before + np.searchsorted(used, numbers)).astype(np.int32)
