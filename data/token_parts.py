"""The parts of a token cache: any number of processes tokenise them side by side, each once, and after a kill go on.

A part is some items, or one shard of a split, in a folder of its own beside the cache that will be. Whoever gets hold
of a part's lock makes it; a process that dies lets go of it, and another takes it over.
"""

import errno
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from equipoise.common.atomic import atomic_dir
from equipoise.common.digest import is_as_written, with_digest
from equipoise.common.errors import UserError
from equipoise.common.file_lock import Held, hold
from equipoise.common.hashing import file_hash
from equipoise.common.verified import first_changed
from equipoise.data.features import CategoryScale, FeatureScale
from equipoise.data.manifest import Manifest, open_shards
from equipoise.data.ragged import GrowingArray, RaggedWriter
from equipoise.data.token_cache import TokenCache
from equipoise.data.tokens import SlateTokenizer

FORMAT = 1
RECORD, CONTEXT_TEXTS = "part.json", "contexts.parquet"
ITEM_BATCH = 20_000
ITEMS_OF_A_PART = 400_000
SLATE_BATCH = 2_000
MAX_CONTEXTS = 2_000_000
"""Distinct contexts that a process remembers, about 0.3 KB each."""
WAIT_SECONDS = 0.2


@dataclass(frozen=True)
class TokenPart:
    """What one process tokenises in one go.

    Attributes:
        name: of its folder.
        file: of the prepared folder, where its texts lie.
        split: whose shard it is; "" for items.
        start, stop: rows of the file.
    """

    name: str
    file: str
    split: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Items or slates."""
        return self.stop - self.start


def parts_of(prepared: Path, manifest: Manifest) -> list[TokenPart]:
    """All parts of a prepared folder: items first, then the shards of every split, in order.

    Raises:
        UserError: a shard is missing, or its footer is unreadable.
    """
    items = manifest.counts["items"]
    parts = [
        TokenPart(
            f"items-{start // ITEMS_OF_A_PART:05d}", "items.parquet", "", start, min(start + ITEMS_OF_A_PART, items)
        )
        for start in range(0, max(items, 1), ITEMS_OF_A_PART)
    ]
    for split in manifest.splits:
        for number, (path, shard) in enumerate(open_shards(prepared, manifest, split)):
            file = path.relative_to(prepared).as_posix()  # two splits may be made of one
            parts.append(TokenPart(f"{split}-{number:05d}", file, split, 0, shard.metadata.num_rows))
    return parts


def make_parts(
    folder: Path,
    parts: Iterable[TokenPart],
    make: Callable[[TokenPart, Path], None],
    on_done: Callable[[TokenPart, bool], None],
) -> None:
    """Make the parts that are not there, beside other processes that do the same, until all are there.

    Args:
        folder: of the parts; made where it is not there.
        parts: to make.
        make: writes one into a folder.
        on_done: told of each part that is there, and whether this process made it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = list(parts)
    while missing:
        left = []
        for part in missing:
            made = False
            if not (folder / part.name / RECORD).is_file():
                try:
                    with hold(folder / f"{part.name}.lock"):
                        made = not (folder / part.name / RECORD).is_file()
                        if made:
                            with atomic_dir(folder / part.name) as building:
                                make(part, building)
                except Held:
                    left.append(part)
                    continue
            on_done(part, made)
        missing = left
        if missing:
            time.sleep(WAIT_SECONDS)


def part_record(folder: Path, part: TokenPart) -> dict[str, int] | None:
    """What a part counted; None where it is not whole, or was made of other rows."""
    path = folder / part.name / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    fits = isinstance(record, dict) and is_as_written(record) and record.get("part") == [FORMAT, asdict(part)]
    return record["counts"] if fits and first_changed(folder / part.name, record["hashes"]) is None else None


