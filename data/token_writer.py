"""Writes a token cache (docs/slate_format.md), batch after batch, completely or not at all."""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from equipoise.common.atomic import atomic_dir
from equipoise.common.digest import with_digest
from equipoise.common.errors import UserError
from equipoise.common.hashing import file_hash
from equipoise.data.features import CategoryScale, FeatureScale
from equipoise.data.manifest import Manifest, open_shards
from equipoise.data.ragged import GrowingArray, RaggedWriter
from equipoise.data.token_cache import FILE_NAME, FORMAT, TextCounts, TokenCache
from equipoise.data.tokens import SlateTokenizer, candidate_cut

ITEM_BATCH = 20_000
SLATE_BATCH = 2_000
MAX_CONTEXTS = 2_000_000
"""Distinct contexts that are remembered, about 0.2 KB each."""

OnProgress = Callable[[str, float], None]


def write_token_cache(
    folder: Path,
    prepared: Path,
    tokenizer: SlateTokenizer,
    on_progress: OnProgress,
    before: tuple[Path, TokenCache] | None = None,
) -> None:
    """Tokenise all items, contexts and prefixes of a prepared folder into `folder`, which appears when it is complete.

    Args:
        folder: PREPARED/tokens/KEY; one that is there already (a damaged one) is replaced.
        prepared: written by `equipoise prepare`.
        tokenizer: without any item texts.
        on_progress: called with the stage and the fraction of all slates and items that is done, 0 to 1.
        before: prepared folder and tokens of the part before; items whose text is still the same are not tokenised.

    Raises:
        UserError: a file of the prepared folder is missing or unreadable.
    """
    manifest = Manifest.read(prepared, verify=True)
    with atomic_dir(folder, keep=_is_complete) as building, _all_cores():
        _Writer(building, prepared, manifest, tokenizer, on_progress, before).write(folder.name)


def _is_complete(folder: Path) -> bool:
    """Whether another process has finished this cache meanwhile; a damaged one is replaced."""
    try:
        TokenCache(folder)
    except UserError:
        return False
    return True


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let fast tokenizers spread a batch over all cores, also where the environment has switched that off."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