class PartWriter:
    """Tokenises parts of a prepared folder.

    Args:
        prepared: the folder.
        manifest: its own.
        tokenizer: without any item texts.
        advance: told of the stage and of how many items or slates were done.
        before: prepared folder and tokens of the days before; items whose text is still the same are not tokenised.
    """

    def __init__(
        self,
        prepared: Path,
        manifest: Manifest,
        tokenizer: SlateTokenizer,
        advance: Callable[[str, int], None],
        before: tuple[Path, TokenCache] | None = None,
    ) -> None:
        self.prepared, self.manifest, self.tokenizer, self.advance = prepared, manifest, tokenizer, advance
        self.before = before
        self.known = _item_texts(before[0]) if before else []
        self.room = tokenizer.candidate_room
        self.remembered: dict[str, list[int]] = {}
        self.lists = list_names(manifest)

    def write(self, part: TokenPart, out: Path) -> None:
        """Write one part's files, and the record that stands for them, into a folder.

        Raises:
            UserError: a file of the prepared folder is unreadable.
        """
        with _readable(self.manifest, self.prepared, self.prepared / part.file):
            counts = self._write_shard(part, out) if part.split else self._write_items(part, out)
        record = {
            "part": [FORMAT, asdict(part)],
            "counts": counts,
            "hashes": {path.name: file_hash(path) for path in sorted(out.iterdir())},
        }
        (out / RECORD).write_text(json.dumps(with_digest(record)) + "\n", encoding="utf-8")

    def _write_items(self, part: TokenPart, out: Path) -> dict[str, int]:
        old = self.before[1].items if self.before else None
        start = 0
        with RaggedWriter(out, "items") as items, pq.ParquetFile(self.prepared / part.file) as file:
            for batch in file.iter_batches(ITEM_BATCH, columns=["text"]):
                low, high = max(part.start - start, 0), min(part.stop - start, batch.num_rows)
                if low < high:
                    texts = batch.column(0)[low:high].to_pylist()
                    first = start + low
                    new = [n for n, text in enumerate(texts) if self.known[first + n : first + n + 1] != [text]]
                    ids = dict(zip(new, self.tokenizer.ids([texts[n] for n in new]), strict=True))
                    each = [ids[n] if n in ids or old is None else old[first + n] for n in range(len(texts))]
                    # One id more than there is room for shows that something is cut.
                    items.append([one[: self.room + 1] for one in each])
                    self.advance("tokenising items", len(texts))
                start += batch.num_rows
        return {}

    def _write_shard(self, part: TokenPart, out: Path) -> dict[str, int]:
        seen, cut = self.tokenizer.seen, self.tokenizer.cut
        seen["prefix"] = cut["prefix"] = 0
        kinds = number_kinds(self.manifest)
        numbers = [name for name in kinds if name != "context"]
        texts: dict[str, int] = {}
        with ExitStack() as stack, pq.ParquetFile(self.prepared / part.file) as shard:
            prefixes = stack.enter_context(RaggedWriter(out, "prefix"))
            contexts = stack.enter_context(RaggedWriter(out, "contexts"))
            lists = {key: stack.enter_context(RaggedWriter(out, key)) for key in self.lists}
            arrays = {
                key: stack.enter_context(GrowingArray(out / f"{key}.npy", kind))
                for key, kind in {"size": np.int64, **kinds}.items()
            }
            for batch in shard.iter_batches(SLATE_BATCH, columns=["prefix", "context", *numbers, *self.lists]):
                prefixes.append(self.tokenizer.prefixes(batch.column("prefix").to_pylist()))
                for key, writer in lists.items():
                    writer.append(batch.column(key).to_pylist())
                arrays["size"].append(pc.list_value_length(batch.column("item")).to_numpy(zero_copy_only=False))
                for key in numbers:
                    arrays[key].append(self._numbers(key, batch.column(key).flatten()))
                distinct = batch.column("context").flatten().dictionary_encode()
                known = self._add_contexts(texts, distinct.dictionary.to_pylist(), contexts)
                arrays["context"].append(known[distinct.indices.to_numpy(zero_copy_only=False)])
                self.advance(f"tokenising {part.split}", batch.num_rows)
        pq.write_table(pa.table({"text": pa.array(list(texts), pa.string())}), out / CONTEXT_TEXTS)
        return {"prefixes": seen["prefix"], "cut_prefixes": cut["prefix"]}

    def _add_contexts(self, texts: dict[str, int], found: list[str], contexts: RaggedWriter) -> np.ndarray:
        """Numbers of contexts within this part, int64 (N,); of those that are new the ids are written."""
        new = [text for text in found if text not in texts]
        unknown = [text for text in new if text not in self.remembered]
        if len(self.remembered) + len(unknown) > MAX_CONTEXTS:
            self.remembered.clear()
            unknown = new
        ids = [context[: self.room + 1] for context in self.tokenizer.contexts(unknown)]
        self.remembered.update(zip(unknown, ids, strict=True))
        contexts.append([self.remembered[text] for text in new])
        texts.update(zip(new, range(len(texts), len(texts) + len(new)), strict=True))
        return np.array([texts[text] for text in found], dtype=np.int64)

    def _numbers(self, key: str, column: pa.Array) -> np.ndarray:
        scale = self.manifest.features.get(key.removeprefix("feature_")) if key.startswith("feature_") else None
        return _raw(scale, column) if scale is not None else column.to_numpy(zero_copy_only=False)


def list_names(manifest: Manifest) -> tuple[str, ...]:
    """Names of the lists that slates of a shard hold beside their candidates."""
    bought = ("bought", "times") if manifest.keeps_items else ()
    return (*bought, *(["things"] if manifest.comparison is not None else []))


def number_kinds(manifest: Manifest) -> dict[str, type]:
    """Name → dtype of every array that holds one number for each candidate of a shard."""
    kinds: dict[str, type] = {"item": np.int32, "context": np.int32, "click": np.int8, "conversion": np.int8}
    named = {"feature": manifest.features, "label": manifest.label_columns, "computed": manifest.computed}
    kinds |= {f"{kind}_{column}": np.float32 for kind, columns in named.items() for column in columns}
    kinds |= {"weight": np.float32} if manifest.weights is not None else {}
    return kinds | ({"examination": np.float32} if manifest.position is not None else {})


def _item_texts(prepared: Path) -> list[str]:
    return pq.read_table(prepared / "items.parquet", columns=["text"]).column(0).to_pylist()


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
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # of what is written
        manifest.verify(prepared)  # names the file that is not as it was written
        raise UserError(f"{path} cannot be read ({error}): run equipoise prepare again") from error