class _Writer:
    def __init__(
        self,
        out: Path,
        prepared: Path,
        manifest: Manifest,
        tokenizer: SlateTokenizer,
        on_progress: OnProgress,
        before: tuple[Path, TokenCache] | None = None,
    ) -> None:
        self.before = before
        self.out, self.prepared, self.manifest, self.tokenizer = out, prepared, manifest, tokenizer
        self.on_progress = on_progress
        self.room = tokenizer.candidate_room
        self.item_lengths = np.empty(0, dtype=np.int64)
        self.codes: dict[str, tuple[int, int]] = {}
        self.contexts_written = 0
        self._numbers = ("item", "click", "conversion")
        bought = ("bought", "times") if manifest.keeps_items else ()
        self.lists = (*bought, *(["things"] if manifest.comparison is not None else []))
        self.total = manifest.counts["items"] + sum(split.slates for split in manifest.splits.values())
        self.done = 0

    def write(self, key: str) -> None:
        self._write_items()
        if "things" in self.lists:
            self._write_item_things()
        with RaggedWriter(self.out, "contexts") as self.contexts:
            self._add_contexts([""])
            counts = {name: vars(self._write_split(name)) for name in self.manifest.splits}
        paths = sorted(self.out.iterdir())
        record = {
            "format": FORMAT,
            "room": self.room,
            "start": self.tokenizer.start,
            "candidate_end": self.tokenizer.candidate_end,
            "pad_id": self.tokenizer.pad_id,
            "counts": counts,
            "features": list(self.manifest.features),
            "labels": self.manifest.label_columns,
            "bought": "bought" in self.lists,
            "things": "things" in self.lists,
            "computed": self.manifest.computed,
            "weights": self.manifest.weights is not None,
            "position": self.manifest.position is not None,
            "key": key,
            "files": {path.name: path.stat().st_size for path in paths},
            "hashes": {path.name: file_hash(path) for path in paths},
        }
        (self.out / FILE_NAME).write_text(json.dumps(with_digest(record), indent=2) + "\n", encoding="utf-8")

    def _advance(self, stage: str, count: int) -> None:
        self.done += count
        self.on_progress(stage, min(self.done / max(self.total, 1), 1.0))

    def _write_items(self) -> None:
        lengths = []
        path = self.prepared / "items.parquet"
        known = _known_texts(self.before)
        start = 0
        with RaggedWriter(self.out, "items") as items, _readable(self.manifest, self.prepared, path):
            for batch in pq.ParquetFile(path).iter_batches(ITEM_BATCH, columns=["text"]):
                texts = batch.column(0).to_pylist()
                new = [n for n, text in enumerate(texts) if known[start + n : start + n + 1] != [text]]
                ids = dict(zip(new, self.tokenizer.ids([texts[n] for n in new]) if new else [], strict=True))
                old = self.before[1].items if self.before else None
                parts = [ids[n] if n in ids or old is None else old[start + n] for n in range(len(texts))]
                # One id more than there is room for shows that something is cut.
                lengths.append(items.append([part[: self.room + 1] for part in parts]))
                start += len(texts)
                self._advance("tokenising items", len(texts))
        self.item_lengths = np.concatenate([self.item_lengths, *lengths])

    def _write_item_things(self) -> None:
        """The number of every item's thing, −1 where it has none."""
        column = pq.read_table(self.prepared / "items.parquet", columns=["thing_index"]).column(0)
        things = pc.fill_null(column, -1).to_numpy().astype(np.int32)
        with GrowingArray(self.out / "item_things.npy", np.int32) as array:
            array.append(things)

    def _add_contexts(self, texts: list[str]) -> None:
        """Give contexts that are new their numbers and lengths, and write their ids."""
        new = [text for text in texts if text not in self.codes]
        if len(self.codes) + len(new) > MAX_CONTEXTS:  # what comes again later is written once more
            self.codes.clear()
            new = list(dict.fromkeys(texts))
        ids = [context[: self.room + 1] for context in self.tokenizer.contexts(new)]
        lengths = self.contexts.append(ids).tolist()
        numbers = range(self.contexts_written, self.contexts_written + len(new))
        self.codes.update(zip(new, zip(numbers, lengths, strict=True), strict=True))
        self.contexts_written += len(new)

    def _write_split(self, name: str) -> TextCounts:
        seen, cut, cut_candidates = self.tokenizer.seen, self.tokenizer.cut, 0
        seen["prefix"] = cut["prefix"] = 0
        kinds = {"first": np.int64, "item": np.int32, "context": np.int32, "length": np.int32, "click": np.int8}
        named = {"feature": self.manifest.features, "label": self.manifest.label_columns}
        named["computed"] = self.manifest.computed
        numbers = {f"{kind}_{column}": np.float32 for kind, columns in named.items() for column in columns}
        numbers |= {"weight": np.float32} if self.manifest.weights is not None else {}
        numbers |= {"examination": np.float32} if self.manifest.position is not None else {}
        with ExitStack() as stack:
            prefixes = stack.enter_context(RaggedWriter(self.out, f"{name}.prefix"))
            lists = {key: stack.enter_context(RaggedWriter(self.out, f"{name}.{key}")) for key in self.lists}
            arrays = {
                key: stack.enter_context(GrowingArray(self.out / f"{name}.{key}.npy", kind))
                for key, kind in {**kinds, "conversion": np.int8, **numbers}.items()
            }
            arrays["first"].append([0])
            for path, shard in open_shards(self.prepared, self.manifest, name):
                with _readable(self.manifest, self.prepared, path):
                    columns = ["prefix", "item", "context", "click", "conversion", *numbers, *self.lists]
                    for batch in shard.iter_batches(SLATE_BATCH, columns=columns):
                        prefixes.append(self.tokenizer.prefixes(batch.column("prefix").to_pylist()))
                        for key, writer in lists.items():
                            writer.append(batch.column(key).to_pylist())
                        cut_candidates += self._write_candidates(arrays, batch)
                        self._advance(f"tokenising {name}", batch.num_rows)
        return TextCounts(seen["prefix"], cut["prefix"], arrays["item"].length, cut_candidates)

    def _write_candidates(self, arrays: dict[str, GrowingArray], batch: pa.RecordBatch) -> int:
        """Append the impressions of some slates; returns how many candidates were cut."""
        sizes = pc.list_value_length(batch.column("item")).to_numpy(zero_copy_only=False)
        arrays["first"].append(arrays["item"].length + np.cumsum(sizes, dtype=np.int64))
        flat = {key: batch.column(key).flatten() for key in self._numbers}
        values = {key: column.to_numpy(zero_copy_only=False) for key, column in flat.items()}
        for name, scale in self.manifest.features.items():
            values[f"feature_{name}"] = _raw(scale, batch.column(f"feature_{name}").flatten())
        plain = [f"label_{name}" for name in self.manifest.label_columns]
        plain += [f"computed_{name}" for name in self.manifest.computed]
        plain += ["weight"] if self.manifest.weights is not None else []
        plain += ["examination"] if self.manifest.position is not None else []
        values |= {key: batch.column(key).flatten().to_numpy(zero_copy_only=False) for key in plain}
        distinct = batch.column("context").flatten().dictionary_encode()
        texts = distinct.dictionary.to_pylist()
        self._add_contexts(texts)
        known = np.array([self.codes[text] for text in texts], dtype=np.int64).reshape(-1, 2)
        index = distinct.indices.to_numpy(zero_copy_only=False)
        context = known[index, 0].astype(np.int32)
        of_item, of_context, over = candidate_cut(self.item_lengths[values["item"]], known[index, 1], self.room)
        values |= {"context": context, "length": of_item + of_context + len(self.tokenizer.candidate_end)}
        for key, column in values.items():
            arrays[key].append(column)
        return int(over.sum())


def _known_texts(before: tuple[Path, TokenCache] | None) -> list[str]:
    """The texts of the items of the part before, by their numbers."""
    if before is None:
        return []
    return pq.read_table(before[0] / "items.parquet", columns=["text"]).column(0).to_pylist()


def _raw(scale: FeatureScale, column: pa.Array) -> np.ndarray:
    """The raw values of a feature, float32, NaN where unknown."""
    if isinstance(scale, CategoryScale):
        distinct = column.dictionary_encode()
        codes = [scale.read(text) for text in distinct.dictionary.to_pylist()]
        known = np.array([math.nan if code is None else code for code in [*codes, None]], dtype=np.float32)
        return known[pc.fill_null(distinct.indices, len(codes)).to_numpy(zero_copy_only=False)]
    return column.to_numpy(zero_copy_only=False)


@contextmanager
def _readable(manifest: Manifest, prepared: Path, path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        manifest.verify(prepared)  # names the file that is not as it was written
        raise UserError(f"{path} cannot be read ({error}): run equipoise prepare again") from error
